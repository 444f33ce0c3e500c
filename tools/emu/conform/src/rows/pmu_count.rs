// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring": "Architectural Performance Monitoring":
//! what is counted.
//!
//! What the WRMSRs around a scenario count is nobody's rule; where it matters two
//! scenarios are compared.

use crate::branches::{self, Scenario};
use crate::cpu::{self, rdmsr, try_rdpmc, wrmsr};
use crate::facts::Facts;
use crate::lbr;
use crate::msr;
use crate::pmu::{self, Counter};
use crate::pmu::{BRANCHES, CYCLES, EDGE, EN, INSTRUCTIONS, INV, LBR_INSERTS, OS};
use crate::pmu::{REFERENCE_CYCLES, SLOTS, USR};
use crate::report::{fail, row, same, Report, Verdict};
use crate::traps::{self, GP};

const ALL: u64 = USR | OS | EN;

/// Scenario `b` counts `more` than `a`.
fn more(a: u64, b: u64, more: u64) -> Verdict {
    if b != a.wrapping_add(more) {
        fail!("{a}, then {b}: must be {more} more");
    }
    Ok(())
}

fn none(counted: u64) -> Verdict {
    same("counter", counted, 0)
}

fn some(counted: u64) -> Verdict {
    if counted == 0 {
        fail!("nothing counted");
    }
    Ok(())
}

pub fn rows(report: &mut Report, facts: &Facts) {
    let (few, many) = (&branches::nops_10, &branches::nops_110);
    for n in 0..facts.general {
        row!(
            report,
            ("IA32_PMC{n}: 100 more instructions count 100 more"),
            || {
                more(
                    pmu::count_on(facts, n, INSTRUCTIONS | ALL, few),
                    pmu::count_on(facts, n, INSTRUCTIONS | ALL, many),
                    100,
                )
            }
        );
    }
    row!(
        report,
        ("IA32_FIXED_CTR0: INST_RETIRED.ANY, 100 more instructions count 100 more"),
        || {
            more(
                pmu::count_fixed(facts, 0, 3, few),
                pmu::count_fixed(facts, 0, 3, many),
                100,
            )
        }
    );
    row!(
        report,
        ("IA32_FIXED_CTR0 and the event instructions retired count the same"),
        || {
            more(
                pmu::count_fixed(facts, 0, 3, many),
                pmu::count(facts, INSTRUCTIONS, many),
                0,
            )
        }
    );
    row!(
        report,
        ("IA32_FIXED_CTR1: CPU_CLK_UNHALTED.CORE counts"),
        || { some(pmu::count_fixed(facts, 1, 3, many)) }
    );
    row!(
        report,
        ("IA32_FIXED_CTR2: CPU_CLK_UNHALTED.REF counts"),
        || { some(pmu::count_fixed(facts, 2, 3, many)) }
    );
    row!(
        report,
        ("a repeated string instruction retires once"),
        || {
            more(
                pmu::count(facts, INSTRUCTIONS, &branches::not_repeated),
                pmu::count(facts, INSTRUCTIONS, &branches::repeated),
                0,
            )
        }
    );
    row!(
        report,
        ("an instruction that faults does not retire"),
        || {
            // UD2, then ADD and IRETQ in the handler.
            let base = pmu::count(facts, INSTRUCTIONS, &branches::nops_10);
            more(
                base,
                pmu::count(facts, INSTRUCTIONS, &branches::undefined) + 8,
                0,
            )
        }
    );
    for (name, event) in [("core", CYCLES), ("reference", REFERENCE_CYCLES)] {
        row!(
            report,
            ("unhalted {name} cycles: more for more instructions"),
            || {
                let (few, many) = (
                    pmu::count(facts, event, few),
                    pmu::count(facts, event, many),
                );
                if few == 0 || many <= few {
                    fail!("{few}, then {many}");
                }
                Ok(())
            }
        );
    }
    enables(report, facts);
    thresholds(report, facts);
    if facts.slots > 0 {
        slots(report, facts);
    }
    branch_events(report, facts);
    rdpmc(report, facts);
    halted(report, facts);
}

fn enables(report: &mut Report, facts: &Facts) {
    let many = &branches::nops_110;
    row!(report, ("IA32_PERFEVTSELx.EN: no count without it"), || {
        none(pmu::count_on(facts, 0, INSTRUCTIONS | USR | OS, many))
    });
    row!(
        report,
        ("IA32_PERF_GLOBAL_CTRL: no count without the counter's bit"),
        || {
            pmu::reset(facts);
            wrmsr(msr::IA32_PERFEVTSEL0, INSTRUCTIONS | ALL);
            many.run(msr::IA32_PERF_GLOBAL_CTRL, facts.global() & !1);
            none(Counter::General(0).read())
        }
    );
    row!(
        report,
        ("IA32_PERF_GLOBAL_CTRL: no count on a fixed counter without its bit"),
        || {
            pmu::reset(facts);
            wrmsr(msr::IA32_FIXED_CTR_CTRL, 0x333);
            many.run(
                msr::IA32_PERF_GLOBAL_CTRL,
                facts.global() & !Counter::Fixed(0).bit(),
            );
            none(Counter::Fixed(0).read())
        }
    );
    row!(
        report,
        ("IA32_FIXED_CTR_CTRL: no count with an enable field of 0"),
        || { none(pmu::count_fixed(facts, 0, 0, many)) }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx: nothing is counted by neither USR nor OS"),
        || { none(pmu::count_on(facts, 0, INSTRUCTIONS | EN, many)) }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.USR alone: ring 0 is not counted"),
        || { none(pmu::count_on(facts, 0, INSTRUCTIONS | EN | USR, many)) }
    );
    let (few, many) = (&branches::user_nops_10, &branches::user_nops_60);
    for (name, select, expected) in [
        ("USR alone: ring 3 is counted", USR, 50),
        ("OS alone: ring 3 is not counted", OS, 0),
        ("USR and OS: ring 3 is counted", USR | OS, 50),
    ] {
        row!(report, ("IA32_PERFEVTSELx.{name}"), || {
            let count = |scenario| pmu::count_on(facts, 0, INSTRUCTIONS | EN | select, scenario);
            more(count(few), count(many), expected)
        });
    }
    for (name, field, expected) in [
        ("1: ring 3 is not counted", 1, 0),
        ("2: ring 3 is counted", 2, 50),
        ("3: ring 3 is counted", 3, 50),
    ] {
        row!(report, ("IA32_FIXED_CTR_CTRL: enable field {name}"), || {
            let count = |scenario| pmu::count_fixed(facts, 0, field, scenario);
            more(count(few), count(many), expected)
        });
    }
    row!(
        report,
        ("IA32_FIXED_CTR_CTRL: enable field 2: ring 0 is not counted"),
        || { none(pmu::count_fixed(facts, 0, 2, &branches::nops_110)) }
    );
}

/// Slots of the pipeline: each cycle has as many.
fn slots(report: &mut Report, facts: &Facts) {
    let many = &branches::nops_110;
    let count = |select| pmu::count_on(facts, 0, select | ALL, many);
    let slots = u64::from(facts.slots);
    row!(
        report,
        ("event topdown slots: {slots} in each core cycle"),
        || { same("count", count(SLOTS), slots * count(CYCLES)) }
    );
    row!(
        report,
        ("IA32_FIXED_CTR3 (TOPDOWN.SLOTS): {slots} in each core cycle"),
        || {
            let cycles = pmu::count_fixed(facts, 1, 3, many);
            same("count", pmu::count_fixed(facts, 3, 3, many), slots * cycles)
        }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.CMASK: each cycle has {slots} slots, and none has more"),
        || {
            same("at least", count(SLOTS | slots << 24), count(CYCLES))?;
            same("more", count(SLOTS | (slots + 1) << 24), 0)
        }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.INV: no cycle has less than {slots} slots, each less than more"),
        || {
            same("less", count(SLOTS | INV | slots << 24), 0)?;
            same(
                "less than more",
                count(SLOTS | INV | (slots + 1) << 24),
                count(CYCLES),
            )
        }
    );
}

fn thresholds(report: &mut Report, facts: &Facts) {
    let many = &branches::nops_110;
    let count = |select| pmu::count_on(facts, 0, select | ALL, many);
    row!(
        report,
        ("IA32_PERFEVTSELx.CMASK: no cycle retires 255 instructions"),
        || { none(count(INSTRUCTIONS | 255 << 24)) }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.INV: every cycle retires less than 255 instructions"),
        || { more(count(CYCLES), count(INSTRUCTIONS | INV | 255 << 24), 0) }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.CMASK of 1 counts cycles with an instruction"),
        || {
            let (cycles, all) = (count(INSTRUCTIONS | 1 << 24), count(CYCLES));
            if cycles == 0 || cycles > all {
                fail!("{cycles} of {all} cycles");
            }
            Ok(())
        }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.INV and CMASK of 1 count the other cycles"),
        || {
            let with = count(INSTRUCTIONS | 1 << 24);
            more(with + count(INSTRUCTIONS | INV | 1 << 24), count(CYCLES), 0)
        }
    );
    row!(
        report,
        ("IA32_PERFEVTSELx.E counts transitions: fewer than cycles"),
        || {
            let (edges, cycles) = (count(CYCLES | EDGE | 1 << 24), count(CYCLES));
            if edges >= cycles {
                fail!("{edges} edges in {cycles} cycles");
            }
            Ok(())
        }
    );
}

/// Branch instructions of a scenario that has no events.
fn number(scenario: &Scenario) -> u64 {
    scenario.branches().count() as u64
}

fn branch_events(report: &mut Report, facts: &Facts) {
    for scenario in [
        &branches::nothing,
        &branches::jcc_short,
        &branches::jmp_near,
        &branches::jmp_register,
        &branches::call_relative,
        &branches::call_register,
        &branches::call_far,
        &branches::iret,
        &branches::all,
        &branches::user,
        &branches::syscall,
        &branches::sysexit,
    ] {
        row!(
            report,
            ("event branch instructions retired: {}", scenario.about),
            || {
                same(
                    "count",
                    pmu::count(facts, BRANCHES, scenario),
                    number(scenario),
                )
            }
        );
    }
    row!(
        report,
        ("event branch instructions retired: not taken ones as well"),
        || {
            same(
                "count",
                pmu::count(facts, BRANCHES, &branches::jcc_not_taken),
                1,
            )
        }
    );
    row!(
        report,
        ("event branch instructions retired: a loop's last, not taken, as well"),
        || {
            same(
                "count",
                pmu::count(facts, BRANCHES, &branches::many),
                number(&branches::many) + 1,
            )
        }
    );
    row!(
        report,
        ("event branch instructions retired: no exception, but its IRET"),
        || {
            same(
                "count",
                pmu::count(facts, BRANCHES, &branches::undefined),
                1,
            )
        }
    );
    row!(
        report,
        ("event branch instructions retired: no interrupt, but its IRET"),
        || {
            same(
                "count",
                pmu::count(facts, BRANCHES, &branches::interrupt),
                1,
            )
        }
    );
    row!(
        report,
        ("event mispredicted branches: none without a branch"),
        || { none(pmu::count(facts, pmu::MISPREDICTED, &branches::nothing)) }
    );
    row!(
        report,
        ("event mispredicted branches: of a loop a Jcc, that which leaves it at least"),
        || {
            let conditional = if facts.version < 5 { 0x01 } else { 0x11 };
            let event = pmu::MISPREDICTED | conditional << 8;
            let found = pmu::count(facts, event, &branches::loop_exit);
            if !(1..100).contains(&found) {
                fail!("{found} of 1000 mispredicted");
            }
            let all = pmu::count(facts, pmu::MISPREDICTED, &branches::loop_exit);
            same("all mispredicted branches", all, found)
        }
    );
    row!(
        report,
        ("event LBR_INSERTS counts the records that are made"),
        || {
            pmu::reset(facts);
            lbr::reset(facts, 0);
            wrmsr(msr::IA32_PERFEVTSEL0, LBR_INSERTS | ALL);
            wrmsr(msr::IA32_PERF_GLOBAL_CTRL, 1);
            lbr::run(facts, &branches::all, 0);
            wrmsr(msr::IA32_PERF_GLOBAL_CTRL, 0);
            let counted = Counter::General(0).read();
            pmu::reset(facts);
            same("count", counted, number(&branches::all))
        }
    );
    // The event lists of Haswell to Skylake, and of Ice Lake and later: BR_INST_RETIRED.
    let haswell: &[(&str, u64, u64)] = &[
        ("CONDITIONAL", 0x01, 1),
        ("NEAR_CALL", 0x02, 2),
        ("NEAR_RETURN", 0x08, 2),
        ("NOT_TAKEN", 0x10, 0),
        ("NEAR_TAKEN", 0x20, 7),
        ("FAR_BRANCH", 0x40, 2),
    ];
    let icelake: &[(&str, u64, u64)] = &[
        ("COND_TAKEN", 0x01, 1),
        ("NEAR_CALL", 0x02, 2),
        ("NEAR_RETURN", 0x08, 2),
        ("COND_NTAKEN", 0x10, 0),
        ("COND", 0x11, 1),
        ("NEAR_TAKEN", 0x20, 7),
        ("FAR_BRANCH", 0x40, 2),
        ("INDIRECT", 0x80, 2),
    ];
    let events = match facts.version {
        3 | 4 => haswell,
        _ => icelake,
    };
    for (name, umask, expected) in events {
        row!(
            report,
            ("event BR_INST_RETIRED.{name} counts its kind only"),
            || {
                let event = 0xc4 | umask << 8;
                same("count", pmu::count(facts, event, &branches::all), *expected)
            }
        );
    }
    let conditional: &[(&str, u64, u64)] = match facts.version {
        3 | 4 => &[("CONDITIONAL", 0x01, 1), ("NOT_TAKEN", 0x10, 1)],
        _ => &[
            ("COND_TAKEN", 0x01, 0),
            ("COND_NTAKEN", 0x10, 1),
            ("COND", 0x11, 1),
        ],
    };
    for (name, umask, expected) in conditional {
        row!(
            report,
            ("event BR_INST_RETIRED.{name} counts {expected} of a Jcc that is not taken"),
            || {
                let event = 0xc4 | umask << 8;
                let counted = pmu::count(facts, event, &branches::jcc_not_taken);
                same("count", counted, *expected)
            }
        );
    }
}

fn rdpmc(report: &mut Report, facts: &Facts) {
    row!(report, ("RDPMC reads every general counter"), || {
        pmu::reset(facts);
        for n in 0..facts.general {
            Counter::General(n).write(0x1000 + u64::from(n));
            same("counter", try_rdpmc(n).unwrap_or(0), 0x1000 + u64::from(n))?;
        }
        Ok(())
    });
    row!(
        report,
        ("RDPMC reads every fixed counter, by ECX[30]"),
        || {
            for n in 0..facts.fixed {
                Counter::Fixed(n).write(0x2000 + u64::from(n));
                same(
                    "counter",
                    try_rdpmc(1 << 30 | n).unwrap_or(0),
                    0x2000 + u64::from(n),
                )?;
            }
            Ok(())
        }
    );
    row!(report, ("RDPMC gives all bits of a counter"), || {
        Counter::General(0).write(facts.counter_mask());
        same("counter", try_rdpmc(0).unwrap_or(0), facts.counter_mask())
    });
    for (ecx, what) in [
        (facts.general, "the first general counter that is none"),
        (
            1 << 30 | facts.fixed,
            "the first fixed counter that is none",
        ),
        (1 << 31, "a reserved bit of ECX"),
    ] {
        row!(report, ("RDPMC: #GP on {what}"), || match try_rdpmc(ecx) {
            Err(GP) => Ok(()),
            Err(trap) => fail!("{trap}"),
            Ok(value) => fail!("gives {value:#x}"),
        });
    }
    let pce = |on: bool| {
        let cr4 = cpu::read_cr4() & !(1 << 8);
        // SAFETY: PCE has to do with RDPMC only.
        unsafe { cpu::write_cr4(if on { cr4 | 1 << 8 } else { cr4 }) }
        traps::count(traps::LOCAL);
        branches::user_rdpmc.run(msr::IA32_PERF_GLOBAL_CTRL, 0);
        // SAFETY: as above.
        unsafe { cpu::write_cr4(cr4) }
        traps::interrupts().0
    };
    row!(report, ("CR4.PCE clear: RDPMC in ring 3 is #GP"), || same(
        "read",
        pce(false),
        0
    ));
    row!(report, ("CR4.PCE set: RDPMC in ring 3 reads"), || same(
        "read",
        pce(true),
        1
    ));
    pmu::reset(facts);
}

fn halted(report: &mut Report, facts: &Facts) {
    let measure = |n, scenario| {
        let start = rdmsr(msr::IA32_TIME_STAMP_COUNTER);
        let counted = pmu::count_fixed(facts, n, 3, scenario);
        (counted, rdmsr(msr::IA32_TIME_STAMP_COUNTER) - start)
    };
    for (what, scenario) in [("HLT", &branches::halt), ("MWAIT", &branches::mwait)] {
        for (n, name) in [(1, "CPU_CLK_UNHALTED.CORE"), (2, "CPU_CLK_UNHALTED.REF")] {
            row!(
                report,
                ("{what}: IA32_FIXED_CTR{n} ({name}) stands still, the TSC does not"),
                || {
                    let (counted, time) = measure(n, scenario);
                    if time < 100_000 || counted > 10_000 {
                        fail!("{counted} cycles counted in {time} cycles of the TSC");
                    }
                    Ok(())
                }
            );
        }
    }
}
