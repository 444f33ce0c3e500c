// SPDX-License-Identifier: GPL-2.0-only

//! The hardware, the scheduler, and perf as its contract header describes it.

use std::hash::{Hash, Hasher};

use lbr::{Errno, Perf, Records, Register};

use super::registers::{msrs, Registers, FROM, INFO, SELECT, TO, TOS};

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
struct Lbrs {
    registers: Registers,
    /// The host uses them.
    host: bool,
    /// They still hold what they held when the guest's grant ended.
    hold: bool,
}

impl Lbrs {
    const RESET: Self = Self {
        registers: Registers::ZERO,
        host: false,
        hold: false,
    };
}

/// `struct perf_guest_lbr`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Buffer {
    cpu: Option<usize>,
    dirty: bool,
    registers: Records,
}

impl Buffer {
    fn save(&mut self, hardware: &Registers) {
        for msr in msrs() {
            self.registers.set(register(msr), hardware.get(msr));
        }
    }

    fn load(&self, hardware: &mut Registers) {
        for msr in msrs() {
            hardware.set(msr, self.registers.get(register(msr)));
        }
    }
}

impl Hash for Buffer {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut registers = Registers::ZERO;
        self.load(&mut registers);
        (self.cpu, self.dirty, registers).hash(hasher);
    }
}

fn register(msr: u32) -> Register {
    let index = |first| (msr - first) as usize;
    match msr {
        SELECT => Register::Select,
        TOS => Register::Tos,
        FROM..TO => Register::From(index(FROM)),
        TO..INFO => Register::To(index(TO)),
        _ => Register::Info(index(INFO)),
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct PerfSide {
    event: Option<Event>,
    buffer: Buffer,
    lbrs: [Lbrs; CPUS],
    pub(crate) cpu_of: [Option<usize>; THREADS],
    /// No event can be created.
    pub(crate) refuse: bool,
    /// An event was refused since the clock last ticked.
    pub(crate) refused: bool,
    /// How often the last step parked registers.
    pub(crate) trips: usize,
}

impl PerfSide {
    pub(crate) fn new() -> Self {
        Self {
            event: None,
            buffer: Buffer {
                cpu: None,
                dirty: false,
                registers: Records::ZERO,
            },
            lbrs: [Lbrs::RESET; CPUS],
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

    pub(crate) fn hardware(&mut self, cpu: usize) -> &mut Registers {
        &mut self.lbrs[cpu].registers
    }

    fn revoke(&mut self) {
        let Some(cpu) = self.buffer.cpu.take() else {
            return;
        };
        let lbrs = &mut self.lbrs[cpu];
        self.buffer.save(&lbrs.registers);
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
                lbrs.registers = Registers::OTHERS;
            }
        }
        if granted.is_some() {
            self.buffer.save(&Registers::OTHERS);
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
        self.lbrs[cpu].registers = Registers::ZERO;
    }

    pub(crate) fn offline(&mut self, cpu: usize) {
        for thread in 0..THREADS {
            if self.cpu_of[thread] == Some(cpu) {
                self.sched_out(thread);
            }
        }
        self.lbrs[cpu] = Lbrs::RESET;
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
        let newest = || FROM + u32::try_from(hardware.get(TOS)).expect("a record");
        if !held || buffer.dirty || hardware.get(newest()) == 0 {
            buffer.load(hardware);
            buffer.dirty = false;
        }
        buffer.cpu = Some(cpu);
        true
    }
}

/// perf as a thread on a CPU finds it.
pub(crate) struct OnCpu<'a> {
    pub(crate) perf: &'a mut PerfSide,
    pub(crate) thread: usize,
    pub(crate) cpu: usize,
}

/// A VM-Entry is imminent.
pub(crate) struct VmEntry;

impl Perf for OnCpu<'_> {
    type Entry = VmEntry;

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
        (self.perf.buffer.cpu == Some(self.cpu)).then(|| self.perf.hardware(self.cpu).get(msr))
    }

    fn write(&mut self, msr: u32, value: u64) -> bool {
        let granted = self.perf.buffer.cpu == Some(self.cpu);
        if granted {
            self.perf.hardware(self.cpu).set(msr, value);
        }
        granted
    }

    fn park(&mut self) -> &mut Records {
        self.perf.trips += usize::from(self.perf.buffer.cpu.is_some());
        self.perf.revoke();
        &mut self.perf.buffer.registers
    }

    fn mark_dirty(&mut self) {
        self.perf.buffer.dirty = true;
    }
}
