// SPDX-License-Identifier: GPL-2.0-only
//! The model-specific last branch records, as software uses them.

use crate::branches::{Branch, Kind, Ring, Scenario};
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::msr;
use crate::report::{fail, same, Verdict};

/// IA32_DEBUGCTL.LBR
pub const LBR: u64 = 1 << 0;
/// IA32_DEBUGCTL.BTF
pub const BTF: u64 = 1 << 1;
/// IA32_DEBUGCTL.FREEZE_LBRS_ON_PMI
pub const FREEZE_LBRS_ON_PMI: u64 = 1 << 11;
/// IA32_DEBUGCTL.FREEZE_PERFMON_ON_PMI
pub const FREEZE_PERFMON_ON_PMI: u64 = 1 << 12;

/// MSR_LBR_SELECT.CPL_EQ_0
pub const CPL_EQ_0: u64 = 1 << 0;
/// MSR_LBR_SELECT.CPL_NEQ_0
pub const CPL_NEQ_0: u64 = 1 << 1;
/// MSR_LBR_SELECT.EN_CALLSTACK
pub const EN_CALLSTACK: u64 = 1 << 9;
/// All filters on kinds of branches.
pub const KINDS: u64 = 0x1fc;

/// The filters of MSR_LBR_SELECT on kinds of branches.
pub const FILTERS: [(&str, u64); 7] = [
    ("JCC", 1 << 2),
    ("NEAR_REL_CALL", 1 << 3),
    ("NEAR_IND_CALL", 1 << 4),
    ("NEAR_RET", 1 << 5),
    ("NEAR_IND_JMP", 1 << 6),
    ("NEAR_REL_JMP", 1 << 7),
    ("FAR_BRANCH", 1 << 8),
];

/// The filter that drops branches of this kind.
pub fn filter(kind: Kind) -> (&'static str, u64) {
    FILTERS[match kind {
        Kind::Jcc => 0,
        Kind::RelCall | Kind::ZeroCall => 1,
        Kind::IndCall => 2,
        Kind::Ret => 3,
        Kind::IndJmp => 4,
        Kind::RelJmp => 5,
        Kind::Far | Kind::Event => 6,
    }]
}

/// Whether `select` lets this branch be recorded (SDM, "Filtering of Last Branch
/// Records").
pub fn passes(branch: &Branch, select: u64) -> bool {
    let ring = match branch.ring {
        Ring::K => CPL_EQ_0,
        Ring::U => CPL_NEQ_0,
    };
    select & (filter(branch.kind).1 | ring) == 0
}

/// Empties the records and sets TOS to 0 and the filters to `select`.
pub fn reset(facts: &Facts, select: u64) {
    wrmsr(msr::IA32_DEBUGCTL, 0);
    for n in 0..facts.depth {
        wrmsr(msr::MSR_LASTBRANCH_0_FROM_IP + n, 0);
        wrmsr(msr::MSR_LASTBRANCH_0_TO_IP + n, 0);
        if facts.has_info() {
            wrmsr(msr::MSR_LBR_INFO_0 + n, 0);
        }
    }
    wrmsr(msr::MSR_LASTBRANCH_TOS, 0);
    wrmsr(msr::MSR_LBR_SELECT, select);
}

/// FROM and TO of the record in slot `n`, without the flags that some formats
/// keep in FROM.
pub fn record(facts: &Facts, n: u32) -> (u64, u64) {
    let from = rdmsr(msr::MSR_LASTBRANCH_0_FROM_IP + n);
    let to = rdmsr(msr::MSR_LASTBRANCH_0_TO_IP + n);
    // EIP_FLAGS2: misprediction and TSX; addresses here are low.
    let flags = if facts.format == 4 { 7 << 61 } else { 0 };
    (from & !flags, to)
}

/// Whether the records, empty at first with TOS 0, are now those of `expected` and
/// nothing else.
pub fn holds(facts: &Facts, expected: impl Iterator<Item = Branch> + Clone) -> Verdict {
    ends_with(facts, expected.clone())?;
    for n in expected.count() as u32..facts.depth {
        let slot = (n + 1) % facts.depth;
        let (from, to) = record(facts, slot);
        if (from, to) != (0, 0) {
            fail!("record {slot}: {from:#x} to {to:#x}, though never written");
        }
    }
    Ok(())
}

/// Whether the newest records, TOS having been 0 at first, are those of `expected`.
pub fn ends_with(facts: &Facts, expected: impl Iterator<Item = Branch> + Clone) -> Verdict {
    let number = expected.clone().count() as u32;
    let tos = rdmsr(msr::MSR_LASTBRANCH_TOS);
    if tos != u64::from(number % facts.depth) {
        let (from, to) = record(facts, tos as u32 % facts.depth);
        fail!("TOS {tos} after {number} branches to be recorded; newest {from:#x} to {to:#x}");
    }
    for (n, branch) in expected.enumerate() {
        let n = n as u32;
        if n + facts.depth < number {
            continue;
        }
        let (from, to) = record(facts, (n + 1) % facts.depth);
        if (from, to) != (branch.from, branch.to) {
            fail!(
                "record {}: {from:#x} to {to:#x}, must be {:#x} to {:#x}",
                n + 1,
                branch.from,
                branch.to
            );
        }
    }
    Ok(())
}

/// Records `scenario` with these filters and looks whether it is complete.
pub fn records(facts: &Facts, scenario: &Scenario, select: u64) -> Verdict {
    reset(facts, select);
    scenario.run(msr::IA32_DEBUGCTL, LBR);
    same("IA32_DEBUGCTL", rdmsr(msr::IA32_DEBUGCTL), 0)?;
    holds(
        facts,
        scenario.branches().filter(|branch| passes(branch, select)),
    )
}
