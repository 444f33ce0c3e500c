// SPDX-License-Identifier: GPL-2.0-only

//! LBR for the guests of KVM on Intel hosts.

mod bindings;
mod event;
mod ffi;
pub mod lbr;
mod provider;
mod vcpu;

use kernel::prelude::*;

module! {
    type: GuestLbr,
    name: "guest_lbr",
    author: "The guest_lbr authors",
    description: "Last Branch Records for guests of KVM on Intel",
    license: "GPL",
}

/// The module: guest LBR for the VMs that are created while it is loaded.
struct GuestLbr {
    _provider: provider::Registration,
}

impl kernel::Module for GuestLbr {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let facility = ffi::host_facility().inspect_err(|_| {
            pr_info!("this host has no LBR to give to guests, or kvm's enable_pmu is off\n");
        })?;
        let registration = provider::Registration::new(module)?;
        pr_info!(
            "LBR format {}, {} deep, for VMs created from now on\n",
            facility.format().lbr_fmt(),
            facility.depth()
        );
        Ok(Self {
            _provider: registration,
        })
    }
}
