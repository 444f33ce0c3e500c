// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features" and "Last Branch Records": what else a record says of its
//! branch.

use crate::branches::{self, Scenario};
use crate::facts::Facts;
use crate::lbr::{self, filter};
use crate::report::{fail, row, same, Report, Verdict};

/// IA32_LBR_x_INFO.CYC_CNT_VALID
const CYC_CNT_VALID: u64 = 1 << 60;
/// The greatest value of CYC_CNT.
const CYC_CNT: u64 = 0xffff;

pub fn rows(report: &mut Report, facts: &Facts) {
    // No predictor is documented; these need no more of it than that it learns what
    // happens 1000 times, and cannot know what never happened.
    let table: [(&str, &Scenario, usize, bool); 8] = [
        (
            "clear for a Jcc that was taken all the time",
            &branches::loop_back,
            0,
            false,
        ),
        (
            "set for a Jcc that was not taken until now",
            &branches::loop_exit,
            0,
            true,
        ),
        ("clear for a direct JMP", &branches::loop_exit, 1, false),
        (
            "clear for a JMP r64 to where it went before",
            &branches::loop_indirect,
            2,
            false,
        ),
        (
            "set for a JMP r64 to where it never went",
            &branches::loop_indirect,
            0,
            true,
        ),
        ("clear for a direct CALL", &branches::loop_ret, 1, false),
        (
            "clear for a RET to behind its CALL",
            &branches::loop_ret,
            0,
            false,
        ),
        (
            "set for a RET to elsewhere",
            &branches::ret_elsewhere,
            0,
            true,
        ),
    ];
    let (mispred, reserved) = match (facts.is_architectural(), facts.has_info()) {
        (true, _) => ("IA32_LBR_x_INFO.MISPRED", 0x60ff_ffff_ffff_0000),
        (_, true) => ("MSR_LBR_INFO_x.MISPRED", 0x7fff_ffff_ffff_0000),
        _ => ("MSR_LASTBRANCH_x_FROM_IP.MISPRED", 3 << 61),
    };
    for (what, scenario, age, expected) in table {
        row!(report, ("{mispred}: {what}"), || {
            lbr::reset(facts, 0);
            lbr::run(facts, scenario, 0);
            newest(facts, scenario)?;
            let found = lbr::is_mispredicted(facts, age as u32);
            same("MISPRED", u64::from(found), u64::from(expected))
        });
    }
    row!(
        report,
        ("{mispred}: beside it TSX and reserved flags are 0 without TSX"),
        || {
            lbr::records(facts, &branches::all, 0)?;
            for n in 0..branches::all.branches().count() {
                same("flags", lbr::info(facts, n as u32) & reserved, 0)?;
            }
            Ok(())
        }
    );
    if facts.has_info() {
        cycles(report, facts);
    }
    lbr::reset(facts, 0);
}

/// The newest records are those of `scenario`, whatever is behind.
fn newest(facts: &Facts, scenario: &Scenario) -> Verdict {
    for (n, branch) in scenario.branches().rev().enumerate() {
        let (from, to) = lbr::record(facts, n as u32);
        same("FROM", from, branch.from)?;
        same("TO", to, branch.to)?;
    }
    Ok(())
}

fn cycles(report: &mut Report, facts: &Facts) {
    let jcc = filter(branches::Kind::Jcc).1;
    let name = if facts.is_architectural() {
        "IA32_LBR_x_INFO.CYC_CNT"
    } else {
        "MSR_LBR_INFO_x.CYC_CNT"
    };
    let of = |n| {
        let info = lbr::info(facts, n);
        if facts.is_architectural() {
            same("CYC_CNT_VALID", info & CYC_CNT_VALID, CYC_CNT_VALID)?;
        }
        Ok(info & CYC_CNT)
    };
    row!(
        report,
        ("{name}: cycles since the record before, over branches that were filtered"),
        || {
            lbr::records(facts, &branches::jump_loop_jumps, jcc)?;
            let (at_once, behind_the_loop) = (of(0)?, of(1)?);
            if at_once >= behind_the_loop {
                fail!("{behind_the_loop} behind 5000 LOOPs, {at_once} at once");
            }
            Ok(())
        }
    );
    row!(report, ("{name}: saturates at FFFFH"), || {
        lbr::records(facts, &branches::jump_long_loop_jump, jcc)?;
        same("CYC_CNT behind 200000 LOOPs", of(0)?, CYC_CNT)
    });
}
