// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What there is in a life, the real and the reference, and what a step does to both.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure, Context, Result};
use fastrand::Rng;
use kvm_ioctls::MsrFilterRangeFlags as Access;
use kvm_selftests::host::{can_offline, Host, Offline};
use kvm_selftests::module;
use kvm_selftests::perf::{Guest, HostLbr};
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;
use nix::errno::Errno;

use super::facility::Facility;
use super::faults::Faults;
use super::program::{Conditions, Filter, Program, Report};
use super::reference::{Reference, Undisturbed, Writer};
use super::stats::Stats;
use super::step::{By, Cpus, Id, Order, Step, Target, VCPUS, VMS};
use super::vmm::Vmm;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the time in which it should, an event of the host's has to run for so many
/// percent, if that time is not too short to tell.
const PERCENT: f64 = 95.0;
const TOO_SHORT: Duration = Duration::from_millis(5);
/// How many MSRs an ioctl takes.
const MSRS: usize = 200;

/// A program that a guest was told, and that nobody has waited for yet.
struct Running {
    program: Program,
    report: Receiver<Result<Report>>,
    undisturbed: Undisturbed,
    filters: Vec<Filter>,
}

/// A vCPU.
struct Runner {
    thread: VcpuThread,
    reference: Reference,
    running: Option<Running>,
    cpus: Cpus,
    /// How many exceptions its guest has noted.
    notes: u64,
    /// An allocation of its last program failed: perf tries again a little later.
    failed: bool,
}

/// A VM.
struct Machine {
    /// Declared first, to be ended first.
    runners: Vec<Runner>,
    vm: Vm,
    filter: Filter,
}

/// An event of the host's.
struct Event {
    lbr: HostLbr,
    target: Target,
}

/// All that there is.
pub(super) struct World<'a> {
    host: &'a Host,
    cpus: (usize, usize),
    facility: Arc<Facility>,
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
        let mut world = Self {
            host,
            cpus: host.two_cpus().context("needs two CPUs")?,
            facility: Arc::clone(facility),
            machines: vec![],
            events: vec![],
            offline: None,
            vmm: None,
            saved: vec![],
            faults: Faults::probe()?,
            stats: Stats::default(),
        };
        let bases = |vm| (0..VCPUS).map(move |vcpu| Id { vm, vcpu }.colour().base());
        for vm in 0..VMS {
            let vm_fd = Vm::with_views(host, &bases(vm).collect::<Vec<_>>())?;
            vm_fd.note_exceptions()?;
            let mut runners = vec![];
            for vcpu in 0..VCPUS {
                let colour = Id { vm, vcpu }.colour();
                let vcpu = vm_fd.vcpu(vcpu as u64)?;
                if world.saved.is_empty() {
                    world.saved = readable(host, &vcpu)?;
                }
                runners.push(Runner {
                    thread: world.thread(vcpu, Cpus::Both)?,
                    reference: Reference::new(facility, colour),
                    running: None,
                    cpus: Cpus::Both,
                    notes: 0,
                    failed: false,
                });
            }
            world.machines.push(Machine {
                runners,
                vm: vm_fd,
                filter: Filter::default(),
            });
        }
        Ok(world)
    }

    fn thread(&self, vcpu: Vcpu, cpus: Cpus) -> Result<VcpuThread> {
        let thread = VcpuThread::start(vcpu, self.cpus.0)?;
        thread.keep_busy(false);
        thread.move_to(&self.numbers(cpus))?;
        Ok(thread)
    }

    fn numbers(&self, cpus: Cpus) -> Vec<usize> {
        let places = [self.cpus.0, self.cpus.1].into_iter().enumerate();
        places
            .filter(|(place, _)| cpus.include(*place))
            .map(|(_, cpu)| cpu)
            .collect()
    }

    fn runner(&mut self, id: Id) -> &mut Runner {
        &mut self.machines[id.vm].runners[id.vcpu]
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
            let disturbed = self.is_disturbed(id);
            if let Some(running) = &mut self.runner(id).running {
                if disturbed {
                    running.undisturbed = Undisturbed::No;
                }
            }
        }
    }

    fn is_disturbed(&self, id: Id) -> bool {
        self.events
            .iter()
            .any(|event| self.takes_from(event.target, id))
    }

    /// Waits until a vCPU's program ends, and judges it.
    fn settle(&mut self, id: Id) -> Result<()> {
        let Some(running) = self.runner(id).running.take() else {
            return Ok(());
        };
        let facility = Arc::clone(&self.facility);
        let report = match running.report.recv_timeout(PATIENCE) {
            Ok(report) => report?,
            Err(RecvTimeoutError::Timeout) => bail!("{id} does not end {:?}", running.program),
            Err(RecvTimeoutError::Disconnected) => bail!("the vCPU's thread died"),
        };
        let conditions = Conditions {
            undisturbed: running.undisturbed,
            filters: &running.filters,
            notes: self.runner(id).notes,
        };
        let runner = &mut self.machines[id.vm].runners[id.vcpu];
        let (reference, stats) = (&mut runner.reference, &mut self.stats);
        runner.notes += running
            .program
            .judge(&facility, reference, &report, &conditions, stats)
            .with_context(|| format!("{id}, undisturbed: {:?}", running.undisturbed))?;
        if report.failures > 0 {
            stats.count("allocations failed");
        }
        Ok(())
    }

    fn settle_vm(&mut self, vm: usize) -> Result<()> {
        (0..VCPUS).try_for_each(|vcpu| self.settle(Id { vm, vcpu }))
    }

    fn run(&mut self, id: Id, program: &Program, nth: Option<u32>) -> Result<()> {
        self.settle(id)?;
        let faults = self.faults.and_then(|faults| Some((faults, nth?)));
        if nth.is_some() && faults.is_none() {
            self.stats.count("steps skipped");
        }
        let disturbed = self.is_disturbed(id) || faults.is_some() || self.runner(id).failed;
        let filters = vec![self.machines[id.vm].filter.clone()];
        let theirs = program.clone();
        let facility = Arc::clone(&self.facility);
        let runner = self.runner(id);
        runner.failed = faults.is_some();
        let report = runner
            .thread
            .spawn(move |vcpu| theirs.run(&facility, vcpu, faults))?;
        runner.running = Some(Running {
            program: program.clone(),
            report,
            undisturbed: match disturbed {
                true => Undisturbed::No,
                false => Undisturbed::Yes,
            },
            filters,
        });
        Ok(())
    }

    /// Does something with a vCPU that does not run.
    fn with<T: Send + 'static>(
        &mut self,
        id: Id,
        by: By,
        job: impl FnOnce(&Vcpu) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.settle(id)?;
        let thread = &self.runner(id).thread;
        match by {
            By::Own => thread.run(|vcpu| job(vcpu)),
            By::Other => job(&*thread.vcpu()?),
        }
    }

    fn get(&mut self, id: Id, by: By) -> Result<()> {
        let msrs = self.facility.msrs();
        let values = self.with(id, by, move |vcpu| vcpu.get_msrs(&msrs))?;
        self.runner(id)
            .reference
            .settle_all(&values)
            .with_context(|| format!("userspace reads of {id}"))
    }

    fn set(
        &mut self,
        id: Id,
        by: By,
        values: &[(usize, u64)],
        refused: Option<(usize, u64)>,
    ) -> Result<()> {
        let registers = &self.facility.registers;
        let all: Vec<_> = values
            .iter()
            .copied()
            .chain(refused)
            .map(|(index, value)| (registers[index].msr, value))
            .collect();
        let accepted = self.with(id, by, move |vcpu| vcpu.set_msrs(&all))?;
        ensure!(
            accepted == values.len(),
            "KVM_SET_MSRS accepted {accepted} values and not {}, {id}",
            values.len()
        );
        if refused.is_some() {
            self.stats.count("writes refused");
        }
        let reference = &mut self.runner(id).reference;
        for (index, value) in values {
            reference.write(*index, *value, Writer::Userspace);
        }
        Ok(())
    }

    fn set_control(&mut self, id: Id, by: By, value: u64, legal: bool) -> Result<()> {
        let msr = self.facility.control.msr;
        let accepted = self.with(id, by, move |vcpu| vcpu.set_msr(msr, value))?;
        ensure!(
            accepted == legal,
            "KVM_SET_MSRS of MSR {msr:#x} to {value:#x}: {accepted}, {id}"
        );
        match legal {
            true => self.runner(id).reference.control = value,
            false => self.stats.count("writes refused"),
        }
        Ok(())
    }

    fn filter(&mut self, vm: usize, filter: &Filter) -> Result<()> {
        let registers = &self.facility.registers;
        let msrs: Vec<_> = filter.denied.iter().map(|i| registers[*i].msr).collect();
        let machine = &mut self.machines[vm];
        machine
            .vm
            .deny_msrs(&msrs, filter.access.unwrap_or(Access::empty()))?;
        machine.filter = filter.clone();
        for runner in &mut machine.runners {
            if let Some(running) = &mut runner.running {
                running.filters.push(filter.clone());
            }
        }
        Ok(())
    }

    /// Saves a vCPU's MSRs.
    fn save(&self, vcpu: &Vcpu) -> Result<Vec<(u32, u64)>> {
        let mut values = vec![];
        for msrs in self.saved.chunks(MSRS) {
            let read = vcpu.get_msrs(msrs)?;
            ensure!(
                read.len() == msrs.len(),
                "KVM_GET_MSRS stopped at MSR {:#x}",
                msrs[read.len()]
            );
            values.extend(msrs.iter().copied().zip(read));
        }
        Ok(values)
    }

    fn restore(&mut self, vm: usize, order: Order, first_close: bool) -> Result<()> {
        self.settle_vm(vm)?;
        let mut saved = vec![];
        for runner in &self.machines[vm].runners {
            let mut values = self.save(&*runner.thread.vcpu()?)?;
            match order {
                Order::List => {}
                Order::Backwards => values.reverse(),
                Order::Shuffled(seed) => Rng::with_seed(seed).shuffle(&mut values),
            }
            saved.push(values);
        }
        for event in &mut self.events {
            if matches!(event.target, Target::Vcpu(id) if id.vm == vm) {
                event.target = Target::Gone;
            }
        }
        let old = self.machines.remove(vm);
        let kept: Vec<_> = old
            .runners
            .iter()
            .map(|runner| (runner.reference.clone(), runner.cpus))
            .collect();
        let old = (!first_close).then_some(old);
        let bases: Vec<_> = kept.iter().map(|(r, _)| r.colour.base()).collect();
        let new = Vm::with_views(self.host, &bases)?;
        new.note_exceptions()?;
        let mut runners = vec![];
        for ((number, (reference, cpus)), values) in (0..).zip(kept).zip(saved) {
            let vcpu = new.vcpu(number)?;
            for values in values.chunks(MSRS) {
                let accepted = vcpu.set_msrs(values)?;
                if let Some((msr, value)) = values.get(accepted) {
                    bail!("restoring MSR {msr:#x} to {value:#x} is refused");
                }
            }
            runners.push(Runner {
                thread: self.thread(vcpu, cpus)?,
                reference,
                running: None,
                cpus,
                notes: 0,
                failed: false,
            });
        }
        let machine = Machine {
            runners,
            vm: new,
            filter: Filter::default(),
        };
        self.machines.insert(vm, machine);
        drop(old);
        Ok(())
    }

    fn fail_vcpu(&mut self, nth: u32) -> Result<()> {
        let Some(faults) = self.faults else {
            self.stats.count("steps skipped");
            return Ok(());
        };
        let vm = Vm::new(self.host)?;
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
        let lbr = match target {
            Target::Cpu { place, pinned } => {
                let cpu = if place == 0 { self.cpus.0 } else { self.cpus.1 };
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
        self.facility.host_records_guests
            && match target {
                Target::Cpu { .. } | Target::Gone => true,
                Target::Vcpu(other) => other == id,
                Target::Steps => false,
            }
    }

    fn take_offline(&mut self) -> Result<()> {
        if !can_offline(self.cpus.1) {
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
        self.offline = Some(Offline::new(self.cpus.1)?);
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
            Step::Get(id, by) => self.get(*id, *by),
            Step::Set(id, by, values, refused) => self.set(*id, *by, values, *refused),
            Step::SetControl(id, by, value) => self.set_control(*id, *by, *value, true),
            Step::SetControlIllegal(id, by, value) => self.set_control(*id, *by, *value, false),
            Step::Filter(vm, filter) => self.filter(*vm, filter),
            Step::Restore {
                vm,
                order,
                first_close,
            } => self.restore(*vm, *order, *first_close),
            Step::FailVcpu(nth) => self.fail_vcpu(*nth),
            Step::Open(target, guest, period) => self.open(*target, *guest, *period),
            Step::Close(number) => self.close(*number),
            Step::Move(id, cpus) => {
                let numbers = self.numbers(*cpus);
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
                self.vmm = Some(Vmm::start(&self.numbers(*cpus))?);
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
        Id::all().try_for_each(|id| self.settle(id))?;
        Id::all().try_for_each(|id| self.get(id, By::Other))
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

/// Returns the MSRs of KVM's list that a vCPU has.
fn readable(host: &Host, vcpu: &Vcpu) -> Result<Vec<u32>> {
    let mut all = vec![];
    let list = host.kvm.get_msr_index_list()?;
    let mut rest = list.as_slice();
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(MSRS)];
        let read = vcpu.get_msrs(chunk)?.len();
        all.extend(&chunk[..read]);
        // KVM stops at the first that it refuses.
        let refused = usize::from(read < chunk.len());
        rest = &rest[read + refused..];
    }
    Ok(all)
}
