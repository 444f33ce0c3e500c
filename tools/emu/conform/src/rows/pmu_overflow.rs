// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring" and "Advanced Programmable Interrupt
//! Controller": overflow and its interrupt.

use crate::apic;
use crate::branches::{self, Kind, Scenario};
use crate::cpu::{interrupt_window, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::msr::{self, IA32_PERF_GLOBAL_CTRL};
use crate::pmu::{self, Counter, BRANCHES, EN, INSTRUCTIONS, INT, OS, USR};
use crate::report::{row, same, Report};
use crate::traps;

const ALL: u64 = USR | OS | EN;

pub(super) fn status() -> u64 {
    rdmsr(msr::IA32_PERF_GLOBAL_STATUS)
}

/// Prepares a counter of instructions that is `before` its overflow.
pub(super) fn prepare(facts: &Facts, counter: Counter, before: u64, interrupt: bool) {
    pmu::reset(facts);
    match counter {
        Counter::General(n) => {
            let int = if interrupt { INT } else { 0 };
            wrmsr(msr::IA32_PERFEVTSEL0 + n, INSTRUCTIONS | ALL | int);
        }
        Counter::Fixed(n) => {
            wrmsr(
                msr::IA32_FIXED_CTR_CTRL,
                (if interrupt { 0xb } else { 3 }) << (4 * n),
            );
        }
    }
    counter.write((facts.counter_mask() + 1).wrapping_sub(before));
}

/// Runs a scenario on that, the local APIC's entry being `entry`.
fn run(counter: Counter, entry: u32, scenario: &Scenario) {
    apic::set_performance_entry(entry);
    traps::count(if entry & apic::NMI != 0 {
        traps::NMI
    } else {
        traps::LOCAL
    });
    scenario.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
}

/// Instructions that a counter sees of a scenario.
fn length(facts: &Facts, scenario: &Scenario) -> u64 {
    pmu::count(facts, INSTRUCTIONS, scenario)
}

pub fn rows(report: &mut Report, facts: &Facts) {
    let many = &branches::nops_110;
    let counters = [
        ("IA32_PMC0", Counter::General(0)),
        ("the last IA32_PMCx", Counter::General(facts.general - 1)),
        ("IA32_FIXED_CTR0", Counter::Fixed(0)),
    ];
    for (name, counter) in counters {
        row!(
            report,
            ("{name}: overflow sets its bit of IA32_PERF_GLOBAL_STATUS alone"),
            || {
                prepare(facts, counter, length(facts, many), false);
                run(counter, apic::MASKED, many);
                same("IA32_PERF_GLOBAL_STATUS", status(), counter.bit())?;
                same("counter", counter.read(), 0)
            }
        );
        row!(
            report,
            ("{name}: no overflow one instruction before it"),
            || {
                let length = length(facts, many);
                prepare(facts, counter, length + 1, false);
                run(counter, apic::MASKED, many);
                same("IA32_PERF_GLOBAL_STATUS", status(), 0)?;
                same("counter", counter.read(), facts.counter_mask())
            }
        );
        row!(report, ("{name}: counts on after an overflow"), || {
            let length = length(facts, many);
            prepare(facts, counter, length - 30, false);
            run(counter, apic::MASKED, many);
            same("counter", counter.read(), 30)
        });
        row!(
            report,
            ("{name}: IA32_PERF_GLOBAL_STATUS_RESET clears its bit"),
            || {
                prepare(facts, counter, 10, false);
                run(counter, apic::MASKED, many);
                same("before", status(), counter.bit())?;
                wrmsr(msr::IA32_PERF_GLOBAL_STATUS_RESET, counter.bit());
                same("after", status(), 0)
            }
        );
        row!(
            report,
            ("{name}: overflow interrupts if it is asked to"),
            || {
                prepare(facts, counter, 50, true);
                run(counter, apic::NMI, many);
                same("interrupts", traps::interrupts().0, 1)
            }
        );
        row!(
            report,
            ("{name}: overflow does not interrupt unless it is asked to"),
            || {
                prepare(facts, counter, 50, false);
                run(counter, apic::NMI, many);
                same("interrupts", traps::interrupts().0, 0)?;
                same("IA32_PERF_GLOBAL_STATUS", status(), counter.bit())
            }
        );
        row!(
            report,
            ("{name}: 20 instructions more, the interrupt comes 20 later"),
            || {
                let place = |before| {
                    prepare(facts, counter, before, true);
                    run(counter, apic::NMI, many);
                    traps::interrupts().1
                };
                let first = place(40);
                same("RIP", place(60), first + 20)
            }
        );
    }
    entry(report, facts);
    branch_overflow(report, facts);
    pmu::reset(facts);
}

fn entry(report: &mut Report, facts: &Facts) {
    let many = &branches::nops_110;
    let counter = Counter::General(0);
    row!(
        report,
        ("LVT performance counter entry: can be written and read"),
        || {
            apic::set_performance_entry(apic::MASKED | 0x55);
            let written = apic::performance_entry();
            apic::set_performance_entry(apic::MASKED);
            same("entry", u64::from(written), u64::from(apic::MASKED | 0x55))
        }
    );
    row!(
        report,
        ("LVT performance counter entry: masked, nothing is delivered"),
        || {
            prepare(facts, counter, 50, true);
            run(counter, apic::MASKED | apic::NMI, many);
            same("interrupts", traps::interrupts().0, 0)?;
            same("IA32_PERF_GLOBAL_STATUS", status(), 1)
        }
    );
    row!(
        report,
        ("LVT performance counter entry: masks itself at the interrupt"),
        || {
            prepare(facts, counter, 50, true);
            run(counter, apic::NMI, many);
            same(
                "entry",
                u64::from(apic::performance_entry()),
                u64::from(apic::MASKED | apic::NMI),
            )
        }
    );
    row!(
        report,
        ("LVT performance counter entry: a second overflow finds it masked"),
        || {
            prepare(facts, counter, 50, true);
            run(counter, apic::NMI, many);
            counter.write(facts.counter_mask() - 10);
            many.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
            same("interrupts", traps::interrupts().0, 1)
        }
    );
    row!(
        report,
        ("LVT performance counter entry: unmasked again, the next one comes"),
        || {
            prepare(facts, counter, 50, true);
            run(counter, apic::NMI, many);
            apic::set_performance_entry(apic::NMI);
            traps::count(traps::NMI);
            counter.write(facts.counter_mask() - 10);
            many.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
            same("interrupts", traps::interrupts().0, 1)
        }
    );
    row!(
        report,
        ("LVT performance counter entry: delivery as a vector waits for IF"),
        || {
            prepare(facts, counter, 50, true);
            apic::set_performance_entry(traps::LOCAL as u32);
            many.run(IA32_PERF_GLOBAL_CTRL, counter.bit());
            traps::count(traps::LOCAL);
            same("interrupts with IF clear", traps::interrupts().0, 0)?;
            interrupt_window();
            same("interrupts with IF set", traps::interrupts().0, 1)
        }
    );
    row!(
        report,
        ("LVT performance counter entry: delivery as NMI does not wait for IF"),
        || {
            prepare(facts, counter, 50, true);
            run(counter, apic::NMI, many);
            same("interrupts", traps::interrupts().0, 1)
        }
    );
    row!(
        report,
        ("two counters overflow: both bits of IA32_PERF_GLOBAL_STATUS"),
        || {
            prepare(facts, counter, 50, false);
            wrmsr(msr::IA32_FIXED_CTR_CTRL, 3);
            Counter::Fixed(0).write(facts.counter_mask() - 20);
            many.run(
                IA32_PERF_GLOBAL_CTRL,
                counter.bit() | Counter::Fixed(0).bit(),
            );
            same("IA32_PERF_GLOBAL_STATUS", status(), 1 | 1 << 32)
        }
    );
}

fn branch_overflow(report: &mut Report, facts: &Facts) {
    let many = &branches::many;
    let overflow = |before, scenario| pmu::overflow(facts, BRANCHES, before, scenario);
    row!(
        report,
        ("event branch instructions retired: overflow at the 5th of them"),
        || {
            let (number, at) = overflow(5, many);
            same("interrupts", number, 1)?;
            same("RIP", at, many.first().1)
        }
    );
    row!(
        report,
        ("event branch instructions retired: no overflow if one is missing"),
        || {
            same("interrupts", overflow(42, many).0, 0)?;
            same("IA32_PERF_GLOBAL_STATUS", status(), 0)
        }
    );
    let instructions = branches::KINDS.iter().filter(|scenario| {
        let first = scenario.branches().next();
        first.is_some_and(|branch| branch.kind != Kind::Event)
    });
    for &scenario in instructions {
        let about = scenario.about;
        row!(
            report,
            ("event branch instructions retired: interrupt right behind the first of {about}"),
            || { same("RIP", overflow(1, scenario).1, scenario.first().1) }
        );
    }
    row!(
        report,
        ("event branch instructions retired: interrupt right behind one not taken"),
        || {
            let scenario = &branches::not_taken_and_jmp;
            same("RIP", overflow(1, scenario).1, scenario.first().0)
        }
    );
}
