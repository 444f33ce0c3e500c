// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features" and "Last Branch Records": what is recorded.

use crate::branches::{self, Branch, Kind, KINDS};
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, filter, records};
use crate::msr;
use crate::report::{row, same, Report};

pub fn rows(report: &mut Report, facts: &Facts) {
    let depth = u64::from(facts.depth);
    let (switch, filters) = (lbr::switch_name(facts), lbr::filters_name(facts));
    row!(report, ("{switch}: nothing is recorded without it"), || {
        lbr::reset(facts, 0);
        lbr::run_off(facts, &branches::all);
        lbr::holds(facts, core::iter::empty())
    });
    row!(
        report,
        ("{switch}: code without branches leaves no record"),
        || { records(facts, &branches::nothing, 0) }
    );
    row!(report, ("a Jcc that is not taken leaves no record"), || {
        records(facts, &branches::jcc_not_taken, 0)
    });
    for scenario in KINDS {
        let about = scenario.about;
        let what = if lbr::expected(facts, scenario, 0).count() == 0 {
            "leaves no record"
        } else {
            "recorded with FROM and TO"
        };
        row!(report, ("{about}: {what}"), || records(facts, scenario, 0));
    }
    // IA32_PERF_CAPABILITIES.LBR_FMT: "64-bit EIP"; CPUID.1CH:EAX[31]: "LIP".
    let (addresses, base) = if facts.is_architectural() {
        ("linear addresses", 0)
    } else {
        ("offsets in the code segment", 0x1000)
    };
    row!(
        report,
        ("FROM and TO have {addresses} ({})", branches::segment.about),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::segment, 0);
            // The first enters the segment, the last leaves it.
            let bases = [(0, base), (base, base), (base, 0)];
            let inside = branches::segment.branches().zip(bases);
            lbr::holds(
                facts,
                inside.map(|(branch, bases)| Branch {
                    from: branch.from - bases.0,
                    to: branch.to - bases.1,
                    ..branch
                }),
            )
        }
    );
    for scenario in KINDS {
        let about = scenario.about;
        let own = scenario
            .branches()
            .fold(0, |select, branch| select | filter(branch.kind).1);
        row!(
            report,
            ("{filters}: {about}: dropped by the filters of its kind"),
            || { records(facts, scenario, own) }
        );
        row!(
            report,
            ("{filters}: {about}: not dropped by the filters of other kinds"),
            || {
                let others = lbr::KINDS & !own;
                records(facts, scenario, others)
            }
        );
    }
    // The architectural bits have their kinds recorded.
    let (names, rings, state) = if facts.is_architectural() {
        (lbr::ENABLES, ["OS", "USR"], "cleared")
    } else {
        (lbr::FILTERS, ["CPL_EQ_0", "CPL_NEQ_0"], "set")
    };
    for ((name, _), (_, bit)) in names.into_iter().zip(lbr::FILTERS) {
        row!(
            report,
            ("{filters}.{name} {state} drops its kind, and no other"),
            || { records(facts, &branches::all, bit) }
        );
    }
    for (name, bit) in rings.into_iter().zip([1, 2]) {
        row!(
            report,
            ("{filters}.{name} {state}: by the ring in which a branch ends"),
            || { records(facts, &branches::user, bit) }
        );
    }
    row!(
        report,
        ("{filters}: {} and {} {state} drop all", rings[0], rings[1]),
        || { records(facts, &branches::user, 3) }
    );
    row!(
        report,
        ("{filters}: filters on rings and kinds add up"),
        || { records(facts, &branches::user, lbr::CPL_EQ_0 | filter(Kind::Jcc).1) }
    );

    row!(report, ("the newest {depth} records stay"), || {
        records(facts, &branches::many, 0)
    });
    row!(report, ("{switch}: clearing keeps the records"), || {
        records(facts, &branches::all, 0)?;
        lbr::run_off(facts, &branches::all);
        lbr::holds(facts, lbr::expected(facts, &branches::all, 0))
    });
    if !facts.is_architectural() {
        row!(
            report,
            ("MSR_LASTBRANCH_TOS points to the newest record, the next goes behind"),
            || {
                lbr::reset(facts, 0);
                wrmsr(msr::MSR_LASTBRANCH_TOS, depth - 2);
                lbr::run(facts, &branches::call_relative, 0);
                same("TOS", rdmsr(msr::MSR_LASTBRANCH_TOS), 0)?;
                let newest = lbr::record(facts, 0);
                let branch = branches::call_relative.last();
                same("FROM", newest.0, branch.0)?;
                same("TO", newest.1, branch.1)
            }
        );
        row!(
            report,
            ("a record overwrites what software wrote there"),
            || {
                lbr::reset(facts, 0);
                wrmsr(msr::MSR_LASTBRANCH_0_FROM_IP + 1, 0x1234);
                wrmsr(msr::MSR_LASTBRANCH_0_TO_IP + 1, 0x5678);
                lbr::run(facts, &branches::jmp_short, 0);
                lbr::holds(facts, branches::jmp_short.branches())
            }
        );
    }
}
