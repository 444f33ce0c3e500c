// SPDX-License-Identifier: GPL-2.0-only
//! The model-specific last branch records of Skylake (SDM, "Debug, Branch
//! Profile, TSC, and Intel Resource Director Technology Features": "Last Branch,
//! Interrupt, and Exception Recording for Processors Based on Skylake
//! Microarchitecture").

use crate::branch::{Kind, Taken};
use crate::machine::LbrFormat;
use crate::msr::{self, checked, is_canonical, offset, Access, Fault};

/// LBR_SELECT: do not record branches that end in ring 0.
pub const CPL_EQ_0: u64 = 1 << 0;
/// LBR_SELECT: do not record branches that end outside of ring 0.
pub const CPL_NEQ_0: u64 = 1 << 1;
/// LBR_SELECT: do not record conditional branches.
pub const JCC: u64 = 1 << 2;
/// LBR_SELECT: do not record direct near calls.
pub const NEAR_REL_CALL: u64 = 1 << 3;
/// LBR_SELECT: do not record indirect near calls.
pub const NEAR_IND_CALL: u64 = 1 << 4;
/// LBR_SELECT: do not record near returns.
pub const NEAR_RET: u64 = 1 << 5;
/// LBR_SELECT: do not record indirect near jumps.
pub const NEAR_IND_JMP: u64 = 1 << 6;
/// LBR_SELECT: do not record direct near jumps.
pub const NEAR_REL_JMP: u64 = 1 << 7;
/// LBR_SELECT: do not record far branches, interrupts and exceptions.
pub const FAR_BRANCH: u64 = 1 << 8;
/// LBR_SELECT: keep a call stack.
pub const EN_CALLSTACK: u64 = 1 << 9;
const SELECT_VALID: u64 = (1 << 10) - 1;

/// LBR_INFO: the branch was mispredicted.
pub const INFO_MISPREDICTED: u64 = 1 << 63;
/// LBR_INFO: cycles since the previous record, saturating.
pub const INFO_CYCLES: u64 = 0xffff;
// IN_TX and TSX_ABORT need TSX.
const INFO_VALID: u64 = INFO_MISPREDICTED | INFO_CYCLES;

/// One entry of the LBR stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// MSR_LASTBRANCH_x_FROM_IP
    pub from: u64,
    /// MSR_LASTBRANCH_x_TO_IP
    pub to: u64,
    /// MSR_LBR_INFO_x
    pub info: u64,
}

#[derive(Clone, Copy)]
enum Field {
    From,
    To,
    Info,
}

/// The LBR stack of one logical CPU.
#[derive(Clone, Debug)]
pub struct Lbr {
    records: Vec<Record>,
    tos: usize,
    select: u64,
    /// When the last record was made, in core cycles.
    recorded: u64,
    /// The latest branch, recorded or not.
    last: (u64, u64),
    /// MSR_LER_FROM_LIP and MSR_LER_TO_LIP: the latest branch before the latest
    /// event.
    before_event: (u64, u64),
}

impl Lbr {
    /// An empty stack.
    pub fn new(depth: u8, format: LbrFormat) -> Self {
        let LbrFormat::Info = format;
        Self {
            records: vec![Record::default(); usize::from(depth)],
            tos: 0,
            select: 0,
            recorded: 0,
            last: (0, 0),
            before_event: (0, 0),
        }
    }

    /// Clears everything.
    pub fn reset(&mut self) {
        self.records.fill(Record::default());
        self.tos = 0;
        self.select = 0;
        self.recorded = 0;
        self.last = (0, 0);
        self.before_event = (0, 0);
    }

    /// The records, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        let (low, high) = self.records.split_at(self.tos + 1);
        low.iter().rev().chain(high.iter().rev())
    }

    /// A branch was taken while recording is on.  `user` is the privilege level
    /// at which it ended.  Returns whether a record was made.
    pub fn branch(&mut self, branch: &Taken, user: bool, mispredicted: bool, cycles: u64) -> bool {
        if branch.kind == Kind::Event {
            self.before_event = self.last;
        }
        self.last = (branch.from, branch.to);
        if self.suppresses(branch, user) {
            return false;
        }
        if self.select & EN_CALLSTACK != 0 {
            match branch.kind {
                Kind::RelativeCall if branch.is_zero_length_call() => return false,
                Kind::RelativeCall | Kind::IndirectCall => {}
                Kind::Return => {
                    self.pop();
                    return false;
                }
                _ => return false,
            }
        }
        self.push(branch, mispredicted, cycles);
        true
    }

    fn suppresses(&self, branch: &Taken, user: bool) -> bool {
        let kind = match branch.kind {
            Kind::Conditional => JCC,
            Kind::RelativeCall => NEAR_REL_CALL,
            Kind::IndirectCall => NEAR_IND_CALL,
            Kind::Return => NEAR_RET,
            Kind::IndirectJump => NEAR_IND_JMP,
            Kind::RelativeJump => NEAR_REL_JMP,
            Kind::Far | Kind::Event => FAR_BRANCH,
        };
        let ring = if user { CPL_NEQ_0 } else { CPL_EQ_0 };
        self.select & (kind | ring) != 0
    }

    /// The index `at` in the ring.  A machine's depth is a power of two; a division
    /// at every branch would cost.
    fn wrap(&self, at: usize) -> usize {
        at & (self.records.len() - 1)
    }

    fn push(&mut self, branch: &Taken, mispredicted: bool, cycles: u64) {
        self.tos = self.wrap(self.tos + 1);
        let elapsed = cycles.saturating_sub(self.recorded).min(INFO_CYCLES);
        self.recorded = cycles;
        if let Some(record) = self.records.get_mut(self.tos) {
            *record = Record {
                from: branch.from,
                to: branch.to,
                info: elapsed | if mispredicted { INFO_MISPREDICTED } else { 0 },
            };
        }
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.get_mut(self.tos) {
            *record = Record::default();
        }
        self.tos = self.wrap(self.tos + self.records.len() - 1);
    }

    fn locate(&self, index: u32) -> Option<(Field, usize)> {
        [
            (Field::From, msr::MSR_LASTBRANCH_0_FROM_IP),
            (Field::To, msr::MSR_LASTBRANCH_0_TO_IP),
            (Field::Info, msr::MSR_LBR_INFO_0),
        ]
        .into_iter()
        .find_map(|(field, first)| Some((field, offset(index, first, self.records.len())?)))
    }

    /// Reads a register; `None` if `index` is none of this facility's.
    pub fn read(&self, index: u32) -> Option<Access<u64>> {
        Some(Ok(match index {
            msr::MSR_LBR_SELECT => self.select,
            msr::MSR_LASTBRANCH_TOS => self.tos as u64,
            msr::MSR_LER_FROM_LIP => self.before_event.0,
            msr::MSR_LER_TO_LIP => self.before_event.1,
            _ => {
                let (field, at) = self.locate(index)?;
                let record = self.records.get(at)?;
                match field {
                    Field::From => record.from,
                    Field::To => record.to,
                    Field::Info => record.info,
                }
            }
        }))
    }

    /// Writes a register; `None` if `index` is none of this facility's.
    pub fn write(&mut self, index: u32, value: u64) -> Option<Access<()>> {
        Some(match index {
            msr::MSR_LBR_SELECT => checked(value, SELECT_VALID).map(|value| self.select = value),
            msr::MSR_LASTBRANCH_TOS => checked(value, self.records.len() as u64 - 1)
                // Below the depth, which came from a u8.
                .map(|value| self.tos = value as usize),
            msr::MSR_LER_FROM_LIP | msr::MSR_LER_TO_LIP => Err(Fault),
            _ => {
                let (field, at) = self.locate(index)?;
                let record = self.records.get_mut(at)?;
                match field {
                    Field::From => canonical(value).map(|value| record.from = value),
                    Field::To => canonical(value).map(|value| record.to = value),
                    Field::Info => checked(value, INFO_VALID).map(|value| record.info = value),
                }
            }
        })
    }
}

fn canonical(address: u64) -> Access<u64> {
    if is_canonical(address) {
        Ok(address)
    } else {
        Err(Fault)
    }
}

#[cfg(test)]
mod tests;
