// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! IA32_DEBUGCTL.LBR or IA32_LBR_CTL of the host is set behind perf's back, as by firmware: the
//! guest's records hold no branch of the host all the same.

use anyhow::{anyhow, ensure, Result};
use kvm_selftests::guest::Symbol;
use kvm_selftests::hardware::HostRecords;
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{Branch, Geometry};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// The upper half of the linear addresses, of which each record keeps this bit.
const KERNEL: u64 = 1 << 47;

fn start(host: &Host) -> Result<(Vm, Vcpu, Geometry, usize)> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu, host.lbr()?, cpu))
}

/// Takes branches on the host, in the kernel and outside.
fn take_branches() {
    for _ in 0..100 {
        std::thread::yield_now();
    }
}

/// Has the guest read its records; returns how many addresses it read, and how
/// many of them are of the host's kernel, and of all else that is not its own.
fn read(vcpu: &mut Vcpu, lbr: Geometry) -> Result<[usize; 3]> {
    let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
    let addresses = branches
        .iter()
        .flat_map(|Branch { from, to }| [*from, *to])
        .collect::<Vec<_>>();
    let foreign = addresses
        .iter()
        .filter(|address| **address != 0 && !vcpu.owns(**address));
    let (kernel, user): (Vec<u64>, Vec<u64>) = foreign.partition(|address| *address & KERNEL != 0);
    Ok([addresses.len(), kernel.len(), user.len()])
}

fn expect_none([all, kernel, user]: [usize; 3]) -> Result<()> {
    ensure!(
        kernel + user == 0,
        "of {all} addresses that the guest read {kernel} are of the host's kernel, {user} of its \
         programs"
    );
    Ok(())
}

/// It is set before the guest uses the LBR for the first time.
fn before_use(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    let records = HostRecords::start(cpu, lbr)?;
    let mut sum = [0; 3];
    for _ in 0..3 {
        vcpu.call(Symbol::Jumps, 0)?;
        take_branches();
        for (sum, number) in sum.iter_mut().zip(read(&mut vcpu, lbr)?) {
            *sum += number;
        }
    }
    drop(records);
    expect_none(sum)
        .and_then(|()| expect_records(&mut vcpu, lbr))
        .and(PASS)
}

/// The guest's own branches are recorded, before it exits.
fn expect_records(vcpu: &mut Vcpu, lbr: Geometry) -> Result<()> {
    vcpu.call(Symbol::Jumps, 0)?;
    let seen = vcpu.guest_snapshot(lbr)?.branches(lbr);
    ensure!(
        seen == vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "newest record {}",
        seen[0]
    );
    Ok(())
}

/// It is set while the guest's records are in the hardware.
fn between_runs(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    expect_records(&mut vcpu, lbr)?;
    vcpu.expect_passthrough(lbr)?;
    let records = HostRecords::start(cpu, lbr)?;
    take_branches();
    let found = read(&mut vcpu, lbr)?;
    let later = read(&mut vcpu, lbr)?;
    drop(records);
    expect_none(found)?;
    expect_none(later)?;
    expect_records(&mut vcpu, lbr)?;
    PASS
}

/// It is set and cleared again while the vCPU's thread is scheduled out.
fn while_scheduled_out(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    expect_records(&mut vcpu, lbr)?;
    vcpu.expect_passthrough(lbr)?;
    let before = vcpu.guest_snapshot(lbr)?;
    let other = std::thread::spawn(move || {
        pin_to(cpu)?;
        let records = HostRecords::start(cpu, lbr)?;
        take_branches();
        drop(records);
        Ok(())
    });
    other
        .join()
        .unwrap_or_else(|_| Err(anyhow!("the other thread died")))?;
    expect_none(read(&mut vcpu, lbr)?)?;
    before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    expect_records(&mut vcpu, lbr)?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const STAYS: &str = "the host records between the guest's runs";
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case(
            "before_use",
            "The guest reads no address of the host's, though the host records behind perf's \
             back before the guest first uses the LBR.",
            before_use,
        )
        .builtin_fails(STAYS)
        .case(
            "between_runs",
            "The guest reads no address of the host's, though the host records behind perf's \
             back while the guest's records are in the hardware.",
            between_runs,
        )
        .builtin_fails(STAYS)
        .case(
            "while_scheduled_out",
            "The guest's records are as they were, though the host records behind perf's back \
             while the vCPU's thread is scheduled out.",
            while_scheduled_out,
        )
        .builtin_fails("what the host recorded meanwhile is not noticed");
    suite
}
