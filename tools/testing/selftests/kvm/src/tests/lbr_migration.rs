// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A VMM saves and restores a vCPU's LBR by KVM's list of MSRs alone.

use anyhow::{anyhow, ensure, Context, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Snapshot};
use kvm_selftests::rules::KVM;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// As LBR_SELECT has it: suppress branches that end in ring 0, i.e. all of the guest's.
const CPL_EQ_0: u64 = 1 << 0;
/// Suppress indirect jumps, of which the guest's routines take none.
const NO_INDIRECT_JUMPS: u64 = 1 << 6;

/// The order in which MSRs are restored.
#[derive(Clone, Copy)]
enum Order {
    List,
    Number,
    Backwards,
}

fn index_list(host: &Host) -> Result<Vec<u32>> {
    Ok(host.kvm.get_msr_index_list()?.as_slice().to_vec())
}

fn listed(host: &Host) -> Result<Verdict> {
    let list = index_list(host)?;
    let lbr = host.lbr()?;
    let mut all = lbr.passed_through();
    all.push(msr::DEBUGCTL);
    for register in &all {
        let times = list.iter().filter(|msr| *msr == register).count();
        ensure!(
            times == 1,
            "MSR {register:#x} is {times} times in KVM's list of MSRs to save"
        );
    }
    for base in [lbr.from(), lbr.to(), lbr.info()] {
        for beyond in (base..base + 32).filter(|msr| !all.contains(msr)) {
            ensure!(
                !list.contains(&beyond),
                "MSR {beyond:#x} is in KVM's list, and the host has {} records",
                lbr.depth
            );
        }
    }
    PASS
}

/// What a vCPU without LBR lets userspace do, so that it can be saved and restored.
fn without_lbr(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu_without_lbr(0)?;
    let caps = host.perf_capabilities()?;
    for register in lbr.passed_through() {
        let value = vcpu.get_msr(register)?;
        ensure!(
            value == Some(0),
            "KVM_GET_MSRS of MSR {register:#x} gives {value:x?} without LBR"
        );
        ensure!(
            vcpu.set_msr(register, 0)?,
            "KVM_SET_MSRS refuses 0 for MSR {register:#x} without LBR"
        );
        ensure!(
            !vcpu.set_msr(register, lbr.legal(register, 1))?,
            "KVM_SET_MSRS accepts another value for MSR {register:#x} without LBR"
        );
    }
    let saved = save(host, &vcpu)?;
    let other = Vm::new(host)?;
    let restored = restore(other.vcpu_without_lbr(0)?, saved)?;
    ensure!(
        restored.get_msr(msr::PERF_CAPABILITIES)? == Some(caps & !msr::LBR_FMT),
        "the restored vCPU has LBR"
    );
    PASS
}

/// Reads all MSRs of KVM's list.
fn save(host: &Host, vcpu: &Vcpu) -> Result<Vec<(u32, u64)>> {
    index_list(host)?
        .into_iter()
        .map(|msr| Ok((msr, vcpu.get_msr(msr)?)))
        .filter_map(|entry| match entry {
            Ok((msr, Some(value))) => Some(Ok((msr, value))),
            // The list is of all vCPUs that KVM can have.
            Ok((_, None)) => None,
            Err(error) => Some(Err(error)),
        })
        .collect()
}

/// Writes them to a vCPU that has not run, on another thread.
fn restore(vcpu: Vcpu, saved: Vec<(u32, u64)>) -> Result<Vcpu> {
    let thread = std::thread::spawn(move || {
        for (msr, value) in saved {
            vcpu.must_set_msr(msr, value)?;
        }
        Ok(vcpu)
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("the restoring thread died")))
}

/// The guest's view: the LBR registers, what switches recording, and DEBUGCTL.
fn view(vcpu: &mut Vcpu, host: &Host) -> Result<(Snapshot, [u64; 2])> {
    let lbr = host.lbr()?;
    let commands: Vec<_> = lbr
        .registers()
        .into_iter()
        .chain([vcpu.control().msr, msr::DEBUGCTL])
        .map(Command::Rdmsr)
        .collect();
    let values: Vec<u64> = vcpu.run(&commands)?.into_iter().collect::<Result<_, _>>()?;
    let (registers, controls) = values.split_last_chunk().context("no registers")?;
    Ok((
        Snapshot::new(lbr, registers).context("no LBR registers")?,
        *controls,
    ))
}

/// Saved from one VM and restored into another, a guest finds all as it left it.
fn move_to_new_vm(host: &Host, order: Order, select: u64, recording: bool) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    vcpu.call(Symbol::Jumps, 0)?;
    vcpu.wrmsr(msr::DEBUGCTL, msr::DEBUGCTL_FREEZE_LBRS_ON_PMI)??;
    vcpu.suppress(lbr, select)?;
    let control = vcpu.control();
    if recording {
        vcpu.record(true)?;
    } else if lbr.is_architectural() {
        vcpu.wrmsr(control.msr, control.stopped())??;
    }
    let before = view(&mut vcpu, host)?;
    ensure!(
        before.0.branches(lbr) == vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "the guest's jumps were not recorded"
    );
    let mut saved = save(host, &vcpu)?;
    drop((vcpu, vm));
    match order {
        Order::List => {}
        Order::Number => saved.sort_unstable(),
        Order::Backwards => saved.reverse(),
    }
    println!("# {} MSRs", saved.len());

    let vm = Vm::new(host)?;
    let mut vcpu = restore(vm.vcpu(0)?, saved)?;
    before.0.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    let after = view(&mut vcpu, host)?;
    before.0.expect_same(&after.0, lbr)?;
    ensure!(
        before.1 == after.1 && vcpu.get_msr(msr::DEBUGCTL)? == Some(before.1[1]),
        "the control and DEBUGCTL are {:x?} and not {:x?}",
        after.1,
        before.1
    );
    // And the guest goes on.
    vcpu.suppress(lbr, 0)?;
    vcpu.call(Symbol::Jumps, 0)?;
    ensure!(
        vcpu.guest_snapshot(lbr)?.branches(lbr) == vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "the restored guest does not record"
    );
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const UNLISTED: &str = "its LBR MSRs are in no list";
    const MOVES: &str =
        "A vCPU that is saved by KVM's list of MSRs alone, and restored on another \
                         thread before its first KVM_RUN, has all LBR MSRs and DEBUGCTL as they \
                         were";
    let mut suite = Suite::new(KVM);
    suite
        .case(
            "listed",
            "KVM_GET_MSR_INDEX_LIST has each LBR MSR of the host's once, and none beyond.",
            listed,
        )
        .builtin_fails(UNLISTED)
        .case(
            "without_lbr",
            "Userspace reads 0 from LBR MSRs of a vCPU without LBR, and writes 0 and nothing \
             else: what saves all saves such a vCPU, too.",
            without_lbr,
        )
        .builtin_fails("there are no such MSRs then");
    for (name, select, recording) in [
        ("stopped", NO_INDIRECT_JUMPS, false),
        ("recording", CPL_EQ_0, true),
    ] {
        for (suffix, order, words) in [
            ("in_list_order", Order::List, "in the list's order"),
            ("by_number", Order::Number, "by number"),
            ("backwards", Order::Backwards, "backwards"),
        ] {
            suite
                .case(
                    format!("{name}_{suffix}"),
                    format!("{MOVES}, restored {words}."),
                    move |host| move_to_new_vm(host, order, select, recording),
                )
                .builtin_fails(UNLISTED);
        }
    }
    suite
}
