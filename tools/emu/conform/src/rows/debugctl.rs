// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features": "IA32_DEBUGCTL MSR", "Monitoring Branches, Exceptions, and
//! Interrupts", "Single-Stepping on Branches", "Last Exception Records".

use super::{keeps, refuses};
use crate::branches::{self, Scenario};
use crate::cpu::{cpuid, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, BTF, LBR};
use crate::msr::{self, IA32_DEBUGCTL};
use crate::report::{row, same, Report, Verdict};
use crate::traps;

/// With BTF and RFLAGS.TF one #DB comes, where the last branch of `scenario` goes.
fn step(scenario: &Scenario) -> Verdict {
    traps::count(traps::LOCAL);
    scenario.run(IA32_DEBUGCTL, BTF);
    let (number, at) = traps::interrupts();
    same("#DB", number, 1)?;
    same("RIP", at, scenario.last().1)
}

pub fn rows(report: &mut Report, facts: &Facts) {
    let switch = lbr::switch_name(facts);
    wrmsr(IA32_DEBUGCTL, 0);
    for (name, bit) in [
        ("BTF", 1),
        ("FREEZE_LBRS_ON_PMI", 11),
        ("FREEZE_PERFMON_ON_PMI", 12),
        ("FREEZE_WHILE_SMM", 14),
    ] {
        row!(
            report,
            ("IA32_DEBUGCTL.{name} can be set and cleared"),
            || {
                keeps(IA32_DEBUGCTL, 1 << bit)?;
                keeps(IA32_DEBUGCTL, 0)
            }
        );
    }
    // The manual leaves open what becomes of it beside IA32_LBR_CTL.
    if !facts.is_architectural() {
        row!(report, ("IA32_DEBUGCTL.LBR can be set and cleared"), || {
            keeps(IA32_DEBUGCTL, LBR)?;
            keeps(IA32_DEBUGCTL, 0)
        });
    }
    // 2 is bus locks, 6 to 10 are branch trace, 13 is the uncore's: all absent.
    for bit in (2..=10).chain([13, 16, 17, 31, 32, 48, 63]) {
        row!(report, ("IA32_DEBUGCTL: #GP on reserved bit {bit}"), || {
            refuses(IA32_DEBUGCTL, 1 << bit)
        });
    }
    row!(
        report,
        ("IA32_DEBUGCTL: #GP on a reserved bit among good ones"),
        || { refuses(IA32_DEBUGCTL, BTF | 1 << 5) }
    );
    row!(
        report,
        ("IA32_DEBUGCTL.RTM_DEBUG: #GP without CPUID.07H:EBX[11] (RTM)"),
        || {
            same("RTM", u64::from(cpuid(7, 0).ebx >> 11 & 1), 0)?;
            refuses(IA32_DEBUGCTL, 1 << 15)
        }
    );

    for scenario in [
        &branches::single_step,
        &branches::int1,
        &branches::data_breakpoint,
    ] {
        row!(
            report,
            (
                "a debug exception is not recorded and clears {switch}: {}",
                scenario.about
            ),
            || {
                lbr::reset(facts, 0);
                lbr::run(facts, scenario, 0);
                lbr::holds(facts, scenario.branches())
            }
        );
    }
    row!(
        report,
        ("INT n with vector 1 is recorded and leaves {switch} set"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::int_n_of_db, 0);
            lbr::holds(facts, branches::int_n_of_db.branches())
        }
    );
    row!(
        report,
        ("RFLAGS.TF without BTF: #DB after the next instruction"),
        || {
            traps::count(traps::LOCAL);
            branches::branch_step.run(IA32_DEBUGCTL, 0);
            let (number, at) = traps::interrupts();
            same("#DB", number, 1)?;
            same("RIP", at, branches::branch_step.first().0 - 2)
        }
    );
    row!(
        report,
        ("IA32_DEBUGCTL.BTF: #DB after the next taken branch only"),
        || step(&branches::branch_step)
    );
    for scenario in [
        &branches::call_step,
        &branches::ret_step,
        &branches::jcc_step,
        &branches::jcc_not_taken_step,
        &branches::indirect_step,
        &branches::iret_step,
        &branches::int_n_step,
        &branches::fault_step,
        &branches::interrupt_step,
    ] {
        row!(
            report,
            ("IA32_DEBUGCTL.BTF: {} is a step", scenario.about),
            || step(scenario)
        );
    }
    for (rule, scenario, left) in [
        ("a #DB clears it", &branches::branch_step, 0),
        ("it stays set without a #DB", &branches::all, BTF),
    ] {
        row!(report, ("IA32_DEBUGCTL.BTF: {rule}"), || {
            wrmsr(IA32_DEBUGCTL, BTF);
            // Nobody else writes IA32_DEBUGCTL until it is read.
            scenario.run(msr::IA32_PERF_GLOBAL_CTRL, 0);
            let found = rdmsr(IA32_DEBUGCTL);
            wrmsr(IA32_DEBUGCTL, 0);
            same("IA32_DEBUGCTL", found, left)
        });
    }

    for (about, scenario) in [
        ("an exception", &branches::jump_fault_jump),
        ("an interrupt", &branches::jump_interrupt),
        ("a software interrupt", &branches::jump_int_n),
    ] {
        let (from, to) = scenario.first();
        row!(
            report,
            ("MSR_LER_FROM_LIP: source of the last branch before {about}"),
            || {
                lbr::reset(facts, 0);
                lbr::run(facts, scenario, 0);
                same("MSR_LER_FROM_LIP", lbr::last_event().0, from)
            }
        );
        row!(
            report,
            ("MSR_LER_TO_LIP: target of the last branch before {about}"),
            || {
                lbr::reset(facts, 0);
                lbr::run(facts, scenario, 0);
                same("MSR_LER_TO_LIP", lbr::last_event().1, to)
            }
        );
    }
    row!(
        report,
        ("MSR_LER_x_LIP: later branches do not change them"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::jump_fault_jump, 0);
            let before = lbr::last_event();
            lbr::run(facts, &branches::jmp_near, 0);
            lbr::last_event_is(before)
        }
    );
}
