// SPDX-License-Identifier: GPL-2.0-only

//! LBR for the guests of KVM on Intel hosts.

mod bindings;
mod event;
mod ffi;
pub mod lbr;
mod provider;
mod vcpu;

use crate::lbr::{architectural, legacy};
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
        let host = ffi::host_facility().inspect_err(|_| {
            pr_info!("this host has no LBR to give to guests\n");
        })?;
        let registration = if host.format == architectural::LBR_FMT {
            let registration =
                provider::Registration::new::<architectural::Facility>(module, &host)?;
            pr_info!(
                "architectural LBR, {} deep, for VMs created from now on\n",
                host.depth
            );
            registration
        } else {
            let registration = provider::Registration::new::<legacy::Facility>(module, &host)?;
            pr_info!(
                "LBR format {}, {} deep, for VMs created from now on\n",
                host.format,
                host.depth
            );
            registration
        };
        Ok(Self {
            _provider: registration,
        })
    }
}
