// SPDX-License-Identifier: GPL-2.0-only

//! A small world around the two state machines: two CPUs with an LBR facility
//! each, perf with its priorities, a vCPU that two threads take turns to run,
//! and KVM as the contract header describes it. Beside it a reference of a few
//! lines: what the guest would see on a CPU of its own.
//!
//! [`World::step`] panics as soon as an invariant is broken.

use lbr::{
    Creation, Hardware, Machine, Records, Register, Saved, Service, DEBUGCTL_FREEZE_LBRS_ON_PMI,
    DEBUGCTL_LBR,
};

pub(crate) const CPUS: usize = 2;
pub(crate) const THREADS: usize = 2;

/// What the host leaves in the records of a CPU that it uses.
const HOST: u64 = 0xdead;
/// What a branch of the guest leaves; a guest never writes it.
pub(crate) const BRANCH: u64 = 3;

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
    /// A host event pinned to the CPU comes, by IPI, or goes.
    Pin {
        cpu: usize,
    },
    Unpin {
        cpu: usize,
    },
    /// A deep C-state, or a flexible host event, overwrites free hardware.
    Overwrite {
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
    /// VM-entry, one thing that the guest does, VM-exit.
    Run {
        thread: usize,
        guest: Guest,
    },
    /// Ioctls from a thread.
    Get {
        thread: usize,
        register: Register,
    },
    Set {
        thread: usize,
        register: Register,
        value: u64,
    },
    SetDebugctl {
        debugctl: u64,
    },
    Reset,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Guest {
    Branch,
    Read {
        register: Register,
    },
    Write {
        register: Register,
        value: u64,
    },
    WriteDebugctl {
        debugctl: u64,
    },
    /// KVM delivers a virtual PMI.
    VirtualPmi,
    /// A PMI of the host arrives in the guest, on a CPU with legacy freeze.
    HostPmi,
    /// Exits for another reason.
    Nothing,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum EventState {
    Inactive,
    Active(usize),
    Error,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Event {
    thread: usize,
    state: EventState,
    /// The CPU whose hardware still holds what it held at the last loss.
    intact_on: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Published {
    event: bool,
    passthrough: bool,
    attention: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct World {
    machine: Machine,
    saved: Saved,
    // KVM
    vmcs_debugctl: u64,
    intercepted: bool,
    published: Published,
    requested: bool,
    new_slice: bool,
    // perf and the hardware
    event: Option<Event>,
    refuse: bool,
    pinned: [bool; CPUS],
    cpu_of: [Option<usize>; THREADS],
    hardware: [Records; CPUS],
    now: u64,
    // the reference
    debugctl: u64,
    records: Records,
}

struct Cpu<'a> {
    cpu: usize,
    records: &'a mut Records,
}

impl Hardware for Cpu<'_> {
    fn cpu(&self) -> u32 {
        self.cpu as u32
    }
    fn save(&mut self, records: &mut Records) {
        records.clone_from(self.records);
    }
    fn load(&mut self, records: &Records) {
        self.records.clone_from(records);
    }
    fn read(&mut self, register: Register) -> u64 {
        self.records.get(register)
    }
    fn write(&mut self, register: Register, value: u64) {
        self.records.set(register, value);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let mut machine = Machine::new();
        machine.refresh(true);
        Self {
            machine,
            saved: Saved::RESET,
            vmcs_debugctl: 0,
            intercepted: true,
            published: Published {
                event: false,
                passthrough: false,
                attention: false,
            },
            requested: false,
            new_slice: false,
            event: None,
            refuse: false,
            pinned: [false; CPUS],
            cpu_of: [None; THREADS],
            hardware: [Records::ZERO; CPUS],
            now: 0,
            debugctl: 0,
            records: Records::ZERO,
        }
    }

    /// Does `action` if it is possible now, and checks every invariant.
    pub(crate) fn step(&mut self, action: Action) -> bool {
        let possible = self.act(action);
        if possible {
            self.check();
        }
        possible
    }

    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::SchedIn { thread, cpu } => {
                if self.cpu_of[thread].is_some() || self.cpu_of.contains(&Some(cpu)) {
                    return false;
                }
                self.cpu_of[thread] = Some(cpu);
                self.new_slice |= self.published.event;
                self.schedule_event();
            }
            Action::SchedOut { thread } => {
                if self.cpu_of[thread].take().is_none() {
                    return false;
                }
                if let Some(event) = self.event {
                    if event.thread == thread && matches!(event.state, EventState::Active(_)) {
                        self.take_away(EventState::Inactive);
                    }
                }
            }
            Action::Pin { cpu } => {
                if self.pinned[cpu] {
                    return false;
                }
                if self.active_on() == Some(cpu) {
                    self.take_away(EventState::Error);
                }
                self.pinned[cpu] = true;
                self.overwrite(cpu);
            }
            Action::Unpin { cpu } => {
                if !self.pinned[cpu] {
                    return false;
                }
                self.pinned[cpu] = false;
            }
            Action::Overwrite { cpu } => {
                if self.active_on() == Some(cpu) {
                    return false;
                }
                self.overwrite(cpu);
            }
            Action::Tick => self.now ^= 1,
            Action::Refuse { refuse } => {
                if self.refuse == refuse {
                    return false;
                }
                self.refuse = refuse;
            }
            Action::Service { thread } => {
                if self.cpu_of[thread].is_none() || !(self.requested || self.new_slice) {
                    return false;
                }
                self.service(thread);
            }
            Action::Run { thread, guest } => {
                let Some(cpu) = self.cpu_of[thread] else {
                    return false;
                };
                if self.requested || self.new_slice {
                    return false;
                }
                self.enter(cpu);
                self.guest(cpu, guest);
            }
            Action::Get { thread, register } => {
                if self.cpu_of[thread].is_none() {
                    return false;
                }
                let got = self.get(thread, register);
                assert_eq!(
                    got,
                    self.records.get(register),
                    "userspace reads {register:?}"
                );
            }
            Action::Set {
                thread,
                register,
                value,
            } => {
                if self.cpu_of[thread].is_none() {
                    return false;
                }
                self.set(thread, register, value);
                self.records.set(register, value);
            }
            Action::SetDebugctl { debugctl } => self.write_debugctl(debugctl),
            Action::Reset => self.reset(),
        }
        true
    }

    fn check(&self) {
        assert_eq!(
            self.machine.shadow(self.vmcs_debugctl),
            self.debugctl,
            "DEBUGCTL as seen"
        );
        assert_eq!(self.machine.passthrough(), !self.intercepted);
        assert_eq!(self.saved.is_held(), self.active_on().is_some());
        if let Some(cpu) = self.active_on() {
            assert!(!self.pinned[cpu], "the host always wins");
        }
    }

    // perf

    fn active_on(&self) -> Option<usize> {
        match self.event?.state {
            EventState::Active(cpu) => Some(cpu),
            _ => None,
        }
    }

    fn overwrite(&mut self, cpu: usize) {
        for register in [Register::Select, Register::Tos, Register::From(0)] {
            self.hardware[cpu].set(register, HOST);
        }
        if let Some(event) = &mut self.event {
            event.intact_on = event.intact_on.filter(|intact| *intact != cpu);
        }
    }

    fn take_away(&mut self, state: EventState) {
        let cpu = self.active_on().expect("only an ACTIVE event loses");
        self.saved.lost(&mut Cpu {
            cpu,
            records: &mut self.hardware[cpu],
        });
        let event = self.event.as_mut().expect("just looked");
        event.state = state;
        event.intact_on = Some(cpu);
    }

    fn schedule_event(&mut self) {
        let Some(event) = &mut self.event else { return };
        let Some(cpu) = self.cpu_of[event.thread] else {
            return;
        };
        if event.state != EventState::Inactive {
            return;
        }
        if self.pinned[cpu] {
            event.state = EventState::Error;
            return;
        }
        event.state = EventState::Active(cpu);
        let intact = event.intact_on == Some(cpu);
        self.saved.gained(
            intact,
            &mut Cpu {
                cpu,
                records: &mut self.hardware[cpu],
            },
        );
    }

    fn release(&mut self) {
        if self.active_on().is_some() {
            self.take_away(EventState::Inactive);
        }
        self.event = None;
    }

    // KVM and what rust/vcpu.rs does

    fn publish(&mut self) {
        self.published = Published {
            event: self.event.is_some(),
            passthrough: self.machine.passthrough(),
            attention: self.machine.attention(),
        };
    }

    fn service(&mut self, thread: usize) {
        let new_slice = std::mem::take(&mut self.new_slice);
        self.requested = false;
        let ours = self.event.is_some_and(|event| event.thread == thread);
        let held = self.saved.is_held();
        let service = self
            .machine
            .service(new_slice, self.vmcs_debugctl, held, ours, self.now);
        match service {
            Service::Keep => {}
            Service::Release => self.release(),
            Service::Enable => {
                let event = self.event.as_mut().expect("there is one to enable");
                if event.state == EventState::Error {
                    event.state = EventState::Inactive;
                }
                self.schedule_event();
            }
            Service::Create => {
                self.release();
                let creation = if self.refuse {
                    Creation::Failed
                } else {
                    self.event = Some(Event {
                        thread,
                        state: EventState::Inactive,
                        intact_on: None,
                    });
                    self.schedule_event();
                    match self.saved.is_held() {
                        true => Creation::Active,
                        false => Creation::Inactive,
                    }
                };
                self.machine.created(creation);
            }
        }
        self.publish();
    }

    fn enter(&mut self, cpu: usize) {
        let active = self.published.event && self.active_on() == Some(cpu);
        if active == self.published.passthrough && !self.published.attention {
            return;
        }
        let settled = self.saved.settle(&mut Cpu {
            cpu,
            records: &mut self.hardware[cpu],
        });
        let vmcs_debugctl = self.vmcs_debugctl;
        let entry = self
            .machine
            .enter(active && settled, self.now, || vmcs_debugctl);
        if let Some(debugctl) = entry.vmcs_debugctl {
            self.vmcs_debugctl = debugctl;
        }
        if let Some(intercept) = entry.intercept {
            self.intercepted = intercept;
        }
        self.requested |= entry.request;
        self.publish();
    }

    fn guest(&mut self, cpu: usize, guest: Guest) {
        let active = self.active_on() == Some(cpu);
        assert!(
            self.intercepted || active,
            "passthrough without the facility"
        );
        let recording = self.vmcs_debugctl & DEBUGCTL_LBR != 0;
        assert!(!recording || active, "recording without the facility");
        if active {
            assert!(!self.intercepted, "facility without passthrough");
            assert_eq!(self.hardware[cpu], self.records, "what the guest can read");
        }

        match guest {
            Guest::Branch => {
                if recording {
                    self.hardware[cpu].set(Register::From(0), BRANCH);
                }
                if active && self.debugctl & DEBUGCTL_LBR != 0 {
                    self.records.set(Register::From(0), BRANCH);
                }
            }
            Guest::Read { register } => {
                let got = if self.intercepted {
                    self.machine.accessed();
                    self.requested |= self.machine.wants_service();
                    self.read(cpu, register)
                } else {
                    self.hardware[cpu].get(register)
                };
                assert_eq!(got, self.records.get(register), "guest reads {register:?}");
            }
            Guest::Write { register, value } => {
                if self.intercepted {
                    self.machine.accessed();
                    self.requested |= self.machine.wants_service();
                    self.write(cpu, register, value);
                } else {
                    self.hardware[cpu].set(register, value);
                }
                self.records.set(register, value);
            }
            Guest::WriteDebugctl { debugctl } => self.write_debugctl(debugctl),
            Guest::VirtualPmi => {
                if let Some(debugctl) = self.machine.freeze(2, self.vmcs_debugctl) {
                    self.vmcs_debugctl = debugctl;
                }
                if self.debugctl & DEBUGCTL_FREEZE_LBRS_ON_PMI != 0 {
                    self.debugctl &= !DEBUGCTL_LBR;
                }
            }
            Guest::HostPmi => {
                if recording && self.vmcs_debugctl & DEBUGCTL_FREEZE_LBRS_ON_PMI != 0 {
                    self.vmcs_debugctl &= !DEBUGCTL_LBR;
                    self.debugctl &= !DEBUGCTL_LBR;
                }
            }
            Guest::Nothing => {}
        }
    }

    fn write_debugctl(&mut self, debugctl: u64) {
        self.vmcs_debugctl = self.machine.set_shadow(debugctl);
        self.requested |= self.machine.wants_service();
        self.debugctl = debugctl;
    }

    fn reset(&mut self) {
        self.release();
        self.machine.released();
        self.publish();
    }

    fn sync_if_stale(&mut self, cpu: usize) {
        if !self.saved.is_stale(cpu as u32) {
            return;
        }
        if let Some(cpu) = self.active_on() {
            self.saved.sync(&mut Cpu {
                cpu,
                records: &mut self.hardware[cpu],
            });
        }
    }

    fn read(&mut self, cpu: usize, register: Register) -> u64 {
        self.sync_if_stale(cpu);
        self.saved.read(
            register,
            &mut Cpu {
                cpu,
                records: &mut self.hardware[cpu],
            },
        )
    }

    fn write(&mut self, cpu: usize, register: Register, value: u64) {
        self.sync_if_stale(cpu);
        self.saved.write(
            register,
            value,
            &mut Cpu {
                cpu,
                records: &mut self.hardware[cpu],
            },
        );
        self.machine.need_attention();
        self.publish();
    }

    fn get(&mut self, thread: usize, register: Register) -> u64 {
        self.read(self.cpu_of[thread].expect("a thread that runs"), register)
    }

    fn set(&mut self, thread: usize, register: Register, value: u64) {
        let cpu = self.cpu_of[thread].expect("a thread that runs");
        self.write(cpu, register, value);
    }

    /// What must hold in the long run, from every state.
    pub(crate) fn check_progress(&self) {
        for thread in 0..THREADS {
            let Some(cpu) = self.cpu_of[thread] else {
                continue;
            };
            if self.debugctl & DEBUGCTL_LBR == 0 {
                assert!(
                    self.clone().lets_go(thread),
                    "LBR is unused and never released: {self:?}"
                );
            } else if !self.pinned[cpu] && !self.refuse {
                assert!(
                    self.clone().gets_passthrough(thread),
                    "LBR is wanted and free, and never given: {self:?}"
                );
            }
        }
    }

    /// Runs the vCPU, with time passing, and returns whether it gets or keeps
    /// passthrough.
    fn gets_passthrough(mut self, thread: usize) -> bool {
        for _ in 0..3 {
            self.act(Action::Tick);
            // A request that is left over, and one that the entry makes.
            for _ in 0..2 {
                self.act(Action::Service { thread });
                self.act(Action::Run {
                    thread,
                    guest: Guest::Nothing,
                });
            }
        }
        !self.intercepted
    }

    /// Returns whether the event is gone after slices that do not use it: one
    /// may make an old request, one satisfies it, one must be seen unused.
    fn lets_go(mut self, thread: usize) -> bool {
        let cpu = self.cpu_of[thread].expect("a thread that runs");
        for _ in 0..4 {
            self.act(Action::SchedOut { thread });
            self.act(Action::SchedIn { thread, cpu });
            self.act(Action::Service { thread });
            self.act(Action::Run {
                thread,
                guest: Guest::Nothing,
            });
        }
        self.event.is_none()
    }
}
