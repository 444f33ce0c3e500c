// SPDX-License-Identifier: GPL-2.0-only

//! `IA32_DEBUGCTL`, as far as it concerns guest LBR.

use core::ops::{BitOr, RangeInclusive};

/// The versions of architectural performance monitoring that freeze by clearing
/// `IA32_DEBUGCTL.LBR` or `IA32_LBR_CTL.LBREn`. Earlier ones cannot freeze, later ones set
/// `IA32_PERF_GLOBAL_STATUS.LBR_FRZ` instead, which is KVM's.
const LEGACY_FREEZE: RangeInclusive<u32> = 2..=3;

/// `IA32_DEBUGCTL` as the guest sees it: what was written, whatever of it the hardware
/// may have.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Debugctl(u64);

impl Debugctl {
    /// Record branches.
    pub const LBR: Self = Self(1 << 0);
    /// Stop recording on a performance monitoring interrupt.
    pub const FREEZE_LBRS_ON_PMI: Self = Self(1 << 11);

    /// Creates the register from its value.
    pub const fn from_raw(value: u64) -> Self {
        Self(value)
    }

    /// Returns the register's value.
    pub const fn into_raw(self) -> u64 {
        self.0
    }

    const fn has(self, bit: Self) -> bool {
        self.0 & bit.0 != 0
    }

    /// Returns whether the guest wants branches recorded.
    pub const fn lbr(self) -> bool {
        self.has(Self::LBR)
    }

    /// Returns whether a PMI stops the recording of branches, for a guest of this
    /// `CPUID.0AH` version.
    pub(super) fn freezes(self, version: u32) -> bool {
        self.has(Self::FREEZE_LBRS_ON_PMI) && LEGACY_FREEZE.contains(&version)
    }

    /// Returns the register without its LBR bit.
    pub(super) const fn without_lbr(self) -> Self {
        Self(self.0 & !Self::LBR.0)
    }
}

impl BitOr for Debugctl {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
