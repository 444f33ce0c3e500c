// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features": what is recorded.

use crate::branches::{self, Kind, KINDS};
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, filter, passes, records, LBR};
use crate::msr;
use crate::report::{row, same, Report};

pub fn rows(report: &mut Report, facts: &Facts) {
    let depth = u64::from(facts.depth);
    row!(
        report,
        ("IA32_DEBUGCTL.LBR: nothing is recorded without it"),
        || {
            lbr::reset(facts, 0);
            branches::all.run(msr::IA32_DEBUGCTL, 0);
            lbr::holds(facts, core::iter::empty())
        }
    );
    row!(
        report,
        ("IA32_DEBUGCTL.LBR: code without branches leaves no record"),
        || { records(facts, &branches::nothing, 0) }
    );
    row!(report, ("a Jcc that is not taken leaves no record"), || {
        records(facts, &branches::jcc_not_taken, 0)
    });
    for scenario in KINDS {
        let about = scenario.about;
        row!(report, ("{about}: recorded with FROM and TO"), || records(
            facts, scenario, 0
        ));
    }
    for scenario in KINDS {
        let about = scenario.about;
        let own = scenario
            .branches()
            .fold(0, |select, branch| select | filter(branch.kind).1);
        row!(
            report,
            ("MSR_LBR_SELECT: {about}: dropped by the filters of its kind"),
            || { records(facts, scenario, own) }
        );
        row!(
            report,
            ("MSR_LBR_SELECT: {about}: not dropped by the filters of other kinds"),
            || {
                let others = lbr::KINDS & !own;
                if scenario.branches().any(|branch| !passes(&branch, others)) {
                    return same("filters of other kinds", others, 0);
                }
                records(facts, scenario, others)
            }
        );
    }
    for (name, bit) in lbr::FILTERS {
        row!(
            report,
            ("MSR_LBR_SELECT.{name} drops its kind, and no other"),
            || { records(facts, &branches::all, bit) }
        );
    }
    for (name, bit) in [("CPL_EQ_0", 1), ("CPL_NEQ_0", 2)] {
        row!(
            report,
            ("MSR_LBR_SELECT.{name}: by the ring in which a branch ends"),
            || { records(facts, &branches::user, bit) }
        );
    }
    row!(
        report,
        ("MSR_LBR_SELECT: CPL_EQ_0 and CPL_NEQ_0 together drop all"),
        || { records(facts, &branches::user, 3) }
    );
    row!(
        report,
        ("MSR_LBR_SELECT: filters on rings and kinds add up"),
        || { records(facts, &branches::user, lbr::CPL_EQ_0 | filter(Kind::Jcc).1) }
    );

    row!(
        report,
        ("the stack is a ring: the newest {depth} records stay, TOS wraps"),
        || { records(facts, &branches::many, 0) }
    );
    row!(
        report,
        ("MSR_LASTBRANCH_TOS points to the newest record, the next goes behind"),
        || {
            lbr::reset(facts, 0);
            wrmsr(msr::MSR_LASTBRANCH_TOS, depth - 2);
            branches::call_relative.run(msr::IA32_DEBUGCTL, LBR);
            same("TOS", rdmsr(msr::MSR_LASTBRANCH_TOS), 0)?;
            let newest = lbr::record(facts, 0);
            let branch = branches::call_relative.branches().next_back();
            let branch = branch.map_or((0, 0), |branch| (branch.from, branch.to));
            same("FROM", newest.0, branch.0)?;
            same("TO", newest.1, branch.1)
        }
    );
    row!(
        report,
        ("IA32_DEBUGCTL.LBR: clearing keeps the records"),
        || {
            records(facts, &branches::all, 0)?;
            branches::all.run(msr::IA32_DEBUGCTL, 0);
            lbr::holds(facts, branches::all.branches())
        }
    );
    row!(
        report,
        ("a record overwrites what software wrote there"),
        || {
            lbr::reset(facts, 0);
            wrmsr(msr::MSR_LASTBRANCH_0_FROM_IP + 1, 0x1234);
            wrmsr(msr::MSR_LASTBRANCH_0_TO_IP + 1, 0x5678);
            branches::jmp_short.run(msr::IA32_DEBUGCTL, LBR);
            lbr::holds(facts, branches::jmp_short.branches())
        }
    );
}
