// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The leaves of CPUID that say which LBR and which PMU a vCPU has.

use kvm_bindings::{kvm_cpuid_entry2, CpuId};

/// CPUID.7.0:EDX: architectural LBR.
const ARCH_LBR: u32 = 1 << 19;
/// The leaf of the PMU.
pub const PMU: u32 = 0xa;
/// The leaf of architectural LBR.
pub const ARCH_LBR_LEAF: u32 = 0x1c;

/// Returns a leaf.
pub fn leaf(cpuid: &CpuId, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    let is_it = |entry: &&kvm_cpuid_entry2| entry.function == function && entry.index == index;
    cpuid.as_slice().iter().find(is_it)
}

/// Changes a leaf, if it is there.
pub fn change(
    cpuid: &mut CpuId,
    function: u32,
    index: u32,
    change: impl FnOnce(&mut kvm_cpuid_entry2),
) {
    let is_it = |entry: &&mut kvm_cpuid_entry2| entry.function == function && entry.index == index;
    cpuid.as_mut_slice().iter_mut().find(is_it).map(change);
}

/// Returns the version of the PMU.
pub fn pmu_version(cpuid: &CpuId) -> u32 {
    leaf(cpuid, PMU, 0).map_or(0, |leaf| leaf.eax & 0xff)
}

/// Says that the PMU has this version.
pub fn set_pmu_version(cpuid: &mut CpuId, version: u32) {
    change(cpuid, PMU, 0, |leaf| leaf.eax = leaf.eax & !0xff | version);
}

/// Returns whether there is architectural LBR.
pub fn has_arch_lbr(cpuid: &CpuId) -> bool {
    leaf(cpuid, 7, 0).is_some_and(|leaf| leaf.edx & ARCH_LBR != 0)
}

/// Says that there is architectural LBR, or none.
pub fn set_arch_lbr(cpuid: &mut CpuId, there: bool) {
    change(cpuid, 7, 0, |leaf| {
        leaf.edx = leaf.edx & !ARCH_LBR | if there { ARCH_LBR } else { 0 };
    });
}

/// Returns the depths of architectural LBR, in ascending order.
pub fn lbr_depths(cpuid: &CpuId) -> Vec<u32> {
    let depths = leaf(cpuid, ARCH_LBR_LEAF, 0).map_or(0, |leaf| leaf.eax);
    let has = |number: &u32| depths & 1 << number != 0;
    (0..8).filter(has).map(|number| 8 * (number + 1)).collect()
}
