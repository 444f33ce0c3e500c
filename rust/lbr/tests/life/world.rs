// SPDX-License-Identifier: GPL-2.0-only

//! Two CPUs, and a vCPU that two threads take turns to run.
//!
//! [`World::step`] panics as soon as an invariant is broken.

use lbr::{Accessor, Debugctl, Description, GeneralProtection, Lifecycle, State};

use super::hardware::{msrs, Hardware};
use super::kvm::KvmSide;
use super::perf::{OnCpu, PerfSide, VmEntry, THREADS};
use super::reference::{Reference, BRANCH};

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Action {
    /// A thread gets a CPU.
    SchedIn {
        thread: usize,
        cpu: usize,
    },
    SchedOut {
        thread: usize,
    },
    /// A thread ends, and another takes its place.
    Exit {
        thread: usize,
    },
    /// An event of the host's that uses the LBRs comes or goes.
    HostComes {
        cpu: usize,
    },
    HostGoes {
        cpu: usize,
    },
    /// Another guest is granted the LBRs.
    OtherGuest {
        cpu: usize,
    },
    DeepCState {
        cpu: usize,
    },
    Offline {
        cpu: usize,
    },
    /// Time passes.
    Tick,
    /// perf refuses to create events, or no more.
    Refuse {
        refuse: bool,
    },
    /// KVM_RUN up to disabling interrupts.
    Service {
        thread: usize,
    },
    /// VM-Entry, one thing that the guest does, VM-Exit.
    Run {
        thread: usize,
        guest: Guest,
    },
    /// Ioctls of a thread, maybe not one that runs the vCPU.
    Get {
        thread: usize,
        msr: u32,
    },
    Set {
        thread: usize,
        msr: u32,
        value: u64,
    },
    SetDebugctl {
        thread: usize,
        debugctl: Debugctl,
    },
    /// The guest is given one of [`Hardware::GUESTS`], or no LBR.
    Refresh {
        thread: usize,
        guest: Option<usize>,
    },
    Reset {
        thread: usize,
    },
    /// Userspace sets `IA32_PERF_GLOBAL_STATUS.LBR_FRZ`.
    SetFrozen {
        frozen: bool,
    },
    Filter {
        denied: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Guest {
    Branch,
    /// RDMSR; `emulated` if it exits whatever the intercepts.
    Read {
        msr: u32,
        emulated: bool,
    },
    Write {
        msr: u32,
        value: u64,
        emulated: bool,
    },
    WriteDebugctl {
        debugctl: Debugctl,
    },
    /// KVM delivers a virtual PMI.
    VirtualPmi {
        version: u32,
    },
    /// Sets or clears `IA32_PERF_GLOBAL_STATUS.LBR_FRZ`.
    SetFrozen {
        frozen: bool,
    },
    /// KVM delivers a debug exception.
    Debug,
    /// L1 enters L2.
    EnterL2 {
        debugctl: Debugctl,
    },
    /// L2 exits to L1, which has 0 then, or the entry fails late, and L1 what it had.
    ExitL2 {
        debugctl: Debugctl,
    },
    /// Exits for another reason.
    Nothing,
}

/// Has the guest turn recording on or off.
pub(crate) fn turn<F: Hardware>(on: bool) -> Guest {
    let value = u64::from(on);
    match F::CTL {
        Some(msr) => Guest::Write {
            msr,
            value,
            emulated: false,
        },
        None => Guest::WriteDebugctl {
            debugctl: Debugctl::from_raw(value),
        },
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct World<F: Hardware> {
    pub(crate) life: Lifecycle<F>,
    pub(crate) kvm: KvmSide<F>,
    pub(crate) perf: PerfSide<F>,
    reference: Reference<F>,
}

impl<F: Hardware> World<F> {
    /// Creates a world with a vCPU that has no LBR yet.
    pub(crate) fn new() -> Self {
        Self::on(F::new(&F::HOST).expect("a usable facility"))
    }

    /// The same on a host with this facility.
    pub(crate) fn on(facility: F) -> Self {
        let registers = facility.initial();
        Self {
            life: Lifecycle::new(facility),
            kvm: KvmSide::new(),
            perf: PerfSide::new(registers),
            reference: Reference::new(),
        }
    }

    /// Does `action` if it is possible now, and checks every invariant.
    pub(crate) fn step(&mut self, action: Action) -> bool {
        self.forget();
        let possible = self.act(action).is_some();
        if possible {
            self.perf.poison();
            self.check();
        }
        possible
    }

    /// Forgets what is known of the last step alone.
    pub(crate) fn forget(&mut self) {
        self.kvm.traces.clear();
        self.kvm.flips = 0;
        self.perf.trips = 0;
    }

    fn act(&mut self, action: Action) -> Option<()> {
        match action {
            Action::SchedIn { thread, cpu } => {
                let free =
                    self.perf.cpu_of[thread].is_none() && !self.perf.cpu_of.contains(&Some(cpu));
                free.then(|| self.perf.sched_in(thread, cpu))?;
                self.kvm.new_slice |= self.kvm.published.has_event;
            }
            Action::SchedOut { thread } => {
                self.cpu(thread)?;
                self.perf.sched_out(thread);
            }
            Action::Exit { thread } => {
                self.cpu(thread)?;
                self.perf.exit(thread);
            }
            Action::HostComes { cpu } => {
                (!self.perf.host(cpu)).then(|| self.perf.host_comes(cpu))?;
            }
            Action::HostGoes { cpu } => self.perf.host(cpu).then(|| self.perf.host_goes(cpu))?,
            Action::OtherGuest { cpu } => {
                (!self.perf.host(cpu)).then(|| self.perf.other_guest(cpu))?;
            }
            Action::DeepCState { cpu } => {
                let idle = !self.perf.cpu_of.contains(&Some(cpu));
                idle.then(|| self.perf.deep_c_state(cpu))?;
            }
            Action::Offline { cpu } => self.perf.offline(cpu),
            Action::Tick => {
                self.kvm.now ^= 1;
                self.perf.refused = false;
            }
            Action::Refuse { refuse } => self.perf.refuse = refuse,
            Action::Service { thread } => {
                self.cpu(thread)?;
                if !(self.kvm.requested || self.kvm.new_slice) {
                    return None;
                }
                self.service(thread);
            }
            Action::Run { thread, guest } => {
                let cpu = self.cpu(thread)?;
                if self.kvm.requested || self.kvm.new_slice {
                    return None;
                }
                self.kvm.run = true;
                self.enter(thread);
                self.guest(thread, cpu, guest);
            }
            Action::Get { thread, msr } => {
                self.cpu(thread)?;
                self.reference.has(msr).then_some(())?;
                let got = self.read(thread, msr, Accessor::Userspace);
                let truth = self.reference.read(msr, Accessor::Userspace);
                assert_eq!(got.ok(), truth, "userspace reads {msr:#x}");
            }
            Action::Set { thread, msr, value } => {
                self.cpu(thread)?;
                self.reference.has(msr).then_some(())?;
                self.set(thread, msr, value, Accessor::Userspace);
            }
            Action::SetDebugctl { thread, debugctl } => {
                self.cpu(thread)?;
                self.write_debugctl(thread, debugctl);
            }
            Action::Refresh { thread, guest } => {
                self.cpu(thread)?;
                if self.kvm.run || guest == self.reference.guest {
                    return None;
                }
                self.reference.refresh(guest);
                self.refresh(thread, self.reference.described());
                for msr in msrs::<F>() {
                    let valid = self.life.is_valid_msr(msr);
                    assert_eq!(valid, self.reference.has(msr), "{msr:#x}");
                }
            }
            Action::Reset { thread } => {
                self.cpu(thread)?;
                let (life, kvm, mut perf) = self.called_on(thread);
                life.reset(kvm, &mut perf);
            }
            Action::SetFrozen { frozen } => self.set_frozen(frozen),
            Action::Filter { denied } => {
                self.kvm.denied = denied;
                self.life.msr_filter_changed(&mut self.kvm);
            }
        }
        Some(())
    }

    fn cpu(&self, thread: usize) -> Option<usize> {
        self.perf.cpu_of[thread]
    }

    /// What an operation is given when a thread calls it.
    fn called_on(&mut self, thread: usize) -> (&mut Lifecycle<F>, &mut KvmSide<F>, OnCpu<'_, F>) {
        let perf = OnCpu {
            thread,
            cpu: self.cpu(thread).expect("a thread that runs"),
            perf: &mut self.perf,
        };
        (&mut self.life, &mut self.kvm, perf)
    }

    fn check(&self) {
        let enabled = self.life.state() != State::Disabled;
        assert_eq!(enabled, self.reference.guest.is_some());
        assert_eq!(self.kvm.controls, self.reference.controls);
        assert_eq!(self.kvm.published.has_event, self.perf.has_event());
        if let Some(cpu) = self.perf.granted() {
            assert!(!self.perf.host(cpu), "the host always wins");
        }
    }

    // What KVM does

    fn service(&mut self, thread: usize) {
        let new_slice = std::mem::take(&mut self.kvm.new_slice);
        self.kvm.requested = false;
        let (life, kvm, mut perf) = self.called_on(thread);
        life.service(kvm, &mut perf, new_slice);
    }

    fn enter(&mut self, thread: usize) {
        let published = self.kvm.published;
        let granted = published.has_event && self.perf.granted() == self.cpu(thread);
        let refrozen = self.kvm.frozen != self.kvm.was_frozen;
        if granted != published.passthrough || published.attention || refrozen {
            self.kvm.was_frozen = self.kvm.frozen;
            let (life, kvm, mut perf) = self.called_on(thread);
            life.enter(kvm, &mut perf, &VmEntry);
        }
    }

    pub(crate) fn refresh(&mut self, thread: usize, guest: Option<&Description>) {
        let (life, kvm, mut perf) = self.called_on(thread);
        life.refresh(kvm, &mut perf, guest);
    }

    pub(crate) fn read(
        &mut self,
        thread: usize,
        msr: u32,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection> {
        let (life, kvm, mut perf) = self.called_on(thread);
        life.get_msr(kvm, &mut perf, msr, accessor)
    }

    pub(crate) fn write(
        &mut self,
        thread: usize,
        msr: u32,
        value: u64,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection> {
        let (life, kvm, mut perf) = self.called_on(thread);
        life.set_msr(kvm, &mut perf, msr, value, accessor)
    }

    fn set(&mut self, thread: usize, msr: u32, value: u64, accessor: Accessor) {
        let done = self.write(thread, msr, value, accessor).ok();
        let taken = self.reference.write(msr, value, accessor);
        assert_eq!(done, taken, "{accessor:?} sets {msr:#x} to {value:#x}");
    }

    fn write_debugctl(&mut self, thread: usize, debugctl: Debugctl) {
        self.kvm.controls.debugctl = debugctl.into_raw();
        self.reference.controls.debugctl = debugctl.into_raw();
        let (life, kvm, mut perf) = self.called_on(thread);
        life.debugctl_written(kvm, &mut perf, debugctl);
    }

    fn set_frozen(&mut self, frozen: bool) {
        self.kvm.frozen = frozen;
        self.reference.frozen = frozen;
    }

    // What the guest does

    fn guest(&mut self, thread: usize, cpu: usize, guest: Guest) {
        let granted = self.perf.granted() == Some(cpu);
        let recording = self.kvm.is_recording();
        assert!(granted || !recording, "recording without the grant");
        assert!(!recording || !self.reference.frozen, "recording frozen");
        self.reference.run(granted, recording);
        if granted {
            let has = self.reference.described().expect("a guest with LBR");
            assert!(
                self.kvm.passes_through(has),
                "the grant without passthrough"
            );
            let hardware = self.perf.hardware(cpu);
            assert_eq!(*hardware, self.reference.registers, "what the guest reads");
            assert!(!self.kvm.published.attention, "each VM-Entry is looked at");
        } else {
            assert!(self.kvm.intercepts_all(), "passthrough without the grant");
            let wanted = self.reference.guest.is_some() && self.reference.is_on();
            let free = self.perf.is_in(cpu) && !self.perf.host(cpu);
            assert!(!wanted || !free, "LBR is wanted and free, and not given");
        }

        match guest {
            Guest::Branch => {
                if recording {
                    self.perf.hardware(cpu).set(F::FROM, BRANCH);
                }
                self.reference.branch(recording);
            }
            Guest::Read { msr, emulated } => {
                if self.kvm.denied == Some(msr) {
                    return;
                }
                let got = if emulated || self.kvm.is_intercepted(msr) {
                    self.read(thread, msr, Accessor::Guest).ok()
                } else if Some(msr) == F::CTL {
                    Some(self.kvm.controls.ctl)
                } else {
                    self.perf.hardware(cpu).read(msr)
                };
                let truth = self.reference.read(msr, Accessor::Guest);
                assert_eq!(got, truth, "the guest reads {msr:#x}");
            }
            Guest::Write {
                msr,
                value,
                emulated,
            } => {
                if self.kvm.denied == Some(msr) {
                    return;
                }
                if emulated || self.kvm.is_intercepted(msr) {
                    self.set(thread, msr, value, Accessor::Guest);
                    return;
                }
                let done = if Some(msr) == F::CTL {
                    F::takes(&F::HOST, msr, value).map(|ctl| self.kvm.controls.ctl = ctl)
                } else {
                    self.perf.hardware(cpu).write(&F::HOST, msr, value)
                };
                let taken = self.reference.write(msr, value, Accessor::Guest);
                assert_eq!(done, taken, "the guest writes {value:#x} to {msr:#x}");
            }
            Guest::WriteDebugctl { debugctl } => self.write_debugctl(thread, debugctl),
            Guest::VirtualPmi { version } => {
                self.life.deliver_pmi(&mut self.kvm, version);
                if self.reference.guest.is_some() {
                    self.reference.freeze(version);
                    self.kvm.frozen = self.reference.frozen;
                }
            }
            Guest::SetFrozen { frozen } => self.set_frozen(frozen),
            Guest::Debug => {
                self.reference.debug();
                self.kvm.controls = self.reference.controls;
            }
            Guest::EnterL2 { debugctl } => {
                self.write_debugctl(thread, debugctl);
                self.kvm.switched(debugctl);
            }
            Guest::ExitL2 { debugctl } => {
                self.reference.controls.debugctl = debugctl.into_raw();
                self.kvm.switched(debugctl);
            }
            Guest::Nothing => {}
        }
    }

    /// What must hold in the long run, from every state.
    pub(crate) fn check_progress(&self) {
        for thread in 0..THREADS {
            let Some(cpu) = self.cpu(thread) else {
                continue;
            };
            if self.reference.is_on() {
                let possible =
                    self.reference.guest.is_some() && !self.perf.host(cpu) && !self.perf.refuse;
                assert!(
                    !possible || self.clone().gets_passthrough(thread),
                    "LBR is wanted and free, and never given: {self:?}"
                );
            } else {
                assert!(
                    self.clone().lets_go(thread),
                    "LBR is unused and never released: {self:?}"
                );
            }
        }
    }

    fn run(&mut self, thread: usize) {
        self.act(Action::Service { thread });
        self.act(Action::Run {
            thread,
            guest: Guest::Nothing,
        })
        .expect("a vCPU that can run");
    }

    /// Runs the vCPU while time passes, since perf may have refused an event at either of
    /// the two times that there are, and twice each: the first VM-Entry may find an event
    /// of another thread.
    fn gets_passthrough(mut self, thread: usize) -> bool {
        for _ in 0..3 {
            self.act(Action::Tick);
            self.run(thread);
            self.run(thread);
        }
        self.kvm.published.passthrough
    }

    /// Returns whether the event is gone after slices that do not use it: one may make an
    /// old request, one satisfies it, one must be seen unused.
    fn lets_go(mut self, thread: usize) -> bool {
        let cpu = self.cpu(thread).expect("a thread that runs");
        for _ in 0..4 {
            self.act(Action::SchedOut { thread });
            self.act(Action::SchedIn { thread, cpu });
            self.run(thread);
        }
        !self.perf.has_event() && self.kvm.intercepts_all()
    }
}
