// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Last Branch Records": CPUID and the registers of the architectural
//! last branch records.

use super::{absent, keeps, refuses};
use crate::branches::{self, Kind};
use crate::cpu::{cpuid, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, filter, CALL_STACK, ENABLES, LBREN, OS, USR};
use crate::msr::{self, IA32_LBR_CTL, IA32_LBR_DEPTH};
use crate::pmu::{self, LBR_FRZ};
use crate::report::{row, same, Report, Verdict};

const FROM: u32 = msr::IA32_LBR_0_FROM_IP;
const TO: u32 = msr::IA32_LBR_0_TO_IP;
const INFO: u32 = msr::IA32_LBR_0_INFO;
const FILES: [(&str, u32); 3] = [
    ("IA32_LBR_x_FROM_IP", FROM),
    ("IA32_LBR_x_TO_IP", TO),
    ("IA32_LBR_x_INFO", INFO),
];

/// IA32_LBR_x_INFO.CYC_CNT_VALID
const CYC_CNT_VALID: u64 = 1 << 60;
/// IA32_LBR_x_INFO.MISPRED
const MISPRED: u64 = 1 << 63;

/// The depths that the machine has.
fn depths(facts: &Facts) -> impl Iterator<Item = u64> + '_ {
    (0..8)
        .filter(|bit| facts.depths >> bit & 1 != 0)
        .map(|bit| 8 * (bit + 1))
}

fn all_absent(first: u32, last: u32) -> Verdict {
    (first..=last).try_for_each(absent)
}

/// Gives each entry's registers a value of their own, and looks for them.
fn distinct(first: u32, depth: u64) -> Verdict {
    let registers = || (first..).zip(0..depth);
    for (index, n) in registers() {
        keeps(index, 0x100 + n)?;
    }
    for (index, n) in registers() {
        same("register", rdmsr(index), 0x100 + n)?;
    }
    Ok(())
}

fn entries_are_zero(depth: u64) -> Verdict {
    for (name, first) in FILES {
        for (index, _) in (first..).zip(0..depth) {
            same(name, rdmsr(index), 0)?;
        }
    }
    Ok(())
}

/// IA32_LBR_x_INFO.BR_TYPE
fn br_type(kind: Kind) -> u64 {
    match kind {
        Kind::Jcc => 0,
        Kind::IndJmp => 1,
        Kind::RelJmp => 2,
        Kind::IndCall => 3,
        Kind::RelCall | Kind::ZeroCall => 4,
        Kind::Ret => 5,
        Kind::Far | Kind::Event => 8,
    }
}

pub fn rows(report: &mut Report, facts: &Facts) {
    if !facts.is_architectural() {
        row!(
            report,
            ("CPUID.07H:EDX[19] is 0 without architectural LBRs"),
            || same("Arch LBR", u64::from(cpuid(7, 0).edx >> 19 & 1), 0)
        );
        return;
    }
    leaf(report, facts);
    control(report, facts);
    depth(report, facts);
    entries(report, facts);
    info(report, facts);
    last_event(report, facts);
    others(report);
    lbr::reset(facts, 0);
}

fn leaf(report: &mut Report, facts: &Facts) {
    let leaf = cpuid(0x1c, 0);
    row!(
        report,
        ("CPUID.07H:EDX[19]: there are architectural LBRs"),
        || same("Arch LBR", u64::from(cpuid(7, 0).edx >> 19 & 1), 1)
    );
    #[rustfmt::skip]
    let fields = [
        ("EAX[7:0] depths", leaf.eax & 0xff, facts.depths),
        ("EAX[29:8] reserved", leaf.eax >> 8 & 0x3f_ffff, 0),
        ("EAX[30] a deep C-state may clear the records: not here", leaf.eax >> 30 & 1, 0),
        ("EAX[31] IP values are linear", leaf.eax >> 31, 1),
        ("EBX[0] filters by privilege level", leaf.ebx & 1, 1),
        ("EBX[1] filters by kind of branch", leaf.ebx >> 1 & 1, 1),
        ("EBX[2] call-stack mode", leaf.ebx >> 2 & 1, 1),
        ("EBX[31:3] reserved", leaf.ebx >> 3, 0),
        ("ECX[0] mispredictions", leaf.ecx & 1, 1),
        ("ECX[1] cycles", leaf.ecx >> 1 & 1, 1),
        ("ECX[2] kinds of branches", leaf.ecx >> 2 & 1, 1),
        ("ECX[31:3] no logging of events, reserved", leaf.ecx >> 3, 0),
        ("EDX reserved", leaf.edx, 0),
    ];
    for (what, found, expected) in fields {
        row!(report, ("CPUID.1CH:{what}"), || same(
            what,
            u64::from(found),
            u64::from(expected)
        ));
    }
}

fn control(report: &mut Report, facts: &Facts) {
    lbr::reset(facts, 0);
    let own = [
        ("LBREn", LBREN),
        ("OS", OS),
        ("USR", USR),
        ("CALL_STACK", CALL_STACK),
    ];
    for (name, bit) in own.into_iter().chain(ENABLES) {
        row!(
            report,
            ("IA32_LBR_CTL.{name} can be set and cleared"),
            || {
                keeps(IA32_LBR_CTL, bit)?;
                keeps(IA32_LBR_CTL, 0)
            }
        );
    }
    for bit in [4, 15, 23, 31, 32, 63] {
        row!(report, ("IA32_LBR_CTL: #GP on reserved bit {bit}"), || {
            refuses(IA32_LBR_CTL, 1 << bit)
        });
    }
    row!(
        report,
        ("IA32_LBR_CTL: nothing is recorded with neither OS nor USR"),
        || {
            lbr::reset(facts, 0);
            let kinds = lbr::control(0) & !(OS | USR);
            branches::all.run(IA32_LBR_CTL, LBREN | kinds);
            lbr::holds(facts, core::iter::empty())
        }
    );
    row!(
        report,
        ("IA32_LBR_CTL: nothing is recorded with no kind of branch"),
        || {
            lbr::reset(facts, 0);
            branches::all.run(IA32_LBR_CTL, LBREN | OS | USR);
            lbr::holds(facts, core::iter::empty())
        }
    );
}

fn depth(report: &mut Report, facts: &Facts) {
    for depth in depths(facts) {
        row!(report, ("IA32_LBR_DEPTH: takes {depth}"), || keeps(
            IA32_LBR_DEPTH,
            depth
        ));
        for (name, first) in FILES {
            row!(
                report,
                ("IA32_LBR_DEPTH {depth}: {depth} registers {name} keep what is written"),
                || {
                    wrmsr(IA32_LBR_DEPTH, depth);
                    distinct(first, depth)
                }
            );
            row!(
                report,
                ("IA32_LBR_DEPTH {depth}: #GP on {name} from {depth} on"),
                || {
                    wrmsr(IA32_LBR_DEPTH, depth);
                    all_absent(first + depth as u32, first + 0x3f)
                }
            );
        }
        row!(
            report,
            ("IA32_LBR_DEPTH {depth}: writing it clears all entries"),
            || {
                wrmsr(IA32_LBR_DEPTH, depth);
                for (_, first) in FILES {
                    distinct(first, depth)?;
                }
                wrmsr(IA32_LBR_DEPTH, depth);
                entries_are_zero(depth)
            }
        );
        row!(
            report,
            ("IA32_LBR_DEPTH {depth}: the newest {depth} records stay"),
            || {
                let shallow = Facts {
                    depth: depth as u32,
                    ..*facts
                };
                lbr::records(&shallow, &branches::many, 0)
            }
        );
    }
    row!(
        report,
        ("IA32_LBR_DEPTH: another depth clears all entries"),
        || {
            for depth in depths(facts) {
                lbr::reset(facts, 0);
                for (_, first) in FILES {
                    distinct(first, u64::from(facts.depth))?;
                }
                wrmsr(IA32_LBR_DEPTH, depth);
                entries_are_zero(depth)?;
                lbr::reset(facts, 0);
                entries_are_zero(u64::from(facts.depth))?;
            }
            Ok(())
        }
    );
    for value in [0, 1, 7, 9, 31, 33, 64, 1 << 32 | 8, 1 << 63 | 32] {
        row!(
            report,
            ("IA32_LBR_DEPTH: #GP on {value:#x}, which is no depth"),
            || refuses(IA32_LBR_DEPTH, value)
        );
    }
    for bit in (0..8u64).filter(|bit| facts.depths >> bit & 1 == 0) {
        let value = 8 * (bit + 1);
        row!(
            report,
            ("IA32_LBR_DEPTH: #GP on {value}, as CPUID.1CH:EAX[{bit}] is 0"),
            || refuses(IA32_LBR_DEPTH, value)
        );
    }
    row!(report, ("IA32_LBR_DEPTH: #GP clears no entry"), || {
        lbr::reset(facts, 0);
        distinct(FROM, u64::from(facts.depth))?;
        refuses(IA32_LBR_DEPTH, 5)?;
        same("IA32_LBR_0_FROM_IP", rdmsr(FROM), 0x100)
    });
}

fn entries(report: &mut Report, facts: &Facts) {
    lbr::reset(facts, 0);
    for (name, first) in [FILES[0], FILES[1]] {
        for (address, what) in facts.canonical() {
            row!(report, ("{name}: takes the {what}"), || keeps(
                first + facts.depth - 1,
                address
            ));
        }
        for address in facts.not_canonical().into_iter().chain([1 << 63]) {
            row!(
                report,
                ("{name}: #GP on the non-canonical address {address:#x}"),
                || refuses(first, address)
            );
        }
    }
    row!(
        report,
        ("a record goes to entry 0, the others move on by one"),
        || {
            lbr::reset(facts, 0);
            for (_, first) in FILES {
                distinct(first, u64::from(facts.depth))?;
            }
            lbr::run(facts, &branches::jmp_short, 0);
            for (n, (name, first)) in FILES.into_iter().enumerate() {
                for (index, value) in (first + 1..first + facts.depth).zip(0x100..) {
                    same(name, rdmsr(index), value)?;
                }
                let (from, to) = branches::jmp_short.first();
                if n < 2 {
                    same(name, rdmsr(first), [from, to][n])?;
                }
            }
            Ok(())
        }
    );
}

fn info(report: &mut Report, facts: &Facts) {
    lbr::reset(facts, 0);
    for (name, value) in [
        ("CYC_CNT", 0xffff),
        ("BR_TYPE", 0xf << 56),
        ("CYC_CNT_VALID", CYC_CNT_VALID),
        ("MISPRED", MISPRED),
    ] {
        row!(report, ("IA32_LBR_x_INFO.{name} can be set"), || keeps(
            INFO, value
        ));
    }
    for scenario in branches::KINDS {
        // A CALL of the next instruction leaves no record.
        if lbr::expected(facts, scenario, 0).next().is_none() {
            continue;
        }
        row!(
            report,
            ("IA32_LBR_x_INFO.BR_TYPE of {}", scenario.about),
            || {
                lbr::reset(facts, 0);
                lbr::run(facts, scenario, 0);
                let number = lbr::expected(facts, scenario, 0).count() as u32;
                for (n, branch) in lbr::expected(facts, scenario, 0).enumerate() {
                    let info = rdmsr(INFO + number - 1 - n as u32);
                    same("BR_TYPE", info >> 56 & 0xf, br_type(branch.kind))?;
                }
                Ok(())
            }
        );
    }
    row!(
        report,
        ("IA32_LBR_x_INFO.CYC_CNT_VALID is 0 in the first record since LBREn was set"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::jumps_and_nops, 0);
            same("CYC_CNT_VALID", rdmsr(INFO + 1) & CYC_CNT_VALID, 0)
        }
    );
}

fn last_event(report: &mut Report, facts: &Facts) {
    row!(
        report,
        ("IA32_LER_INFO.BR_TYPE: kind of the last branch before an event"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::jump_fault_jump, 0);
            let found = rdmsr(msr::IA32_LER_INFO) >> 56 & 0xf;
            same("BR_TYPE", found, br_type(Kind::RelJmp))
        }
    );
    row!(
        report,
        ("IA32_LER_x: the last branch before an event that the filters let through"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::jumps_fault, filter(Kind::RelJmp).1);
            lbr::last_event_is(branches::jumps_fault.first())
        }
    );
    row!(
        report,
        ("IA32_PERF_GLOBAL_STATUS.LBR_FRZ freezes IA32_LER_x"),
        || {
            lbr::reset(facts, 0);
            lbr::run(facts, &branches::jump_fault_jump, 0);
            let before = lbr::last_event();
            wrmsr(msr::IA32_PERF_GLOBAL_STATUS_SET, LBR_FRZ);
            lbr::run(facts, &branches::jumps_fault, 0);
            pmu::clear_status(facts);
            lbr::last_event_is(before)
        }
    );
}

fn others(report: &mut Report) {
    for (first, last, what) in [
        (
            msr::MSR_LBR_SELECT,
            msr::MSR_LASTBRANCH_TOS,
            "MSR_LBR_SELECT, MSR_LASTBRANCH_TOS",
        ),
        (
            msr::MSR_LASTBRANCH_0_FROM_IP,
            msr::MSR_LASTBRANCH_0_FROM_IP + 0x1f,
            "MSR_LASTBRANCH_x_FROM_IP",
        ),
        (
            msr::MSR_LASTBRANCH_0_TO_IP,
            msr::MSR_LASTBRANCH_0_TO_IP + 0x1f,
            "MSR_LASTBRANCH_x_TO_IP",
        ),
        (
            msr::MSR_LBR_INFO_0,
            msr::MSR_LBR_INFO_0 + 0x1f,
            "MSR_LBR_INFO_x",
        ),
    ] {
        row!(
            report,
            ("{what}: #GP on a CPU with architectural LBRs only"),
            || all_absent(first, last)
        );
    }
}
