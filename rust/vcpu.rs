// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR: its life, and KVM's and perf's sides of it.

use crate::ffi::{self, GuestLbrEvent, KvmVcpu, LentRegisters};
use crate::lbr::architectural::Ctl;
use crate::lbr::{Debugctl, Facility, Kvm, Lifecycle, Published, Trace};
use core::ops::Range;
use kernel::prelude::*;

/// The LBR of one vCPU.
pub(crate) struct Vcpu<F: Facility<Records: LentRegisters>> {
    pub(crate) life: Lifecycle<F>,
    pub(crate) kvm: KvmVcpu,
    pub(crate) perf: GuestLbrEvent<F::Records>,
}

impl<F: Facility<Records: LentRegisters>> Vcpu<F> {
    /// Creates the LBR of a vCPU that has none yet; `kvm` makes KVM's side.
    pub(crate) fn new(
        kvm: impl FnOnce(&GuestLbrEvent<F::Records>) -> KvmVcpu,
    ) -> Result<KBox<Self>> {
        let facility = F::new(&ffi::host_facility()?).ok_or(ENODEV)?;
        let perf = GuestLbrEvent::new(facility.initial())?;
        let vcpu = Self {
            life: Lifecycle::new(facility),
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

    fn ctl(&self) -> Ctl {
        Ctl::from_raw(self.read_ctl())
    }

    fn set_ctl(&mut self, ctl: Ctl) {
        self.write_ctl(ctl.into_raw());
    }

    fn is_frozen(&self) -> bool {
        KvmVcpu::is_frozen(self)
    }

    fn publish(&mut self, published: Published) {
        KvmVcpu::publish(self, published);
    }

    fn request_service(&mut self) {
        KvmVcpu::request_service(self);
    }

    fn set_intercept(&mut self, msrs: Range<u32>, intercept: bool) {
        KvmVcpu::set_intercept(self, msrs, intercept);
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
