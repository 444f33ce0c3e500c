// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Prints what KVM tells a VMM before it creates a VM: the MSRs to save, and the
//! feature MSRs with their values. No test; its output is compared between
//! kernels.

use anyhow::{Context, Result};
use kvm_bindings::{kvm_msr_entry, Msrs};
use kvm_ioctls::Kvm;

pub(crate) fn print() -> Result<()> {
    let kvm = Kvm::new().context("/dev/kvm cannot be opened; load kvm-intel, be root")?;
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
