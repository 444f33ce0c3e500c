// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR: carries out what the state machine decides.
//!
//! The methods are the operations of `struct kvm_vmx_lbr_ops`, and are called as
//! [`include/linux/kvm_vmx_lbr.h`] says.
//!
//! [`include/linux/kvm_vmx_lbr.h`]: srctree/include/linux/kvm_vmx_lbr.h

use crate::event::{Event, Records};
use crate::ffi::{self, KvmVcpu, Trace};
use crate::lbr::{Creation, Facility, Machine, Service, Transition};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The LBR of one vCPU.
pub(crate) struct Vcpu {
    kvm: KvmVcpu,
    facility: Facility,
    machine: Machine,
    event: Option<Event>,
    records: Arc<Records>,
}

impl Vcpu {
    /// Creates the LBR of a vCPU that has none yet.
    pub(crate) fn new(kvm: KvmVcpu) -> Result<Self> {
        let facility = ffi::host_facility()?;
        Ok(Self {
            kvm,
            facility,
            machine: Machine::new(),
            event: None,
            records: Records::new(facility)?,
        })
    }

    /// Tells KVM what it tests before each VM-entry.
    fn publish(&self) {
        self.kvm.publish(
            self.event.as_ref().map(Event::perf),
            self.machine.passthrough(),
            self.machine.attention(),
        );
    }

    fn release_event(&mut self) {
        // KVM must not look at it any more when it goes.
        let event = self.event.take();
        self.publish();
        drop(event);
    }

    fn trace(&self, transition: Transition) {
        self.kvm.trace(match transition {
            Transition::Owned => Trace::Owned,
            Transition::Lost => Trace::Lost,
            Transition::Regained => Trace::Regained,
            Transition::Released => Trace::Released,
        });
    }

    pub(crate) fn refresh(&mut self, enabled: bool) {
        if !enabled {
            self.release_event();
            self.records.clear();
        }
        self.machine.refresh(enabled);
        self.publish();
    }

    pub(crate) fn reset(&mut self) {
        self.release_event();
        self.machine.released();
        self.publish();
    }

    pub(crate) fn is_valid_msr(&self, msr: u32) -> bool {
        self.machine.is_enabled() && self.facility.register(msr).is_some()
    }

    /// Returns `None` for #GP.
    pub(crate) fn get_msr(&mut self, msr: u32, host_initiated: bool) -> Option<u64> {
        let register = self.facility.register(msr)?;
        if !host_initiated {
            self.accessed();
        }
        Some(self.records.read(register, self.event.as_ref()))
    }

    /// Returns `None` for #GP.
    pub(crate) fn set_msr(&mut self, msr: u32, value: u64, host_initiated: bool) -> Option<()> {
        let register = self.facility.register(msr)?;
        let value = if host_initiated {
            self.facility.written_back(register, value)
        } else {
            value
        };
        let kvm = &self.kvm;
        if !self
            .facility
            .accepts(register, value, |address| kvm.is_canonical(address))
        {
            return None;
        }
        if !host_initiated {
            self.accessed();
        }
        self.records.write(register, value, self.event.as_ref());
        self.machine.need_attention();
        self.publish();
        Some(())
    }

    fn accessed(&mut self) {
        self.machine.accessed();
        self.request_service();
    }

    fn request_service(&self) {
        if self.machine.wants_service() {
            self.kvm.request();
        }
    }

    pub(crate) fn get_debugctl(&self, vmcs: u64) -> u64 {
        self.machine.shadow(vmcs)
    }

    pub(crate) fn set_debugctl(&mut self, debugctl: u64) -> u64 {
        let vmcs = self.machine.set_shadow(debugctl);
        self.request_service();
        vmcs
    }

    pub(crate) fn deliver_pmi(&mut self, version: u32) {
        if let Some(debugctl) = self.machine.freeze(version, self.kvm.read_debugctl()) {
            self.kvm.write_debugctl(debugctl);
        }
    }

    pub(crate) fn service(&mut self, new_slice: bool) {
        let held = self.records.are_held();
        let ours = self.event.as_ref().is_some_and(Event::is_ours);
        let debugctl = self.kvm.read_debugctl();
        match self
            .machine
            .service(new_slice, debugctl, held, ours, ffi::jiffies())
        {
            Service::Keep => {}
            Service::Enable => {
                if let Some(event) = &self.event {
                    event.enable();
                }
            }
            Service::Release => {
                self.release_event();
                self.trace(Transition::Released);
            }
            Service::Create => self.create_event(),
        }
        self.publish();
    }

    fn create_event(&mut self) {
        self.release_event();
        let creation = match Event::new(self.records.clone()) {
            Ok(event) => {
                self.event = Some(event);
                if self.records.are_held() {
                    Creation::Active
                } else {
                    Creation::Inactive
                }
            }
            Err(error) => {
                self.kvm.trace(Trace::CreateFailed(error));
                Creation::Failed
            }
        };
        if let Some(transition) = self.machine.created(creation) {
            self.trace(transition);
        }
    }

    pub(crate) fn enter(&mut self, active: bool) {
        let active = active && self.records.settle();
        let kvm = &self.kvm;
        let entry = self
            .machine
            .enter(active, ffi::jiffies(), || kvm.read_debugctl());
        if let Some(debugctl) = entry.vmcs_debugctl {
            self.kvm.write_debugctl(debugctl);
        }
        if let Some(intercept) = entry.intercept {
            self.intercept(intercept);
        }
        if entry.request {
            self.kvm.request();
        }
        if let Some(transition) = entry.transition {
            self.trace(transition);
        }
        self.publish();
    }

    pub(crate) fn msr_filter_changed(&mut self) {
        // Without passthrough everything is intercepted already.
        if self.machine.passthrough() {
            self.intercept(false);
        }
    }

    fn intercept(&self, intercept: bool) {
        for msr in self.facility.msr_ranges().into_iter().flatten() {
            self.kvm.set_intercept(msr, intercept);
        }
    }
}
