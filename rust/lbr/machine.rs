// SPDX-License-Identifier: GPL-2.0-only

//! One vCPU's LBR life: when it has an event, when it has passthrough, and what
//! `IA32_DEBUGCTL` its VMCS may have.

use super::debugctl::{pmi_clears_lbr, DEBUGCTL_LBR};

/// Where a vCPU is in its LBR life.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// The vCPU has no LBR.
    Disabled,
    /// It has, and no event: the guest does not use LBR.
    Idle,
    /// It has an event, which was ACTIVE when last looked at.
    Owned,
    /// It has an event, and the host has the facility.
    Reclaimed,
}

/// What just happened to a vCPU's facility, for tracing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transition {
    /// It got the facility.
    Owned,
    /// The host took the facility away, or had it when the event was created.
    Lost,
    /// It got the facility back.
    Regained,
    /// It does not need the facility any more.
    Released,
}

/// What to do about the event, see [`Machine::service`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Service {
    /// Nothing.
    Keep,
    /// Release it.
    Release,
    /// Release it, if there is one, create another for the current thread, and
    /// tell [`Machine::created`].
    Create,
    /// Have perf schedule it again.
    Enable,
}

/// How the creation of an event ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Creation {
    /// There is an event and it has the facility.
    Active,
    /// There is an event, and the host has the facility.
    Inactive,
    /// There is none.
    Failed,
}

/// What to do before a VM-entry, see [`Machine::enter`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Entry {
    /// Intercept all LBR MSRs (true) or none of them (false).
    pub intercept: Option<bool>,
    /// Write this to `IA32_DEBUGCTL` in the VMCS.
    pub vmcs_debugctl: Option<u64>,
    /// Have [`Machine::service`] called before the next VM-entry.
    pub request: bool,
    /// Trace this.
    pub transition: Option<Transition>,
}

/// The state machine of one vCPU.
///
/// # Invariants
///
/// - `suppressed` has no bit but LBR, and is 0 while `passthrough`.
/// - `passthrough` is what the last [`Machine::enter`] made of the intercepts;
///   only there does it change.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Machine {
    state: State,
    passthrough: bool,
    attention: bool,
    /// The bits of the shadow that the VMCS must not have now.
    suppressed: u64,
    /// The guest used LBR since the slice began.
    used: bool,
    /// When perf was last asked for the facility in vain.
    asked: Option<u64>,
}

impl Machine {
    /// Creates the state machine of a vCPU that has no LBR.
    pub const fn new() -> Self {
        Self {
            state: State::Disabled,
            passthrough: false,
            attention: false,
            suppressed: 0,
            used: false,
            asked: None,
        }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns whether the vCPU has LBR.
    pub fn is_enabled(&self) -> bool {
        self.state != State::Disabled
    }

    /// Returns whether the LBR MSRs are not intercepted.
    pub fn passthrough(&self) -> bool {
        self.passthrough
    }

    /// Returns whether [`Machine::enter`] must be called before the next VM-entry
    /// even if the event is as ACTIVE as the MSRs are passed through.
    pub fn attention(&self) -> bool {
        self.attention
    }

    fn has_event(&self) -> bool {
        matches!(self.state, State::Owned | State::Reclaimed)
    }

    /// Takes the vCPU's LBR away or gives it LBR. An event is to be released and
    /// the records are to be cleared in the former case.
    pub fn refresh(&mut self, enabled: bool) {
        if !enabled {
            self.released();
            self.suppressed = 0;
            self.state = State::Disabled;
        } else if self.state == State::Disabled {
            self.state = State::Idle;
        }
    }

    /// The event was released for a reason of KVM's. All registers stay.
    pub fn released(&mut self) {
        if self.has_event() {
            self.state = State::Idle;
        }
        self.used = false;
        self.asked = None;
    }

    /// Returns the shadow, given `IA32_DEBUGCTL` in the VMCS.
    pub fn shadow(&self, vmcs_debugctl: u64) -> u64 {
        vmcs_debugctl | self.suppressed
    }

    /// Sets the shadow to `debugctl` and returns what the VMCS gets. See
    /// [`Machine::wants_service`] then.
    pub fn set_shadow(&mut self, debugctl: u64) -> u64 {
        if !self.is_enabled() {
            return debugctl;
        }
        let lbr = debugctl & DEBUGCTL_LBR;
        self.used |= lbr != 0;
        if self.passthrough {
            return debugctl;
        }
        self.suppressed = lbr;
        debugctl & !DEBUGCTL_LBR
    }

    /// The guest accesses an LBR MSR that is intercepted. See
    /// [`Machine::wants_service`] then.
    pub fn accessed(&mut self) {
        self.used = true;
    }

    /// Returns whether to have [`Machine::service`] called: LBR is used without
    /// the facility.
    pub fn wants_service(&self) -> bool {
        self.is_enabled() && self.used && self.state != State::Owned
    }

    /// The copy of the records became newer than the hardware.
    pub fn need_attention(&mut self) {
        self.attention = true;
    }

    /// A virtual PMI is about to be delivered to a guest of this `CPUID.0AH`
    /// version. Returns what the VMCS gets, if that changes.
    pub fn freeze(&mut self, version: u32, vmcs_debugctl: u64) -> Option<u64> {
        if !self.is_enabled() || !pmi_clears_lbr(vmcs_debugctl, version) {
            return None;
        }
        self.suppressed = 0;
        (vmcs_debugctl & DEBUGCTL_LBR != 0).then_some(vmcs_debugctl & !DEBUGCTL_LBR)
    }

    /// Decides about the event, on the vCPU's thread.
    ///
    /// - `new_slice`: the thread was scheduled in since the last call
    /// - `held`: the event has the facility
    /// - `ours`: the event belongs to the current thread
    /// - `now`: a clock that counts how often perf may be asked in vain
    pub fn service(
        &mut self,
        new_slice: bool,
        vmcs_debugctl: u64,
        held: bool,
        ours: bool,
        now: u64,
    ) -> Service {
        if !self.is_enabled() {
            return Service::Keep;
        }
        let lbr = self.shadow(vmcs_debugctl) & DEBUGCTL_LBR != 0;
        let wanted = lbr || self.used;
        if new_slice {
            self.used = lbr;
        }
        if !wanted {
            if new_slice && self.has_event() {
                self.state = State::Idle;
                return Service::Release;
            }
            return Service::Keep;
        }
        // Whatever comes of it, enter() sees to the next try.
        self.attention = true;
        let alive = self.has_event() && ours;
        if (alive && held) || self.asked == Some(now) {
            return Service::Keep;
        }
        // Forgotten by created() if it was not in vain.
        self.asked = Some(now);
        if alive {
            Service::Enable
        } else {
            Service::Create
        }
    }

    /// The creation that [`Machine::service`] asked for ended. Returns what to
    /// trace unless it failed.
    pub fn created(&mut self, creation: Creation) -> Option<Transition> {
        match creation {
            Creation::Active => {
                self.state = State::Owned;
                self.asked = None;
                Some(Transition::Owned)
            }
            Creation::Inactive => {
                self.state = State::Reclaimed;
                Some(Transition::Lost)
            }
            Creation::Failed => {
                self.state = State::Idle;
                // Try again as long as LBR is on, or at the next access.
                self.used = false;
                None
            }
        }
    }

    /// A VM-entry is imminent, with the event ACTIVE on this CPU and the hardware
    /// settled (`active`) or not. `vmcs_debugctl` reads `IA32_DEBUGCTL`.
    pub fn enter(&mut self, active: bool, now: u64, vmcs_debugctl: impl FnOnce() -> u64) -> Entry {
        let mut entry = Entry {
            intercept: None,
            vmcs_debugctl: None,
            request: false,
            transition: None,
        };
        // Not after the event was released.
        let active = active && self.has_event();
        if active != self.passthrough {
            let old = vmcs_debugctl();
            let new = if active {
                self.shadow(old)
            } else {
                old & !DEBUGCTL_LBR
            };
            // INVARIANT: `suppressed` is 0 with passthrough, else LBR at most.
            self.suppressed = if active { 0 } else { old & DEBUGCTL_LBR };
            self.passthrough = active;
            entry.intercept = Some(!active);
            entry.vmcs_debugctl = (new != old).then_some(new);
        }
        match (self.state, active) {
            (State::Owned, false) => {
                self.state = State::Reclaimed;
                entry.transition = Some(Transition::Lost);
            }
            (State::Reclaimed, true) => {
                self.state = State::Owned;
                self.asked = None;
                entry.transition = Some(Transition::Regained);
            }
            _ => {}
        }
        // The host does not tell when it lets go: look at every entry, and ask
        // perf now and then, as long as the guest wants LBR.
        let wanted = self.is_enabled() && (self.suppressed != 0 || self.used);
        self.attention = wanted && !active;
        entry.request = self.attention && self.asked != Some(now);
        entry
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}
