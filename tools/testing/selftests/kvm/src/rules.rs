// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who says what cases demand: chapters of Intel's Software Developer's Manual, KVM's
//! documentation and this project's.

/// The model-specific LBR facility, IA32_DEBUGCTL, and what #DB and PMIs do to both.
pub const DEBUG: &str = "Intel's manual, chapter Debug, Branch Profile, TSC, and Intel Resource \
                         Director Technology Features";
/// The architectural LBR facility.
pub const ARCH_LBR: &str = "Intel's manual, chapter Last Branch Records";
/// Registers of each model.
pub const MSRS: &str = "Intel's manual, volume Model-Specific Registers";
/// Counters.
pub const PERFMON: &str = "Intel's manual, chapter Performance Monitoring";
/// What a hypervisor and its guest have.
pub const VMX: &str = "Intel's manual, chapters VM Entries and VM Exits";
/// SMI and RSM.
pub const SMM: &str = "Intel's manual, chapter System Management Mode";
/// ioctls.
pub const KVM: &str = "KVM's documentation, virt/kvm/api.rst";
/// Who shares the LBR, and how.
pub const OWNERSHIP: &str = "Documentation/ownership.rst";
