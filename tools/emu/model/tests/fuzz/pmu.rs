// SPDX-License-Identifier: GPL-2.0-only
//! The counters, by the SDM's "Performance Monitoring": each event that happens is
//! looked at by each counter, which adds one.

use crate::reference::{Answer, Facts};

pub(crate) const LBR_FRZ: u64 = 1 << 58;
pub(crate) const CTR_FRZ: u64 = 1 << 59;

/// What one instruction, or what is between two, makes happen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Happened {
    pub(crate) cycle: bool,
    pub(crate) instruction: bool,
    /// Number of a branch instruction's kind; 8: conditional, not taken.
    pub(crate) branch: Option<u8>,
    pub(crate) mispredicted: bool,
    pub(crate) inserted: bool,
    pub(crate) load: bool,
    pub(crate) store: bool,
    /// Lines that the last level of the caches was asked for, and those it had not.
    pub(crate) references: u64,
    pub(crate) misses: u64,
}

pub(crate) struct Pmu {
    facts: Facts,
    pub(crate) select: Vec<u64>,
    pub(crate) general: Vec<u64>,
    pub(crate) fixed: Vec<u64>,
    pub(crate) fixed_control: u64,
    pub(crate) global: u64,
    pub(crate) status: u64,
    /// MSR_OFFCORE_RSP_0 and _1, MSR_PEBS_LD_LAT, MSR_PEBS_FRONTEND.
    filters: [u64; 4],
}

impl Pmu {
    pub(crate) fn new(facts: &Facts) -> Self {
        Self {
            facts: facts.clone(),
            select: vec![0; facts.general],
            general: vec![0; facts.general],
            fixed: vec![0; facts.fixed],
            fixed_control: 0,
            global: (1 << facts.general) - 1,
            status: 0,
            filters: [0; 4],
        }
    }

    fn mask(&self) -> u64 {
        (1 << self.facts.bits) - 1
    }

    pub(crate) fn counters(&self) -> u64 {
        ((1 << self.facts.general) - 1) | ((1 << self.facts.fixed) - 1) << 32
    }

    /// How much an event select sees happen.
    fn sees(&self, select: u64, what: Happened) -> u64 {
        let (event, umask) = (select & 0xff, select >> 8 & 0xff);
        let new = self.facts.version >= 5;
        let known = umask == 0 || umask & if new { 0xfb } else { 0x7b } != 0;
        let matches = |kind: u8| match (umask, new) {
            (0, _) => true,
            _ if kind == 8 => umask & 0x10 != 0 || (!new && umask & 1 != 0),
            _ => {
                (umask & 1 != 0 && kind == 0)
                    || (umask & 2 != 0 && (kind == 3 || kind == 4))
                    || (umask & 8 != 0 && kind == 5)
                    || (umask & 0x20 != 0 && kind < 6)
                    || (umask & 0x40 != 0 && kind == 6)
                    || (umask & 0x80 != 0 && new && (kind == 2 || kind == 4))
            }
        };
        let (cmask, invert, edge) = (select >> 24, select >> 23 & 1 != 0, select >> 18 & 1 != 0);
        let number = match (event, umask) {
            (0x3c, 0 | 1) => u64::from(what.cycle),
            (0xc0, 0 | 1) => u64::from(what.instruction),
            (0xa4, 1) if new => u64::from(what.cycle) * self.facts.slots,
            (0xc4, _) if known => u64::from(what.branch.is_some_and(matches)),
            (0xc5, _) if known => u64::from(what.mispredicted && what.branch.is_some_and(matches)),
            (0xcc, 0x20) | (0xe4, 1) => u64::from(what.inserted),
            (0x2e, 0x4f) => what.references,
            (0x2e, 0x41) => what.misses,
            (0xd0, 0x81) => u64::from(what.load),
            (0xd0, 0x82) => u64::from(what.store),
            (0xd0, 0x83) => u64::from(what.load || what.store),
            _ => return 0,
        };
        // One of a kind happens per cycle, as Documentation/hardware-model.rst says, but for
        // slots; it leaves no gap between cycles, and with INV counts each cycle for branches.
        let level = matches!(event, 0x3c | 0xc0 | 0xa4);
        let cycle = u64::from(what.cycle);
        let number = match (cmask, invert) {
            (0, _) => number,
            (_, true) if event == 0xa4 => cycle * u64::from(self.facts.slots < cmask),
            (_, false) if event == 0xa4 => cycle * u64::from(self.facts.slots >= cmask),
            // One line after the other.
            (1, false) if event == 0x2e => number,
            (1, false) => number.min(1),
            (1, true) if level => cycle - number.min(cycle),
            (_, true) => return if edge { 0 } else { cycle },
            (_, false) => 0,
        };
        if edge && level {
            0
        } else {
            number
        }
    }

    fn runs(&self, n: usize, user: bool) -> bool {
        let select = self.select[n];
        let ring = select >> if user { 16 } else { 17 } & 1 != 0;
        let frozen = self.status & CTR_FRZ != 0;
        ring && select >> 22 & 1 != 0 && self.global >> n & 1 != 0 && !frozen
    }

    /// Whether some counter sees one line more or less that goes to the last level.
    pub(crate) fn counts_lines(&self, user: bool) -> bool {
        let one = Happened {
            references: 1,
            misses: 1,
            ..Happened::default()
        };
        (0..self.facts.general).any(|n| self.runs(n, user) && self.sees(self.select[n], one) != 0)
    }

    /// Which counters overflow, and whether one of them interrupts.
    pub(crate) fn count(&mut self, what: Happened, user: bool) -> (u64, bool) {
        let (mut overflow, mut interrupt) = (0, false);
        if self.status & CTR_FRZ != 0 {
            return (0, false);
        }
        for n in 0..self.facts.general {
            let select = self.select[n];
            if self.runs(n, user) {
                let value = self.general[n] + self.sees(select, what);
                if value > self.mask() {
                    overflow |= 1 << n;
                    interrupt |= select >> 20 & 1 != 0;
                }
                self.general[n] = value & self.mask();
            }
        }
        for n in 0..self.facts.fixed {
            let field = self.fixed_control >> (4 * n);
            let ring = field >> u32::from(user) & 1 != 0;
            if ring && self.global >> (32 + n) & 1 != 0 {
                let number = match n {
                    0 => u64::from(what.instruction),
                    1 | 2 => u64::from(what.cycle),
                    _ => u64::from(what.cycle) * self.facts.slots,
                };
                let value = self.fixed[n] + number;
                if value > self.mask() {
                    overflow |= 1 << (32 + n);
                    interrupt |= field & 8 != 0;
                }
                self.fixed[n] = value & self.mask();
            }
        }
        self.status |= overflow;
        (overflow, interrupt)
    }

    fn in_use(&self) -> u64 {
        let mut used = 0;
        for n in 0..self.facts.general {
            used |= u64::from(self.select[n] & 0xff != 0) << n;
            used |= (self.select[n] >> 20 & 1) << 63;
        }
        for n in 0..self.facts.fixed {
            let field = self.fixed_control >> (4 * n);
            used |= u64::from(field & 3 != 0) << (32 + n);
            used |= (field >> 3 & 1) << 63;
        }
        used
    }

    fn slot(first: u32, number: usize, index: u32) -> Option<usize> {
        (0..number).find(|&n| first + n as u32 == index)
    }

    pub(crate) fn read(&self, index: u32) -> Option<Answer> {
        let facts = &self.facts;
        for first in [0xc1, 0x4c1] {
            if let Some(n) = Self::slot(first, facts.general, index) {
                return Some(Some(self.general[n]));
            }
        }
        if let Some(n) = Self::slot(0x186, facts.general, index) {
            return Some(Some(self.select[n]));
        }
        if let Some(n) = Self::slot(0x309, facts.fixed, index) {
            return Some(Some(self.fixed[n]));
        }
        Some(Some(match index {
            0x1a6 => self.filters[0],
            0x1a7 => self.filters[1],
            0x3f6 => self.filters[2],
            0x3f7 if facts.version >= 4 => self.filters[3],
            0x38d => self.fixed_control,
            0x38e => self.status,
            0x38f => self.global,
            // Write-only to reason with: Intel's CPUs read 0.
            0x390 => 0,
            0x391 if facts.version >= 4 => 0,
            0x392 if facts.version >= 4 => self.in_use(),
            _ => return None,
        }))
    }

    pub(crate) fn global_takes(&self, value: u64) -> bool {
        value & !self.counters() == 0
    }

    pub(crate) fn write(&mut self, index: u32, value: u64) -> Option<Answer> {
        let facts = &self.facts;
        let done = Some(Some(0));
        let refused = Some(None);
        if let Some(n) = Self::slot(0xc1, facts.general, index) {
            let low = value & 0xffff_ffff;
            let sign = if low >> 31 != 0 { !0xffff_ffff } else { 0 };
            self.general[n] = (low | sign) & self.mask();
            return done;
        }
        if let Some(n) = Self::slot(0x4c1, facts.general, index) {
            if value > self.mask() {
                return refused;
            }
            self.general[n] = value;
            return done;
        }
        if let Some(n) = Self::slot(0x309, facts.fixed, index) {
            if value > self.mask() {
                return refused;
            }
            self.fixed[n] = value;
            return done;
        }
        let any_thread = facts.version < 5;
        if let Some(n) = Self::slot(0x186, facts.general, index) {
            let valid = if any_thread { 0xffff_ffff } else { 0xffdf_ffff };
            if value & !valid != 0 {
                return refused;
            }
            self.select[n] = value;
            return done;
        }
        let more = if facts.version >= 4 {
            LBR_FRZ | CTR_FRZ
        } else {
            0
        };
        match index {
            0x1a6 | 0x1a7 => {
                if value >> 38 != 0 {
                    return refused;
                }
                self.filters[index as usize - 0x1a6] = value;
            }
            0x3f6 => {
                if value >> 16 != 0 {
                    return refused;
                }
                self.filters[2] = value;
            }
            0x3f7 if facts.version >= 4 => {
                // EVTSEL in two parts, IDQ_BUBBLE_LENGTH, IDQ_BUBBLE_WIDTH.
                let unknown_branch = u64::from(facts.architectural) << 3;
                if value & !(7 | unknown_branch | 1 << 4 | 0xfff << 8 | 7 << 20) != 0 {
                    return refused;
                }
                self.filters[3] = value;
            }
            0x38d => {
                let field = if any_thread { 0xf } else { 0xb };
                let valid = (0..facts.fixed).fold(0, |valid, n| valid | field << (4 * n));
                if value & !valid != 0 {
                    return refused;
                }
                self.fixed_control = value;
            }
            0x38e => return refused,
            0x38f => {
                if !self.global_takes(value) {
                    return refused;
                }
                self.global = value;
            }
            0x390 => {
                if value & !(self.counters() | more | facts.status_only_reset) != 0 {
                    return refused;
                }
                self.status &= !value;
            }
            0x391 if facts.version >= 4 => {
                // OVF_UNCORE and OVF_BUF, which nothing here sets else.
                if value & !(self.counters() | more | 3 << 61) != 0 {
                    return refused;
                }
                self.status |= value;
            }
            0x392 if facts.version >= 4 => return refused,
            _ => return None,
        }
        done
    }

    pub(crate) fn rdpmc(&self, ecx: u32) -> Answer {
        let n = (ecx & 0xffff) as usize;
        match ecx >> 16 {
            0 => self.general.get(n).copied(),
            0x4000 => self.fixed.get(n).copied(),
            _ => None,
        }
    }
}
