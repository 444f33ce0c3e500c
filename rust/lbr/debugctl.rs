// SPDX-License-Identifier: GPL-2.0-only

//! The bits of `IA32_DEBUGCTL` that concern guest LBR.

/// `IA32_DEBUGCTL.LBR`: record branches.
pub const DEBUGCTL_LBR: u64 = 1 << 0;

/// `IA32_DEBUGCTL.FREEZE_LBRS_ON_PMI`: stop recording on a performance
/// monitoring interrupt.
pub const DEBUGCTL_FREEZE_LBRS_ON_PMI: u64 = 1 << 11;

/// The versions of architectural performance monitoring that freeze by clearing
/// `IA32_DEBUGCTL.LBR`. Earlier ones cannot freeze, later ones set
/// `IA32_PERF_GLOBAL_STATUS.LBR_FRZ` instead.
const LEGACY_FREEZE: core::ops::RangeInclusive<u32> = 2..=3;

/// Returns whether a PMI freezes the LBRs of a guest with this `IA32_DEBUGCTL`
/// and this `CPUID.0AH` version, by clearing `IA32_DEBUGCTL.LBR`.
pub(super) fn pmi_clears_lbr(debugctl: u64, version: u32) -> bool {
    debugctl & DEBUGCTL_FREEZE_LBRS_ON_PMI != 0 && LEGACY_FREEZE.contains(&version)
}
