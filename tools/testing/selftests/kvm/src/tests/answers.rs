// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Prints what KVM answers: the CPUID that it supports, the MSRs to save, the feature MSRs
//! with their values, and what a guest and userspace find in the MSRs of both LBR facilities.
//! No test; its output is compared between kernels.

use std::path::Path;

use anyhow::Result;
use kvm_bindings::{kvm_msr_entry, Msrs};
use kvm_ioctls::Kvm;
use kvm_selftests::guest::Command;
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::msr::{self, Geometry, LBR_FMT_ARCHITECTURAL};
use kvm_selftests::vm::Vm;

/// What is written: each bit, where that makes a difference.
fn values(register: u32) -> Vec<u64> {
    match register {
        msr::DEBUGCTL => (0..64).map(|bit| 1 << bit).chain([0]).collect(),
        _ => vec![1, 0],
    }
}

pub(crate) fn print() -> Result<()> {
    let host = Host::probe(None, Path::new(""))?;
    // Of which some leaves of CPUID tell.
    pin_to(host.cpu()?)?;
    for leaf in host.cpuid()?.as_slice() {
        println!(
            "cpuid {:#x}.{:#x} {:x?}",
            leaf.function,
            leaf.index,
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        );
    }
    lists(&host.kvm)?;
    accesses(&host)
}

fn lists(kvm: &Kvm) -> Result<()> {
    for msr in kvm.get_msr_index_list()?.as_slice() {
        println!("save {msr:#x}");
    }
    for msr in kvm.get_msr_feature_index_list()?.as_slice() {
        let mut entry = Msrs::from_entries(&[kvm_msr_entry {
            index: *msr,
            ..Default::default()
        }])?;
        let count = kvm.get_msrs(&mut entry)?;
        let value = entry.as_slice().first().filter(|_| count == 1);
        match value {
            Some(entry) => println!("feature {msr:#x} {:#x}", entry.data),
            None => println!("feature {msr:#x} unreadable"),
        }
    }
    Ok(())
}

/// The MSRs that have to do with LBR, those last that have a guest record.
fn registers() -> Vec<u32> {
    let facilities = [5, LBR_FMT_ARCHITECTURAL].map(|format| Geometry { format, depth: 32 });
    let mut all: Vec<_> = facilities
        .into_iter()
        .flat_map(Geometry::registers)
        .collect();
    all.extend([
        msr::PERF_CAPABILITIES,
        msr::XSS,
        msr::LBR_CTL,
        msr::DEBUGCTL,
    ]);
    all
}

fn accesses(host: &Host) -> Result<()> {
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    for register in registers() {
        let values = values(register);
        let mut commands = vec![Command::Rdmsr(register)];
        commands.extend(values.iter().map(|value| Command::Wrmsr(register, *value)));
        let [read, writes @ ..] = &vcpu.run(&commands)?[..] else {
            continue;
        };
        let taken: Vec<_> = writes.iter().map(Result::is_ok).collect();
        println!("guest {register:#x}: {read:x?}, takes {values:x?}: {taken:?}");

        let read = vcpu.get_msr(register)?;
        let taken: Result<Vec<_>> = values
            .iter()
            .map(|value| vcpu.set_msr(register, *value))
            .collect();
        println!(
            "userspace {register:#x}: {read:x?}, takes {values:x?}: {:?}",
            taken?
        );
    }
    Ok(())
}
