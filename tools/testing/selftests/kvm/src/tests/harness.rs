// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the other tests rely on, and no LBR: a guest obeys its commands, its
//! exceptions are seen, its exits are counted.

use anyhow::{ensure, Result};
use kvm_ioctls::MsrFilterRangeFlags;
use kvm_selftests::guest::{Command, Symbol, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::rules::KVM;
use kvm_selftests::vcpu::{Stop, EXIT_NOISE};
use kvm_selftests::vm::{Vm, BASE, SIZE};

const X2APIC_ID: u32 = 0x802;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// An MSR that no CPU has.
const NO_MSR: u32 = 0x5000_0000;

fn commands(host: &Host) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    for id in 0..2 {
        let mut vcpu = vm.vcpu(id)?;
        let outcomes = vcpu.run(&[
            Command::Rdmsr(X2APIC_ID),
            Command::Wrmsr(KERNEL_GS_BASE, 0x1234_5678_9abc),
            Command::Rdmsr(KERNEL_GS_BASE),
            Command::Call(Symbol::Spin, 1000),
        ])?;
        ensure!(outcomes[0] == Ok(id), "APIC ID is {:x?}", outcomes[0]);
        ensure!(
            outcomes[2] == Ok(0x1234_5678_9abc),
            "the MSR is {:x?}",
            outcomes[2]
        );
        ensure!(vcpu.get_msr(KERNEL_GS_BASE)? == Some(0x1234_5678_9abc));
    }
    PASS
}

fn exceptions(host: &Host) -> Result<Verdict> {
    let mut vcpu = Vm::new(host)?.vcpu(0)?;
    let outcomes = vcpu.run(&[
        Command::Rdmsr(NO_MSR),
        Command::Wrmsr(NO_MSR, 0),
        Command::Wrmsr(KERNEL_GS_BASE, 1 << 63),
        Command::Rdmsr(KERNEL_GS_BASE),
    ])?;
    ensure!(
        outcomes == [Err(GP), Err(GP), Err(GP), Ok(0)],
        "outcomes {outcomes:x?}"
    );
    PASS
}

fn yields(host: &Host) -> Result<Verdict> {
    let mut vcpu = Vm::new(host)?.vcpu(0)?;
    let commands = [
        Command::Call(Symbol::Yield, 0),
        Command::Rdmsr(X2APIC_ID),
        Command::Call(Symbol::Yield, 0),
    ];
    ensure!(vcpu.start(&commands)? == Stop::Yield);
    ensure!(vcpu.resume()? == Stop::Yield);
    ensure!(vcpu.resume()? == Stop::Done);
    PASS
}

fn exits(host: &Host) -> Result<Verdict> {
    const COUNT: u64 = 500;
    let mut vcpu = Vm::new(host)?.vcpu(0)?;
    // An unknown MSR is intercepted, KERNEL_GS_BASE is not.
    for (msr, expected) in [(NO_MSR, COUNT), (KERNEL_GS_BASE, 0)] {
        let commands = [Command::Rdmsr(msr); COUNT as usize];
        vcpu.run(&commands)?;
        let exits = vcpu.exits_of(&commands)?;
        ensure!(
            (expected..=expected + EXIT_NOISE).contains(&exits),
            "{exits} exits by {COUNT} reads of MSR {msr:#x}, not {expected}"
        );
    }
    PASS
}

fn filter(host: &Host) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    ensure!(vcpu.rdmsr(KERNEL_GS_BASE)? == Ok(0));
    vm.deny_msrs(&[KERNEL_GS_BASE], MsrFilterRangeFlags::READ)?;
    ensure!(vcpu.rdmsr(KERNEL_GS_BASE)? == Err(GP), "read not denied");
    ensure!(vcpu.wrmsr(KERNEL_GS_BASE, 1)?.is_ok(), "write denied");
    vm.deny_msrs(&[], MsrFilterRangeFlags::empty())?;
    ensure!(vcpu.rdmsr(KERNEL_GS_BASE)? == Ok(1), "read still denied");
    PASS
}

fn addresses(host: &Host) -> Result<Verdict> {
    for base in [BASE, 0x4000_0000, 0x7fff_c000_0000] {
        let mut vcpu = Vm::at(host, base)?.vcpu(0)?;
        vcpu.run(&[Command::Call(Symbol::Spin, 1)])?;
        ensure!(vcpu.owns(base) && !vcpu.owns(base + SIZE) && !vcpu.owns(base - 1));
    }
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::without_lbr(KVM);
    suite
        .case(
            "commands",
            "A vCPU executes RDMSR, WRMSR and calls, and userspace reads the MSRs that it wrote.",
            commands,
        )
        .case(
            "exceptions",
            "An access of an MSR that does not exist, or of a value that it cannot have, raises \
             #GP.",
            exceptions,
        )
        .case(
            "yields",
            "A vCPU that exits to userspace goes on where it was.",
            yields,
        )
        .case(
            "exits",
            "Accesses that are intercepted count as exits in the vCPU's statistics, and others do \
             not.",
            exits,
        )
        .case(
            "filter",
            "KVM_X86_SET_MSR_FILTER denies accesses, and allows them again.",
            filter,
        )
        .case(
            "addresses",
            "A guest runs wherever its memory is mapped.",
            addresses,
        );
    suite
}
