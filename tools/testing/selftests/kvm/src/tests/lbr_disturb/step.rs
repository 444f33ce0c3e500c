// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The steps of a life: what they are, and how one is chosen at random. Nothing here
//! looks at what the kernel does, so that a seed gives the same steps again.

use std::fmt;

use fastrand::Rng;
use kvm_ioctls::MsrFilterRangeFlags as Access;
use kvm_selftests::perf::Guest;

use super::facility::{Colour, Facility};
use super::program::{Filter, Program};

/// How many VMs there are, and how many vCPUs each has.
pub(super) const VMS: usize = 2;
pub(super) const VCPUS: usize = 2;
/// How many events the host may have open. Each wants a counter.
const EVENTS: usize = 3;
/// How many registers a filter denies at most.
const DENIED: usize = 5;

/// One vCPU of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) vm: usize,
    pub(super) vcpu: usize,
}

impl Id {
    /// Returns all.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..VMS).flat_map(|vm| (0..VCPUS).map(move |vcpu| Self { vm, vcpu }))
    }

    fn random(rng: &mut Rng) -> Self {
        Self {
            vm: rng.usize(0..VMS),
            vcpu: rng.usize(0..VCPUS),
        }
    }

    /// Returns its colour.
    pub(super) fn colour(self) -> Colour {
        Colour::new((self.vm * VCPUS + self.vcpu) as u64)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {} of VM {}", self.vcpu, self.vm)
    }
}

/// One of two CPUs, or both, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpus {
    First,
    Second,
    Both,
}

impl Cpus {
    /// Returns whether these CPUs include that of a place.
    pub(super) fn include(self, place: usize) -> bool {
        match self {
            Self::First => place == 0,
            Self::Second => place == 1,
            Self::Both => true,
        }
    }
}

/// Which thread makes an ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The vCPU's.
    Own,
    /// Another.
    Other,
}

/// Whose branches an event of the host's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Those of the CPU at this place.
    Cpu { place: usize, pinned: bool },
    /// Those of a vCPU's thread.
    Vcpu(Id),
    /// Those of the thread that takes the steps.
    Steps,
    /// Nobody's any more.
    Gone,
}

/// The order in which a vCPU's MSRs are restored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    List,
    Backwards,
    /// Shuffled by this seed.
    Shuffled(u64),
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A guest starts a program.
    Run(Id, Program),
    /// The same, and an allocation fails.
    FailRun(Id, Program, u32),
    /// Userspace reads all registers.
    Get(Id, By),
    /// Userspace writes registers, the last of them one of many that are refused.
    Set(Id, By, Vec<(usize, u64)>, Option<(usize, u64)>),
    SetControl(Id, By, u64),
    SetControlIllegal(Id, By, u64),
    /// Userspace sets a VM's MSR filter.
    Filter(usize, Filter),
    /// Userspace saves a VM, restores it into a new one, and closes the old one before or
    /// after that.
    Restore {
        vm: usize,
        order: Order,
        first_close: bool,
    },
    /// The creation of a vCPU fails for want of memory.
    FailVcpu(u32),
    Open(Target, Guest, u64),
    Close(usize),
    /// A vCPU's thread may run on these CPUs only.
    Move(Id, Cpus),
    /// A vCPU's thread keeps its CPU busy between programs, or not.
    KeepBusy(Id, bool),
    Offline,
    Online,
    StartVmm(Cpus),
    KillVmm,
    /// Somebody tries to unload the module.
    Unload,
    Sleep(u64),
    /// All programs end, and userspace reads all registers of all vCPUs.
    Audit,
}

impl Step {
    /// Returns what such steps are counted as.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Run(..) | Self::FailRun(..) => "programs",
            Self::Get(..) => "reads by userspace",
            Self::Set(..) | Self::SetControl(..) | Self::SetControlIllegal(..) => {
                "writes by userspace"
            }
            Self::Filter(..) => "filters",
            Self::Restore { .. } => "restores",
            Self::FailVcpu(_) => "vCPUs short of memory",
            Self::Open(..) => "events",
            Self::Close(_) => "events closed",
            Self::Move(..) => "moves",
            Self::KeepBusy(..) => "threads kept busy or not",
            Self::Offline => "CPUs offline",
            Self::Online => "CPUs online",
            Self::StartVmm(_) => "VMMs",
            Self::KillVmm => "VMMs killed",
            Self::Unload => "unloads refused",
            Self::Sleep(_) => "sleeps",
            Self::Audit => "audits",
        }
    }
}

/// What there is, as far as steps depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub(super) events: usize,
    pub(super) offline: bool,
    pub(super) vmm: bool,
}

impl Plan {
    /// What there is after a step.
    fn after(&mut self, step: &Step) {
        match step {
            Step::Open(..) => self.events += 1,
            Step::Close(_) => self.events -= 1,
            Step::Offline | Step::Online => self.offline = matches!(step, Step::Offline),
            Step::StartVmm(_) | Step::KillVmm => self.vmm = matches!(step, Step::StartVmm(_)),
            _ => {}
        }
    }
}

/// An endless row of steps.
pub(super) struct Steps<'a> {
    facility: &'a Facility,
    rng: Rng,
    plan: Plan,
}

impl<'a> Steps<'a> {
    /// Returns the steps of a seed.
    pub(super) fn new(facility: &'a Facility, seed: u64) -> Self {
        Self {
            facility,
            rng: Rng::with_seed(seed),
            plan: Plan::default(),
        }
    }

    fn program(&mut self, id: Id) -> Program {
        Program::random(self.facility, id.colour(), &mut self.rng)
    }

    fn by(&mut self) -> By {
        match self.rng.bool() {
            true => By::Own,
            false => By::Other,
        }
    }

    /// Returns CPUs of which one is online.
    fn cpus(&mut self) -> Cpus {
        match (self.plan.offline, self.rng.u32(0..4)) {
            (true, _) | (_, 0) => Cpus::First,
            (_, 1) => Cpus::Second,
            _ => Cpus::Both,
        }
    }

    fn open(&mut self, id: Id) -> Step {
        let target = match self.rng.u32(0..8) {
            0..4 => Target::Cpu {
                place: self.rng.usize(0..if self.plan.offline { 1 } else { 2 }),
                pinned: self.rng.bool(),
            },
            4..7 => Target::Vcpu(id),
            _ => Target::Steps,
        };
        let guest = match self.rng.bool() {
            true => Guest::Excluded,
            false => Guest::Counted,
        };
        Step::Open(target, guest, self.rng.u64(5_000..100_000))
    }

    fn set(&mut self, id: Id) -> Step {
        let by = self.by();
        let (registers, rng) = (&self.facility.registers, &mut self.rng);
        let count = match rng.u32(0..4) {
            0 => registers.len(),
            _ => rng.usize(1..6),
        };
        let mut indices: Vec<_> = (0..registers.len()).collect();
        rng.shuffle(&mut indices);
        let values = indices
            .iter()
            .take(count)
            .map(|index| (*index, registers[*index].legal(id.colour(), rng)))
            .collect();
        let refused = self.facility.random(rng);
        let refused = registers[refused]
            .illegal(rng)
            .filter(|_| rng.u32(0..3) == 0)
            .map(|value| (refused, value));
        Step::Set(id, by, values, refused)
    }

    fn filter(&mut self, vm: usize) -> Step {
        let rng = &mut self.rng;
        let access = match rng.u32(0..5) {
            0 => Some(Access::READ),
            1 => Some(Access::WRITE),
            2 => Some(Access::READ | Access::WRITE),
            _ => None,
        };
        let denied = match access {
            Some(_) => {
                let all = 0..self.facility.registers.len();
                rng.choose_multiple(all, DENIED)
            }
            None => vec![],
        };
        Step::Filter(vm, Filter { denied, access })
    }

    fn restore(&mut self, vm: usize) -> Step {
        let order = match self.rng.u32(0..3) {
            0 => Order::List,
            1 => Order::Backwards,
            _ => Order::Shuffled(self.rng.u64(..)),
        };
        Step::Restore {
            vm,
            order,
            first_close: self.rng.bool(),
        }
    }

    fn choose(&mut self) -> Step {
        let id = Id::random(&mut self.rng);
        let plan = self.plan;
        match self.rng.u32(0..1000) {
            0..470 => Step::Run(id, self.program(id)),
            470..540 => Step::Get(id, self.by()),
            540..610 => self.set(id),
            610..650 => {
                let value = self.facility.control.legal(&mut self.rng);
                Step::SetControl(id, self.by(), value)
            }
            650..660 => {
                let value = self.facility.control.illegal(&mut self.rng);
                Step::SetControlIllegal(id, self.by(), value)
            }
            660..695 => self.filter(id.vm),
            695..710 => self.restore(id.vm),
            710..780 if plan.events < EVENTS => self.open(id),
            710..860 if plan.events > 0 => Step::Close(self.rng.usize(0..plan.events)),
            860..910 => Step::Move(id, self.cpus()),
            910..930 => Step::KeepBusy(id, self.rng.u32(0..3) == 0),
            930..950 if plan.offline => Step::Online,
            930..934 => Step::Offline,
            950..965 if plan.vmm => Step::KillVmm,
            950..957 => Step::StartVmm(self.cpus()),
            965..972 => Step::Unload,
            972..982 => {
                let program = self.program(id);
                Step::FailRun(id, program, self.rng.u32(1..20))
            }
            982..985 => Step::FailVcpu(self.rng.u32(1..40)),
            985..992 => Step::Sleep(self.rng.u64(500..8_000)),
            992..997 => Step::Audit,
            _ => Step::Run(id, self.program(id)),
        }
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let step = self.choose();
        self.plan.after(&step);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::facility::{architectural, legacy};
    use super::*;

    #[test]
    fn a_seed_gives_the_same_steps_again() {
        for facility in [legacy(32), architectural(32)] {
            let some = |seed| {
                let steps = Steps::new(&facility, seed).take(500);
                steps.map(|step| format!("{step:?}")).collect::<Vec<_>>()
            };
            assert_eq!(some(1), some(1));
            assert_ne!(some(1), some(2));
        }
    }

    #[test]
    fn steps_fit_what_there_is() {
        let facility = legacy(32);
        let mut plan = Plan::default();
        for step in Steps::new(&facility, 3).take(20_000) {
            match &step {
                Step::Open(target, ..) => {
                    assert!(plan.events < EVENTS);
                    let second = |t: &Target| matches!(t, Target::Cpu { place: 1, .. });
                    assert!(!plan.offline || !second(target));
                }
                Step::Close(number) => assert!(*number < plan.events),
                Step::Move(_, cpus) | Step::StartVmm(cpus) => {
                    assert!(!plan.offline || *cpus == Cpus::First);
                }
                Step::Offline => assert!(!plan.offline),
                Step::Online => assert!(plan.offline),
                Step::KillVmm => assert!(plan.vmm),
                _ => {}
            }
            plan.after(&step);
        }
    }
}
