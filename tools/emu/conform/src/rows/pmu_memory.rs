// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring": precise events, and the event lists of the
//! cores: MEM_INST_RETIRED (before Skylake MEM_UOPS_RETIRED), on which KVM's own tests
//! rely; the architectural events of the last-level cache.

use crate::accesses;
use crate::branches;
use crate::facts::Facts;
use crate::msr;
use crate::pmu::{self, Counter};
use crate::report::{fail, row, same, Report};

pub fn rows(report: &mut Report, facts: &Facts) {
    let events = [
        ("ALL_LOADS", 0x81d0, [10, 0, 10, 5, 40]),
        ("ALL_STORES", 0x82d0, [0, 10, 10, 5, 0]),
        ("ANY", 0x83d0, [10, 10, 10, 10, 40]),
    ];
    let scenarios = [
        &accesses::loads_10,
        &accesses::stores_10,
        &accesses::both_10,
        &accesses::pushes_10,
        &accesses::loads_40,
    ];
    for (name, event, expected) in events {
        row!(
            report,
            ("MEM_INST_RETIRED.{name}: nothing of code without accesses"),
            || same("count", pmu::count(facts, event, &branches::nops_110), 0)
        );
        for (scenario, expected) in scenarios.into_iter().zip(expected) {
            row!(
                report,
                ("MEM_INST_RETIRED.{name}: {expected} of {}", scenario.about),
                || same("count", pmu::count(facts, event, scenario), expected)
            );
        }
    }
    row!(
        report,
        ("MEM_INST_RETIRED.ALL_LOADS: a load that faults does not retire"),
        || {
            // Its handler changes RIP on the stack, and IRET takes that from there.
            let counted = pmu::count(facts, 0x81d0, &branches::load_fault);
            same("count", counted, 2)
        }
    );
    // How many interrupts, where the last came, and what was counted behind it.
    let overflow = |before: u64| {
        let (number, at) = pmu::overflow(facts, 0x81d0, before, &accesses::loads_10);
        let left = Counter::General(0).read();
        pmu::reset(facts);
        (number, at, left)
    };
    row!(
        report,
        ("MEM_INST_RETIRED.ALL_LOADS: an interrupt at the 5th"),
        || {
            let (number, _, left) = overflow(5);
            same("interrupts", number, 1)?;
            // Its handler loads as well.
            if left < 5 {
                fail!("{left} counted behind the overflow");
            }
            Ok(())
        }
    );
    row!(
        report,
        ("MEM_INST_RETIRED.ALL_LOADS: the 10th interrupts 5 loads behind the 5th"),
        || same("RIP", overflow(10).1, overflow(5).1 + 5 * 5) // of 5 bytes
    );
    last_level(report, facts);
}

/// What a cache holds the SDM leaves to the processor, but not that it holds what was just
/// used, nor that it does not hold what was flushed.
fn last_level(report: &mut Report, facts: &Facts) {
    const REFERENCE: u64 = 0x4f2e;
    const MISS: u64 = 0x412e;
    // The first time fetches the code as well.
    let again = |event, scenario| {
        pmu::count(facts, event, scenario);
        pmu::count(facts, event, scenario)
    };
    for (name, event) in [("REFERENCE", REFERENCE), ("MISS", MISS)] {
        for (scenario, expected) in [
            (&accesses::loads_10, 0),
            (&accesses::loads_40, 0),
            (&accesses::flushed_10, 10),
            (&accesses::flushed_pages_10, 10),
        ] {
            row!(
                report,
                ("LONGEST_LAT_CACHE.{name}: {expected} of {}", scenario.about),
                || same("count", again(event, scenario), expected)
            );
        }
        for (scenario, least) in [
            (&accesses::flushed_code_10, 10),
            (&accesses::all_flushed, 10),
        ] {
            row!(
                report,
                (
                    "LONGEST_LAT_CACHE.{name}: at least {least} of {}",
                    scenario.about
                ),
                || {
                    let counted = again(event, scenario);
                    // A line of data or code each time, and what else was flushed.
                    if !(least..2 * least).contains(&counted) {
                        fail!("{counted} counted");
                    }
                    Ok(())
                }
            );
        }
    }
    row!(
        report,
        (
            "LONGEST_LAT_CACHE.MISS: {} for the first time",
            accesses::walk_1m.about
        ),
        || {
            accesses::all_flushed.run(msr::IA32_PERF_GLOBAL_CTRL, 0);
            let counted = pmu::count(facts, MISS, &accesses::walk_1m);
            if !(16384..16400).contains(&counted) {
                fail!("{counted} counted");
            }
            Ok(())
        }
    );
    row!(
        report,
        ("LONGEST_LAT_CACHE.MISS: no line of 1 MiB that was just loaded"),
        || same("count", again(MISS, &accesses::walk_1m), 0)
    );
    row!(
        report,
        ("LONGEST_LAT_CACHE.REFERENCE: each line of 1 MiB, more than is near"),
        || same("count", again(REFERENCE, &accesses::walk_1m), 16384)
    );
}
