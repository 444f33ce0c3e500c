// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest that uses the LBR has it: its accesses cause no exit, and its records
//! are its own branches, in order, and no others.

use std::iter;

use anyhow::{ensure, Result};
use kvm_ioctls::MsrFilterRangeFlags;
use kvm_selftests::guest::{self, Command, Kind, Symbol, GP};
use kvm_selftests::host::{FreezeOnSmi, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Branch, Geometry};
use kvm_selftests::rules::{DEBUG, OWNERSHIP};
use kvm_selftests::vcpu::{Stop, Vcpu, EXIT_NOISE};
use kvm_selftests::vm::Vm;

const CPL_EQ_0: u64 = 1 << 0;
const CPL_NEQ_0: u64 = 1 << 1;
const EN_CALLSTACK: u64 = 1 << 9;
/// All but calls and returns.
const NO_CALL_OR_RETURN: u64 = 1 << 2 | 1 << 6 | 1 << 7 | 1 << 8;

fn vcpu(host: &Host) -> Result<(Vm, Vcpu, Geometry)> {
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu, host.lbr()?))
}

fn no_exits(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    // Touch all memory before anything is counted.
    vcpu.exits_of(&[Command::Rdmsr(msr::DEBUGCTL); 500])?;
    let first = vcpu.exits_of(&[Command::Rdmsr(lbr.registers()[1])])?;
    ensure!(first > 0, "the first access caused no exit");
    vcpu.expect_passthrough(lbr)?;
    let writes: Vec<_> = lbr
        .passed_through()
        .into_iter()
        .cycle()
        .take(500)
        .map(|register| Command::Wrmsr(register, lbr.legal(register, 1)))
        .collect();
    let exits = vcpu.exits_of(&writes)?;
    ensure!(
        exits <= EXIT_NOISE,
        "{exits} exits by writing LBR registers"
    );
    PASS
}

/// Reads of DEBUGCTL, with the host's FREEZE_IN_SMM: what the guest wrote, and whether that
/// takes exits.
fn reads_of_debugctl(host: &Host, freeze_in_smm: bool) -> Result<Verdict> {
    const READS: usize = 500;
    const FREEZE: u64 = msr::DEBUGCTL_FREEZE_LBRS_ON_PMI;
    let _host = FreezeOnSmi::set(freeze_in_smm)?;
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    // With architectural LBR the bit cannot be set.
    let record = if lbr.is_architectural() {
        0
    } else {
        msr::DEBUGCTL_LBR
    };
    // The hardware has no FREEZE while the guest records, and with architectural LBR never.
    let hidden = if lbr.is_architectural() {
        FREEZE
    } else {
        record | FREEZE
    };
    vcpu.record(true)?;
    vcpu.expect_passthrough(lbr)?;
    for value in [
        0,
        record,
        FREEZE,
        record | FREEZE,
        0,
        record | FREEZE,
        FREEZE,
    ] {
        vcpu.wrmsr(msr::DEBUGCTL, value)??;
        let mut seen = Vec::new();
        let exits = vcpu.exits_while(|vcpu| {
            seen = vcpu.run(&[Command::Rdmsr(msr::DEBUGCTL); READS])?;
            Ok(())
        })?;
        let other = seen.iter().find(|seen| **seen != Ok(value));
        ensure!(
            other.is_none(),
            "the guest reads DEBUGCTL as {other:x?}, not {value:#x}"
        );
        match freeze_in_smm || value & hidden == hidden {
            true => ensure!(
                exits >= READS as u64,
                "{exits} exits by {READS} reads of DEBUGCTL, of which the hardware has another \
                 value than {value:#x}"
            ),
            false => ensure!(
                exits <= EXIT_NOISE,
                "{exits} exits by {READS} reads of DEBUGCTL, of which the hardware has the \
                 value {value:#x}"
            ),
        }
    }
    PASS
}

/// The filter is obeyed for DEBUGCTL as well.
fn denied_reads_of_debugctl(host: &Host) -> Result<Verdict> {
    let _host = FreezeOnSmi::set(false)?;
    let (vm, mut vcpu, lbr) = vcpu(host)?;
    vcpu.record(true)?;
    vcpu.expect_passthrough(lbr)?;
    for _ in 0..2 {
        vm.deny_msrs(&[msr::DEBUGCTL], MsrFilterRangeFlags::READ)?;
        let denied = vcpu.rdmsr(msr::DEBUGCTL)?;
        ensure!(
            denied == Err(GP),
            "RDMSR DEBUGCTL gave {denied:x?}, it is denied"
        );
        // What a denied read is passed through for must not be forgotten.
        vcpu.record(false)?;
        vcpu.record(true)?;
        let denied = vcpu.rdmsr(msr::DEBUGCTL)?;
        ensure!(
            denied == Err(GP),
            "RDMSR DEBUGCTL gave {denied:x?}, it is still denied"
        );
        vm.deny_msrs(&[], MsrFilterRangeFlags::READ)?;
        ensure!(
            vcpu.rdmsr(msr::DEBUGCTL)?.is_ok(),
            "RDMSR DEBUGCTL is still denied"
        );
    }
    PASS
}

fn jumps(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
    vcpu.forget(lbr)?;
    for round in 1..=3 {
        vcpu.call(Symbol::Jumps, 0)?;
        let seen = vcpu.guest_snapshot(lbr)?;
        if let Some(seen) = seen.tos(lbr) {
            let tos = round * guest::JUMPS % u64::from(lbr.depth);
            ensure!(seen == tos, "LBR_TOS is {seen}, not {tos}");
        }
        expect_branches(&expected, &seen.branches(lbr))?;
        seen.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    }
    PASS
}

fn expect_branches(expected: &[Branch], seen: &[Branch]) -> Result<()> {
    for (age, (expected, seen)) in expected.iter().zip(seen).enumerate() {
        ensure!(
            expected == seen,
            "record {age} (0 is the newest) is {seen}, not {expected}"
        );
    }
    Ok(())
}

fn branch(vcpu: &Vcpu, kind: Kind) -> Branch {
    Branch {
        from: vcpu.code_address(kind.from),
        to: vcpu.code_address(kind.to),
    }
}

/// What remains of one branch of each kind if those are suppressed that LBR_SELECT
/// suppresses with `select`.
fn select(host: &Host, select: u64) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let expected = guest::kinds()
        .into_iter()
        .filter(|kind| select & (CPL_EQ_0 | 1 << kind.bit) == 0)
        .map(|kind| branch(&vcpu, kind))
        .collect();
    suppress(&mut vcpu, lbr, select, Symbol::Mixed, expected)
}

/// What remains of branches in two rings and between them.
fn rings(host: &Host, select: u64) -> Result<Verdict> {
    /// FROM of a branch that comes from a ring of which nothing is recorded.
    const HIDDEN: u64 = u64::MAX;
    let (vm, mut vcpu, lbr) = vcpu(host)?;
    vm.allow_ring_3(&mut vcpu, Symbol::RingsBack)?;
    let suppressed = |ring: u64| select & 1 << ring != 0;
    let kinds = guest::ring_kinds();
    let before = iter::once(0).chain(kinds.iter().map(|kind| kind.bit));
    let expected = kinds
        .iter()
        .zip(before)
        .filter(|(kind, _)| !suppressed(kind.bit))
        .map(|(kind, before)| match branch(&vcpu, *kind) {
            Branch { to, .. } if lbr.is_architectural() && suppressed(before) => {
                Branch { from: HIDDEN, to }
            }
            branch => branch,
        })
        .collect();
    suppress(&mut vcpu, lbr, select, Symbol::Rings, expected)
}

/// Fails unless `routine` leaves these branches, the oldest first, and no others.
fn suppress(
    vcpu: &mut Vcpu,
    lbr: Geometry,
    select: u64,
    routine: Symbol,
    mut expected: Vec<Branch>,
) -> Result<Verdict> {
    vcpu.forget(lbr)?;
    vcpu.suppress(lbr, select)?;
    vcpu.call(routine, 0)?;
    let seen = vcpu.guest_snapshot(lbr)?;
    ensure!(
        seen.recorded(lbr) == expected.len() as u64,
        "{} branches recorded, not {}: {:x?}",
        seen.recorded(lbr),
        expected.len(),
        seen.branches(lbr)
    );
    expected.reverse();
    expect_branches(&expected, &seen.branches(lbr))?;
    PASS
}

/// A call pushes a record, its return pops it.
fn call_stack(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    vcpu.forget(lbr)?;
    vcpu.suppress(lbr, EN_CALLSTACK | NO_CALL_OR_RETURN)?;
    let stop = vcpu.start(&[vcpu.on(), Command::Call(Symbol::Yield, 0), vcpu.off()])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    let seen = vcpu.host_snapshot(lbr)?;
    let depth = seen.recorded(lbr);
    ensure!(depth == 1, "{depth} records inside a call");
    let call = seen.branches(lbr)[0];
    ensure!(
        call.to == vcpu.address(Symbol::Yield),
        "the newest record is {call}, not the call"
    );
    ensure!(vcpu.resume()? == Stop::Done, "the guest did not stop");
    let depth = vcpu.host_snapshot(lbr)?.recorded(lbr);
    ensure!(depth == 0, "{depth} records after the return");
    // As many returns as calls.
    vcpu.call(Symbol::Mixed, 0)?;
    let depth = vcpu.host_snapshot(lbr)?.recorded(lbr);
    ensure!(depth == 0, "{depth} records after balanced calls");
    PASS
}

/// A counter does not take the LBR from its own guest, whatever it counts.
fn counter_of_the_virtual_event(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    for (register, value) in [
        (msr::PERFEVTSEL0, msr::PERF_VIRTUAL_LBR),
        (msr::GLOBAL_CTRL, 1),
    ] {
        vcpu.wrmsr(register, value)??;
    }
    vcpu.call(Symbol::Jumps, 0)?;
    vcpu.expect_passthrough(lbr)?;
    let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
    expect_branches(&expected, &vcpu.guest_snapshot(lbr)?.branches(lbr))?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case(
            "no_exits",
            "From the second access on, no access of LBR MSRs causes a VM exit.",
            no_exits,
        )
        .by(DEBUG)
        .case(
            "jumps",
            "The records are the newest taken branches in their order, and LBR_TOS names the \
             newest; userspace reads the same.",
            jumps,
        );
    for (name, bits, rule) in [
        (
            "nothing_suppressed",
            0,
            "A filter of 0 suppresses no branch.",
        ),
        (
            "cpl_eq_0",
            CPL_EQ_0,
            "CPL_EQ_0 of the filter suppresses branches that end in ring 0.",
        ),
        (
            "cpl_neq_0",
            CPL_NEQ_0,
            "CPL_NEQ_0 of the filter suppresses no branch that ends in ring 0.",
        ),
        (
            "jcc",
            1 << 2,
            "JCC of the filter suppresses conditional branches, and no others.",
        ),
        (
            "near_rel_call",
            1 << 3,
            "NEAR_REL_CALL of the filter suppresses near relative calls, and no others.",
        ),
        (
            "near_ind_call",
            1 << 4,
            "NEAR_IND_CALL of the filter suppresses near indirect calls, and no others.",
        ),
        (
            "near_ret",
            1 << 5,
            "NEAR_RET of the filter suppresses near returns, and no others.",
        ),
        (
            "near_ind_jmp",
            1 << 6,
            "NEAR_IND_JMP of the filter suppresses near indirect jumps, and no others.",
        ),
        (
            "near_rel_jmp",
            1 << 7,
            "NEAR_REL_JMP of the filter suppresses near relative jumps, and no others.",
        ),
        (
            "far_branch",
            1 << 8,
            "FAR_BRANCH of the filter suppresses far branches, and no others.",
        ),
    ] {
        suite.case(format!("select_{name}"), rule, move |host| {
            select(host, bits)
        });
    }
    for (name, bits, rule) in [
        (
            "rings",
            0,
            "Branches in ring 0, in ring 3 and between them are recorded.",
        ),
        (
            "rings_cpl_eq_0",
            CPL_EQ_0,
            "CPL_EQ_0 of the filter suppresses branches that end in ring 0, and no others; a \
             record of architectural LBR has all ones for where in ring 0 one came from.",
        ),
        (
            "rings_cpl_neq_0",
            CPL_NEQ_0,
            "CPL_NEQ_0 of the filter suppresses branches that end in ring 3, and no others; a \
             record of architectural LBR has all ones for where in ring 3 one came from.",
        ),
    ] {
        suite.case(name, rule, move |host| rings(host, bits));
    }
    suite
        .case(
            "call_stack",
            "In call-stack mode a call adds a record, and its return takes it away.",
            call_stack,
        )
        .by(OWNERSHIP)
        .case(
            "debugctl_reads",
            "Reads of IA32_DEBUGCTL give what was written, and cause no VM exit while the hardware \
             has just that and the host does not freeze in SMM.",
            |host| reads_of_debugctl(host, false),
        )
        .builtin_fails("its guests' reads always exit")
        .case(
            "debugctl_reads_beside_freeze_in_smm",
            "Reads of IA32_DEBUGCTL give what was written, and never the host's FREEZE_IN_SMM.",
            |host| reads_of_debugctl(host, true),
        )
        .case(
            "debugctl_reads_denied",
            "An MSR filter that denies reads of IA32_DEBUGCTL is obeyed at once.",
            denied_reads_of_debugctl,
        )
        .case(
            "counter_of_the_virtual_event",
            "A guest's counter does not take the LBR from its own guest, whatever event it \
             counts.",
            counter_of_the_virtual_event,
        )
        .builtin_fails("upstream lets such a counter claim the LBR");
    suite
}
