// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR life: all that is decided, and in which order.

use super::debugctl::Debugctl;
use super::facility::{Accessor, Description, Facility, GeneralProtection};
use super::platform::{Kvm, Perf, Published, Trace};

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
/// `passthrough` and `control_passthrough` are what the last [`Lifecycle::enter`] made of the
/// intercepts; only there do they change.
///
/// [`include/linux/kvm_vmx_lbr.h`]: srctree/include/linux/kvm_vmx_lbr.h
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Lifecycle<F> {
    facility: F,
    state: State,
    passthrough: bool,
    /// The same of [`Facility::control`].
    control_passthrough: bool,
    /// The guest used LBR since the slice began.
    used: bool,
    gap: Gap,
    /// When perf last refused an event.
    refused: Option<u64>,
}

impl<F: Facility> Lifecycle<F> {
    /// Creates the life of a vCPU that has no LBR yet, on a host with this facility.
    pub const fn new(facility: F) -> Self {
        // INVARIANT: KVM intercepts all MSRs of a new vCPU.
        Self {
            facility,
            state: State::Disabled,
            passthrough: false,
            control_passthrough: false,
            used: false,
            gap: Gap::Closed,
            refused: None,
        }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    fn is_enabled(&self) -> bool {
        self.state != State::Disabled
    }

    fn publish(&self, kvm: &mut impl Kvm, perf: &impl Perf<Records = F::Records>, attention: bool) {
        kvm.publish(Published {
            has_event: perf.exists(),
            passthrough: self.passthrough,
            attention,
        });
    }

    /// Has [`Lifecycle::enter`] called. It alone withdraws attention, which KVM may have
    /// asked for as well.
    fn look_again(&self, kvm: &mut impl Kvm, perf: &impl Perf<Records = F::Records>) {
        self.publish(kvm, perf, true);
    }

    /// Gives the vCPU this LBR or takes it away, with all registers as after reset.
    pub fn refresh(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = F::Records>,
        guest: Option<&Description>,
    ) {
        self.release_event(perf);
        self.state = State::Disabled;
        self.used = false;
        self.gap = Gap::Closed;
        if let Some(facility) = guest.and_then(|guest| self.facility.for_guest(guest)) {
            self.facility = facility;
            self.state = State::Idle;
        }
        *perf.park() = self.facility.initial();
        perf.mark_dirty();
        F::reset_control(kvm);
        // Userspace may have set it before.
        self.control_written(kvm, perf);
        self.look_again(kvm, perf);
    }

    /// Releases the event. All registers stay.
    pub fn reset(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf<Records = F::Records>) {
        if perf.exists() {
            // Not loaded if it is destroyed: let service() see what the guest wants.
            kvm.request_service();
        }
        self.release_event(perf);
        self.used = false;
        self.look_again(kvm, perf);
    }

    fn release_event(&mut self, perf: &mut impl Perf<Records = F::Records>) {
        perf.release();
        if self.is_enabled() {
            self.state = State::Idle;
        }
    }

    /// Returns whether `msr` is one of the vCPU's LBR MSRs.
    pub fn is_valid_msr(&self, msr: u32) -> bool {
        self.register(msr).is_ok()
    }

    fn register(&self, msr: u32) -> Result<F::Register, GeneralProtection> {
        match self.facility.register(msr) {
            Some(register) if self.is_enabled() => Ok(register),
            _ => Err(GeneralProtection),
        }
    }

    /// Reads an LBR MSR.
    pub fn get_msr(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = F::Records>,
        msr: u32,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection> {
        let register = self.register(msr)?;
        if accessor == Accessor::Guest {
            self.wanted(kvm, perf);
        }
        self.show_gap(perf);
        self.facility.read(kvm, perf, msr, register, accessor)
    }

    /// Writes an LBR MSR. Userspace may write back what was read from it.
    pub fn set_msr(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = F::Records>,
        msr: u32,
        value: u64,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection> {
        let register = self.register(msr)?;
        let canonical = |address| kvm.is_canonical(address);
        let value = self.facility.accept(register, value, accessor, canonical)?;
        if accessor == Accessor::Guest {
            self.wanted(kvm, perf);
        }
        self.show_gap(perf);
        self.facility
            .write(kvm, perf, msr, register, value, accessor)?;
        self.control_written(kvm, perf);
        Ok(())
    }

    /// `IA32_DEBUGCTL` was written, by whomever.
    pub fn debugctl_written(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = F::Records>,
        debugctl: Debugctl,
    ) {
        if self.is_enabled() && F::records_by(debugctl) {
            self.wanted(kvm, perf);
        }
    }

    /// The MSR that makes the guest record branches may have been written.
    fn control_written(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf<Records = F::Records>) {
        if self.is_enabled() && F::is_recording(kvm) {
            self.wanted(kvm, perf);
        }
    }

    /// The guest wants to use LBR from now on.
    fn wanted(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf<Records = F::Records>) {
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
        if self.is_enabled() {
            F::freeze(kvm, version);
        }
    }

    /// Creates and releases the event, on the vCPU's thread. `new_slice`: that was
    /// scheduled in since the last call.
    pub fn service(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = F::Records>,
        new_slice: bool,
    ) {
        if !self.is_enabled() {
            return;
        }
        self.show_gap(perf);
        let recording = F::is_recording(kvm);
        let wanted = recording || self.used;
        if new_slice {
            self.used = recording;
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

    fn create_event(&mut self, kvm: &mut impl Kvm, perf: &mut impl Perf<Records = F::Records>) {
        self.release_event(perf);
        let now = kvm.now();
        if self.refused == Some(now) {
            return;
        }
        self.refused = None;
        if let Err(errno) = perf.create() {
            self.refused = Some(now);
            // Try again as long as it records, or at the next access.
            self.used = false;
            kvm.trace(Trace::CreateFailed(errno));
        }
    }

    /// A VM-Entry is imminent, with interrupts disabled.
    pub fn enter<P: Perf<Records = F::Records>>(
        &mut self,
        kvm: &mut impl Kvm,
        perf: &mut P,
        entry: &P::Entry,
    ) {
        let recording = self.is_enabled() && F::is_recording(kvm);
        let wanted = recording || self.used;
        let granted = perf.grant(entry);
        let frozen = kvm.is_frozen();
        self.pass_through(kvm, granted, frozen);
        if perf.exists() {
            self.answered(kvm, granted);
        }
        self.observe_gap(kvm, recording && !frozen);
        // The host does not tell when it lets go: look until then.
        let waiting = wanted && !self.passthrough;
        if waiting && !perf.is_ours() && self.refused != Some(kvm.now()) {
            kvm.request_service();
        }
        self.publish(kvm, perf, waiting);
    }

    fn pass_through(&mut self, kvm: &mut impl Kvm, granted: bool, frozen: bool) {
        // INVARIANT: Called by enter() alone.
        if granted != self.passthrough {
            self.passthrough = granted;
            self.intercept(kvm, !granted);
        }
        let control = granted && !frozen;
        if control != self.control_passthrough {
            self.control_passthrough = control;
            self.intercept_control(kvm, !control);
        }
    }

    fn intercept(&self, kvm: &mut impl Kvm, intercept: bool) {
        for msrs in self.facility.passed_through() {
            kvm.set_intercept(msrs, intercept);
        }
    }

    fn intercept_control(&self, kvm: &mut impl Kvm, intercept: bool) {
        if let Some(msr) = self.facility.control() {
            kvm.set_intercept(msr..msr + 1, intercept);
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
    fn show_gap(&mut self, perf: &mut impl Perf<Records = F::Records>) {
        if self.gap == Gap::Begun {
            self.gap = Gap::Open;
            F::empty(perf.park());
            perf.mark_dirty();
        }
    }

    /// Userspace replaced the MSR filter.
    pub fn msr_filter_changed(&mut self, kvm: &mut impl Kvm) {
        // Without passthrough everything is intercepted already.
        if self.passthrough {
            self.intercept(kvm, false);
        }
        if self.control_passthrough {
            self.intercept_control(kvm, false);
        }
    }
}
