// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Processor Management and Initialization": what registers hold after
//! power-up.  Neither the BIOS nor the boot loader touches these.

use crate::cpu::rdmsr;
use crate::facts::Facts;
use crate::msr;
use crate::report::{row, same, Report};

pub fn rows(report: &mut Report, facts: &Facts) {
    let depth = u64::from(facts.depth);
    let own = if facts.is_architectural() {
        [
            ("IA32_LBR_CTL", msr::IA32_LBR_CTL, 0),
            // The largest one.
            ("IA32_LBR_DEPTH", msr::IA32_LBR_DEPTH, depth),
            ("IA32_LBR_0_FROM_IP", msr::IA32_LBR_0_FROM_IP, 0),
            ("IA32_XSS", msr::IA32_XSS, 0),
        ]
    } else {
        [
            ("MSR_LBR_SELECT", msr::MSR_LBR_SELECT, 0),
            ("MSR_LASTBRANCH_TOS", msr::MSR_LASTBRANCH_TOS, 0),
            ("MSR_LASTBRANCH_0_FROM_IP", msr::MSR_LASTBRANCH_0_FROM_IP, 0),
            ("MSR_LASTBRANCH_0_TO_IP", msr::MSR_LASTBRANCH_0_TO_IP, 0),
        ]
    };
    let common = [
        ("IA32_DEBUGCTL", msr::IA32_DEBUGCTL, 0),
        ("IA32_PERFEVTSEL0", msr::IA32_PERFEVTSEL0, 0),
        ("IA32_PMC0", msr::IA32_PMC0, 0),
        ("IA32_FIXED_CTR0", msr::IA32_FIXED_CTR0, 0),
        ("IA32_FIXED_CTR_CTRL", msr::IA32_FIXED_CTR_CTRL, 0),
        ("IA32_PERF_GLOBAL_STATUS", msr::IA32_PERF_GLOBAL_STATUS, 0),
        (
            "IA32_PERF_GLOBAL_CTRL (a bit for each general counter)",
            msr::IA32_PERF_GLOBAL_CTRL,
            (1 << facts.general) - 1,
        ),
    ];
    for (name, index, expected) in common.into_iter().chain(own) {
        row!(report, ("{name} is {expected:#x} after power-up"), || {
            same(name, rdmsr(index), expected)
        });
    }
}
