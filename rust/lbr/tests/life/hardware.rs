// SPDX-License-Identifier: GPL-2.0-only

//! LBR facilities as Intel's manual has them.

mod architectural;
mod legacy;

use std::fmt::Debug;
use std::hash::Hash;

use lbr::{Debugctl, Description, Facility};

use super::registers::Registers;

/// The greatest depth.
pub(crate) const DEPTH: u32 = 32;

/// The registers that are KVM's.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Controls {
    /// `IA32_DEBUGCTL`.
    pub(crate) debugctl: u64,
    /// `IA32_LBR_CTL`.
    pub(crate) ctl: u64,
}

/// An LBR facility.
pub(crate) trait Hardware:
    Facility<Records: Clone + Debug + Eq + Hash> + Eq + Hash + 'static
{
    /// What the host has.
    const HOST: Description;
    /// What a guest may have; the first has all.
    const GUESTS: &'static [Description];
    const FROM: u32 = Self::HOST.from;
    const TO: u32 = Self::HOST.to;
    const INFO: u32 = Self::HOST.info;
    /// The MSRs that are no records.
    const OTHERS: &'static [u32];
    /// `IA32_LBR_CTL`, the last of these.
    const CTL: Option<u32> = None;
    /// `IA32_LBR_DEPTH`, the first of these.
    const DEPTH: Option<u32> = None;
    /// Values of some of these that a gap leaves alone.
    const KEPT: &'static [(u32, u64)];
    /// A write that faults.
    const REFUSED: (u32, u64);
    /// What is worth writing to `IA32_DEBUGCTL`.
    const DEBUGCTLS: &'static [Debugctl];

    /// Returns what the MSR has after a write, or `None` if it does not take the value.
    fn takes(has: &Description, msr: u32, value: u64) -> Option<u64>;

    /// Makes a value that the MSR takes of any.
    fn legal(msr: u32, any: u64) -> u64;

    /// Returns the MSR that has the newest FROM.
    fn newest(registers: &Registers<Self>) -> u32;

    /// Returns a value of those that perf moves.
    fn get(records: &Self::Records, msr: u32) -> u64;

    /// Sets a value of those that perf moves.
    fn set(records: &mut Self::Records, msr: u32, value: u64);

    /// Returns the register whose bit 0 has branches recorded.
    fn switch(controls: &mut Controls) -> &mut u64 {
        match Self::CTL {
            Some(_) => &mut controls.ctl,
            None => &mut controls.debugctl,
        }
    }

    fn is_on(mut controls: Controls) -> bool {
        *Self::switch(&mut controls) & 1 != 0
    }

    /// Whether `has` is less than the host's, so that `IA32_LBR_CTL` and `IA32_LBR_DEPTH`
    /// would take too much.
    fn is_less(has: &Description) -> bool {
        let Description { leaf, .. } = Self::HOST;
        (has.leaf.eax, has.leaf.ebx) != (leaf.eax, leaf.ebx)
    }

    /// Whether there is such an MSR, whatever `IA32_LBR_DEPTH` says.
    fn has(has: &Description, msr: u32) -> bool {
        Self::OTHERS.contains(&msr) || record::<Self>(msr).is_some_and(|record| record < has.depth)
    }
}

/// All LBR MSRs of the host.
pub(crate) fn msrs<F: Hardware>() -> impl Iterator<Item = u32> {
    let records = [F::FROM, F::TO, F::INFO].map(|first| first..first + DEPTH);
    let others = F::OTHERS.iter().copied();
    others.chain(records.into_iter().flatten())
}

/// The number of the MSR's record.
pub(crate) fn record<F: Hardware>(msr: u32) -> Option<u32> {
    [F::FROM, F::TO, F::INFO]
        .into_iter()
        .map(|first| msr.wrapping_sub(first))
        .find(|record| *record < DEPTH)
}

pub(crate) fn is_canonical(address: u64) -> bool {
    matches!(address >> 47, 0 | 0x1_ffff)
}

/// Makes a canonical address of any.
fn canonical(any: u64) -> u64 {
    ((any << 16) as i64 >> 16) as u64
}
