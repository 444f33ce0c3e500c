// SPDX-License-Identifier: GPL-2.0-only
//! The rows, a module for each part of the manual.

mod arch_lbr;
mod arch_lbr_vmx;
mod arch_lbr_xsave;
mod counters;
mod cpuid;
mod debugctl;
mod feedback;
mod lbr_callstack;
mod lbr_info;
mod lbr_msrs;
mod lbr_records;
mod pmu_count;
mod pmu_freeze;
mod pmu_memory;
mod pmu_msrs;
mod pmu_overflow;
mod reset;
mod single_step;
mod smm;
mod tsc;
mod vmx;
mod vmx_debugctl;
mod vmx_msrs;

use crate::cpu::{try_rdmsr, try_wrmsr};
use crate::facts::Facts;
use crate::lives::{self, Reset};
use crate::report::{fail, group, Report, Verdict};
use crate::serial::say;
use crate::traps::GP;

type Group = (&'static str, fn(&mut Report, &Facts));

/// In order: what the machine is after power-up comes first.
const FIRST_LIFE: [Group; 23] = [
    ("Processor management and initialization", reset::rows),
    ("CPUID", cpuid::rows),
    (
        "Last branch records: model-specific registers",
        lbr_msrs::rows,
    ),
    (
        "Last branch records: architectural registers",
        arch_lbr::rows,
    ),
    ("Last branch records: branches", lbr_records::rows),
    ("Last branch records: flags and cycles", lbr_info::rows),
    ("Last branch records: call stack", lbr_callstack::rows),
    ("XSAVE: architectural LBRs", arch_lbr_xsave::rows),
    ("IA32_DEBUGCTL", debugctl::rows),
    ("Single steps", single_step::rows),
    ("Time-stamp counter", tsc::rows),
    ("Performance monitoring: registers", pmu_msrs::rows),
    ("Performance monitoring: counting", pmu_count::rows),
    ("Performance monitoring: memory", pmu_memory::rows),
    ("Performance monitoring: overflow", pmu_overflow::rows),
    ("Performance monitoring: freezing", pmu_freeze::rows),
    ("Power and thermal management", feedback::rows),
    ("System management mode", smm::rows),
    ("VM entries and VM exits", vmx::rows),
    ("VM entries and VM exits: IA32_DEBUGCTL", vmx_debugctl::rows),
    ("VM entries and VM exits: MSRs", vmx_msrs::rows),
    (
        "VM entries and VM exits: architectural LBRs",
        arch_lbr_vmx::rows,
    ),
    ("Counters of the emulator", counters::rows),
];

/// What a life begins with that ends the one before, and what is there then.
const LATER_LIVES: [(Reset, Group); 3] = [
    (
        Reset::Init,
        ("Processor management: INIT", reset::after_init),
    ),
    (
        Reset::Warm,
        ("Processor management: RESET", reset::after_reset),
    ),
    (
        Reset::Sleep,
        // Only memory had power.
        ("Processor management: S3", reset::rows),
    ),
];

/// Runs all rows that apply to this machine; returns in the last life.
pub fn run(facts: &Facts) {
    let life = usize::from(lives::before());
    let run = |number, (title, rows): Group| group(number, title, |report| rows(report, facts));
    if let Some((_, group)) = life.checked_sub(1).and_then(|n| LATER_LIVES.get(n)) {
        run(FIRST_LIFE.len() + life, *group);
    } else {
        say!("KTAP version 1");
        say!("1..{}", FIRST_LIFE.len() + LATER_LIVES.len());
        for (n, group) in FIRST_LIFE.into_iter().enumerate() {
            run(n + 1, group);
        }
    }
    if let Some((reset, _)) = LATER_LIVES.get(life) {
        reset::leave(facts);
        lives::end(*reset);
    }
}

/// RDMSR and WRMSR of this register fault.
fn absent(index: u32) -> Verdict {
    match try_rdmsr(index) {
        Err(GP) => {}
        Err(trap) => fail!("RDMSR {index:#x} ends with {trap}, must with #GP(0)"),
        Ok(value) => fail!("RDMSR {index:#x} gives {value:#x}, must fault"),
    }
    refuses(index, 0)
}

/// WRMSR of `value` faults, and changes nothing.
fn refuses(index: u32, value: u64) -> Verdict {
    let before = try_rdmsr(index);
    match try_wrmsr(index, value) {
        Err(GP) => {}
        Err(trap) => fail!("WRMSR {index:#x}, {value:#x} ends with {trap}, must with #GP(0)"),
        Ok(()) => fail!("WRMSR {index:#x}, {value:#x} does not fault"),
    }
    if try_rdmsr(index) != before {
        fail!("WRMSR {index:#x}, {value:#x} faults, but changes the register");
    }
    Ok(())
}

/// WRMSR takes `value`, and RDMSR gives it back.
fn keeps(index: u32, value: u64) -> Verdict {
    if let Err(trap) = try_wrmsr(index, value) {
        fail!("WRMSR {index:#x}, {value:#x} ends with {trap}");
    }
    match try_rdmsr(index) {
        Ok(found) if found == value => Ok(()),
        Ok(found) => fail!("WRMSR {index:#x}, {value:#x}, then RDMSR gives {found:#x}"),
        Err(trap) => fail!("RDMSR {index:#x} ends with {trap}"),
    }
}
