// SPDX-License-Identifier: GPL-2.0-only
//! Numbers of the model-specific registers, and what an access can end in
//! (SDM vol. 4, "Model-Specific Registers").

#![allow(missing_docs)]

pub const IA32_PLATFORM_ID: u32 = 0x17;
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
pub const IA32_PMC0: u32 = 0xc1;
pub const MSR_PLATFORM_INFO: u32 = 0xce;
pub const MSR_PKG_CST_CONFIG_CONTROL: u32 = 0xe2;
pub const IA32_MPERF: u32 = 0xe7;
pub const IA32_APERF: u32 = 0xe8;
pub const IA32_MCG_CAP: u32 = 0x179;
pub const IA32_MCG_STATUS: u32 = 0x17a;
pub const IA32_PERFEVTSEL0: u32 = 0x186;
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
pub const MSR_OFFCORE_RSP_0: u32 = 0x1a6;
pub const MSR_OFFCORE_RSP_1: u32 = 0x1a7;
pub const MSR_MISC_PWR_MGMT: u32 = 0x1aa;
pub const MSR_LBR_SELECT: u32 = 0x1c8;
pub const MSR_LASTBRANCH_TOS: u32 = 0x1c9;
pub const IA32_DEBUGCTL: u32 = 0x1d9;
pub const MSR_LER_FROM_LIP: u32 = 0x1dd;
pub const MSR_LER_TO_LIP: u32 = 0x1de;
pub const IA32_LER_INFO: u32 = 0x1e0;
pub const MSR_POWER_CTL: u32 = 0x1fc;
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

/// Whether `address` is canonical with linear addresses of `bits`, 48 or 57.  A register
/// takes as many in all paging modes.
pub fn is_canonical(address: u64, bits: u8) -> bool {
    let beyond = 64_u32.saturating_sub(bits.into());
    ((address << beyond) as i64 >> beyond) as u64 == address
}

/// `address` if it is canonical.
///
/// # Errors
///
/// [`Fault`] if it is not.
pub fn canonical(address: u64, bits: u8) -> Result<u64> {
    if is_canonical(address, bits) {
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
        for (address, four, five) in [
            (0, true, true),
            (0x7fff_ffff_ffff, true, true),
            (0x8000_0000_0000, false, true),
            (0xff_ffff_ffff_ffff, false, true),
            (0x100_0000_0000_0000, false, false),
            (0xfeff_ffff_ffff_ffff, false, false),
            (0xff00_0000_0000_0000, false, true),
            (0xffff_7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, true),
            (u64::MAX, true, true),
            (1 << 63, false, false),
        ] {
            for (bits, canonical) in [(48, four), (57, five)] {
                assert_eq!(
                    is_canonical(address, bits),
                    canonical,
                    "{address:#x} {bits}"
                );
            }
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
