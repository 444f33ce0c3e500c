// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Processor Management and Initialization": what registers hold after
//! power-up.  Neither the BIOS nor the boot loader touches these.

use crate::cpu::rdmsr;
use crate::facts::Facts;
use crate::msr;
use crate::report::{row, same, Report};

pub fn rows(report: &mut Report, facts: &Facts) {
    for (name, index, expected) in [
        ("IA32_DEBUGCTL", msr::IA32_DEBUGCTL, 0),
        ("MSR_LBR_SELECT", msr::MSR_LBR_SELECT, 0),
        ("MSR_LASTBRANCH_TOS", msr::MSR_LASTBRANCH_TOS, 0),
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
    ] {
        row!(report, ("{name} is {expected:#x} after power-up"), || {
            same(name, rdmsr(index), expected)
        });
    }
}
