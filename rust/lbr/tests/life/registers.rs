// SPDX-License-Identifier: GPL-2.0-only

//! A set of values of the LBR MSRs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use lbr::Description;

use super::hardware::{msrs, record, Hardware, DEPTH};

const RECORDS: usize = 3 * DEPTH as usize;
/// The most that are no records.
const OTHERS: usize = 5;

/// What others leave; nobody else writes it.
pub(crate) const POISON: u64 = 0xdead;

/// How many MSRs there are.
pub(crate) fn count<F: Hardware>() -> usize {
    F::OTHERS.len() + RECORDS
}

/// The place of the MSR among [`msrs`].
pub(crate) fn index<F: Hardware>(msr: u32) -> usize {
    let place = |group: u32, first: u32| {
        let record = msr.wrapping_sub(first);
        (record < DEPTH).then_some(F::OTHERS.len() + (group * DEPTH + record) as usize)
    };
    place(0, F::FROM)
        .or_else(|| place(1, F::TO))
        .or_else(|| place(2, F::INFO))
        .or_else(|| F::OTHERS.iter().position(|other| *other == msr))
        .expect("an LBR MSR")
}

/// The values of all LBR MSRs but `IA32_LBR_CTL`, which has 0 here.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Registers<F>([u64; OTHERS + RECORDS], PhantomData<F>);

impl<F: Hardware> Registers<F> {
    /// What they are after reset.
    pub(crate) fn reset(has: &Description) -> Self {
        let mut registers = Self([0; OTHERS + RECORDS], PhantomData);
        if let Some(msr) = F::DEPTH {
            registers.set(msr, has.depth.into());
        }
        registers
    }

    pub(crate) fn get(&self, msr: u32) -> u64 {
        self.0[index::<F>(msr)]
    }

    pub(crate) fn set(&mut self, msr: u32, value: u64) {
        self.0[index::<F>(msr)] = value;
    }

    fn records(&mut self) -> &mut [u64] {
        &mut self.0[F::OTHERS.len()..count::<F>()]
    }

    /// Empties the records; the other registers stay.
    pub(crate) fn empty(&mut self) {
        self.records().fill(0);
    }

    /// How many records there are now.
    fn depth(&self) -> usize {
        F::DEPTH.map_or(DEPTH as usize, |msr| self.get(msr) as usize)
    }

    /// Whether the depth hides the MSR.
    fn hides(&self, msr: u32) -> bool {
        record::<F>(msr).is_some_and(|record| record as usize >= self.depth())
    }

    /// Empties what the depth hides.
    pub(crate) fn empty_hidden(&mut self) {
        let depth = self.depth();
        for group in self.records().chunks_mut(DEPTH as usize) {
            group[depth..].fill(0);
        }
    }

    /// The MSRs that perf moves, and their values.
    pub(crate) fn moved(&mut self) -> impl Iterator<Item = (u32, &mut u64)> {
        let moved = msrs::<F>().zip(&mut self.0);
        moved.filter(|(msr, _)| Some(*msr) != F::CTL)
    }

    pub(crate) fn poison(&mut self) {
        self.0[..count::<F>()].fill(POISON);
        if let Some(msr) = F::CTL {
            self.set(msr, 0);
        }
    }

    /// RDMSR: returns `None` for #GP.
    pub(crate) fn read(&self, msr: u32) -> Option<u64> {
        (!self.hides(msr)).then(|| self.get(msr))
    }

    /// WRMSR: returns `None` for #GP.
    pub(crate) fn write(&mut self, has: &Description, msr: u32, value: u64) -> Option<()> {
        if self.hides(msr) {
            return None;
        }
        let value = F::takes(has, msr, value)?;
        if Some(msr) == F::DEPTH {
            self.empty();
        }
        self.set(msr, value);
        Some(())
    }
}

impl<F> Hash for Registers<F> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

impl<F: Hardware> fmt::Debug for Registers<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = msrs::<F>().map(|msr| (msr, self.get(msr)));
        f.debug_map()
            .entries(values.filter(|(_, value)| *value != 0))
            .finish()
    }
}
