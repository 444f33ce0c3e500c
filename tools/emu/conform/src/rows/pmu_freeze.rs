// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring" and "Debug, Branch Profile, TSC, and Intel
//! Resource Director Technology (Intel RDT) Features": what freezes at the interrupt of an
//! overflow.

use super::pmu_overflow::{prepare, status};
use crate::apic;
use crate::branches;
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, FREEZE_LBRS_ON_PMI, FREEZE_PERFMON_ON_PMI};
use crate::msr::{self, IA32_PERF_GLOBAL_CTRL};
use crate::pmu::{self, Counter, CTR_FRZ, LBR_FRZ};
use crate::report::{fail, row, same, Report, Verdict};

pub fn rows(report: &mut Report, facts: &Facts) {
    let (counter, scenario) = (Counter::General(0), &branches::jumps_and_nops);
    // IA32_PERF_GLOBAL_CTRL behind an overflow with `debugctl`.  IA32_PERFEVTSEL0 ends the
    // counting, so that nobody else has written it.
    let global = |debugctl: u64, interrupt: bool| {
        prepare(facts, counter, 20, interrupt);
        apic::set_performance_entry(apic::MASKED);
        let select = rdmsr(msr::IA32_PERFEVTSEL0);
        wrmsr(msr::IA32_PERFEVTSEL0, 0);
        wrmsr(msr::IA32_DEBUGCTL, debugctl);
        wrmsr(IA32_PERF_GLOBAL_CTRL, facts.global());
        scenario.run(msr::IA32_PERFEVTSEL0, select);
        rdmsr(IA32_PERF_GLOBAL_CTRL)
    };
    // An overflow between two jumps, which are recorded unless frozen.
    // Gives whether recording is on then, and the other bits of IA32_DEBUGCTL.
    let overflow = |debugctl: u64, interrupt: bool| {
        lbr::reset(facts, 0);
        prepare(facts, counter, 20, interrupt);
        apic::set_performance_entry(apic::MASKED);
        lbr::start(facts, debugctl);
        scenario.run_then(IA32_PERF_GLOBAL_CTRL, counter.bit(), || lbr::stop(facts))
    };
    let leaves = |found: (bool, u64), on: bool, debugctl: u64| -> Verdict {
        same("recording", u64::from(found.0), u64::from(on))?;
        same("IA32_DEBUGCTL", found.1, debugctl)
    };
    // Whether the second jump was recorded; branches of this program come later.
    let jumps = || {
        let mut seen = [false; 2];
        for n in 0..facts.depth {
            let (from, _) = lbr::record(facts, n);
            for (k, branch) in scenario.branches().enumerate() {
                seen[k] |= from == branch.from;
            }
        }
        seen
    };
    let seen = |expected: [bool; 2]| -> Verdict {
        let found = jumps();
        if found != expected {
            fail!("jumps recorded: {found:?}, must be {expected:?}");
        }
        Ok(())
    };
    row!(
        report,
        ("without FREEZE_LBRS_ON_PMI an overflow stops no recording"),
        || {
            leaves(overflow(0, true), true, 0)?;
            same("IA32_PERF_GLOBAL_STATUS", status(), 1)?;
            seen([true, true])
        }
    );
    let freeze = FREEZE_LBRS_ON_PMI;
    let switch = lbr::switch_name(facts);
    row!(
        report,
        ("FREEZE_LBRS_ON_PMI: an overflow without PMI freezes nothing"),
        || {
            leaves(overflow(freeze, false), true, freeze)?;
            seen([true, true])
        }
    );
    if facts.version >= 4 {
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, streamlined: a PMI sets IA32_PERF_GLOBAL_STATUS.LBR_FRZ"),
            || {
                overflow(freeze, true);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1 | LBR_FRZ)
            }
        );
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, streamlined: {switch} stays set"),
            || { leaves(overflow(freeze, true), true, freeze) }
        );
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, streamlined: recording stops"),
            || {
                overflow(freeze, true);
                seen([true, false])
            }
        );
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, streamlined: clearing LBR_FRZ resumes recording"),
            || {
                overflow(freeze, true);
                pmu::clear_status(facts);
                lbr::records(facts, &branches::all, 0)
            }
        );
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS.LBR_FRZ stops recording, however it was set"),
            || {
                pmu::reset(facts);
                lbr::reset(facts, 0);
                wrmsr(msr::IA32_PERF_GLOBAL_STATUS_SET, LBR_FRZ);
                lbr::run(facts, &branches::all, 0);
                pmu::clear_status(facts);
                lbr::holds(facts, core::iter::empty())
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, streamlined: a PMI sets CTR_FRZ"),
            || {
                overflow(FREEZE_PERFMON_ON_PMI, true);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1 | CTR_FRZ)
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, streamlined: the counters stop at the PMI"),
            || {
                overflow(FREEZE_PERFMON_ON_PMI, true);
                same("counter", counter.read(), 0)
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, streamlined: IA32_PERF_GLOBAL_CTRL stays"),
            || {
                let found = global(FREEZE_PERFMON_ON_PMI, true);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1 | CTR_FRZ)?;
                same("IA32_PERF_GLOBAL_CTRL", found, facts.global())
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI: an overflow without PMI freezes nothing"),
            || {
                overflow(FREEZE_PERFMON_ON_PMI, false);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1)
            }
        );
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS.CTR_FRZ stops the counters, however it was set"),
            || {
                prepare(facts, counter, 20, false);
                counter.write(0);
                wrmsr(msr::IA32_PERF_GLOBAL_STATUS_SET, CTR_FRZ);
                scenario.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
                same("counter", counter.read(), 0)
            }
        );
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS.CTR_FRZ cleared: the counters run again"),
            || {
                pmu::clear_status(facts);
                scenario.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
                if counter.read() < 50 {
                    fail!("counted {}", counter.read());
                }
                Ok(())
            }
        );
    } else {
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, legacy: a PMI clears IA32_DEBUGCTL.LBR"),
            || { leaves(overflow(freeze, true), false, freeze) }
        );
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, legacy: recording stops"),
            || {
                overflow(freeze, true);
                seen([true, false])
            }
        );
        row!(
            report,
            ("FREEZE_LBRS_ON_PMI, legacy: IA32_PERF_GLOBAL_STATUS has no LBR_FRZ"),
            || {
                overflow(freeze, true);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1)
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, legacy: a PMI clears IA32_PERF_GLOBAL_CTRL"),
            || {
                let found = global(FREEZE_PERFMON_ON_PMI, true);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1)?;
                same("IA32_PERF_GLOBAL_CTRL", found, 0)
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, legacy: the counters stop at the PMI"),
            || {
                overflow(FREEZE_PERFMON_ON_PMI, true);
                same("counter", counter.read(), 0)
            }
        );
        row!(
            report,
            ("FREEZE_PERFMON_ON_PMI, legacy: an overflow without PMI freezes nothing"),
            || {
                let found = global(FREEZE_PERFMON_ON_PMI, false);
                same("IA32_PERF_GLOBAL_STATUS", status(), 1)?;
                same("IA32_PERF_GLOBAL_CTRL", found, facts.global())
            }
        );
    }
    row!(
        report,
        ("without FREEZE_PERFMON_ON_PMI a PMI freezes no counter"),
        || {
            let found = global(0, true);
            same("IA32_PERF_GLOBAL_STATUS", status(), 1)?;
            same("IA32_PERF_GLOBAL_CTRL", found, facts.global())?;
            if counter.read() == 0 {
                fail!("nothing counted behind the overflow");
            }
            Ok(())
        }
    );
    pmu::reset(facts);
}
