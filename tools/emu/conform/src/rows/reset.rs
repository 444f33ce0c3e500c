// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Processor Management and Initialization": what registers hold after
//! power-up, INIT and RESET.  Neither the BIOS nor the boot loader touches these.

use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr;
use crate::msr;
use crate::pmu;
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

/// Whether a register has its value after INIT, after RESET.
type Kept = [bool; 2];

/// Registers, and what a life leaves in them.
fn left(facts: &Facts) -> impl Iterator<Item = (&'static str, u32, u64, Kept)> {
    let pmu = [
        ("IA32_PERFEVTSEL0", msr::IA32_PERFEVTSEL0, 0x3_00c0),
        ("IA32_PMC0", msr::IA32_PMC0, 0x1234),
        ("IA32_FIXED_CTR0", msr::IA32_FIXED_CTR0, 0x5678),
        ("IA32_FIXED_CTR_CTRL", msr::IA32_FIXED_CTR_CTRL, 0x3),
    ];
    let lbr = if facts.is_architectural() {
        [
            ("IA32_LBR_DEPTH", msr::IA32_LBR_DEPTH, 8),
            ("IA32_LBR_0_FROM_IP", msr::IA32_LBR_0_FROM_IP, 0x1111),
            ("IA32_LBR_7_TO_IP", msr::IA32_LBR_0_TO_IP + 7, 0x2222),
            ("IA32_LBR_3_INFO", msr::IA32_LBR_0_INFO + 3, 0x33),
        ]
    } else {
        [
            ("MSR_LBR_SELECT", msr::MSR_LBR_SELECT, 0x1),
            ("MSR_LASTBRANCH_TOS", msr::MSR_LASTBRANCH_TOS, 5),
            (
                "MSR_LASTBRANCH_0_FROM_IP",
                msr::MSR_LASTBRANCH_0_FROM_IP,
                0x1111,
            ),
            (
                "MSR_LASTBRANCH_7_TO_IP",
                msr::MSR_LASTBRANCH_0_TO_IP + 7,
                0x2222,
            ),
        ]
    };
    let survives = [true, facts.is_architectural()];
    let pmu = pmu.map(|(name, index, value)| (name, index, value, [true, false]));
    let lbr = lbr.map(|(name, index, value)| (name, index, value, survives));
    pmu.into_iter().chain(lbr)
}

/// Leaves a value in each register; nothing counts, and recording is on.
pub fn leave(facts: &Facts) {
    pmu::reset(facts);
    lbr::reset(facts, 0);
    wrmsr(msr::IA32_PERF_GLOBAL_CTRL, 0);
    for (_, index, value, _) in left(facts) {
        wrmsr(index, value);
    }
    // No branch passes these filters.
    let (register, on) = lbr::switch(facts, lbr::CPL_EQ_0 | lbr::CPL_NEQ_0);
    wrmsr(register, on);
}

fn after(report: &mut Report, facts: &Facts, what: &str, which: usize) {
    let switch = lbr::switch(facts, 0).0;
    let name = lbr::switch_name(facts);
    row!(report, ("{name} is 0 after {what}"), || {
        same(name, rdmsr(switch) & 1, 0)
    });
    for (name, index, value, kept) in left(facts) {
        let (verb, expected) = if kept[which] {
            ("keeps its value", value)
        } else {
            ("is 0", 0)
        };
        row!(report, ("{name} {verb} after {what}"), || {
            same(name, rdmsr(index), expected)
        });
    }
}

/// INIT leaves model-specific registers alone.
pub fn after_init(report: &mut Report, facts: &Facts) {
    after(report, facts, "INIT", 0);
}

/// RESET clears counters, but keeps architectural records ("Last Branch Records").
pub fn after_reset(report: &mut Report, facts: &Facts) {
    after(report, facts, "RESET", 1);
    let general = (1 << facts.general) - 1;
    row!(
        report,
        ("IA32_PERF_GLOBAL_CTRL enables the general counters after RESET"),
        || same("value", rdmsr(msr::IA32_PERF_GLOBAL_CTRL), general)
    );
    row!(report, ("IA32_DEBUGCTL is 0 after RESET"), || {
        same("IA32_DEBUGCTL", rdmsr(msr::IA32_DEBUGCTL), 0)
    });
}
