// SPDX-License-Identifier: GPL-2.0-only
//! Architectural last branch records (SDM, "Last Branch Records").

use super::{Circumstances, Field, Record, INFO_CYCLES, INFO_MISPREDICTED};
use crate::branch::{Kind, Taken};
use crate::msr::{self, canonical, checked, offset, Fault, Result};

/// IA32_LBR_CTL: record branches.
pub const LBREN: u64 = 1;
/// IA32_LBR_CTL: record branches that end in ring 0.
pub const OS: u64 = 1 << 1;
/// IA32_LBR_CTL: record branches that end outside of ring 0.
pub const USR: u64 = 1 << 2;
/// IA32_LBR_CTL: keep a call stack.
pub const CALL_STACK: u64 = 1 << 3;
/// IA32_LBR_CTL: record conditional branches.
pub const JCC: u64 = 1 << 16;
/// IA32_LBR_CTL: record direct near jumps.
pub const NEAR_REL_JMP: u64 = 1 << 17;
/// IA32_LBR_CTL: record indirect near jumps.
pub const NEAR_IND_JMP: u64 = 1 << 18;
/// IA32_LBR_CTL: record direct near calls.
pub const NEAR_REL_CALL: u64 = 1 << 19;
/// IA32_LBR_CTL: record indirect near calls.
pub const NEAR_IND_CALL: u64 = 1 << 20;
/// IA32_LBR_CTL: record near returns.
pub const NEAR_RET: u64 = 1 << 21;
/// IA32_LBR_CTL: record everything else: far branches, interrupts, exceptions.
pub const OTHER_BRANCH: u64 = 1 << 22;
/// The bits of IA32_LBR_CTL that exist.
pub const CTL_VALID: u64 = LBREN
    | OS
    | USR
    | CALL_STACK
    | JCC
    | NEAR_REL_JMP
    | NEAR_IND_JMP
    | NEAR_REL_CALL
    | NEAR_IND_CALL
    | NEAR_RET
    | OTHER_BRANCH;

/// IA32_LBR_x_INFO: the cycles are valid.
pub const INFO_CYC_CNT_VALID: u64 = 1 << 60;
const INFO_BR_TYPE_SHIFT: u32 = 56;
const INFO_BR_TYPE: u64 = 0xf << INFO_BR_TYPE_SHIFT;
// Without TSX its two flags read 0.
const INFO_KEPT: u64 = INFO_MISPREDICTED | INFO_CYC_CNT_VALID | INFO_BR_TYPE | INFO_CYCLES;

/// FROM of a branch that comes from a privilege level that is not recorded.
const FROM_HIDDEN: u64 = u64::MAX;

/// Numbers that entries of the greatest depth of any CPU have: those beyond the
/// depth fault.
const REGISTERS: usize = 64;
/// The entries that state component 15 has room for.
const ENTRIES: usize = 32;
const HEADER: usize = 5;
/// State component 15 in quadwords: IA32_LBR_CTL, IA32_LBR_DEPTH, IA32_LER_FROM_IP,
/// IA32_LER_TO_IP, IA32_LER_INFO, then FROM, TO and INFO of each entry.
pub const AREA: usize = HEADER + 3 * ENTRIES;
/// Bits of IA32_LBR_DEPTH that no CPU has.
const DEPTH_RESERVED: u64 = !0x7f;

/// The LBR facility of one logical CPU.
#[derive(Clone, Debug)]
pub struct Architectural {
    /// The values that IA32_LBR_DEPTH takes, ascending.
    depths: Vec<u8>,
    /// Bits of a linear address.
    bits: u8,
    ctl: u64,
    /// A ring of IA32_LBR_DEPTH entries, a power of two.
    records: Vec<Record>,
    /// Where entry 0 is.
    newest: usize,
    /// When the last record was made, in core cycles; `None` since recording was
    /// switched on.
    recorded: Option<u64>,
    /// The latest branch that the filters let through.
    last: Record,
    /// IA32_LER_FROM_IP, IA32_LER_TO_IP and IA32_LER_INFO: the latest branch before
    /// the latest event.
    before_event: Record,
    /// LBREn as it was when SMM was entered.
    outside_smm: Option<bool>,
}

impl Architectural {
    /// Empty records of the largest of `depths`.
    pub fn new(depths: &[u8], bits: u8) -> Self {
        let mut lbr = Self {
            depths: depths.to_vec(),
            bits,
            ctl: 0,
            records: Vec::new(),
            newest: 0,
            recorded: None,
            last: Record::default(),
            before_event: Record::default(),
            outside_smm: None,
        };
        lbr.reset();
        lbr
    }

    /// Power-up or RESET#: the depth is the largest, the rest is clear.
    pub fn reset(&mut self) {
        let depth = self.depths.last().copied().unwrap_or(0);
        self.set_depth(usize::from(depth));
        self.ctl = 0;
        self.recorded = None;
        self.last = Record::default();
        self.before_event = Record::default();
        self.outside_smm = None;
    }

    /// All registers keep their values; what happened last is before time began.
    pub fn warm_reset(&mut self) {
        self.recorded = None;
        self.outside_smm = None;
    }

    fn set_depth(&mut self, depth: usize) {
        self.records.clear();
        self.records.resize(depth, Record::default());
        self.newest = 0;
    }

    /// The number of entries in use.
    pub fn depth(&self) -> usize {
        self.records.len()
    }

    /// IA32_LBR_CTL.LBREn
    pub fn is_enabled(&self) -> bool {
        self.ctl & LBREN != 0
    }

    /// Sets or clears IA32_LBR_CTL.LBREn.
    pub fn set_enabled(&mut self, enabled: bool) {
        let bit = if enabled { LBREN } else { 0 };
        self.set_ctl(self.ctl & !LBREN | bit);
    }

    fn set_ctl(&mut self, ctl: u64) {
        if !self.is_enabled() {
            self.recorded = None;
        }
        self.ctl = ctl;
    }

    /// LBREn is saved and cleared by an SMI, and restored by RSM.
    pub fn smm(&mut self, inside: bool) {
        if inside {
            self.outside_smm = Some(self.is_enabled());
            self.set_enabled(false);
        } else if let Some(enabled) = self.outside_smm.take() {
            self.set_enabled(enabled);
        }
    }

    /// Entry 0, entry 1 and so on.
    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        (0..self.depth()).filter_map(|entry| self.records.get(self.slot(entry)))
    }

    /// Where an entry is in the ring.
    fn slot(&self, entry: usize) -> usize {
        self.newest.wrapping_sub(entry) & self.records.len().wrapping_sub(1)
    }

    /// A branch was taken while recording is on.  Returns whether a record was made.
    pub fn branch(&mut self, branch: &Taken, how: Circumstances) -> bool {
        if branch.kind == Kind::Event {
            self.before_event = self.last;
        }
        let enabled = level(how.user) | enabling(branch.kind);
        if self.ctl & enabled != enabled {
            return false;
        }
        let record = self.record(branch, how);
        self.last = record;
        if branch.is_zero_length_call() {
            return false;
        }
        if self.ctl & CALL_STACK != 0 {
            match branch.kind {
                Kind::RelativeCall | Kind::IndirectCall => {}
                Kind::Return => {
                    self.pop();
                    return false;
                }
                _ => return false,
            }
        }
        self.push(record, how.cycles);
        true
    }

    fn record(&self, branch: &Taken, how: Circumstances) -> Record {
        let from = if self.ctl & level(how.from_user) == 0 {
            FROM_HIDDEN
        } else {
            branch.from
        };
        let cycles = self.recorded.map_or(0, |recorded| {
            how.cycles.saturating_sub(recorded).min(INFO_CYCLES) | INFO_CYC_CNT_VALID
        });
        let mispredicted = if how.mispredicted {
            INFO_MISPREDICTED
        } else {
            0
        };
        Record {
            from,
            to: branch.to,
            info: br_type(branch.kind) << INFO_BR_TYPE_SHIFT | cycles | mispredicted,
        }
    }

    fn push(&mut self, record: Record, cycles: u64) {
        self.recorded = Some(cycles);
        self.newest = self.newest.wrapping_add(1) & self.records.len().wrapping_sub(1);
        if let Some(slot) = self.records.get_mut(self.newest) {
            *slot = record;
        }
    }

    /// Entry 0 goes, the others move up, the last becomes 0.
    fn pop(&mut self) {
        if let Some(slot) = self.records.get_mut(self.newest) {
            *slot = Record::default();
        }
        self.newest = self.newest.wrapping_sub(1) & self.records.len().wrapping_sub(1);
    }

    fn locate(&self, index: u32) -> Option<Result<(Field, usize)>> {
        let (field, entry) = [
            (Field::From, msr::IA32_LBR_0_FROM_IP),
            (Field::To, msr::IA32_LBR_0_TO_IP),
            (Field::Info, msr::IA32_LBR_0_INFO),
        ]
        .into_iter()
        .find_map(|(field, first)| Some((field, offset(index, first, REGISTERS)?)))?;
        Some(if entry < self.depth() {
            Ok((field, self.slot(entry)))
        } else {
            Err(Fault)
        })
    }

    /// Reads a register; `None` if `index` is none of this facility's.
    pub fn read(&self, index: u32) -> Option<Result<u64>> {
        Some(match index {
            msr::IA32_LBR_CTL => Ok(self.ctl),
            msr::IA32_LBR_DEPTH => Ok(self.depth() as u64),
            msr::MSR_LER_FROM_LIP => Ok(self.before_event.from),
            msr::MSR_LER_TO_LIP => Ok(self.before_event.to),
            msr::IA32_LER_INFO => Ok(self.before_event.info),
            _ => self
                .locate(index)?
                .map(|(field, slot)| self.records.get(slot).map_or(0, |record| record.get(field))),
        })
    }

    /// Writes a register; `None` if `index` is none of this facility's.
    pub fn write(&mut self, index: u32, value: u64) -> Option<Result<()>> {
        Some(match index {
            msr::IA32_LBR_CTL => checked(value, CTL_VALID).map(|ctl| self.set_ctl(ctl)),
            msr::IA32_LBR_DEPTH => self.supported(value).map(|depth| self.set_depth(depth)),
            msr::MSR_LER_FROM_LIP => self
                .fit(Field::From, value)
                .map(|v| self.before_event.from = v),
            msr::MSR_LER_TO_LIP => self.fit(Field::To, value).map(|v| self.before_event.to = v),
            msr::IA32_LER_INFO => self
                .fit(Field::Info, value)
                .map(|v| self.before_event.info = v),
            _ => self.locate(index)?.and_then(|(field, slot)| {
                let value = self.fit(field, value)?;
                if let Some(record) = self.records.get_mut(slot) {
                    record.set(field, value);
                }
                Ok(())
            }),
        })
    }

    /// What a field of a record keeps of a value.
    fn fit(&self, field: Field, value: u64) -> Result<u64> {
        match field {
            Field::From | Field::To => canonical(value, self.bits),
            // The undefined bits may be written, and read as something else.
            Field::Info => Ok(value & INFO_KEPT),
        }
    }

    fn fit_record(&self, from: u64, to: u64, info: u64) -> Result<Record> {
        Ok(Record {
            from: self.fit(Field::From, from)?,
            to: self.fit(Field::To, to)?,
            info: self.fit(Field::Info, info)?,
        })
    }

    fn supported(&self, depth: u64) -> Result<usize> {
        self.depths
            .iter()
            .find(|&&supported| u64::from(supported) == depth)
            .map(|&supported| usize::from(supported))
            .ok_or(Fault)
    }

    /// How many quadwords of state component 15 XSAVES writes: entries beyond the depth
    /// are none of its.
    pub fn saved(&self) -> usize {
        HEADER + 3 * self.depth()
    }

    /// State component 15 as XSAVES writes it.
    pub fn save(&self) -> [u64; AREA] {
        let ler = self.before_event;
        let header = [self.ctl, self.depth() as u64, ler.from, ler.to, ler.info];
        let entries = self
            .newest_first()
            .flat_map(|record| [record.from, record.to, record.info]);
        let mut area = [0; AREA];
        for (quadword, value) in area.iter_mut().zip(header.into_iter().chain(entries)) {
            *quadword = value;
        }
        area
    }

    /// Loads state component 15 as XRSTORS does.  IA32_LBR_DEPTH stays; if the area's
    /// is another one, the entries become 0, whatever the area has for them.
    ///
    /// # Errors
    ///
    /// [`Fault`] if WRMSR would refuse a value that is to be loaded, or the area's depth has
    /// a reserved bit; nothing has changed then.
    pub fn restore(&mut self, area: &[u64; AREA]) -> Result<()> {
        let &[ctl, depth, from, to, info, ref entries @ ..] = area;
        let ctl = checked(ctl, CTL_VALID)?;
        let ler = self.fit_record(from, to, info)?;
        let mut records = vec![Record::default(); self.depth()];
        if depth == self.depth() as u64 {
            // Entry 0 is the last of the ring.
            for (record, entry) in records.iter_mut().rev().zip(entries.chunks_exact(3)) {
                let &[from, to, info] = entry else {
                    return Err(Fault);
                };
                *record = self.fit_record(from, to, info)?;
            }
        } else if depth & DEPTH_RESERVED != 0 {
            return Err(Fault);
        }
        self.set_ctl(ctl);
        self.before_event = ler;
        self.newest = records.len().wrapping_sub(1);
        self.records = records;
        Ok(())
    }

    /// Puts state component 15 into its initial configuration: 0, but for
    /// IA32_LBR_DEPTH.
    pub fn initialise(&mut self) {
        self.ctl = 0;
        self.before_event = Record::default();
        self.set_depth(self.depth());
    }

    /// Whether state component 15 is in another than its initial configuration.
    pub fn is_in_use(&self) -> bool {
        self.ctl != 0
            || self.before_event != Record::default()
            || self
                .records
                .iter()
                .any(|record| *record != Record::default())
    }
}

/// The bit that has branches recorded which begin or end at this level.
fn level(user: bool) -> u64 {
    if user {
        USR
    } else {
        OS
    }
}

/// The bit that has this kind of branch recorded.
fn enabling(kind: Kind) -> u64 {
    match kind {
        Kind::Conditional => JCC,
        Kind::RelativeJump => NEAR_REL_JMP,
        Kind::IndirectJump => NEAR_IND_JMP,
        Kind::RelativeCall => NEAR_REL_CALL,
        Kind::IndirectCall => NEAR_IND_CALL,
        Kind::Return => NEAR_RET,
        Kind::Far | Kind::Event | Kind::Resume => OTHER_BRANCH,
    }
}

/// IA32_LBR_x_INFO.BR_TYPE
fn br_type(kind: Kind) -> u64 {
    match kind {
        Kind::Conditional => 0,
        Kind::IndirectJump => 1,
        Kind::RelativeJump => 2,
        Kind::IndirectCall => 3,
        Kind::RelativeCall => 4,
        Kind::Return => 5,
        Kind::Far | Kind::Event | Kind::Resume => 8,
    }
}

#[cfg(test)]
mod tests;
