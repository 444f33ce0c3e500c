// SPDX-License-Identifier: GPL-2.0-only
//! Numbers of the model-specific registers, and what an access can end in
//! (SDM vol. 4, "Model-Specific Registers").

#![allow(missing_docs)]

pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
pub const IA32_PMC0: u32 = 0xc1;
pub const IA32_MPERF: u32 = 0xe7;
pub const IA32_APERF: u32 = 0xe8;
pub const IA32_PERFEVTSEL0: u32 = 0x186;
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
pub const MSR_OFFCORE_RSP_0: u32 = 0x1a6;
pub const MSR_OFFCORE_RSP_1: u32 = 0x1a7;
pub const MSR_LBR_SELECT: u32 = 0x1c8;
pub const MSR_LASTBRANCH_TOS: u32 = 0x1c9;
pub const IA32_DEBUGCTL: u32 = 0x1d9;
pub const MSR_LER_FROM_LIP: u32 = 0x1dd;
pub const MSR_LER_TO_LIP: u32 = 0x1de;
pub const IA32_LER_INFO: u32 = 0x1e0;
pub const IA32_FIXED_CTR0: u32 = 0x309;
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
pub const IA32_FIXED_CTR_CTRL: u32 = 0x38d;
pub const IA32_PERF_GLOBAL_STATUS: u32 = 0x38e;
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
pub const IA32_PERF_GLOBAL_STATUS_RESET: u32 = 0x390;
pub const IA32_PERF_GLOBAL_STATUS_SET: u32 = 0x391;
pub const IA32_PERF_GLOBAL_INUSE: u32 = 0x392;
pub const MSR_PEBS_LD_LAT: u32 = 0x3f6;
pub const MSR_PEBS_FRONTEND: u32 = 0x3f7;
pub const IA32_A_PMC0: u32 = 0x4c1;
pub const MSR_LASTBRANCH_0_FROM_IP: u32 = 0x680;
pub const MSR_LASTBRANCH_0_TO_IP: u32 = 0x6c0;
pub const MSR_LBR_INFO_0: u32 = 0xdc0;
pub const IA32_LBR_0_INFO: u32 = 0x1200;
pub const IA32_LBR_CTL: u32 = 0x14ce;
pub const IA32_LBR_DEPTH: u32 = 0x14cf;
pub const IA32_LBR_0_FROM_IP: u32 = 0x1500;
pub const IA32_LBR_0_TO_IP: u32 = 0x1600;

/// The access faults: #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Result of an access to a register that belongs to the model.
pub type Result<T> = core::result::Result<T, Fault>;

/// Registers of other CPUs' performance monitoring, tracing and LBR facilities.  Where
/// a machine has no such register the access faults, whatever the emulator does
/// with registers that nobody knows.
pub fn is_foreign(index: u32) -> bool {
    matches!(index,
        0x40..=0x47 | 0x60..=0x67              // LBR of Core
        | 0xc1..=0xc8 | 0x186..=0x18d          // general counters beyond the last
        | 0x1c8..=0x1c9 | 0x1db..=0x1de | 0x1e0 // LBR_SELECT and TOS, last branch, LER
        | 0x309..=0x318 | 0x329                // fixed counters beyond the last, PERF_METRICS
        | 0x391..=0x392                        // GLOBAL_STATUS_SET, GLOBAL_INUSE
        | 0x3f1..=0x3f2 | 0x3f7 | 0x600        // PEBS, DS_AREA
        | 0x560..=0x561 | 0x570..=0x572 | 0x580..=0x587 // Processor Trace
        | 0x4c1..=0x4c8
        | 0x680..=0x69f | 0x6a9..=0x6df | 0x6e2..=0x6ff | 0xdc0..=0xdff // model-specific LBR
        | 0x14ce..=0x14cf | 0x1200..=0x123f | 0x1500..=0x153f | 0x1600..=0x163f)
}

/// Whether `address` is canonical with 48-bit linear addresses.
pub fn is_canonical(address: u64) -> bool {
    let high = address >> 47;
    high == 0 || high == (1 << 17) - 1
}

/// `address` if it is canonical.
///
/// # Errors
///
/// [`Fault`] if it is not.
pub fn canonical(address: u64) -> Result<u64> {
    if is_canonical(address) {
        Ok(address)
    } else {
        Err(Fault)
    }
}

/// `value` if it has no bit outside of `valid`.
///
/// # Errors
///
/// [`Fault`] if it has one.
pub fn checked(value: u64, valid: u64) -> Result<u64> {
    if value & !valid == 0 {
        Ok(value)
    } else {
        Err(Fault)
    }
}

/// Number of the register at `index` in a range of `count` from `first`.
pub fn offset(index: u32, first: u32, count: usize) -> Option<usize> {
    let at = usize::try_from(index.checked_sub(first)?).ok()?;
    (at < count).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses() {
        for (address, canonical) in [
            (0, true),
            (0x7fff_ffff_ffff, true),
            (0x8000_0000_0000, false),
            (0xffff_7fff_ffff_ffff, false),
            (0xffff_8000_0000_0000, true),
            (u64::MAX, true),
            (1 << 63, false),
        ] {
            assert_eq!(is_canonical(address), canonical, "{address:#x}");
        }
    }

    #[test]
    fn offsets_end_at_the_last_register() {
        assert_eq!(offset(0x680, 0x680, 32), Some(0));
        assert_eq!(offset(0x69f, 0x680, 32), Some(31));
        assert_eq!(offset(0x6a0, 0x680, 32), None);
        assert_eq!(offset(0x67f, 0x680, 32), None);
    }
}
