// SPDX-License-Identifier: GPL-2.0-only

//! The hardware, the scheduler, and perf as its contract header describes it.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use lbr::{Errno, Perf};

use super::hardware::{msrs, Hardware};
use super::registers::{Registers, POISON};

pub(crate) const CPUS: usize = 2;
pub(crate) const THREADS: usize = 2;

pub(crate) const ENOMEM: Errno = Errno(-12);

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Event {
    /// None: that thread is gone.
    thread: Option<usize>,
}

/// The LBRs of a CPU.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Lbrs<F: Hardware> {
    registers: Registers<F>,
    /// The host uses them.
    host: bool,
    /// They still hold what they held when the guest's grant ended.
    hold: bool,
}

impl<F: Hardware> Lbrs<F> {
    fn reset() -> Self {
        Self {
            registers: Registers::reset(&F::HOST),
            host: false,
            hold: false,
        }
    }
}

/// `struct perf_guest_lbr` and the registers behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Buffer<R> {
    cpu: Option<usize>,
    dirty: bool,
    registers: R,
}

impl<R: Clone> Buffer<R> {
    /// What the depth hides is lost.
    fn save<F: Hardware<Records = R>>(&mut self, hardware: &mut Registers<F>) {
        hardware.empty_hidden();
        for (msr, value) in hardware.moved() {
            F::set(&mut self.registers, msr, *value);
        }
    }

    /// Values that the depth hides are not loaded.
    fn load<F: Hardware<Records = R>>(&self, hardware: &mut Registers<F>) {
        for (msr, value) in hardware.moved() {
            let loaded = F::get(&self.registers, msr);
            *value = F::takes(&F::HOST, msr, loaded).expect("no #GP in the host");
        }
        hardware.empty_hidden();
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PerfSide<F: Hardware> {
    event: Option<Event>,
    buffer: Buffer<F::Records>,
    /// What the buffer has while the LBRs are granted.
    poison: Rc<F::Records>,
    lbrs: [Lbrs<F>; CPUS],
    pub(crate) cpu_of: [Option<usize>; THREADS],
    /// No event can be created.
    pub(crate) refuse: bool,
    /// An event was refused since the clock last ticked.
    pub(crate) refused: bool,
    /// How often the last step parked registers.
    pub(crate) trips: usize,
}

impl<F: Hardware> PerfSide<F> {
    pub(crate) fn new(registers: F::Records) -> Self {
        let mut poison = registers.clone();
        for msr in msrs::<F>() {
            F::set(&mut poison, msr, POISON);
        }
        Self {
            poison: Rc::new(poison),
            event: None,
            buffer: Buffer {
                cpu: None,
                dirty: false,
                registers,
            },
            lbrs: [(); CPUS].map(|()| Lbrs::reset()),
            cpu_of: [None; THREADS],
            refuse: false,
            refused: false,
            trips: 0,
        }
    }

    pub(crate) fn has_event(&self) -> bool {
        self.event.is_some()
    }

    /// Whether the event is scheduled in on the CPU.
    pub(crate) fn is_in(&self, cpu: usize) -> bool {
        self.event
            .and_then(|event| event.thread)
            .is_some_and(|thread| self.cpu_of[thread] == Some(cpu))
    }

    pub(crate) fn host(&self, cpu: usize) -> bool {
        self.lbrs[cpu].host
    }

    pub(crate) fn granted(&self) -> Option<usize> {
        self.buffer.cpu
    }

    pub(crate) fn hardware(&mut self, cpu: usize) -> &mut Registers<F> {
        &mut self.lbrs[cpu].registers
    }

    fn revoke(&mut self) {
        let Some(cpu) = self.buffer.cpu.take() else {
            return;
        };
        let lbrs = &mut self.lbrs[cpu];
        self.buffer.save(&mut lbrs.registers);
        lbrs.hold = true;
    }

    fn revoke_on(&mut self, cpu: usize) {
        if self.buffer.cpu == Some(cpu) {
            self.revoke();
        }
    }

    /// Puts a trap wherever nobody may look for the guest's registers.
    pub(crate) fn poison(&mut self) {
        let granted = self.buffer.cpu;
        for (cpu, lbrs) in self.lbrs.iter_mut().enumerate() {
            if granted != Some(cpu) && !lbrs.hold {
                lbrs.registers.poison();
            }
        }
    }

    pub(crate) fn host_comes(&mut self, cpu: usize) {
        self.revoke_on(cpu);
        self.lbrs[cpu].host = true;
        self.lbrs[cpu].hold = false;
    }

    pub(crate) fn host_goes(&mut self, cpu: usize) {
        self.lbrs[cpu].host = false;
    }

    /// Another guest is granted the LBRs, maybe by the same thread.
    pub(crate) fn other_guest(&mut self, cpu: usize) {
        self.revoke_on(cpu);
        self.lbrs[cpu].hold = false;
    }

    /// An idle CPU loses its registers. Nobody is told.
    pub(crate) fn deep_c_state(&mut self, cpu: usize) {
        self.lbrs[cpu].registers = Registers::reset(&F::HOST);
    }

    pub(crate) fn offline(&mut self, cpu: usize) {
        for thread in 0..THREADS {
            if self.cpu_of[thread] == Some(cpu) {
                self.sched_out(thread);
            }
        }
        self.lbrs[cpu] = Lbrs::reset();
    }

    pub(crate) fn sched_in(&mut self, thread: usize, cpu: usize) {
        self.cpu_of[thread] = Some(cpu);
    }

    pub(crate) fn sched_out(&mut self, thread: usize) {
        let cpu = self.cpu_of[thread].expect("a thread that runs");
        if self.is_in(cpu) {
            self.revoke();
        }
        self.cpu_of[thread] = None;
    }

    /// The thread ends; another may take its number.
    pub(crate) fn exit(&mut self, thread: usize) {
        self.sched_out(thread);
        if let Some(event) = &mut self.event {
            event.thread = event.thread.filter(|t| *t != thread);
        }
    }

    fn grant(&mut self, cpu: usize) -> bool {
        if !self.is_in(cpu) || self.lbrs[cpu].host {
            return false;
        }
        if self.buffer.cpu == Some(cpu) {
            return true;
        }
        assert_eq!(self.buffer.cpu, None, "the event is in on one CPU");
        let held = self.lbrs[cpu].hold;
        for lbrs in &mut self.lbrs {
            lbrs.hold = false;
        }
        let Self { buffer, lbrs, .. } = self;
        let hardware = &mut lbrs[cpu].registers;
        // A CPU that was idle may have lost them.
        if !held || buffer.dirty || hardware.get(F::newest(hardware)) == 0 {
            buffer.load(hardware);
            buffer.dirty = false;
        }
        buffer.cpu = Some(cpu);
        buffer.registers.clone_from(&self.poison);
        true
    }
}

impl<F: Hardware> Hash for PerfSide<F> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Buffer {
            cpu,
            dirty,
            registers,
        } = &self.buffer;
        if cpu.is_none() {
            registers.hash(hasher);
        }
        (cpu, dirty, self.event, &self.lbrs).hash(hasher);
        (self.cpu_of, self.refuse, self.refused, self.trips).hash(hasher);
    }
}

/// perf as a thread on a CPU finds it.
pub(crate) struct OnCpu<'a, F: Hardware> {
    pub(crate) perf: &'a mut PerfSide<F>,
    pub(crate) thread: usize,
    pub(crate) cpu: usize,
}

/// A VM-Entry is imminent.
pub(crate) struct VmEntry;

impl<F: Hardware> Perf for OnCpu<'_, F> {
    type Entry = VmEntry;
    type Records = F::Records;

    fn create(&mut self) -> Result<(), Errno> {
        assert!(!self.exists(), "an event is lost");
        if self.perf.refuse {
            assert!(!self.perf.refused, "perf is asked twice in a jiffy");
            self.perf.refused = true;
            return Err(ENOMEM);
        }
        self.perf.event = Some(Event {
            thread: Some(self.thread),
        });
        Ok(())
    }

    fn release(&mut self) {
        self.perf.revoke();
        self.perf.event = None;
    }

    fn exists(&self) -> bool {
        self.perf.has_event()
    }

    fn is_ours(&self) -> bool {
        self.perf
            .event
            .is_some_and(|event| event.thread == Some(self.thread))
    }

    fn grant(&mut self, _: &VmEntry) -> bool {
        self.perf.grant(self.cpu)
    }

    fn read(&mut self, msr: u32) -> Option<u64> {
        assert_ne!(Some(msr), F::CTL, "it is KVM's");
        let granted = self.perf.buffer.cpu == Some(self.cpu);
        granted.then(|| {
            let value = self.perf.hardware(self.cpu).read(msr);
            value.expect("no #GP in the host")
        })
    }

    fn write(&mut self, msr: u32, value: u64) -> bool {
        assert_ne!(Some(msr), F::CTL, "it is KVM's");
        let granted = self.perf.buffer.cpu == Some(self.cpu);
        if granted {
            let done = self.perf.hardware(self.cpu).write(&F::HOST, msr, value);
            done.expect("no #GP in the host");
        }
        granted
    }

    fn park(&mut self) -> &mut F::Records {
        self.perf.trips += usize::from(self.perf.buffer.cpu.is_some());
        self.perf.revoke();
        &mut self.perf.buffer.registers
    }

    fn mark_dirty(&mut self) {
        self.perf.buffer.dirty = true;
    }
}
