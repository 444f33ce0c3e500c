// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR: its life, and KVM's and perf's sides of it.

use crate::ffi::{self, GuestLbrEvent, KvmVcpu};
use crate::lbr::{Debugctl, Kvm, Lifecycle, Published, Trace};
use kernel::prelude::*;

/// The LBR of one vCPU.
pub(crate) struct Vcpu {
    pub(crate) life: Lifecycle,
    pub(crate) kvm: KvmVcpu,
    pub(crate) perf: GuestLbrEvent,
}

impl Vcpu {
    /// Creates the LBR of a vCPU that has none yet; `kvm` makes KVM's side.
    pub(crate) fn new(kvm: impl FnOnce(&GuestLbrEvent) -> KvmVcpu) -> Result<KBox<Self>> {
        let perf = GuestLbrEvent::new()?;
        let vcpu = Self {
            life: Lifecycle::new(ffi::host_facility()?),
            kvm: kvm(&perf),
            perf,
        };
        Ok(KBox::new(vcpu, GFP_KERNEL_ACCOUNT)?)
    }
}

impl Kvm for KvmVcpu {
    fn debugctl(&self) -> Debugctl {
        Debugctl::from_raw(self.read_debugctl())
    }

    fn set_debugctl(&mut self, debugctl: Debugctl) {
        self.write_debugctl(debugctl.into_raw());
    }

    fn publish(&mut self, published: Published) {
        KvmVcpu::publish(self, published);
    }

    fn request_service(&mut self) {
        KvmVcpu::request_service(self);
    }

    fn set_intercept(&mut self, msr: u32, intercept: bool) {
        KvmVcpu::set_intercept(self, msr, intercept);
    }

    fn is_canonical(&self, address: u64) -> bool {
        KvmVcpu::is_canonical(self, address)
    }

    fn now(&self) -> u64 {
        ffi::jiffies()
    }

    fn trace(&mut self, trace: Trace) {
        KvmVcpu::trace(self, trace);
    }
}
