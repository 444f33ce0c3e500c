// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director Technology
//! Features": "Single-Step Exception Condition", "Single-Stepping on Branches"; and of
//! SYSCALL and SYSRET what the manual does not say (Documentation/hardware-model.rst).

use crate::branches::{self, Scenario};
use crate::facts::Facts;
use crate::lbr::BTF;
use crate::msr::IA32_DEBUGCTL;
use crate::report::{row, same, Report, Verdict};
use crate::traps;

/// A #DB comes before the last branch of `scenario`, and no other.
fn traps_once(scenario: &Scenario, debugctl: u64) -> Verdict {
    traps::count(traps::LOCAL);
    scenario.run(IA32_DEBUGCTL, debugctl);
    let (number, at) = traps::interrupts();
    same("#DB", number, 1)?;
    same("RIP", at, scenario.last().0)
}

fn traps_never(scenario: &Scenario, debugctl: u64) -> Verdict {
    traps::count(traps::LOCAL);
    scenario.run(IA32_DEBUGCTL, debugctl);
    same("#DB", traps::interrupts().0, 0)
}

pub fn rows(report: &mut Report, _facts: &Facts) {
    for scenario in [
        &branches::popf_clears,
        &branches::iret_clears,
        &branches::syscall_keeps,
        &branches::sysret_sets,
        &branches::syscall_sysret,
        &branches::sysenter_keeps,
        &branches::sysexit_keeps,
        &branches::mov_ss,
    ] {
        row!(report, ("RFLAGS.TF: #DB after {}", scenario.about), || {
            traps_once(scenario, 0)
        });
    }
    for scenario in [
        &branches::iret_sets,
        &branches::int_n_resets,
        &branches::fault_resets,
    ] {
        row!(
            report,
            (
                "RFLAGS.TF: no #DB after {}, but after the next instruction",
                scenario.about
            ),
            || traps_once(scenario, 0)
        );
    }
    for scenario in [&branches::syscall_clears, &branches::sysret_clears] {
        for (name, debugctl) in [("RFLAGS.TF", 0), ("IA32_DEBUGCTL.BTF", BTF)] {
            row!(report, ("{name}: no #DB after {}", scenario.about), || {
                traps_never(scenario, debugctl)
            });
        }
    }
    for scenario in [
        &branches::iret_clears,
        &branches::syscall_keeps,
        &branches::sysret_sets,
        &branches::syscall_sysret,
        &branches::sysenter_keeps,
        &branches::sysexit_keeps,
    ] {
        row!(
            report,
            ("IA32_DEBUGCTL.BTF: {} is a step", scenario.about),
            || traps_once(scenario, BTF)
        );
    }
    row!(
        report,
        ("IA32_DEBUGCTL.BTF: POPFQ that clears TF is no step"),
        || traps_never(&branches::popf_clears, BTF)
    );
}
