// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What there is in a life beside the VMs, and what a step does to all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use kvm_selftests::host::{can_offline, Host, Offline};
use kvm_selftests::module;
use kvm_selftests::perf::{Guest, HostLbr};
use kvm_selftests::vm::Vm;
use nix::errno::Errno;

use super::facility::Facility;
use super::faults::Faults;
use super::machine::{Machine, Place, Runner};
use super::program::Program;
use super::stats::Stats;
use super::step::{By, Cpus, Id, Order, Step, Target, VMS};
use super::vmm::Vmm;

/// Of the time in which it should, an event of the host's has to run for so many
/// percent, if that time is not too short to tell.
const PERCENT: f64 = 95.0;
const TOO_SHORT: Duration = Duration::from_millis(5);

/// An event of the host's.
struct Event {
    lbr: HostLbr,
    target: Target,
}

/// All that there is.
pub(super) struct World<'a> {
    place: Place<'a>,
    machines: Vec<Machine>,
    events: Vec<Event>,
    offline: Option<Offline>,
    vmm: Option<Vmm>,
    /// The MSRs by which a vCPU is saved.
    saved: Vec<u32>,
    faults: Option<Faults>,
    pub(super) stats: Stats,
}

impl<'a> World<'a> {
    /// A new life.
    pub(super) fn new(host: &'a Host, facility: &Arc<Facility>) -> Result<Self> {
        let place = Place {
            host,
            cpus: host.two_cpus().context("needs two CPUs")?,
            facility: Arc::clone(facility),
        };
        let machines = (0..VMS).map(|number| Machine::new(&place, number));
        let machines = machines.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            saved: machines[0].readable(host)?,
            place,
            machines,
            events: vec![],
            offline: None,
            vmm: None,
            faults: Faults::probe()?,
            stats: Stats::default(),
        })
    }

    fn runner(&mut self, id: Id) -> &mut Runner {
        &mut self.machines[id.vm].runners[id.vcpu]
    }

    /// Does something with a vCPU, and counts.
    fn with(
        &mut self,
        id: Id,
        job: impl FnOnce(&mut Runner, &mut Stats) -> Result<()>,
    ) -> Result<()> {
        job(&mut self.machines[id.vm].runners[id.vcpu], &mut self.stats)
    }

    /// Returns whether an event may take the LBR from a vCPU while that runs.
    fn takes_from(&self, target: Target, id: Id) -> bool {
        match target {
            Target::Cpu { place, .. } => self.machines[id.vm].runners[id.vcpu].cpus.include(place),
            Target::Vcpu(other) => other == id,
            // This thread and the vCPU's never run at once on one CPU.
            Target::Steps | Target::Gone => false,
        }
    }

    /// Looks at the vCPUs that run after events or CPUs have changed.
    fn disturb(&mut self) {
        for id in Id::all() {
            if self.is_disturbed(id) {
                self.runner(id).disturb();
            }
        }
    }

    fn is_disturbed(&self, id: Id) -> bool {
        self.events
            .iter()
            .any(|event| self.takes_from(event.target, id))
    }

    fn run(&mut self, id: Id, program: &Program, nth: Option<u32>) -> Result<()> {
        self.machines[id.vm].runners[id.vcpu].settle(&mut self.stats)?;
        let faults = self.faults.and_then(|faults| Some((faults, nth?)));
        if nth.is_some() && faults.is_none() {
            self.stats.count("steps skipped");
        }
        let disturbed = self.is_disturbed(id);
        self.machines[id.vm].start(id.vcpu, program, disturbed, faults)
    }

    fn restore(&mut self, vm: usize, order: Order, first_close: bool) -> Result<()> {
        self.machines[vm].settle(&mut self.stats)?;
        for event in &mut self.events {
            if matches!(event.target, Target::Vcpu(id) if id.vm == vm) {
                event.target = Target::Gone;
            }
        }
        let old = self.machines.remove(vm);
        let new = old.restore(&self.place, &self.saved, order, first_close)?;
        self.machines.insert(vm, new);
        Ok(())
    }

    fn fail_vcpu(&mut self, nth: u32) -> Result<()> {
        let Some(faults) = self.faults else {
            self.stats.count("steps skipped");
            return Ok(());
        };
        let vm = Vm::new(self.place.host)?;
        let armed = faults.arm(nth)?;
        let result = vm.vcpu(0);
        drop(armed);
        if let Err(error) = result {
            Faults::expect_refusal(&error)?;
            self.stats.count("allocations failed");
        }
        Ok(())
    }

    fn open(&mut self, target: Target, guest: Guest, period: u64) -> Result<()> {
        let cpus = self.place.cpus;
        let lbr = match target {
            Target::Cpu { place, pinned } => {
                let cpu = if place == 0 { cpus.0 } else { cpus.1 };
                HostLbr::on_cpu(cpu, period, pinned, guest)?
            }
            Target::Vcpu(id) => {
                let thread = self.runner(id).thread.id();
                HostLbr::of_thread(thread, period, guest)?
            }
            Target::Steps | Target::Gone => HostLbr::of_this_thread(period)?,
        };
        self.events.push(Event { lbr, target });
        self.disturb();
        Ok(())
    }

    fn close(&mut self, number: usize) -> Result<()> {
        let Event { mut lbr, target } = self.events.remove(number);
        lbr.stop()?;
        let (enabled, running) = lbr.times()?;
        let percent = 100.0 * running.as_secs_f64() / enabled.as_secs_f64();
        ensure!(
            target == Target::Gone || enabled < TOO_SHORT || percent >= PERCENT,
            "the host's event on {target:?} ran {running:?} of {enabled:?}"
        );
        let samples = lbr.drain()?;
        self.stats.add("samples", samples.count as u64);
        for branch in &samples.branches {
            for id in Id::all().filter(|id| !self.may_record(target, *id)) {
                let has = |address| id.colour().has(address);
                ensure!(
                    !has(branch.from) && !has(branch.to),
                    "the host's event on {target:?} recorded {branch} of {id}"
                );
            }
        }
        Ok(())
    }

    /// Returns whether an event of the host's may record a vCPU's branches.
    fn may_record(&self, target: Target, id: Id) -> bool {
        self.place.facility.host_records_guests
            && match target {
                Target::Cpu { .. } | Target::Gone => true,
                Target::Vcpu(other) => other == id,
                Target::Steps => false,
            }
    }

    fn take_offline(&mut self) -> Result<()> {
        if !can_offline(self.place.cpus.1) {
            self.stats.count("steps skipped");
            return Ok(());
        }
        // Their threads may go anywhere from now on, and the CPU's events are gone.
        for machine in &mut self.machines {
            for runner in &mut machine.runners {
                if runner.cpus == Cpus::Second {
                    runner.cpus = Cpus::Both;
                }
            }
        }
        self.disturb();
        self.offline = Some(Offline::new(self.place.cpus.1)?);
        for event in &mut self.events {
            if matches!(event.target, Target::Cpu { place: 1, .. }) {
                event.target = Target::Gone;
            }
        }
        Ok(())
    }

    fn unload(&mut self) -> Result<()> {
        match module::unload() {
            Err(Errno::EWOULDBLOCK) => Ok(()),
            other => Err(anyhow!("unloading a used module gives {other:?}")),
        }
    }

    /// Does a step.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        self.stats.count(step.name());
        match step {
            Step::Run(id, program) => self.run(*id, program, None),
            Step::FailRun(id, program, nth) => self.run(*id, program, Some(*nth)),
            Step::Get(id, by) => self.with(*id, |runner, stats| runner.get(stats, *by)),
            Step::Set(id, by, values, refused) => self.with(*id, |runner, stats| {
                runner.set(stats, *by, values, *refused)
            }),
            Step::SetControl(id, by, value) => self.with(*id, |runner, stats| {
                runner.set_control(stats, *by, *value, true)
            }),
            Step::SetControlIllegal(id, by, value) => self.with(*id, |runner, stats| {
                runner.set_control(stats, *by, *value, false)
            }),
            Step::Filter(vm, filter) => self.machines[*vm].filter(&self.place.facility, filter),
            Step::Restore {
                vm,
                order,
                first_close,
            } => self.restore(*vm, *order, *first_close),
            Step::FailVcpu(nth) => self.fail_vcpu(*nth),
            Step::Open(target, guest, period) => self.open(*target, *guest, *period),
            Step::Close(number) => self.close(*number),
            Step::Move(id, cpus) => {
                let numbers = self.place.numbers(*cpus);
                let runner = self.runner(*id);
                let before = runner.cpus;
                runner.cpus = Cpus::Both;
                self.disturb();
                let runner = self.runner(*id);
                let moved = runner.thread.move_to(&numbers);
                runner.cpus = if moved.is_ok() { *cpus } else { before };
                moved
            }
            Step::KeepBusy(id, busy) => {
                self.runner(*id).thread.keep_busy(*busy);
                Ok(())
            }
            Step::Offline => self.take_offline(),
            Step::Online => {
                drop(self.offline.take());
                Ok(())
            }
            Step::StartVmm(cpus) => {
                self.vmm = Some(Vmm::start(&self.place.numbers(*cpus))?);
                Ok(())
            }
            Step::KillVmm => self.vmm.take().map_or(Ok(()), Vmm::kill),
            Step::Unload => self.unload(),
            Step::Sleep(micros) => {
                std::thread::sleep(Duration::from_micros(*micros));
                Ok(())
            }
            Step::Audit => self.audit(),
        }
    }

    /// Has all programs end, and looks at all registers.
    pub(super) fn audit(&mut self) -> Result<()> {
        let Self {
            machines, stats, ..
        } = self;
        machines
            .iter_mut()
            .try_for_each(|machine| machine.settle(stats))?;
        let mut runners = machines.iter_mut().flat_map(|machine| &mut machine.runners);
        runners.try_for_each(|runner| runner.get(stats, By::Other))
    }

    /// Ends what can end well.
    pub(super) fn end(mut self) -> Result<Stats> {
        self.audit()?;
        while !self.events.is_empty() {
            self.close(0)?;
        }
        self.vmm.take().map_or(Ok(()), Vmm::kill)?;
        Ok(self.stats)
    }
}
