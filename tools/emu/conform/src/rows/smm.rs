// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring": "Filtering of SMM Handler Overhead", and "Last
//! Branch Records": system management mode.

use crate::apic;
use crate::branches;
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, BTF, FREEZE_PERFMON_ON_PMI, LBR, LBREN};
use crate::msr::{self, IA32_DEBUGCTL, IA32_LBR_CTL, IA32_PERF_GLOBAL_CTRL};
use crate::pmu::{self, Counter, EN, INSTRUCTIONS, OS};
use crate::report::{fail, row, same, Failure, Report, Verdict};
use crate::smm;

/// IA32_DEBUGCTL.FREEZE_WHILE_SMM
const FREEZE: u64 = 1 << 14;

pub fn rows(report: &mut Report, facts: &Facts) {
    smm::init();
    // What there is of the switches of recording and stepping.
    let switches = if facts.is_architectural() { 0 } else { LBR };
    let debugctl = |value| {
        pmu::reset(facts);
        lbr::reset(facts, 0);
        wrmsr(IA32_DEBUGCTL, value);
    };
    registers(report, debugctl, switches);
    stepping(report, facts, debugctl, switches);
    counting(report, facts, debugctl);
    recording(report, facts, debugctl);
    wrmsr(IA32_DEBUGCTL, 0);
}

fn registers(report: &mut Report, debugctl: impl Fn(u64), switches: u64) {
    row!(
        report,
        ("FREEZE_WHILE_SMM: an SMI clears LBR and BTF of IA32_DEBUGCTL alone"),
        || {
            debugctl(FREEZE | FREEZE_PERFMON_ON_PMI | switches);
            let [found] = smm::interrupt([IA32_DEBUGCTL], None);
            same(
                "IA32_DEBUGCTL in SMM",
                found,
                FREEZE | FREEZE_PERFMON_ON_PMI,
            )?;
            debugctl(FREEZE | BTF);
            let [found] = smm::interrupt([IA32_DEBUGCTL], None);
            same("IA32_DEBUGCTL in SMM", found, FREEZE)
        }
    );
    row!(
        report,
        ("FREEZE_WHILE_SMM: RSM restores IA32_DEBUGCTL as it was at the SMI"),
        || {
            for write in [None, Some((IA32_DEBUGCTL, FREEZE_PERFMON_ON_PMI))] {
                debugctl(FREEZE | BTF | switches);
                smm::interrupt([], write);
                same(
                    "IA32_DEBUGCTL",
                    rdmsr(IA32_DEBUGCTL),
                    FREEZE | BTF | switches,
                )?;
            }
            Ok(())
        }
    );
    row!(
        report,
        ("FREEZE_WHILE_SMM: an SMI clears IA32_PERF_GLOBAL_CTRL, and RSM sets what it cleared"),
        || {
            debugctl(FREEZE);
            wrmsr(IA32_PERF_GLOBAL_CTRL, 1 | 1 << 32);
            let write = Some((IA32_PERF_GLOBAL_CTRL, 2));
            let [found] = smm::interrupt([IA32_PERF_GLOBAL_CTRL], write);
            same("in SMM", found, 0)?;
            same("behind RSM", rdmsr(IA32_PERF_GLOBAL_CTRL), 1 | 1 << 32)
        }
    );
    row!(
        report,
        ("without FREEZE_WHILE_SMM an SMI changes neither register"),
        || {
            debugctl(BTF | switches);
            wrmsr(IA32_PERF_GLOBAL_CTRL, 1);
            let found = smm::interrupt([IA32_DEBUGCTL, IA32_PERF_GLOBAL_CTRL], None);
            same("IA32_DEBUGCTL in SMM", found[0], BTF | switches)?;
            same("IA32_PERF_GLOBAL_CTRL in SMM", found[1], 1)?;
            same(
                "IA32_DEBUGCTL behind RSM",
                rdmsr(IA32_DEBUGCTL),
                BTF | switches,
            )?;
            same(
                "IA32_PERF_GLOBAL_CTRL behind RSM",
                rdmsr(IA32_PERF_GLOBAL_CTRL),
                1,
            )
        }
    );
    row!(
        report,
        ("without FREEZE_WHILE_SMM what the handler writes stays"),
        || {
            debugctl(BTF);
            smm::interrupt([], Some((IA32_DEBUGCTL, FREEZE_PERFMON_ON_PMI)));
            same("IA32_DEBUGCTL", rdmsr(IA32_DEBUGCTL), FREEZE_PERFMON_ON_PMI)
        }
    );
}

/// The entry that RSM made, and its TO.
fn resumed(facts: &Facts) -> Result<(u32, u64), Failure> {
    for n in 0..facts.depth {
        let (from, to) = lbr::record(facts, n);
        if from == smm::rsm() {
            return Ok((n, to));
        }
    }
    fail!("no record has the address of RSM")
}

fn stepping(report: &mut Report, facts: &Facts, debugctl: impl Fn(u64), switches: u64) {
    row!(
        report,
        ("an SMI comes before a single step, which is taken behind RSM"),
        || {
            // A debug exception would have recording stopped.
            debugctl(FREEZE_PERFMON_ON_PMI);
            lbr::start(facts, FREEZE_PERFMON_ON_PMI);
            let (found, (traps, at)) = smm::interrupt_at_step(IA32_DEBUGCTL);
            lbr::stop(facts);
            same(
                "IA32_DEBUGCTL in SMM",
                found,
                FREEZE_PERFMON_ON_PMI | switches,
            )?;
            if facts.is_architectural() {
                same("TO of RSM", resumed(facts)?.1, smm::interrupted())?;
            }
            same("single steps", traps, 1)?;
            same("RIP", at, smm::interrupted())
        }
    );
}

fn counting(report: &mut Report, facts: &Facts, debugctl: impl Fn(u64)) {
    let this = apic::this();
    let counted = |freeze, destination| {
        debugctl(freeze);
        wrmsr(msr::IA32_PERFEVTSEL0, INSTRUCTIONS | OS | EN);
        wrmsr(IA32_PERF_GLOBAL_CTRL, 1);
        // The handler has more than twenty instructions.
        smm::interrupt_at(destination, [IA32_DEBUGCTL; 2]);
        wrmsr(IA32_PERF_GLOBAL_CTRL, 0);
        let counted = Counter::General(0).read();
        pmu::reset(facts);
        counted
    };
    row!(
        report,
        ("FREEZE_WHILE_SMM: the handler is not counted, what follows RSM is"),
        || {
            let (with, without) = (counted(FREEZE, this), counted(0, this));
            if with == 0 || with + 20 > without {
                fail!("{with} instructions counted, and {without} without the bit");
            }
            Ok(())
        }
    );
    row!(
        report,
        ("FREEZE_WHILE_SMM: nothing is counted of an SMI, RSM neither"),
        || same(
            "counted",
            counted(FREEZE, this),
            counted(FREEZE, apic::NOBODY)
        )
    );
}

fn recording(report: &mut Report, facts: &Facts, debugctl: impl Fn(u64)) {
    // Whether the jump of a handler is recorded, and one behind its RSM.
    let records = |freeze| {
        debugctl(freeze);
        lbr::start(facts, freeze);
        smm::interrupt([], None);
        lbr::run(facts, &branches::jmp_short, 0);
        let all = (0..facts.depth).map(|n| lbr::record(facts, n).0);
        let seen = |from| all.clone().any(|found| found == from);
        // Model-specific records have offsets in the code segment.
        let base = if facts.is_architectural() {
            0
        } else {
            smm::SMBASE as u64
        };
        let jump = smm::jump() - base;
        (seen(jump), seen(branches::jmp_short.first().0))
    };
    let are = |found: (bool, bool), expected: (bool, bool)| -> Verdict {
        if found != expected {
            fail!("recorded in SMM, behind it: {found:?}, must be {expected:?}");
        }
        Ok(())
    };
    row!(
        report,
        ("FREEZE_WHILE_SMM: the handler's branches are not recorded, those behind RSM are"),
        || are(records(FREEZE), (false, true))
    );
    if !facts.is_architectural() {
        row!(
            report,
            ("without FREEZE_WHILE_SMM the handler's branches are recorded"),
            || are(records(0), (true, true))
        );
        return;
    }
    row!(
        report,
        ("an SMI stops architectural recording, RSM starts it again"),
        || are(records(0), (false, true))
    );
    row!(
        report,
        ("RSM is recorded as another branch, to where the SMI came"),
        || {
            debugctl(0);
            lbr::start(facts, 0);
            smm::interrupt([], None);
            wrmsr(IA32_LBR_CTL, 0);
            let (n, to) = resumed(facts)?;
            same("TO", to, smm::interrupted())?;
            same("BR_TYPE", lbr::info(facts, n) >> 56 & 0xf, 8)
        }
    );
    row!(
        report,
        ("an SMI clears IA32_LBR_CTL.LBREn alone, RSM restores it"),
        || {
            for on in [LBREN, 0] {
                debugctl(0);
                wrmsr(IA32_LBR_CTL, lbr::control(0) | on);
                let [found] = smm::interrupt([IA32_LBR_CTL], None);
                let after = rdmsr(IA32_LBR_CTL);
                wrmsr(IA32_LBR_CTL, 0);
                same("in SMM", found, lbr::control(0))?;
                same("behind RSM", after, lbr::control(0) | on)?;
            }
            Ok(())
        }
    );
}
