// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Random programs of a guest: what it is told to do, and what may come of it.

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use kvm_ioctls::MsrFilterRangeFlags as Access;
use kvm_selftests::guest::{self, Command, Exception as Fault, Outcome, Symbol, GP};
use kvm_selftests::msr;
use kvm_selftests::vcpu::{Note, Stop, Vcpu};

use super::facility::{Colour, Exception, Facility, Recorded, Sort};
use super::faults::Faults;
use super::reference::{Records, Reference, Undisturbed, Writer};
use super::stats::Stats;

/// Branches until the guest's PMI.
const PERIOD: u64 = 3_000;
/// The most commands that take no time.
const COMMANDS: usize = 10;
/// The most turns of a loop, of three branches each.
const SPINS: u32 = 8_000;

/// What a guest does, registers by their number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Read(usize),
    Write(usize, u64),
    /// A value that the register refuses.
    WriteIllegal(usize, u64),
    ReadControl,
    WriteControl(u64),
    WriteControlIllegal(u64),
    /// Record jumps.
    Jumps,
    Spin(u32),
    Cpuid(u32),
    Yield,
    /// Raise an exception of the table.
    Raise(usize),
    /// Take a PMI with this in the controlling register, as NMI or as interrupt.
    Pmi(u64, bool),
}

/// What a guest is told.
#[derive(Clone, Debug)]
pub(super) struct Program(pub(super) Vec<Op>);

/// The registers that a VM's MSR filter denies its guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) denied: Vec<usize>,
    pub(super) access: Option<Access>,
}

impl Filter {
    fn denies(&self, index: usize, access: Access) -> bool {
        self.denied.contains(&index) && self.access.is_some_and(|a| a.contains(access))
    }
}

/// What came of a program.
#[derive(Debug)]
pub(super) struct Report {
    outcomes: Vec<Outcome>,
    note: Note,
    at_pmi: u64,
    /// How often KVM_RUN failed as it was made to.
    pub(super) failures: u64,
}

/// What was so while a program ran.
pub(super) struct Conditions<'a> {
    pub(super) undisturbed: Undisturbed,
    /// All filters that were set meanwhile.
    pub(super) filters: &'a [Filter],
    /// How many exceptions the guest had noted before.
    pub(super) notes: u64,
}

impl Op {
    fn random(facility: &Facility, colour: Colour, rng: &mut Rng) -> Self {
        let index = facility.random(rng);
        let (register, control) = (&facility.registers[index], &facility.control);
        match rng.u32(0..100) {
            0..20 => Self::Read(index),
            20..38 => Self::Write(index, register.legal(colour, rng)),
            38..43 => match register.illegal(rng) {
                Some(value) => Self::WriteIllegal(index, value),
                None => Self::Read(index),
            },
            43..50 => Self::ReadControl,
            50..66 => Self::WriteControl(control.legal(rng)),
            66..68 => Self::WriteControlIllegal(control.illegal(rng)),
            68..78 => Self::Jumps,
            78..90 => Self::Spin(rng.u32(1..SPINS)),
            90..95 => Self::Cpuid(rng.u32(1..5)),
            _ => Self::Yield,
        }
    }

    fn commands(self, facility: &Facility) -> Vec<Command> {
        let msr = |index: usize| facility.registers[index].msr;
        let control = facility.control;
        let top = facility.find(Sort::Top).map(msr);
        let and_top = |command| match top {
            Some(top) => vec![command, Command::Rdmsr(top)],
            None => vec![command],
        };
        match self {
            Self::Read(index) => vec![Command::Rdmsr(msr(index))],
            Self::Write(index, value) | Self::WriteIllegal(index, value) => {
                vec![Command::Wrmsr(msr(index), value)]
            }
            Self::ReadControl => vec![Command::Rdmsr(control.msr)],
            Self::WriteControl(value) | Self::WriteControlIllegal(value) => {
                vec![Command::Wrmsr(control.msr, value)]
            }
            Self::Jumps => and_top(Command::Call(Symbol::Jumps, 0)),
            Self::Spin(turns) => vec![Command::Call(Symbol::Spin, turns)],
            Self::Cpuid(times) => vec![Command::Call(Symbol::Cpuid, times)],
            Self::Yield => vec![Command::Call(Symbol::Yield, 0)],
            Self::Raise(number) => and_top(Command::Call(facility.exceptions[number].routine, 0)),
            Self::Pmi(control, nmi) => {
                let lvtpc = match nmi {
                    true => msr::LVT_NMI,
                    false => u64::from(guest::PMI_VECTOR),
                };
                vec![
                    Command::Wrmsr(msr::GLOBAL_CTRL, 0),
                    Command::Wrmsr(msr::X2APIC_SVR, 0x1ff),
                    Command::Wrmsr(msr::X2APIC_LVTPC, lvtpc),
                    Command::Wrmsr(msr::PMC0, PERIOD.wrapping_neg() & 0xffff_ffff),
                    Command::Wrmsr(msr::PERFEVTSEL0, msr::BRANCHES_RETIRED_WITH_PMI),
                    Command::Call(Symbol::WaitPmi, control as u32),
                ]
            }
        }
    }
}

impl Program {
    /// Returns a random program for a vCPU of this colour.
    pub(super) fn random(facility: &Facility, colour: Colour, rng: &mut Rng) -> Self {
        let everything = (0..facility.registers.len()).map(Op::Read);
        let mut ops: Vec<_> = (0..rng.usize(1..COMMANDS))
            .map(|_| Op::random(facility, colour, rng))
            .collect();
        match rng.u32(0..12) {
            0 => ops = [Op::Jumps].into_iter().chain(everything).collect(),
            1 => ops = everything.collect(),
            2 => ops.extend([Op::Spin(rng.u32(1..4 * SPINS)), Op::ReadControl]),
            // One of each at most, as the handlers keep no more.
            3 => ops.push(Op::Raise(rng.usize(0..facility.exceptions.len()))),
            4 => ops.push(Op::Pmi(facility.control.legal(rng), rng.bool())),
            _ => {}
        }
        Self(ops)
    }

    /// Has a guest do it, on the vCPU's thread.
    pub(super) fn run(
        &self,
        facility: &Facility,
        vcpu: &mut Vcpu,
        faults: Option<(Faults, u32)>,
    ) -> Result<Report> {
        let mut commands = vec![];
        for op in &self.0 {
            commands.extend(op.commands(facility));
        }
        let mut failures = 0;
        let armed = match faults {
            Some((faults, nth)) => Some(faults.arm(nth)?),
            None => None,
        };
        let mut stop = vcpu.start(&commands);
        loop {
            stop = match stop {
                Ok(Stop::Done) => break,
                Ok(Stop::Yield | Stop::Smi) => vcpu.resume(),
                Err(error) if armed.is_some() && failures == 0 => {
                    Faults::expect_refusal(&error)?;
                    failures += 1;
                    vcpu.resume()
                }
                Err(error) => return Err(error),
            };
        }
        drop(armed);
        Ok(Report {
            outcomes: vcpu.outcomes(commands.len())?,
            note: vcpu.note()?,
            at_pmi: vcpu.control_at_pmi()?,
            failures,
        })
    }

    /// Fails unless what came of it is what may; returns how many exceptions it raised.
    pub(super) fn judge(
        &self,
        facility: &Facility,
        vcpu: &mut Reference,
        report: &Report,
        conditions: &Conditions<'_>,
        stats: &mut Stats,
    ) -> Result<u64> {
        let mut judge = Judge {
            facility,
            vcpu,
            conditions,
            outcomes: report.outcomes.iter(),
            stats,
            raised: 0,
        };
        judge.vcpu.enter();
        // The interpreter comes to the first.
        judge.vcpu.branches(conditions.undisturbed);
        for (number, op) in self.0.iter().enumerate() {
            judge
                .op(*op, report)
                .with_context(|| format!("command {number} of the guest, {op:x?}"))?;
        }
        let notes = report.note.count - conditions.notes;
        ensure!(
            notes == judge.raised,
            "the guest noted {notes} exceptions, and raised {}",
            judge.raised
        );
        Ok(notes)
    }
}

/// Goes through what came of a program.
struct Judge<'a> {
    facility: &'a Facility,
    vcpu: &'a mut Reference,
    conditions: &'a Conditions<'a>,
    outcomes: std::slice::Iter<'a, Outcome>,
    stats: &'a mut Stats,
    raised: u64,
}

impl Judge<'_> {
    fn outcome(&mut self) -> Result<Outcome> {
        self.outcomes.next().copied().context("no outcome")
    }

    /// Returns whether an access was not denied; fails if its outcome is neither that of
    /// a filter nor the value or exception that it has without.
    fn allowed(&mut self, index: usize, access: Access, outcome: Outcome) -> Result<bool> {
        if self.vcpu.is_beyond(index) {
            ensure!(outcome == Err(GP), "{outcome:x?} beyond the depth");
            self.stats.count("accesses beyond the depth");
            return Ok(false);
        }
        let filters = self.conditions.filters;
        let denied = filters.iter().filter(|f| f.denies(index, access)).count();
        match outcome {
            Ok(_) => ensure!(denied < filters.len(), "the MSR filter was ignored"),
            Err(GP) => ensure!(denied > 0, "#GP"),
            Err(Fault { vector }) => bail!("exception {vector}"),
        }
        if outcome.is_err() {
            self.stats.count("accesses denied");
        }
        Ok(outcome.is_ok())
    }

    fn undisturbed(&self) -> Undisturbed {
        self.conditions.undisturbed
    }

    fn must_fault(&mut self) -> Result<()> {
        let outcome = self.outcome()?;
        ensure!(outcome == Err(GP), "{outcome:x?} and not #GP");
        self.stats.count("writes refused");
        Ok(())
    }

    fn op(&mut self, op: Op, report: &Report) -> Result<()> {
        match op {
            Op::Read(index) => self.read(index)?,
            Op::Write(index, value) => {
                let outcome = self.outcome()?;
                if self.allowed(index, Access::WRITE, outcome)? {
                    self.vcpu.write(index, value, Writer::Guest);
                    if self.facility.registers[index].sort == Sort::Depth {
                        self.stats.count("depths written");
                    }
                }
            }
            Op::WriteIllegal(..) | Op::WriteControlIllegal(_) => self.must_fault()?,
            Op::ReadControl => {
                let value = self.outcome()??;
                self.vcpu.expect_control(value)?;
            }
            Op::WriteControl(value) => {
                self.outcome()??;
                self.vcpu.control = value;
            }
            Op::Jumps => self.jumps()?,
            Op::Spin(_) | Op::Cpuid(_) | Op::Yield => {
                self.outcome()??;
            }
            Op::Raise(number) => {
                let exception = self.facility.exceptions[number];
                self.raise(exception, report)
                    .with_context(|| exception.name.to_string())?;
            }
            Op::Pmi(control, _) => self.pmi(control, report)?,
        }
        self.vcpu.branches(self.undisturbed());
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let outcome = self.outcome()?;
        if !self.allowed(index, Access::READ, outcome)? {
            return Ok(());
        }
        let value = outcome?;
        if self.vcpu.is_gap(index, value) {
            self.stats.count("records after a gap");
        }
        // Nothing changes it any more.
        let settled = match self.undisturbed() {
            Undisturbed::Yes => self.vcpu.recorded() == Recorded::Nothing,
            Undisturbed::No => !self.vcpu.is_on(),
        };
        if settled {
            self.vcpu.settle(index, value)
        } else {
            self.vcpu.expect(index, value)
        }
    }

    /// Reads the number of the newest record, if there is such a register.
    fn top(&mut self) -> Result<Option<u64>> {
        let Some(index) = self.facility.find(Sort::Top) else {
            return Ok(None);
        };
        let outcome = self.outcome()?;
        if !self.allowed(index, Access::READ, outcome)? {
            return Ok(None);
        }
        let value = outcome?;
        self.vcpu.settle(index, value)?;
        Ok(Some(value))
    }

    /// Returns whether the facility has a register of the newest record, which could not be
    /// read.
    fn lacks(&self, top: Option<u64>) -> bool {
        top.is_none() && self.facility.find(Sort::Top).is_some()
    }

    /// What is recorded from here to a routine's end, where recording is off, and how
    /// completely.
    fn recorded_by(&mut self) -> (Recorded, Records) {
        let records = match (self.undisturbed(), self.vcpu.is_on()) {
            (Undisturbed::Yes, _) => Records::Complete,
            (Undisturbed::No, false) => Records::Gap,
            (Undisturbed::No, true) => Records::OldGap,
        };
        self.vcpu.control = self.facility.control.on;
        self.vcpu.branches(self.undisturbed());
        let recorded = self.vcpu.recorded();
        self.vcpu.control = 0;
        (recorded, records)
    }

    fn jumps(&mut self) -> Result<()> {
        self.outcome()??;
        let before = match self.vcpu.is_on() {
            true => None,
            false => self.vcpu.known(Sort::Top),
        };
        let (recorded, records) = self.recorded_by();
        let top = self.top()?;
        if recorded != Recorded::Jumps || self.lacks(top) {
            return Ok(());
        }
        if self.undisturbed() == Undisturbed::Yes {
            if let (Some(before), Some(top)) = (before, top) {
                let expected = (before + guest::JUMPS) % self.facility.depth as u64;
                ensure!(
                    top == expected,
                    "the newest record was {before}, is {top} after {} jumps",
                    guest::JUMPS
                );
            }
            self.stats.count("records exact");
        }
        let first = self.address(Symbol::JumpsFirst);
        let jumps: Vec<_> = (0..guest::JUMPS)
            .rev()
            .map(|number| first + number * guest::JUMP_STRIDE)
            .map(|from| (from, Some(from + guest::JUMP_STRIDE)))
            .collect();
        self.vcpu.newest(top, &jumps, records);
        Ok(())
    }

    fn address(&self, symbol: Symbol) -> u64 {
        self.vcpu.colour.base() + kvm_selftests::vm::CODE + symbol.offset()
    }

    fn raise(&mut self, exception: Exception, report: &Report) -> Result<()> {
        self.outcome()??;
        let (recorded, records) = self.recorded_by();
        let top = self.top()?;
        let note = report.note;
        let control = self.facility.control;
        let expected = match exception.goes_on {
            true => control.on,
            false => control.on & !control.record,
        };
        ensure!(
            note.vector == exception.vector && note.control == expected,
            "the handler of vector {} found {:#x}, not that of vector {} {expected:#x}",
            note.vector,
            note.control,
            exception.vector
        );
        self.raised += 1;
        self.stats.count("exceptions");
        match (recorded, exception.newest) {
            (Recorded::Jumps, Some(newest)) if !self.lacks(top) => {
                let branch = (self.address(newest), None);
                self.vcpu.newest(top, &[branch], records);
            }
            _ => {}
        }
        Ok(())
    }

    fn pmi(&mut self, control: u64, report: &Report) -> Result<()> {
        for _ in 0..5 {
            self.outcome()??;
        }
        let count = self.outcome()??;
        ensure!(count == 1, "{count} PMIs, not one");
        let freeze = self.vcpu.known(Sort::Freeze);
        let expected = self.facility.at_pmi(control, freeze);
        ensure!(
            report.at_pmi == expected,
            "the PMI handler found {:#x}, not {expected:#x}",
            report.at_pmi
        );
        self.stats.count("PMIs");
        self.vcpu.control = control;
        self.vcpu.branches(self.undisturbed());
        self.vcpu.control = 0;
        Ok(())
    }
}
