// SPDX-License-Identifier: GPL-2.0-only

//! KVM as its contract header describes it.

use std::marker::PhantomData;
use std::ops::Range;

use lbr::architectural::Ctl;
use lbr::{Debugctl, Description, Kvm, Published, Trace};

use super::hardware::{is_canonical, Controls, Hardware};
use super::registers::{count, index};

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct KvmSide<F> {
    pub(crate) controls: Controls,
    /// `IA32_PERF_GLOBAL_STATUS.LBR_FRZ`.
    pub(crate) frozen: bool,
    /// The same at the last `enter`.
    pub(crate) was_frozen: bool,
    pub(crate) published: Published,
    pub(crate) requested: bool,
    pub(crate) new_slice: bool,
    /// The VM's filter denies accesses of this MSR.
    pub(crate) denied: Option<u32>,
    /// The vCPU has run.
    pub(crate) run: bool,
    pub(crate) now: u64,
    /// What the last step traced.
    pub(crate) traces: Vec<Trace>,
    /// How many intercepts it changed.
    pub(crate) flips: usize,
    /// The MSRs that are not intercepted, a bit for each.
    passed: u128,
    facility: PhantomData<F>,
}

impl<F: Hardware> KvmSide<F> {
    pub(crate) fn new() -> Self {
        Self {
            controls: Controls::default(),
            frozen: false,
            was_frozen: false,
            published: Published {
                has_event: false,
                passthrough: false,
                attention: false,
            },
            requested: false,
            new_slice: false,
            denied: None,
            run: false,
            now: 0,
            traces: Vec::new(),
            flips: 0,
            passed: 0,
            facility: PhantomData,
        }
    }

    pub(crate) fn is_intercepted(&self, msr: u32) -> bool {
        self.passed & 1 << index::<F>(msr) == 0
    }

    /// Whether all MSRs are passed through that a guest may access, and the filter does not
    /// deny. While the LBRs are frozen the hardware has another `IA32_LBR_CTL`.
    pub(crate) fn passes_through(&self, has: &Description) -> bool {
        let but = [F::CTL, F::DEPTH]
            .into_iter()
            .flatten()
            .filter(|_| F::is_less(has))
            .chain(F::CTL.filter(|_| self.frozen))
            .chain(self.denied);
        let passed = but.fold((1 << count::<F>()) - 1, |passed, msr| {
            passed & !(1 << index::<F>(msr))
        });
        self.passed == passed
    }

    pub(crate) fn intercepts_all(&self) -> bool {
        self.passed == 0
    }

    /// Whether the hardware records the guest's branches.
    pub(crate) fn is_recording(&self) -> bool {
        self.published.passthrough && F::is_on(self.controls) && !self.was_frozen
    }

    /// What KVM does when it switches the VMCS.
    pub(crate) fn switched(&mut self, debugctl: Debugctl) {
        self.controls.debugctl = debugctl.into_raw();
        self.published.attention = true;
    }
}

impl<F: Hardware> Kvm for KvmSide<F> {
    fn debugctl(&self) -> Debugctl {
        Debugctl::from_raw(self.controls.debugctl)
    }

    fn set_debugctl(&mut self, debugctl: Debugctl) {
        self.controls.debugctl = debugctl.into_raw();
    }

    fn ctl(&self) -> Ctl {
        Ctl::from_raw(self.controls.ctl)
    }

    fn set_ctl(&mut self, ctl: Ctl) {
        self.controls.ctl = ctl.into_raw();
    }

    fn is_frozen(&self) -> bool {
        self.frozen
    }

    fn publish(&mut self, published: Published) {
        self.published = published;
    }

    fn request_service(&mut self) {
        self.requested = true;
    }

    fn set_intercept(&mut self, msrs: Range<u32>, intercept: bool) {
        for msr in msrs {
            self.flips += 1;
            let bit = 1 << index::<F>(msr);
            if intercept || self.denied == Some(msr) {
                self.passed &= !bit;
            } else {
                self.passed |= bit;
            }
        }
    }

    fn is_canonical(&self, address: u64) -> bool {
        is_canonical(address)
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn trace(&mut self, trace: Trace) {
        self.traces.push(trace);
    }
}
