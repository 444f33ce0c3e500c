// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR life: all that is decided, and in which order.

use super::debugctl::Debugctl;
use super::facility::{Facility, GeneralProtection, Register};
use super::platform::{Kvm, Perf, Published, Trace};
use super::records::Records;

/// Where a vCPU is in its LBR life.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// The vCPU has no LBR.
    Disabled,
    /// It has, and no event that a VM-Entry has seen.
    Idle,
    /// It has an event, and was granted the LBRs when it last asked.
    Owned,
    /// It has an event, and was refused the LBRs when it last asked.
    Reclaimed,
}

/// Who accesses an MSR.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Accessor {
    /// The guest.
    Guest,
    /// Userspace, on whatever thread.
    Userspace,
}

/// Whether branches are missing that the guest should have recorded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Gap {
    /// None are.
    Closed,
    /// A gap began, and the records are yet to be emptied.
    Begun,
    /// They were emptied, once.
    Open,
}

/// The LBR life of one vCPU.
///
/// The methods are the operations of `struct kvm_vmx_lbr_ops`, and are called as
/// [`include/linux/kvm_vmx_lbr.h`] says.
///
/// # Invariants
///
/// `passthrough` is what the last [`Lifecycle::enter`] made of the intercepts; only there
/// does it change.
///
/// [`include/linux/kvm_vmx_lbr.h`]: srctree/include/linux/kvm_vmx_lbr.h
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Lifecycle {
    facility: Facility,
    state: State,
    passthrough: bool,
    /// The guest used LBR since the slice began.
    used: bool,
    gap: Gap,
    /// When perf last refused an event.
    refused: Option<u64>,
}

impl Lifecycle {
    /// Creates the life of a vCPU that has no LBR yet, on a host with this facility.
    pub const fn new(facility: Facility) -> Self {
        // INVARIANT: KVM intercepts all MSRs of a new vCPU.
        Self {
            facility,
            state: State::Disabled,
            passthrough: false,
            used: false,
            gap: Gap::Closed,
            refused: None,
        }
    }

    /// Returns the state.
    pub const fn state(&self) -> State {
        self.state
    }

    fn is_enabled(&self) -> bool {
        self.state != State::Disabled
    }

    fn publish(&self, kvm: &mut impl Kvm, perf: &impl Perf, attention: bool) {
        kvm.publish(Published {
            has_event: perf.exists(),
            passthrough: self.passthrough,
            attention,
        });
    }

    /// Has [`Lifecycle::enter`] called. It alone withdraws attention, which KVM may have
    /// asked for as well.
    fn look_again(&self, kvm: &mut impl Kvm, perf: &impl Perf) {
        self.publish(kvm, perf, true);
    }

    /// Gives the vCPU LBR or takes it away, with all registers zero.
    pub fn refresh(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf, enabled: bool) {
        if enabled {
            self.state = State::Idle;
            // Userspace may have set it before.
            self.debugctl_written(kvm, perf, kvm.debugctl());
        } else {
            self.release_event(perf);
            *perf.park() = Records::ZERO;
            perf.mark_dirty();
            *self = Self {
                passthrough: self.passthrough,
                refused: self.refused,
                ..Self::new(self.facility)
            };
        }
        self.look_again(kvm, perf);
    }

    /// Releases the event. All registers stay.
    pub fn reset(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf) {
        if perf.exists() {
            // Not loaded if it is destroyed: let service() see what the guest wants.
            kvm.request_service();
        }
        self.release_event(perf);
        self.used = false;
        self.look_again(kvm, perf);
    }

    fn release_event(&mut self, perf: &mut impl Perf) {
        perf.release();
        if self.is_enabled() {
            self.state = State::Idle;
        }
    }

    /// Returns whether `msr` is one of the vCPU's LBR MSRs.
    pub fn is_valid_msr(&self, msr: u32) -> bool {
        self.register(msr).is_ok()
    }

    fn register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        match self.facility.register(msr) {
            Some(register) if self.is_enabled() => Ok(register),
            _ => Err(GeneralProtection),
        }
    }

    /// Reads an LBR MSR.
    pub fn get_msr(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf,
        msr: u32,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection> {
        let register = self.register(msr)?;
        if accessor == Accessor::Guest {
            self.wanted(kvm, perf);
        }
        self.show_gap(perf);
        match perf.read(msr) {
            Some(value) => Ok(value),
            None => Ok(perf.park().get(register)),
        }
    }

    /// Writes an LBR MSR. Userspace may write back what was read from it.
    pub fn set_msr(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf,
        msr: u32,
        value: u64,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection> {
        let register = self.register(msr)?;
        let value = match accessor {
            Accessor::Guest => value,
            Accessor::Userspace => self.facility.written_back(register, value),
        };
        self.facility
            .check(register, value, |address| kvm.is_canonical(address))?;
        if accessor == Accessor::Guest {
            self.wanted(kvm, perf);
        }
        self.show_gap(perf);
        if !perf.write(msr, value) {
            perf.park().set(register, value);
            perf.mark_dirty();
        }
        Ok(())
    }

    /// The guest's `IA32_DEBUGCTL` was set, by whomever.
    pub fn debugctl_written(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf,
        debugctl: Debugctl,
    ) {
        if self.is_enabled() && debugctl.lbr() {
            self.wanted(kvm, perf);
        }
    }

    /// The guest wants to use LBR from now on.
    fn wanted(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf) {
        self.used = true;
        if !perf.exists() {
            kvm.request_service();
        }
        if !self.passthrough {
            self.look_again(kvm, perf);
        }
    }

    /// A virtual PMI is about to be delivered to a guest of this `CPUID.0AH` version.
    pub fn deliver_pmi(&mut self, kvm: &mut impl Kvm, version: u32) {
        if !self.is_enabled() {
            return;
        }
        if let Some(frozen) = kvm.debugctl().frozen_by_pmi(version) {
            kvm.set_debugctl(frozen);
        }
    }

    /// Creates and releases the event, on the vCPU's thread. `new_slice`: that was
    /// scheduled in since the last call.
    pub fn service(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf, new_slice: bool) {
        if !self.is_enabled() {
            return;
        }
        self.show_gap(perf);
        let lbr = kvm.debugctl().lbr();
        let wanted = lbr || self.used;
        if new_slice {
            self.used = lbr;
        }
        if wanted {
            if !perf.is_ours() {
                self.create_event(kvm, perf);
            }
        } else if new_slice && perf.exists() {
            self.release_event(perf);
            kvm.trace(Trace::Released);
        }
        self.look_again(kvm, perf);
    }

    fn create_event(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf) {
        self.release_event(perf);
        let now = kvm.now();
        if self.refused == Some(now) {
            return;
        }
        self.refused = None;
        if let Err(errno) = perf.create() {
            self.refused = Some(now);
            // Try again as long as LBR is on, or at the next access.
            self.used = false;
            kvm.trace(Trace::CreateFailed(errno));
        }
    }

    /// A VM-Entry is imminent, with interrupts disabled.
    pub fn enter<P: Perf>(&mut self, kvm: &mut impl Kvm, perf: &mut P, entry: &P::Entry) {
        let recording = self.is_enabled() && kvm.debugctl().lbr();
        let wanted = recording || self.used;
        let granted = perf.grant(entry);
        self.pass_through(kvm, granted);
        if perf.exists() {
            self.answered(kvm, granted);
        }
        self.observe_gap(kvm, recording);
        // The host does not tell when it lets go: look until then.
        let waiting = wanted && !self.passthrough;
        if waiting && !perf.is_ours() && self.refused != Some(kvm.now()) {
            kvm.request_service();
        }
        self.publish(kvm, perf, waiting);
    }

    fn pass_through(&mut self, kvm: &mut impl Kvm, passthrough: bool) {
        if passthrough != self.passthrough {
            // INVARIANT: Called by enter() alone.
            self.passthrough = passthrough;
            self.intercept(kvm, !passthrough);
        }
    }

    fn intercept(&self, kvm: &mut impl Kvm, intercept: bool) {
        for msr in self.facility.msr_ranges().into_iter().flatten() {
            kvm.set_intercept(msr, intercept);
        }
    }

    /// perf was asked for the LBRs.
    fn answered(&mut self, kvm: &mut impl Kvm, granted: bool) {
        let (state, trace) = match (self.state, granted) {
            (State::Idle, true) => (State::Owned, Trace::Owned),
            (State::Reclaimed, true) => (State::Owned, Trace::Regained),
            (State::Idle | State::Owned, false) => (State::Reclaimed, Trace::Lost),
            _ => return,
        };
        self.state = state;
        kvm.trace(trace);
    }

    /// A gap begins at the first VM-Entry that should record and does not. It ends at the
    /// first that records, or need not.
    fn observe_gap(&mut self, kvm: &mut impl Kvm, recording: bool) {
        match (self.gap, recording && !self.passthrough) {
            (Gap::Closed, true) => {
                self.gap = Gap::Begun;
                // park() may sleep, so not now.
                kvm.request_service();
            }
            (Gap::Open, false) => self.gap = Gap::Closed,
            _ => {}
        }
    }

    /// Empties the records if a gap has begun. Nobody looks at them before.
    fn show_gap(&mut self, perf: &mut impl Perf) {
        if self.gap == Gap::Begun {
            self.gap = Gap::Open;
            perf.park().empty();
            perf.mark_dirty();
        }
    }

    /// Userspace replaced the MSR filter.
    pub fn msr_filter_changed(&mut self, kvm: &mut impl Kvm) {
        // Without passthrough everything is intercepted already.
        if self.passthrough {
            self.intercept(kvm, false);
        }
    }
}
