// SPDX-License-Identifier: GPL-2.0-only
//! The last branch records, as software uses them: the model-specific ones, with
//! IA32_DEBUGCTL.LBR, MSR_LBR_SELECT and a top of stack, and the architectural ones,
//! with IA32_LBR_CTL.  Filters are those of MSR_LBR_SELECT here; IA32_LBR_CTL has a
//! bit of the opposite meaning for each.

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

/// IA32_LBR_CTL.LBREn
pub const LBREN: u64 = 1 << 0;
/// IA32_LBR_CTL.OS
pub const OS: u64 = 1 << 1;
/// IA32_LBR_CTL.USR
pub const USR: u64 = 1 << 2;
/// IA32_LBR_CTL.CALL_STACK
pub const CALL_STACK: u64 = 1 << 3;

/// FROM of a branch that comes from a ring of which nothing is recorded.
const HIDDEN: u64 = u64::MAX;

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

/// The bits of IA32_LBR_CTL that have kinds of branches recorded.
pub const ENABLES: [(&str, u64); 7] = [
    ("JCC", 1 << 16),
    ("NEAR_REL_CALL", 1 << 19),
    ("NEAR_IND_CALL", 1 << 20),
    ("NEAR_RET", 1 << 21),
    ("NEAR_IND_JMP", 1 << 18),
    ("NEAR_REL_JMP", 1 << 17),
    ("OTHER_BRANCH", 1 << 22),
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

/// IA32_LBR_CTL without LBREn, for the filters `select`.
pub fn control(select: u64) -> u64 {
    let level = |filter, enable| if select & filter == 0 { enable } else { 0 };
    let mut control = level(CPL_EQ_0, OS) | level(CPL_NEQ_0, USR);
    for ((_, filter), (_, enable)) in FILTERS.into_iter().zip(ENABLES) {
        control |= level(filter, enable);
    }
    if select & EN_CALLSTACK != 0 {
        control |= CALL_STACK;
    }
    control
}

/// The register that switches recording on, and its value for that.
pub fn switch(facts: &Facts, select: u64) -> (u32, u64) {
    if facts.is_architectural() {
        (msr::IA32_LBR_CTL, LBREN | control(select))
    } else {
        (msr::IA32_DEBUGCTL, LBR)
    }
}

/// How the manual calls the switch.
pub fn switch_name(facts: &Facts) -> &'static str {
    if facts.is_architectural() {
        "IA32_LBR_CTL.LBREn"
    } else {
        "IA32_DEBUGCTL.LBR"
    }
}

/// How the manual calls the register with the filters.
pub fn filters_name(facts: &Facts) -> &'static str {
    if facts.is_architectural() {
        "IA32_LBR_CTL"
    } else {
        "MSR_LBR_SELECT"
    }
}

fn ring_passes(ring: Ring, select: u64) -> bool {
    let filter = match ring {
        Ring::K => CPL_EQ_0,
        Ring::U => CPL_NEQ_0,
    };
    select & filter == 0
}

/// Whether `select` lets this branch be recorded (SDM, "Filtering of Last Branch
/// Records", "LBR Filtering").
fn passes(facts: &Facts, branch: &Branch, select: u64) -> bool {
    let zero = branch.kind == Kind::ZeroCall && facts.is_architectural();
    !zero && select & filter(branch.kind).1 == 0 && ring_passes(branch.ring, select)
}

/// What `scenario` leaves with these filters, the oldest first.
pub fn expected<'a>(
    facts: &'a Facts,
    scenario: &'a Scenario,
    select: u64,
) -> impl Iterator<Item = Branch> + Clone + 'a {
    let rings = core::iter::once(Ring::K).chain(scenario.branches().map(|branch| branch.ring));
    scenario
        .branches()
        .zip(rings)
        .filter(move |(branch, _)| passes(facts, branch, select))
        .map(move |(branch, before)| {
            let hidden = facts.is_architectural() && !ring_passes(before, select);
            let from = if hidden { HIDDEN } else { branch.from };
            Branch { from, ..branch }
        })
}

/// Empties the records and sets the filters to `select`; TOS, if there is one, is 0.
pub fn reset(facts: &Facts, select: u64) {
    wrmsr(msr::IA32_DEBUGCTL, 0);
    if facts.is_architectural() {
        wrmsr(msr::IA32_LBR_CTL, 0);
        wrmsr(msr::IA32_LBR_DEPTH, u64::from(facts.depth));
        return;
    }
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

/// Starts recording everything, with these other bits in IA32_DEBUGCTL.
pub fn start(facts: &Facts, debugctl: u64) {
    let (register, on) = switch(facts, 0);
    if register == msr::IA32_DEBUGCTL {
        wrmsr(register, debugctl | on);
    } else {
        wrmsr(msr::IA32_DEBUGCTL, debugctl);
        wrmsr(register, on);
    }
}

/// Stops recording, and clears IA32_DEBUGCTL.  Gives whether it was on, and the
/// other bits of IA32_DEBUGCTL.
pub fn stop(facts: &Facts) -> (bool, u64) {
    let debugctl = rdmsr(msr::IA32_DEBUGCTL);
    let (register, _) = switch(facts, 0);
    let on = rdmsr(register) & 1 != 0;
    wrmsr(register, 0);
    wrmsr(msr::IA32_DEBUGCTL, 0);
    let others = if facts.is_architectural() {
        debugctl
    } else {
        debugctl & !LBR
    };
    (on, others)
}

/// Runs `scenario` while branches are recorded.
pub fn run(facts: &Facts, scenario: &Scenario, select: u64) {
    let (register, on) = switch(facts, select);
    scenario.run(register, on);
}

/// Runs `scenario` with all set but the switch.
pub fn run_off(facts: &Facts, scenario: &Scenario) {
    let (register, on) = switch(facts, 0);
    scenario.run(register, on & !1);
}

/// The flags of misprediction and of TSX, in FROM with the format EIP_FLAGS2, in INFO
/// with the others.
const FLAGS: u64 = 7 << 61;
/// Of these: the branch was mispredicted.
const MISPRED: u64 = 1 << 63;

/// FROM and TO of the last event record.
pub fn last_event() -> (u64, u64) {
    (rdmsr(msr::MSR_LER_FROM_LIP), rdmsr(msr::MSR_LER_TO_LIP))
}

/// Whether the last event record is that branch.
pub fn last_event_is(expected: (u64, u64)) -> Verdict {
    let (from, to) = last_event();
    same("FROM", from, expected.0)?;
    same("TO", to, expected.1)
}

/// The entry of the `n`th record, from the newest on.
fn entry(facts: &Facts, n: u32) -> u32 {
    if facts.is_architectural() {
        return n;
    }
    let tos = rdmsr(msr::MSR_LASTBRANCH_TOS) as u32;
    tos.wrapping_sub(n) % facts.depth
}

/// FROM and TO of the `n`th record, from the newest on, without the flags that some
/// formats keep in FROM.
pub fn record(facts: &Facts, n: u32) -> (u64, u64) {
    let (from, to) = if facts.is_architectural() {
        (msr::IA32_LBR_0_FROM_IP, msr::IA32_LBR_0_TO_IP)
    } else {
        (msr::MSR_LASTBRANCH_0_FROM_IP, msr::MSR_LASTBRANCH_0_TO_IP)
    };
    let entry = entry(facts, n);
    // The flags are in the place of copies of the sign.
    let flags = if facts.has_info() {
        0
    } else {
        FLAGS.count_ones()
    };
    let from = (rdmsr(from + entry) << flags) as i64 >> flags;
    (from as u64, rdmsr(to + entry))
}

/// INFO of the `n`th record, from the newest on; without INFO the flags of FROM.
pub fn info(facts: &Facts, n: u32) -> u64 {
    let entry = entry(facts, n);
    if facts.is_architectural() {
        rdmsr(msr::IA32_LBR_0_INFO + entry)
    } else if facts.has_info() {
        rdmsr(msr::MSR_LBR_INFO_0 + entry)
    } else {
        rdmsr(msr::MSR_LASTBRANCH_0_FROM_IP + entry) & FLAGS
    }
}

/// Whether INFO, or FROM, says that the `n`th branch was mispredicted.
pub fn is_mispredicted(facts: &Facts, n: u32) -> bool {
    info(facts, n) & MISPRED != 0
}

/// Whether the records, empty at first with TOS 0, are now those of `expected` and
/// nothing else.
pub fn holds(facts: &Facts, expected: impl Iterator<Item = Branch> + Clone) -> Verdict {
    ends_with(facts, expected.clone())?;
    for n in expected.count() as u32..facts.depth {
        let (from, to) = record(facts, n);
        if (from, to) != (0, 0) {
            fail!("record {n} behind the newest: {from:#x} to {to:#x}, though never written");
        }
    }
    Ok(())
}

/// Whether the newest records, TOS having been 0 or all records empty at first, are those
/// of `expected`.
pub fn ends_with(facts: &Facts, expected: impl Iterator<Item = Branch> + Clone) -> Verdict {
    let number = expected.clone().count() as u32;
    if !facts.is_architectural() {
        let tos = rdmsr(msr::MSR_LASTBRANCH_TOS);
        if tos != u64::from(number % facts.depth) {
            let (from, to) = record(facts, 0);
            fail!("TOS {tos} after {number} branches to be recorded; newest {from:#x} to {to:#x}");
        }
    } else if number < facts.depth {
        let (from, to) = record(facts, number);
        if (from, to) != (0, 0) {
            fail!("{from:#x} to {to:#x} behind the {number} branches to be recorded");
        }
    }
    for (n, branch) in expected.enumerate() {
        let age = number - 1 - n as u32;
        if age >= facts.depth {
            continue;
        }
        let (from, to) = record(facts, age);
        if (from, to) != (branch.from, branch.to) {
            fail!(
                "record {age} behind the newest: {from:#x} to {to:#x}, must be {:#x} to {:#x}",
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
    run(facts, scenario, select);
    let (register, _) = switch(facts, select);
    same("the switch afterwards", rdmsr(register), 0)?;
    holds(facts, expected(facts, scenario, select))
}
