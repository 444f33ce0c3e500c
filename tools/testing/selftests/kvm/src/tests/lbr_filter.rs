// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Userspace's MSR filter is obeyed at once, also where the LBR registers were
//! passed through before.

use anyhow::{ensure, Result};
use kvm_ioctls::MsrFilterRangeFlags as Flags;
use kvm_selftests::guest::{Command, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Geometry};
use kvm_selftests::rules::KVM;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

const VALUE: u64 = 5;

/// The registers that are denied, one of each sort.
fn victims(lbr: Geometry) -> Vec<u32> {
    let mut all = match lbr.is_architectural() {
        true => vec![msr::LBR_CTL, msr::LBR_DEPTH, msr::LER_FROM],
        false => vec![msr::LBR_SELECT, msr::LBR_TOS],
    };
    all.extend([lbr.from() + 3, lbr.to() + lbr.depth - 1]);
    if lbr.has_info() {
        all.push(lbr.info());
    }
    all
}

/// Fails unless of the victims exactly the denied accesses fail.
fn expect(vcpu: &mut Vcpu, lbr: Geometry, denied: Flags) -> Result<()> {
    for register in lbr.passed_through() {
        let value = lbr.legal(register, VALUE);
        let denied = match victims(lbr).contains(&register) {
            true => denied,
            false => Flags::empty(),
        };
        let outcomes = vcpu.run(&[
            Command::Rdmsr(register),
            Command::Wrmsr(register, value),
            Command::Rdmsr(register),
        ])?;
        let (read, write) = (outcomes[0], outcomes[1]);
        ensure!(
            (read == Err(GP)) == denied.contains(Flags::READ),
            "RDMSR {register:#x} gave {read:x?}, denied {denied:?}"
        );
        ensure!(
            (write == Err(GP)) == denied.contains(Flags::WRITE),
            "WRMSR {register:#x} gave {write:x?}, denied {denied:?}"
        );
        if denied.is_empty() {
            ensure!(
                outcomes[2] == Ok(value),
                "MSR {register:#x} reads as {:x?}, not {value}",
                outcomes[2]
            );
        }
    }
    Ok(())
}

const SORTS: [(&str, Flags); 3] = [
    ("read", Flags::READ),
    ("write", Flags::WRITE),
    ("both", Flags::READ.union(Flags::WRITE)),
];

fn before_use(host: &Host, denied: Flags) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    vm.deny_msrs(&victims(lbr), denied)?;
    let mut vcpu = vm.vcpu(0)?;
    expect(&mut vcpu, lbr, denied)?;
    expect(&mut vcpu, lbr, denied)?;
    PASS
}

fn while_passed_through(host: &Host, denied: Flags) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    expect(&mut vcpu, lbr, Flags::empty())?;
    vcpu.expect_passthrough(lbr)?;
    vm.deny_msrs(&victims(lbr), denied)?;
    expect(&mut vcpu, lbr, denied)?;
    // The filter is the guest's, not userspace's.
    for register in victims(lbr) {
        ensure!(
            vcpu.get_msr(register)? == Some(lbr.legal(register, VALUE)),
            "userspace cannot read MSR {register:#x}"
        );
    }
    vm.deny_msrs(&[], Flags::empty())?;
    expect(&mut vcpu, lbr, Flags::empty())?;
    vcpu.expect_passthrough(lbr)?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(KVM);
    for (name, flags) in SORTS {
        suite
            .case(
                format!("before_use_{name}"),
                "KVM_X86_SET_MSR_FILTER denies the listed LBR MSRs and no others.",
                move |host| before_use(host, flags),
            )
            .case(
                format!("while_passed_through_{name}"),
                "A filter that is set while LBR MSRs are passed through is obeyed from the next \
                 access on, and so is its removal; it does not concern userspace.",
                move |host| while_passed_through(host, flags),
            )
            .builtin_fails("a new filter is ignored until the next interception");
    }
    suite
}
