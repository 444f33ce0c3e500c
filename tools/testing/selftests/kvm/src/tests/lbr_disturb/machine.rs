// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The VMs of a life, the real and the reference: what their guests are told, and what
//! userspace does with them.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use kvm_ioctls::MsrFilterRangeFlags as Access;
use kvm_selftests::host::Host;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

use super::facility::Facility;
use super::faults::Faults;
use super::program::{Conditions, Filter, Program, Report};
use super::reference::{Reference, Undisturbed, Writer};
use super::stats::Stats;
use super::step::{By, Cpus, Id, Order, VCPUS};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many MSRs an ioctl takes.
const MSRS: usize = 200;

/// Where VMs are.
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    pub(super) cpus: (usize, usize),
    pub(super) facility: Arc<Facility>,
}

impl Place<'_> {
    /// Returns the numbers of CPUs.
    pub(super) fn numbers(&self, cpus: Cpus) -> Vec<usize> {
        let places = [self.cpus.0, self.cpus.1].into_iter().enumerate();
        places
            .filter(|(place, _)| cpus.include(*place))
            .map(|(_, cpu)| cpu)
            .collect()
    }
}

/// A program that a guest was told, and that nobody has waited for yet.
struct Running {
    program: Program,
    report: Receiver<Result<Report>>,
    undisturbed: Undisturbed,
    filters: Vec<Filter>,
}

/// A vCPU.
pub(super) struct Runner {
    pub(super) id: Id,
    pub(super) thread: VcpuThread,
    pub(super) cpus: Cpus,
    facility: Arc<Facility>,
    reference: Reference,
    running: Option<Running>,
    /// How many exceptions its guest has noted.
    notes: u64,
    /// An allocation of its last program failed: perf tries again a little later.
    failed: bool,
}

/// What a vCPU begins with: what may be in its registers, its thread's CPUs, and values to
/// restore.
struct Beginning {
    reference: Reference,
    cpus: Cpus,
    values: Vec<(u32, u64)>,
}

/// A VM.
pub(super) struct Machine {
    /// Declared first, to be ended first.
    pub(super) runners: Vec<Runner>,
    vm: Vm,
    filter: Filter,
}

impl Runner {
    fn new(
        place: &Place<'_>,
        vcpu: Vcpu,
        id: Id,
        reference: Reference,
        cpus: Cpus,
    ) -> Result<Self> {
        let thread = VcpuThread::start(vcpu, place.cpus.0)?;
        thread.keep_busy(false);
        thread.move_to(&place.numbers(cpus))?;
        Ok(Self {
            id,
            thread,
            cpus,
            facility: Arc::clone(&place.facility),
            reference,
            running: None,
            notes: 0,
            failed: false,
        })
    }

    /// Somebody may take the LBR from it from now on.
    pub(super) fn disturb(&mut self) {
        if let Some(running) = &mut self.running {
            running.undisturbed = Undisturbed::No;
        }
    }

    /// Waits until the program ends, and judges it.
    pub(super) fn settle(&mut self, stats: &mut Stats) -> Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let id = self.id;
        let report = match running.report.recv_timeout(PATIENCE) {
            Ok(report) => report?,
            Err(RecvTimeoutError::Timeout) => bail!("{id} does not end {:?}", running.program),
            Err(RecvTimeoutError::Disconnected) => bail!("the vCPU's thread died"),
        };
        let conditions = Conditions {
            undisturbed: running.undisturbed,
            filters: &running.filters,
            notes: self.notes,
        };
        self.notes += running
            .program
            .judge(
                &self.facility,
                &mut self.reference,
                &report,
                &conditions,
                stats,
            )
            .with_context(|| format!("{id}, undisturbed: {:?}", running.undisturbed))?;
        if report.failures > 0 {
            stats.count("allocations failed");
        }
        Ok(())
    }

    /// Has the guest start a program, of which allocations may fail.
    fn start(
        &mut self,
        program: &Program,
        filter: Filter,
        disturbed: bool,
        faults: Option<(Faults, u32)>,
    ) -> Result<()> {
        let undisturbed = match disturbed || faults.is_some() || self.failed {
            true => Undisturbed::No,
            false => Undisturbed::Yes,
        };
        self.failed = faults.is_some();
        let (theirs, facility) = (program.clone(), Arc::clone(&self.facility));
        let report = self
            .thread
            .spawn(move |vcpu| theirs.run(&facility, vcpu, faults))?;
        self.running = Some(Running {
            program: program.clone(),
            report,
            undisturbed,
            filters: vec![filter],
        });
        Ok(())
    }

    /// Does something with the vCPU, which does not run.
    fn with<T: Send + 'static>(
        &mut self,
        stats: &mut Stats,
        by: By,
        job: impl FnOnce(&Vcpu) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.settle(stats)?;
        match by {
            By::Own => self.thread.run(|vcpu| job(vcpu)),
            By::Other => job(&*self.thread.vcpu()?),
        }
    }

    /// Has userspace read all registers.
    pub(super) fn get(&mut self, stats: &mut Stats, by: By) -> Result<()> {
        let msrs = self.facility.msrs();
        let values = self.with(stats, by, move |vcpu| vcpu.get_msrs(&msrs))?;
        self.reference
            .settle_all(&values)
            .with_context(|| format!("userspace reads of {}", self.id))
    }

    /// Has userspace write registers, and one value that is refused.
    pub(super) fn set(
        &mut self,
        stats: &mut Stats,
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
        let accepted = self.with(stats, by, move |vcpu| vcpu.set_msrs(&all))?;
        ensure!(
            accepted == values.len(),
            "KVM_SET_MSRS accepted {accepted} values and not {}, {}",
            values.len(),
            self.id
        );
        if refused.is_some() {
            stats.count("writes refused");
        }
        for (index, value) in values {
            self.reference.write(*index, *value, Writer::Userspace);
        }
        Ok(())
    }

    /// Has userspace write the controlling register.
    pub(super) fn set_control(
        &mut self,
        stats: &mut Stats,
        by: By,
        value: u64,
        legal: bool,
    ) -> Result<()> {
        let msr = self.facility.control.msr;
        let accepted = self.with(stats, by, move |vcpu| vcpu.set_msr(msr, value))?;
        ensure!(
            accepted == legal,
            "KVM_SET_MSRS of MSR {msr:#x} to {value:#x}: {accepted}, {}",
            self.id
        );
        match legal {
            true => self.reference.control = value,
            false => stats.count("writes refused"),
        }
        Ok(())
    }

    /// Saves these MSRs of the vCPU.
    fn save(&self, msrs: &[u32]) -> Result<Vec<(u32, u64)>> {
        let vcpu = self.thread.vcpu()?;
        let mut values = vec![];
        for msrs in msrs.chunks(MSRS) {
            values.extend(msrs.iter().copied().zip(vcpu.must_get_msrs(msrs)?));
        }
        Ok(values)
    }
}

impl Machine {
    /// Creates the VM of a number, of which nobody knows anything yet.
    pub(super) fn new(place: &Place<'_>, number: usize) -> Result<Self> {
        let vcpus = (0..VCPUS).map(|vcpu| Beginning {
            reference: Reference::new(&place.facility, Id { vm: number, vcpu }.colour()),
            cpus: Cpus::Both,
            values: vec![],
        });
        Self::with(place, number, vcpus.collect())
    }

    fn with(place: &Place<'_>, number: usize, vcpus: Vec<Beginning>) -> Result<Self> {
        let bases: Vec<_> = vcpus.iter().map(|v| v.reference.colour.base()).collect();
        let vm = Vm::with_views(place.host, &bases)?;
        vm.note_exceptions()?;
        let mut runners = vec![];
        for (vcpu, beginning) in vcpus.into_iter().enumerate() {
            let Beginning {
                reference,
                cpus,
                values,
            } = beginning;
            let id = Id { vm: number, vcpu };
            let vcpu = vm.vcpu(vcpu as u64)?;
            for values in values.chunks(MSRS) {
                let accepted = vcpu.set_msrs(values)?;
                if let Some((msr, value)) = values.get(accepted) {
                    bail!("restoring MSR {msr:#x} to {value:#x} is refused");
                }
            }
            runners.push(Runner::new(place, vcpu, id, reference, cpus)?);
        }
        Ok(Self {
            runners,
            vm,
            filter: Filter::default(),
        })
    }

    /// Saves the VM by these MSRs, restores it into a new one, and closes the old one
    /// before or after that. No program runs.
    pub(super) fn restore(
        self,
        place: &Place<'_>,
        msrs: &[u32],
        order: Order,
        first_close: bool,
    ) -> Result<Self> {
        let number = self.runners[0].id.vm;
        let mut vcpus = vec![];
        for runner in &self.runners {
            let mut values = runner.save(msrs)?;
            match order {
                Order::List => {}
                Order::Backwards => values.reverse(),
                Order::Shuffled(seed) => Rng::with_seed(seed).shuffle(&mut values),
            }
            vcpus.push(Beginning {
                reference: runner.reference.clone(),
                cpus: runner.cpus,
                values,
            });
        }
        let old = (!first_close).then_some(self);
        let new = Self::with(place, number, vcpus)?;
        drop(old);
        Ok(new)
    }

    /// Has a vCPU's guest start a program, of which allocations may fail.
    pub(super) fn start(
        &mut self,
        vcpu: usize,
        program: &Program,
        disturbed: bool,
        faults: Option<(Faults, u32)>,
    ) -> Result<()> {
        self.runners[vcpu].start(program, self.filter.clone(), disturbed, faults)
    }

    /// Waits until all programs end, and judges them.
    pub(super) fn settle(&mut self, stats: &mut Stats) -> Result<()> {
        let mut runners = self.runners.iter_mut();
        runners.try_for_each(|runner| runner.settle(stats))
    }

    /// Returns the MSRs of KVM's list that the vCPUs have.
    pub(super) fn readable(&self, host: &Host) -> Result<Vec<u32>> {
        let vcpu = self.runners[0].thread.vcpu()?;
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

    /// Sets the MSR filter, whatever runs.
    pub(super) fn filter(&mut self, facility: &Facility, filter: &Filter) -> Result<()> {
        let msr = |index: &usize| facility.registers[*index].msr;
        let msrs: Vec<_> = filter.denied.iter().map(msr).collect();
        let access = filter.access.unwrap_or(Access::empty());
        self.vm.deny_msrs(&msrs, access)?;
        self.filter = filter.clone();
        for runner in &mut self.runners {
            if let Some(running) = &mut runner.running {
                running.filters.push(filter.clone());
            }
        }
        Ok(())
    }
}
