// SPDX-License-Identifier: GPL-2.0-only
//! Model-specific last branch records (SDM, "Debug, Branch Profile, TSC, and Intel
//! Resource Director Technology Features": "Last Branch, Interrupt, and Exception
//! Recording for Processors Based on Haswell Microarchitecture", and "... Skylake
//! Microarchitecture").

use super::{Circumstances, Field, Record, INFO_CYCLES, INFO_MISPREDICTED};
use crate::branch::{Kind, Taken};
use crate::machine::LbrFormat;
use crate::msr::{self, canonical, checked, offset, Fault, Result};

/// LBR_SELECT: do not record branches that end in ring 0.
pub const CPL_EQ_0: u64 = 1;
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

// IN_TX and TSX_ABORT need TSX.
const INFO_VALID: u64 = INFO_MISPREDICTED | INFO_CYCLES;

/// FROM in the format EIP_FLAGS2: the branch was mispredicted.
pub const FROM_MISPREDICTED: u64 = 1 << 63;
/// FROM in the format EIP_FLAGS2: flags of TSX.  Without TSX a record has them
/// clear, and for WRMSR they belong to the sign extension.
const FROM_TSX: u64 = 3 << 61;

/// The LBR stack of one logical CPU.
#[derive(Clone, Debug)]
pub struct Legacy {
    format: LbrFormat,
    /// Bits of a linear address.
    bits: u8,
    records: Vec<Record>,
    tos: usize,
    select: u64,
    /// When the last record was made, in core cycles.
    recorded: u64,
    /// The latest branch, recorded or not, in linear addresses.
    last: (u64, u64),
    /// MSR_LER_FROM_LIP and MSR_LER_TO_LIP: the latest branch before the latest
    /// event.
    before_event: (u64, u64),
}

impl Legacy {
    /// An empty stack.
    pub fn new(depth: u8, format: LbrFormat, bits: u8) -> Self {
        Self {
            format,
            bits,
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

    /// A branch was taken while recording is on.  Returns whether a record was made.
    pub fn branch(&mut self, branch: &Taken, how: Circumstances) -> bool {
        match branch.kind {
            Kind::Event => self.before_event = self.last,
            Kind::Resume => return false,
            _ => {}
        }
        self.last = (branch.from, branch.to);
        if self.suppresses(branch, how.user) {
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
        self.push(branch, how);
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
            Kind::Far | Kind::Event | Kind::Resume => FAR_BRANCH,
        };
        let ring = if user { CPL_NEQ_0 } else { CPL_EQ_0 };
        self.select & (kind | ring) != 0
    }

    /// The index `at` in the ring.  A machine's depth is a power of two; a division
    /// at every branch would cost.
    fn wrap(&self, at: usize) -> usize {
        at & (self.records.len() - 1)
    }

    /// Both formats have "64-bit EIP" in IA32_PERF_CAPABILITIES.LBR_FMT: offsets in the code
    /// segments.
    fn push(&mut self, branch: &Taken, how: Circumstances) {
        self.tos = self.wrap(self.tos + 1);
        let elapsed = how.cycles.saturating_sub(self.recorded).min(INFO_CYCLES);
        self.recorded = how.cycles;
        let flag = |bit| if how.mispredicted { bit } else { 0 };
        let (from, info) = match self.format {
            LbrFormat::EipFlags2 => {
                let address = branch.from_ip & !(FROM_MISPREDICTED | FROM_TSX);
                (address | flag(FROM_MISPREDICTED), 0)
            }
            LbrFormat::Info => (branch.from_ip, elapsed | flag(INFO_MISPREDICTED)),
        };
        if let Some(record) = self.records.get_mut(self.tos) {
            *record = Record {
                from,
                to: branch.to_ip,
                info,
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
        let fields = [
            (Field::From, msr::MSR_LASTBRANCH_0_FROM_IP),
            (Field::To, msr::MSR_LASTBRANCH_0_TO_IP),
            (Field::Info, msr::MSR_LBR_INFO_0),
        ];
        let present = match self.format {
            LbrFormat::EipFlags2 => 2,
            LbrFormat::Info => 3,
        };
        fields
            .into_iter()
            .take(present)
            .find_map(|(field, first)| Some((field, offset(index, first, self.records.len())?)))
    }

    fn check(&self, field: Field, value: u64) -> Result<u64> {
        match (field, self.format) {
            // The address is the value without its flag, sign-extended.
            (Field::From, LbrFormat::EipFlags2) => {
                let address = (value << 1) as i64 >> 1;
                canonical(address as u64, self.bits).map(|_| value)
            }
            (Field::From | Field::To, _) => canonical(value, self.bits),
            (Field::Info, _) => checked(value, INFO_VALID),
        }
    }

    /// Reads a register; `None` if `index` is none of this facility's.
    pub fn read(&self, index: u32) -> Option<Result<u64>> {
        Some(Ok(match index {
            msr::MSR_LBR_SELECT => self.select,
            msr::MSR_LASTBRANCH_TOS => self.tos as u64,
            msr::MSR_LER_FROM_LIP => self.before_event.0,
            msr::MSR_LER_TO_LIP => self.before_event.1,
            _ => {
                let (field, at) = self.locate(index)?;
                self.records.get(at)?.get(field)
            }
        }))
    }

    /// Writes a register; `None` if `index` is none of this facility's.
    pub fn write(&mut self, index: u32, value: u64) -> Option<Result<()>> {
        Some(match index {
            msr::MSR_LBR_SELECT => checked(value, SELECT_VALID).map(|value| self.select = value),
            msr::MSR_LASTBRANCH_TOS => checked(value, self.records.len() as u64 - 1)
                // Below the depth, which came from a u8.
                .map(|value| self.tos = value as usize),
            msr::MSR_LER_FROM_LIP | msr::MSR_LER_TO_LIP => Err(Fault),
            _ => {
                let (field, at) = self.locate(index)?;
                let checked = self.check(field, value);
                let record = self.records.get_mut(at)?;
                checked.map(|value| record.set(field, value))
            }
        })
    }
}

#[cfg(test)]
mod tests;
