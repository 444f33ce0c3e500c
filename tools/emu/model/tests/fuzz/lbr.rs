// SPDX-License-Identifier: GPL-2.0-only
//! The records, by the SDM's "Debug, Branch Profile, TSC, and Intel Resource
//! Director Technology Features" and "Last Branch Records".

use crate::reference::{canonical, Answer, Branch, Facts};

const MISPRED: u64 = 1 << 63;
const CYC_VALID: u64 = 1 << 60;

/// FROM, TO, INFO.
pub(crate) type Record = [u64; 3];

/// Both kinds of records: the ring of the model-specific ones, and the
/// architectural ones, of which the first is the newest.
#[derive(Clone)]
pub(crate) struct Lbr {
    facts: Facts,
    pub(crate) records: Vec<Record>,
    pub(crate) top: usize,
    pub(crate) select: u64,
    pub(crate) control: u64,
    pub(crate) depth: usize,
    pub(crate) ler: Record,
    /// The last branch that may become the last event record.
    last: Record,
    /// When the last record was made, if known.
    pub(crate) since: Option<u64>,
}

impl Lbr {
    pub(crate) fn new(facts: &Facts) -> Self {
        Self {
            facts: facts.clone(),
            records: vec![[0; 3]; facts.depth],
            top: 0,
            select: 0,
            control: 0,
            depth: facts.depth,
            ler: [0; 3],
            last: [0; 3],
            since: (!facts.architectural).then_some(0),
        }
    }

    /// Whether the filters let this branch be recorded, and what a return pops.
    fn passes(&self, branch: &Branch, user: bool) -> bool {
        // Conditional, relative jump, indirect jump, relative call, indirect call,
        // return, far, event, RSM.
        if self.facts.architectural {
            let ring = if user { 2 } else { 1 };
            let kind = [16, 17, 18, 19, 20, 21, 22, 22, 22][usize::from(branch.kind)];
            self.control >> ring & 1 != 0 && self.control >> kind & 1 != 0
        } else {
            let ring = u64::from(user);
            let kind = [2, 7, 6, 3, 4, 5, 8, 8][usize::from(branch.kind)];
            self.select >> ring & 1 == 0 && self.select >> kind & 1 == 0
        }
    }

    fn call_stack(&self) -> bool {
        if self.facts.architectural {
            self.control >> 3 & 1 != 0
        } else {
            self.select >> 9 & 1 != 0
        }
    }

    /// A branch, while recording is on.  Whether a record was inserted.
    pub(crate) fn branch(
        &mut self,
        branch: &Branch,
        (from_user, user): (bool, bool),
        mispredicted: bool,
        now: u64,
    ) -> bool {
        // RSM
        if branch.kind == 8 && !self.facts.architectural {
            return false;
        }
        if branch.kind == 7 {
            self.ler = self.last;
        }
        let elapsed = self.since.map(|then| now - then);
        let wrong = if mispredicted { MISPRED } else { 0 };
        let kind = [0, 2, 1, 4, 3, 5, 8, 8, 8][usize::from(branch.kind)];
        let time = elapsed.map_or(0, |cycles| CYC_VALID | cycles.min(0xffff));
        let hidden = self.control >> if from_user { 2 } else { 1 } & 1 == 0;
        let from = if self.facts.architectural && hidden {
            !0
        } else {
            branch.from
        };
        let whole = [from, branch.to, wrong | time | kind << 56];
        let passes = self.passes(branch, user);
        // LBR_SELECT is not for the last event record, IA32_LBR_CTL is.
        if passes || !self.facts.architectural {
            self.last = whole;
        }
        if !passes {
            return false;
        }
        let zero =
            branch.kind == 3 && branch.to == branch.from.wrapping_add(u64::from(branch.length));
        if zero && (self.facts.architectural || self.call_stack()) {
            return false;
        }
        if self.call_stack() {
            match branch.kind {
                0..=2 => return false,
                6.. => return false,
                5 => {
                    self.pop();
                    return false;
                }
                _ => (),
            }
        }
        self.since = Some(now);
        if self.facts.architectural {
            self.records.insert(0, whole);
            self.records.truncate(self.depth);
        } else {
            self.top = (self.top + 1) % self.facts.depth;
            // RIP, not linear addresses.
            let from = branch.from.wrapping_sub(branch.bases.0);
            let to = branch.to.wrapping_sub(branch.bases.1);
            self.records[self.top] = if self.facts.info {
                [from, to, wrong | elapsed.unwrap_or(0).min(0xffff)]
            } else {
                [from & !(7 << 61) | wrong, to, 0]
            };
        }
        true
    }

    fn pop(&mut self) {
        if self.facts.architectural {
            self.records.remove(0);
            self.records.push([0; 3]);
        } else {
            self.records[self.top] = [0; 3];
            self.top = (self.top + self.facts.depth - 1) % self.facts.depth;
        }
    }

    pub(crate) fn depth_exists(&self, depth: u64) -> bool {
        self.facts.depths.iter().any(|&known| known as u64 == depth)
    }

    pub(crate) fn set_depth(&mut self, depth: u64) {
        self.depth = depth as usize;
        self.records = vec![[0; 3]; self.depth];
    }

    pub(crate) fn set_control(&mut self, value: u64) {
        if value & !self.control & 1 != 0 {
            self.since = None;
        }
        self.control = value;
    }

    /// The register of a record: which one, and which of FROM, TO, INFO.
    fn place(&self, index: u32) -> Option<(usize, usize)> {
        // No CPU has architectural records beyond the 64th.
        let (firsts, files, count) = if self.facts.architectural {
            ([0x1500, 0x1600, 0x1200], 3, 64)
        } else {
            let files = 2 + usize::from(self.facts.info);
            ([0x680, 0x6c0, 0xdc0], files, self.facts.depth)
        };
        (0..files).find_map(|file| {
            let n = index.checked_sub(firsts[file])? as usize;
            (n < count).then_some((n, file))
        })
    }

    pub(crate) fn read(&self, index: u32) -> Option<Answer> {
        if let Some((n, file)) = self.place(index) {
            return Some(self.records.get(n).map(|record| record[file]));
        }
        let arch = self.facts.architectural;
        Some(Some(match index {
            0x1c8 if !arch => self.select,
            0x1c9 if !arch => self.top as u64,
            0x1dd => self.ler[0],
            0x1de => self.ler[1],
            0x1e0 if arch => self.ler[2],
            0x14ce if arch => self.control,
            0x14cf if arch => self.depth as u64,
            _ => return None,
        }))
    }

    /// What the register holds after a write of `value`; `None`: #GP.
    pub(crate) fn checked(&self, file: usize, value: u64) -> Answer {
        match file {
            // MISPRED is no part of the address; without TSX the other flags are.
            0 if !self.facts.architectural && !self.facts.info => {
                let address = (value << 1) as i64 >> 1;
                canonical(address as u64, self.facts.linear).then_some(value)
            }
            0 | 1 => canonical(value, self.facts.linear).then_some(value),
            _ if self.facts.architectural => Some(value & (0x9f00_0000_0000_ffff)),
            _ => (value & !(MISPRED | 0xffff) == 0).then_some(value),
        }
    }

    pub(crate) fn write(&mut self, index: u32, value: u64) -> Option<Answer> {
        let done = Some(Some(0));
        let refused = Some(None);
        if let Some((n, file)) = self.place(index) {
            if n >= self.records.len() {
                return refused;
            }
            let Some(value) = self.checked(file, value) else {
                return refused;
            };
            self.records[n][file] = value;
            return done;
        }
        let arch = self.facts.architectural;
        match index {
            0x1c8 if !arch => {
                if value > 0x3ff {
                    return refused;
                }
                self.select = value;
            }
            0x1c9 if !arch => {
                if value >= self.facts.depth as u64 {
                    return refused;
                }
                self.top = value as usize;
            }
            0x1dd | 0x1de | 0x1e0 if arch => {
                let file = [0, 1, 2][match index {
                    0x1dd => 0,
                    0x1de => 1,
                    _ => 2,
                }];
                let Some(value) = self.checked(file, value) else {
                    return refused;
                };
                self.ler[file] = value;
            }
            0x1dd | 0x1de => return refused,
            0x14ce if arch => {
                if value & !0x7f_000f != 0 {
                    return refused;
                }
                self.set_control(value);
            }
            0x14cf if arch => {
                if !self.depth_exists(value) {
                    return refused;
                }
                self.set_depth(value);
            }
            _ => return None,
        }
        done
    }
}
