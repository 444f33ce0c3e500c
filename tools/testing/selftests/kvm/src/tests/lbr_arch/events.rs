// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What exceptions, SMI, INIT and VM exits do to the registers.

use anyhow::{ensure, Context, Result};
use kvm_selftests::guest::{self, Command, Symbol, JUMP_STRIDE};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Verdict, PASS};
use kvm_selftests::msr::{self, Snapshot};
use kvm_selftests::perf::HostLbr;
use kvm_selftests::vcpu::{Stop, Vcpu};
use kvm_selftests::vm::Vm;

use super::{OwnedCase, Owner, Setup};

const DB: u64 = 1;
const BP: u64 = 3;
const PF: u64 = 14;

/// By name; they hold whoever has the LBR.
pub(super) const CASES: &[OwnedCase] = &[
    (
        "db_clears_lbren_alone",
        "#DB clears IA32_LBR_CTL.LBREn before its handler runs, and no other bit.",
        db_clears_lbren_alone,
    ),
    (
        "bp_and_pf_clear_nothing",
        "#BP and #PF leave IA32_LBR_CTL as it is.",
        bp_and_pf_clear_nothing,
    ),
    (
        "smi_and_rsm",
        "An SMI saves IA32_LBR_CTL and clears LBREn; RSM restores it, and no branch of the \
         handler is recorded.",
        smi_and_rsm,
    ),
    (
        "smi_while_stopped",
        "RSM does not set IA32_LBR_CTL.LBREn if it was 0 at the SMI.",
        smi_while_stopped,
    ),
    (
        "moved_inside_smm",
        "RSM restores IA32_LBR_CTL also in a VM that took the vCPU over inside SMM.",
        moved_inside_smm,
    ),
    (
        "init_keeps_all",
        "INIT leaves IA32_LBR_CTL, IA32_LBR_DEPTH and the records as they are.",
        init_keeps_all,
    ),
];

/// By name; they need what the hardware records.
pub(super) const GRANTED: &[OwnedCase] = &[
    (
        "exits_are_not_recorded",
        "VM exits and VM entries leave no record.",
        exits_are_not_recorded,
    ),
    (
        "ler_survives",
        "IA32_LER_x names the last branch before an exception, also after the host had the LBR, \
         and in a new VM.",
        ler_survives,
    ),
];

/// Has a routine raise an exception; returns what its handler found.
fn raise(host: &Host, owner: Owner, routine: Symbol, vector: u64) -> Result<(Setup, u64)> {
    let mut setup = Setup::new(host, owner)?;
    setup.vm.note_exceptions()?;
    setup.vcpu.call(routine, 0)?;
    let note = setup.vcpu.note()?;
    ensure!(
        note.vector == vector && note.count == 1,
        "the guest noted {note:x?}"
    );
    Ok((setup, note.control))
}

fn db_clears_lbren_alone(host: &Host, owner: Owner) -> Result<Verdict> {
    for routine in [Symbol::Icebp, Symbol::SingleStep, Symbol::DataBreakpoint] {
        let (setup, found) = raise(host, owner, routine, DB)?;
        let expected = setup.vcpu.control().stopped();
        ensure!(
            found == expected,
            "IA32_LBR_CTL is {found:#x} in the handler, not {expected:#x}, {routine:?}"
        );
    }
    PASS
}

fn bp_and_pf_clear_nothing(host: &Host, owner: Owner) -> Result<Verdict> {
    for (routine, vector) in [(Symbol::Int3, BP), (Symbol::PageFault, PF)] {
        let (setup, found) = raise(host, owner, routine, vector)?;
        let on = setup.vcpu.control().on;
        ensure!(
            found == on,
            "IA32_LBR_CTL is {found:#x} in the handler, not {on:#x}, {routine:?}"
        );
    }
    PASS
}

impl Setup {
    /// Sends an SMI; the handler finds, and userspace reads, this IA32_LBR_CTL.
    fn enter_smm(&mut self, ctl: u64) -> Result<()> {
        self.vm.handle_smis()?;
        self.vcpu.smi()?;
        let stop = self.vcpu.resume()?;
        let (count, found) = self.vm.smm_report()?;
        ensure!(
            stop == Stop::Yield && count == 1,
            "the SMI handler ran {count} times"
        );
        let seen = self.vcpu.get_msr(msr::LBR_CTL)?;
        ensure!(
            u64::from(found) == ctl && seen == Some(ctl),
            "IA32_LBR_CTL is {found:#x} in SMM, {seen:x?} for userspace, not {ctl:#x}"
        );
        Ok(())
    }
}

/// The guest records jumps and yields, the filters not all on.
fn recording(host: &Host, owner: Owner) -> Result<Setup> {
    // Indirect jumps are not recorded, and there are none.
    const NO_INDIRECT_JUMPS: u64 = 1 << 6;
    let mut setup = Setup::new(host, owner)?;
    setup.vcpu.suppress(setup.lbr, NO_INDIRECT_JUMPS)?;
    let stop = setup.vcpu.start(&[
        Command::Call(Symbol::JumpsOn, 0),
        Command::Rdmsr(msr::LBR_CTL),
        Command::Wrmsr(msr::LBR_CTL, 0),
    ])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    Ok(setup)
}

/// An SMI clears LBREn, and RSM sets it again; the records hold nothing of the handler's.
fn smi_and_rsm(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = recording(host, owner)?;
    let control = setup.vcpu.control();
    setup.enter_smm(control.stopped())?;
    ensure!(setup.vcpu.resume()? == Stop::Done, "the guest did not stop");
    let saved = setup.vm.smm_saved_ctl()?;
    ensure!(
        saved == control.on,
        "IA32_LBR_CTL is {saved:#x} in the state save area"
    );
    let after = setup.vcpu.outcomes(2)?[1];
    ensure!(
        after == Ok(control.on),
        "IA32_LBR_CTL is {after:x?} behind RSM, not {:#x}",
        control.on
    );
    if owner == Owner::Host {
        return PASS;
    }
    let jumps = setup.vcpu.expected_jumps(Symbol::JumpsOnFirst, setup.lbr);
    let seen = setup.vcpu.guest_snapshot(setup.lbr)?.branches(setup.lbr);
    let newest_jump = seen.iter().position(|branch| *branch == jumps[0]);
    ensure!(
        newest_jump.is_some_and(|age| age > 0)
            && seen.iter().all(|branch| setup.vcpu.owns(branch.from)),
        "the newest records are {} and {}, the oldest is {}",
        seen[0],
        seen[1],
        seen[seen.len() - 1]
    );
    PASS
}

/// RSM does not switch recording on that was off.
fn smi_while_stopped(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let stopped = setup.vcpu.control().stopped();
    let stop = setup.vcpu.start(&[
        Command::Wrmsr(msr::LBR_CTL, stopped),
        Command::Call(Symbol::Yield, 0),
        Command::Rdmsr(msr::LBR_CTL),
    ])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    setup.enter_smm(stopped)?;
    ensure!(setup.vcpu.resume()? == Stop::Done, "the guest did not stop");
    let after = setup.vcpu.outcomes(3)?[2];
    ensure!(
        after == Ok(stopped),
        "IA32_LBR_CTL is {after:x?} behind RSM, {stopped:#x} before"
    );
    PASS
}

/// A guest that is migrated inside SMM records again behind RSM.
fn moved_inside_smm(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = recording(host, owner)?;
    let (lbr, control) = (setup.lbr, setup.vcpu.control());
    setup.enter_smm(control.stopped())?;
    let before = setup.vcpu.host_snapshot(lbr)?;

    let other = Vm::new(host)?;
    other.handle_smis()?;
    other.copy_memory_of(&setup.vm);
    let mut vcpu = other.vcpu(0)?;
    vcpu.take_over(&mut setup.vcpu)?;
    vcpu.set_snapshot(lbr, &before)?;
    vcpu.must_set_msr(msr::LBR_CTL, control.stopped())?;
    drop((setup.vcpu, setup.vm));

    ensure!(vcpu.resume()? == Stop::Done, "the guest did not stop");
    let after = vcpu.outcomes(2)?[1];
    ensure!(
        after == Ok(control.on),
        "IA32_LBR_CTL is {after:x?} behind RSM, not {:#x}",
        control.on
    );
    if owner == Owner::Guest {
        let jumps = vcpu.expected_jumps(Symbol::JumpsOnFirst, lbr);
        let seen = vcpu.guest_snapshot(lbr)?.branches(lbr);
        let newest_jump = seen.iter().position(|branch| *branch == jumps[0]);
        ensure!(
            newest_jump.is_some_and(|age| age > 0),
            "the newest record is {}",
            seen[0]
        );
    }
    PASS
}

fn init_keeps_all(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let (lbr, on) = (setup.lbr, setup.vcpu.control().on);
    let before = Snapshot::pattern(lbr, 5);
    setup.vcpu.write_snapshot(lbr, &before)?;
    setup.vcpu.init()?;
    before.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
    setup.vm.restart(&setup.vcpu)?;
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    // Recording on.
    setup.vcpu.record(true)?;
    setup.vcpu.init()?;
    let seen = setup.vcpu.get_msr(msr::LBR_CTL)?;
    ensure!(seen == Some(on), "IA32_LBR_CTL is {seen:x?} behind INIT");
    setup.vm.restart(&setup.vcpu)?;
    let seen = setup.vcpu.rdmsr(msr::LBR_CTL)?;
    ensure!(seen == Ok(on), "the guest reads IA32_LBR_CTL as {seen:x?}");
    PASS
}

/// VM exits and VM entries leave no record, many of them neither.
fn exits_are_not_recorded(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let (lbr, on) = (setup.lbr, setup.vcpu.control().on);
    let expected = setup.vcpu.expected_jumps(Symbol::ExitsFirst, lbr);
    let mut stop = setup.vcpu.start(&[Command::Call(Symbol::Exits, 0)])?;
    let mut first = None;
    for _ in 0..guest::EXITS {
        ensure!(stop == Stop::Yield, "the guest did not yield");
        let seen = setup.vcpu.host_snapshot(lbr)?;
        ensure!(
            seen.branches(lbr) == expected,
            "the newest record is {}",
            seen.branches(lbr)[0]
        );
        first.get_or_insert(seen.clone()).expect_same(&seen, lbr)?;
        let ctl = setup.vcpu.get_msr(msr::LBR_CTL)?;
        ensure!(ctl == Some(on), "IA32_LBR_CTL is {ctl:x?}");
        stop = setup.vcpu.resume()?;
    }
    ensure!(stop == Stop::Done, "the guest did not stop");
    let last = setup.vcpu.guest_snapshot(lbr)?;
    first.context("no yields")?.expect_same(&last, lbr)?;
    PASS
}

/// LER as userspace has it.
fn ler(vcpu: &Vcpu) -> Result<[Option<u64>; 3]> {
    Ok([
        vcpu.get_msr(msr::LER_FROM)?,
        vcpu.get_msr(msr::LER_TO)?,
        vcpu.get_msr(msr::LER_INFO)?,
    ])
}

/// LER names the last branch before an exception, also when the host had the LBR
/// meanwhile, and in another VM.
fn ler_survives(host: &Host, owner: Owner) -> Result<Verdict> {
    let (mut setup, _) = raise(host, owner, Symbol::PageFault, PF)?;
    let lbr = setup.lbr;
    let from = setup.vcpu.address(Symbol::PageFaultMark);
    let before = ler(&setup.vcpu)?;
    ensure!(
        before[..2] == [Some(from), Some(from + JUMP_STRIDE)],
        "IA32_LER_x is {before:x?}, not {from:#x}"
    );
    let event = HostLbr::pinned(setup.cpu)?;
    setup.vcpu.call(Symbol::Spin, 10_000)?;
    ensure!(ler(&setup.vcpu)? == before, "the host changed IA32_LER_x");
    drop(event);
    setup.vcpu.expect_passthrough(lbr)?;
    ensure!(ler(&setup.vcpu)? == before, "IA32_LER_x did not come back");
    let guest = setup.vcpu.rdmsr(msr::LER_FROM)?;
    ensure!(guest == Ok(from), "the guest reads {guest:x?}");

    let saved = setup.vcpu.host_snapshot(lbr)?;
    let other = Vm::new(host)?;
    let mut vcpu = other.vcpu(0)?;
    vcpu.set_snapshot(lbr, &saved)?;
    saved.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    ensure!(ler(&vcpu)? == before, "IA32_LER_x is {:x?}", ler(&vcpu)?);
    PASS
}
