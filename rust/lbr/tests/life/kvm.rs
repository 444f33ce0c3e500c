// SPDX-License-Identifier: GPL-2.0-only

//! KVM as its contract header describes it.

use lbr::{Debugctl, Kvm, Published, Trace};

use super::registers::{index, is_canonical, COUNT};

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct KvmSide {
    pub(crate) debugctl: Debugctl,
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
}

impl KvmSide {
    pub(crate) fn new() -> Self {
        Self {
            debugctl: Debugctl::from_raw(0),
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
        }
    }

    pub(crate) fn is_intercepted(&self, msr: u32) -> bool {
        self.passed & 1 << index(msr) == 0
    }

    /// Whether all MSRs are passed through that the filter does not deny.
    pub(crate) fn passes_through(&self) -> bool {
        let denied = self.denied.map_or(0, |msr| 1 << index(msr));
        self.passed == ((1 << COUNT) - 1) & !denied
    }

    pub(crate) fn intercepts_all(&self) -> bool {
        self.passed == 0
    }

    /// Whether the hardware records the guest's branches.
    pub(crate) fn is_recording(&self) -> bool {
        self.published.passthrough && self.debugctl.lbr()
    }

    /// What KVM does when it switches the VMCS.
    pub(crate) fn switched(&mut self, debugctl: Debugctl) {
        self.debugctl = debugctl;
        self.published.attention = true;
    }
}

impl Kvm for KvmSide {
    fn debugctl(&self) -> Debugctl {
        self.debugctl
    }

    fn set_debugctl(&mut self, debugctl: Debugctl) {
        self.debugctl = debugctl;
    }

    fn publish(&mut self, published: Published) {
        self.published = published;
    }

    fn request_service(&mut self) {
        self.requested = true;
    }

    fn set_intercept(&mut self, msr: u32, intercept: bool) {
        self.flips += 1;
        let bit = 1 << index(msr);
        if intercept || self.denied == Some(msr) {
            self.passed &= !bit;
        } else {
            self.passed |= bit;
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
