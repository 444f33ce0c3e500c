// SPDX-License-Identifier: GPL-2.0-only
//! Numbers of model-specific registers (SDM vol. 4).

pub const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
pub const IA32_PLATFORM_ID: u32 = 0x17;
pub const IA32_TSC_ADJUST: u32 = 0x3b;
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
pub const MSR_MISC_PWR_MGMT: u32 = 0x1aa;
pub const MSR_LBR_SELECT: u32 = 0x1c8;
pub const MSR_LASTBRANCH_TOS: u32 = 0x1c9;
pub const IA32_DEBUGCTL: u32 = 0x1d9;
pub const MSR_LER_FROM_LIP: u32 = 0x1dd;
pub const MSR_LER_TO_LIP: u32 = 0x1de;
pub const MSR_POWER_CTL: u32 = 0x1fc;
pub const IA32_FIXED_CTR0: u32 = 0x309;
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
pub const IA32_FIXED_CTR_CTRL: u32 = 0x38d;
pub const IA32_PERF_GLOBAL_STATUS: u32 = 0x38e;
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
/// Before version 4: IA32_PERF_GLOBAL_OVF_CTRL.
pub const IA32_PERF_GLOBAL_STATUS_RESET: u32 = 0x390;
pub const IA32_PERF_GLOBAL_STATUS_SET: u32 = 0x391;
pub const IA32_PERF_GLOBAL_INUSE: u32 = 0x392;
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
pub const IA32_A_PMC0: u32 = 0x4c1;
pub const IA32_XSS: u32 = 0xda0;
pub const IA32_LER_INFO: u32 = 0x1e0;
pub const IA32_LBR_0_INFO: u32 = 0x1200;
pub const IA32_LBR_CTL: u32 = 0x14ce;
pub const IA32_LBR_DEPTH: u32 = 0x14cf;
pub const IA32_LBR_0_FROM_IP: u32 = 0x1500;
pub const IA32_LBR_0_TO_IP: u32 = 0x1600;
pub const MSR_LASTBRANCH_0_FROM_IP: u32 = 0x680;
pub const MSR_LASTBRANCH_0_TO_IP: u32 = 0x6c0;
pub const MSR_LBR_INFO_0: u32 = 0xdc0;
pub const IA32_STAR: u32 = 0xc000_0081;
