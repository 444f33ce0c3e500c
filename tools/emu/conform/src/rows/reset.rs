// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Processor Management and Initialization": what registers hold after
//! power-up, INIT and RESET.  Neither the BIOS nor the boot loader touches these.

use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, FREEZE_PERFMON_ON_PMI, LBR};
use crate::msr;
use crate::pmu;
use crate::report::{row, same, Report};
use crate::xsave;

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

/// Registers, what a life leaves in them, and what they are after RESET; INIT leaves
/// model-specific registers alone.
fn left(facts: &Facts) -> impl Iterator<Item = (&'static str, u32, u64, u64)> {
    let general = (1 << facts.general) - 1;
    let common = [
        ("IA32_TSC_ADJUST", msr::IA32_TSC_ADJUST, 0x1000, 0),
        ("IA32_PERFEVTSEL0", msr::IA32_PERFEVTSEL0, 0x3_00c0, 0),
        ("IA32_PMC0", msr::IA32_PMC0, 0x1234, 0),
        ("IA32_FIXED_CTR0", msr::IA32_FIXED_CTR0, 0x5678, 0),
        ("IA32_FIXED_CTR_CTRL", msr::IA32_FIXED_CTR_CTRL, 0x3, 0),
        (
            "IA32_PERF_GLOBAL_CTRL",
            msr::IA32_PERF_GLOBAL_CTRL,
            2,
            general,
        ),
    ];
    // "Last Branch Records": a warm reset preserves them all.
    let lbr = if facts.is_architectural() {
        [
            ("IA32_LBR_DEPTH", msr::IA32_LBR_DEPTH, 8),
            ("IA32_LBR_0_FROM_IP", msr::IA32_LBR_0_FROM_IP, 0x1111),
            ("IA32_LBR_7_TO_IP", msr::IA32_LBR_0_TO_IP + 7, 0x2222),
            ("IA32_LBR_3_INFO", msr::IA32_LBR_0_INFO + 3, 0x33),
            ("IA32_LER_FROM_IP", msr::MSR_LER_FROM_LIP, 0x4444),
        ]
    } else {
        let last = facts.depth - 1;
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
            (
                "the last MSR_LASTBRANCH_x_TO_IP",
                msr::MSR_LASTBRANCH_0_TO_IP + last,
                0x3333,
            ),
        ]
    };
    let survives = facts.is_architectural();
    let lbr =
        lbr.map(|(name, index, value)| (name, index, value, if survives { value } else { 0 }));
    let xss = ("IA32_XSS", msr::IA32_XSS, xsave::LBR, 0);
    let xss = survives.then_some(xss);
    common.into_iter().chain(lbr).chain(xss)
}

/// Leaves a value in each register; nothing counts, and recording is on, but of no branch.
pub fn leave(facts: &Facts) {
    pmu::reset(facts);
    lbr::reset(facts, 0);
    for (_, index, value, _) in left(facts) {
        wrmsr(index, value);
    }
    wrmsr(msr::IA32_DEBUGCTL, debugctl(facts));
    // The filters of the others are in MSR_LBR_SELECT.
    let (register, on) = switch(facts);
    wrmsr(register, on);
}

/// The register that switches recording on, which is of no branch.
fn switch(facts: &Facts) -> (u32, u64) {
    let (register, on) = lbr::switch(facts, lbr::CPL_EQ_0 | lbr::CPL_NEQ_0);
    if facts.is_architectural() {
        (register, on)
    } else {
        (register, debugctl(facts))
    }
}

/// What is in IA32_DEBUGCTL at the end of a life.
fn debugctl(facts: &Facts) -> u64 {
    let switch = if facts.is_architectural() { 0 } else { LBR };
    switch | FREEZE_PERFMON_ON_PMI
}

/// What is there after INIT.
pub fn after_init(report: &mut Report, facts: &Facts) {
    let (register, on) = switch(facts);
    for (name, index, value) in [
        (lbr::switch_name(facts), register, on),
        ("IA32_DEBUGCTL", msr::IA32_DEBUGCTL, debugctl(facts)),
    ] {
        row!(report, ("{name} keeps its value after INIT"), || {
            same(name, rdmsr(index), value)
        });
    }
    for (name, index, value, _) in left(facts) {
        row!(report, ("{name} keeps its value after INIT"), || {
            same(name, rdmsr(index), value)
        });
    }
}

/// What is there after RESET.
pub fn after_reset(report: &mut Report, facts: &Facts) {
    let (register, on) = switch(facts);
    let name = lbr::switch_name(facts);
    // IA32_LBR_CTL keeps its other bits.
    let expected = if facts.is_architectural() { on & !1 } else { 0 };
    row!(report, ("{name} is 0 after RESET"), || {
        same("the register", rdmsr(register), expected)
    });
    for (name, index, _, value) in left(facts) {
        row!(report, ("{name} is {value:#x} after RESET"), || {
            same(name, rdmsr(index), value)
        });
    }
    row!(report, ("IA32_DEBUGCTL is 0 after RESET"), || {
        same("IA32_DEBUGCTL", rdmsr(msr::IA32_DEBUGCTL), 0)
    });
}
