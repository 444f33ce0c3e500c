// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The host suspends to RAM, which takes the power of its CPUs: guests find the records
//! that they had stopped, and none of anybody else.

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{can_suspend, pin_to, suspend, Host};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::msr::Snapshot;
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::vcpu::{Stop, Vcpu};
use kvm_selftests::vm::Vm;

/// Where a second VM is.
const OTHER_BASE: u64 = 0x2000_0000_0000;

type Case = fn(&Host) -> Result<Verdict>;

fn start(host: &Host) -> Result<(Vm, Vcpu)> {
    pin_to(host.cpu()?)?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu))
}

/// Records that a guest had stopped are kept, by the guest and for userspace.
fn stopped(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let (_vm, mut vcpu) = start(host)?;
    for seed in 0..2 {
        let values = Snapshot::pattern(lbr, seed);
        vcpu.expect_passthrough(lbr)?;
        vcpu.write_snapshot(lbr, &values)?;
        suspend()?;
        if seed % 2 == 0 {
            values.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
        }
        values.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
        vcpu.expect_passthrough(lbr)?;
    }
    PASS
}

/// A guest that records goes on recording its own branches.
fn recording(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let (_vm, mut vcpu) = start(host)?;
    let expected = vcpu.expected_jumps(Symbol::JumpsOnFirst, lbr);
    let stop = vcpu.start(&[
        Command::Call(Symbol::JumpsOn, 0),
        Command::Call(Symbol::JumpsOn, 0),
    ])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    ensure!(
        vcpu.host_snapshot(lbr)?.branches(lbr) == expected,
        "userspace sees other records than the guest's jumps"
    );
    suspend()?;
    for branch in vcpu.host_snapshot(lbr)?.branches(lbr) {
        ensure!(
            branch.is_empty() || (vcpu.owns(branch.from) && vcpu.owns(branch.to)),
            "the guest sees {branch}"
        );
    }
    ensure!(
        vcpu.resume()? == Stop::Yield,
        "the guest did not yield again"
    );
    ensure!(
        vcpu.host_snapshot(lbr)?.branches(lbr) == expected,
        "the guest does not record after resume"
    );
    PASS
}

/// What a VM left before suspend is not seen by one that comes after it, nor brought
/// back when that one has left its own.
fn another_comes(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let (_vm, mut vcpu) = start(host)?;
    let other = Vm::at(host, OTHER_BASE)?;
    let mut other = other.vcpu(0)?;
    let values = [Snapshot::pattern(lbr, 1), Snapshot::pattern(lbr, 2)];
    vcpu.write_snapshot(lbr, &values[0])?;
    suspend()?;
    Snapshot::empty(lbr).expect_same(&other.guest_snapshot(lbr)?, lbr)?;
    other.write_snapshot(lbr, &values[1])?;
    suspend()?;
    values[0].expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    values[1].expect_same(&other.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let cases: [(_, _, Case); 3] = [
        (
            "stopped",
            "Records that the guest has stopped stay when the host suspends to RAM.",
            stopped,
        ),
        (
            "recording",
            "A guest that records when the host suspends to RAM records on, and has its own \
             branches alone.",
            recording,
        ),
        (
            "another_comes",
            "What a guest has in the LBR when the host suspends to RAM is not seen by another that \
             comes after it, and comes back to itself alone.",
            another_comes,
        ),
    ];
    let mut suite = Suite::new(OWNERSHIP);
    for (name, rule, case) in cases {
        suite.case(name, rule, move |host| match can_suspend() {
            true => case(host),
            false => skip("this host cannot suspend to RAM"),
        });
    }
    suite
}
