// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring": precise events, and the event lists of the
//! cores: MEM_INST_RETIRED (before Skylake MEM_UOPS_RETIRED), on which KVM's own tests
//! rely.

use crate::apic;
use crate::branches;
use crate::cpu::wrmsr;
use crate::facts::Facts;
use crate::msr;
use crate::pmu::{self, Counter, EN, INT, OS, USR};
use crate::report::{fail, row, same, Report};
use crate::traps;

pub fn rows(report: &mut Report, facts: &Facts) {
    let events = [
        ("ALL_LOADS", 0x81d0, [10, 0, 10, 5, 40]),
        ("ALL_STORES", 0x82d0, [0, 10, 10, 5, 0]),
        ("ANY", 0x83d0, [10, 10, 10, 10, 40]),
    ];
    let scenarios = [
        &branches::loads_10,
        &branches::stores_10,
        &branches::both_10,
        &branches::pushes_10,
        &branches::loads_40,
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
    row!(
        report,
        ("MEM_INST_RETIRED.ALL_LOADS: an interrupt at the 5th"),
        || {
            pmu::reset(facts);
            wrmsr(msr::IA32_PERFEVTSEL0, 0x81d0 | USR | OS | EN | INT);
            Counter::General(0).write((facts.counter_mask() + 1).wrapping_sub(5));
            apic::set_performance_entry(apic::NMI);
            traps::count(traps::NMI);
            branches::loads_10.run(msr::IA32_PERF_GLOBAL_CTRL, 1);
            let number = traps::interrupts().0;
            let left = Counter::General(0).read();
            pmu::reset(facts);
            same("interrupts", number, 1)?;
            // Its handler loads as well.
            if left < 5 {
                fail!("{left} counted behind the overflow");
            }
            Ok(())
        }
    );
}
