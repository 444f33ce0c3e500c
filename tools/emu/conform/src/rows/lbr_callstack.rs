// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features": "LBR Stack", and "Last Branch Records",
//! "Call-Stack Mode".

use crate::branches::{self, Kind, Scenario};
use crate::facts::Facts;
use crate::lbr::{self, CPL_EQ_0, EN_CALLSTACK};
use crate::report::{fail, row, Report, Verdict};

/// What the manual wants set in this mode: jumps and far branches filtered.
const SELECT: u64 = EN_CALLSTACK | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 8;

/// The same, with filters on calls and returns, which the manual wants clear.
const NO_REL_CALL: u64 = SELECT | 1 << 3;
const NO_IND_CALL: u64 = SELECT | 1 << 4;
const NO_RET: u64 = SELECT | 1 << 5;

/// The records after `scenario`: of its branches those that `stay`.
fn stack(facts: &Facts, scenario: &Scenario, select: u64, stay: &[usize]) -> Verdict {
    lbr::reset(facts, select);
    lbr::run(facts, scenario, select);
    let branches = scenario.branches().enumerate();
    let staying = branches.filter(|(n, _)| stay.contains(n));
    // What a popped record leaves behind is not said.
    lbr::ends_with(facts, staying.map(|(_, branch)| branch))
}

pub fn rows(report: &mut Report, facts: &Facts) {
    const ALL: [usize; 40] = {
        let mut all = [0; 40];
        let mut n = 0;
        while n < 40 {
            all[n] = n;
            n += 1;
        }
        all
    };
    #[rustfmt::skip]
    let table: [(&str, &Scenario, u64, &[usize]); 20] = [
        ("a near relative CALL pushes a record", &branches::call_stays, SELECT, &[0]),
        ("a near indirect CALL pushes a record", &branches::call_register_stays, SELECT, &[0]),
        ("a near RET pops the record of its CALL", &branches::call_relative, SELECT, &[]),
        ("RET imm16 pops the record of an indirect CALL", &branches::call_register, SELECT, &[]),
        ("a RET pops the newest record only", &branches::call_nested, SELECT, &[0]),
        ("a CALL of the next instruction leaves no record", &branches::call_zero, SELECT, &[]),
        ("a CALL of the next instruction keeps the stack", &branches::call_zero_nested, SELECT, &[0]),
        ("conditional jumps are not recorded", &branches::jcc_short, SELECT, &[]),
        ("direct jumps are not recorded", &branches::jmp_near, SELECT, &[]),
        ("indirect jumps are not recorded", &branches::jmp_register, SELECT, &[]),
        ("far calls and returns neither push nor pop", &branches::call_far, SELECT, &[]),
        ("events and IRET neither push nor pop", &branches::undefined, SELECT, &[]),
        ("interrupts neither push nor pop", &branches::jump_interrupt, SELECT, &[]),
        ("CALLs deeper than the stack keep the newest", &branches::calls, SELECT, &ALL),
        ("CPL_EQ_0 keeps calls of ring 0 out", &branches::call_stays, SELECT | CPL_EQ_0, &[]),
        ("relative CALLs that are filtered push nothing", &branches::call_stays, NO_REL_CALL, &[]),
        ("indirect CALLs push, relative ones filtered", &branches::call_register_stays, NO_REL_CALL, &[0]),
        ("indirect CALLs that are filtered push nothing", &branches::call_register_stays, NO_IND_CALL, &[]),
        ("relative CALLs push, indirect ones filtered", &branches::call_stays, NO_IND_CALL, &[0]),
        ("without it a RET is recorded and pops nothing", &branches::call_relative, 0, &[0, 1]),
    ];
    let mode = if facts.is_architectural() {
        "IA32_LBR_CTL.CALL_STACK"
    } else {
        "MSR_LBR_SELECT.EN_CALLSTACK"
    };
    for (rule, scenario, select, stay) in table {
        row!(report, ("{mode}: {rule}"), || {
            stack(facts, scenario, select, stay)
        });
    }
    row!(
        report,
        ("{mode}: RETs that are filtered are not recorded"),
        || {
            lbr::reset(facts, NO_RET);
            lbr::run(facts, &branches::call_relative, NO_RET);
            // Whether they pop is not said.
            for branch in branches::call_relative.branches() {
                let mut records = (0..facts.depth).map(|n| lbr::record(facts, n));
                if branch.kind == Kind::Ret && records.any(|(from, _)| from == branch.from) {
                    fail!("the RET at {:#x} is recorded", branch.from);
                }
            }
            Ok(())
        }
    );
}
