// SPDX-License-Identifier: GPL-2.0-only

//! LBR MSRs as Intel's manual lists them for Skylake, and a set of their values.

use std::fmt;
use std::hash::{Hash, Hasher};

use lbr::{Description, Facility};

pub(crate) const SELECT: u32 = 0x1c8;
pub(crate) const TOS: u32 = 0x1c9;
pub(crate) const FROM: u32 = 0x680;
pub(crate) const TO: u32 = 0x6c0;
pub(crate) const INFO: u32 = 0xdc0;
pub(crate) const DEPTH: u32 = 32;

pub(crate) fn facility() -> Facility {
    Facility::new(&Description {
        format: 5,
        depth: DEPTH,
        from: FROM,
        to: TO,
        info: INFO,
        tsx: true,
    })
    .expect("a usable facility")
}

pub(crate) fn msrs() -> impl Iterator<Item = u32> {
    let records = [FROM, TO, INFO].map(|first| first..first + DEPTH);
    [SELECT, TOS]
        .into_iter()
        .chain(records.into_iter().flatten())
}

pub(crate) fn is_canonical(address: u64) -> bool {
    matches!(address >> 47, 0 | 0x1_ffff)
}

/// Whether the MSR takes the value.
pub(crate) fn takes(msr: u32, value: u64) -> bool {
    match msr {
        SELECT => value < 1 << 10,
        TOS => value < u64::from(DEPTH),
        INFO.. => value & 0x1fff_ffff_ffff_0000 == 0,
        _ => is_canonical(value),
    }
}

pub(crate) const COUNT: usize = 2 + 3 * DEPTH as usize;

/// The place of the MSR among all.
pub(crate) fn index(msr: u32) -> usize {
    let index = match msr {
        SELECT => 0,
        TOS => 1,
        FROM..TO => 2 + msr - FROM,
        TO..INFO => 2 + DEPTH + msr - TO,
        _ => 2 + 2 * DEPTH + msr - INFO,
    };
    index as usize
}

/// The values of all LBR MSRs.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Registers([u64; COUNT]);

impl Registers {
    pub(crate) const ZERO: Self = Self([0; COUNT]);
    /// What others leave; nobody else writes it.
    pub(crate) const OTHERS: Self = Self([0xdead; COUNT]);

    pub(crate) fn get(&self, msr: u32) -> u64 {
        self.0[index(msr)]
    }

    pub(crate) fn set(&mut self, msr: u32, value: u64) {
        self.0[index(msr)] = value;
    }

    /// Empties the records; the other registers stay.
    pub(crate) fn empty(&mut self) {
        self.0[index(FROM)..].fill(0);
    }
}

/// Most are alike: fast, and as good.
impl Hash for Registers {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut last = 0;
        for (index, value) in self.0.iter().enumerate() {
            if *value != last {
                (index, value).hash(hasher);
                last = *value;
            }
        }
        hasher.write_u8(0xff);
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = msrs().map(|msr| (msr, self.get(msr)));
        f.debug_map()
            .entries(values.filter(|(_, value)| *value != 0))
            .finish()
    }
}
