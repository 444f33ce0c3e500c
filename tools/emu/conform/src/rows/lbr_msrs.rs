// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features": the registers of the last branch records.

use super::{absent, keeps, refuses};
use crate::cpu::rdmsr;
use crate::facts::Facts;
use crate::lbr::{self, FILTERS};
use crate::msr;
use crate::report::{row, same, Report, Verdict};

const FROM: u32 = msr::MSR_LASTBRANCH_0_FROM_IP;
const TO: u32 = msr::MSR_LASTBRANCH_0_TO_IP;
const INFO: u32 = msr::MSR_LBR_INFO_0;

/// Every register keeps a value of its own.
fn distinct(facts: &Facts, first: u32) -> Verdict {
    for n in 0..facts.depth {
        keeps(first + n, 0x100 + u64::from(n))?;
    }
    for n in 0..facts.depth {
        same("register", rdmsr(first + n), 0x100 + u64::from(n))?;
    }
    Ok(())
}

fn all_absent(first: u32, last: u32) -> Verdict {
    (first..=last).try_for_each(absent)
}

pub fn rows(report: &mut Report, facts: &Facts) {
    old(report);
    if facts.is_architectural() {
        return;
    }
    let depth = facts.depth;
    let files = [
        ("MSR_LASTBRANCH_x_FROM_IP", FROM),
        ("MSR_LASTBRANCH_x_TO_IP", TO),
    ];
    lbr::reset(facts, 0);
    for (name, first) in files {
        row!(
            report,
            ("{name}: {depth} registers that keep what is written"),
            || { distinct(facts, first) }
        );
        row!(report, ("{name}: #GP beyond the {depth}th"), || {
            // CET and the TSC deadline have registers right behind the 32nd.
            (first + depth..first + 0x20)
                .chain(first + 0x29..=first + 0x3f)
                .try_for_each(absent)
        });
        for (address, what) in facts.canonical() {
            row!(report, ("{name}: takes the {what}"), || keeps(
                first + depth - 1,
                address
            ));
        }
        // Of flags of TSX, which no machine has, bits 61 and 62 are sign extension.
        for address in facts
            .not_canonical()
            .into_iter()
            .chain([1 << 61, 1 << 62, 1 << 63])
        {
            // With flags in FROM its top bit is no part of the address.
            if first == FROM && !facts.has_info() && address == 1 << 63 {
                row!(report, ("{name}: MISPRED can be set"), || keeps(
                    first, address
                ));
                continue;
            }
            row!(
                report,
                ("{name}: #GP on the non-canonical address {address:#x}"),
                || { refuses(first, address) }
            );
        }
    }
    if facts.has_info() {
        row!(
            report,
            ("MSR_LBR_INFO_x: {depth} registers that keep what is written"),
            || { distinct(facts, INFO) }
        );
        row!(report, ("MSR_LBR_INFO_x: CYC_CNT takes 16 bits"), || keeps(
            INFO, 0xffff
        ));
        row!(report, ("MSR_LBR_INFO_x: MISPRED can be set"), || keeps(
            INFO,
            1 << 63
        ));
        for bit in [16, 31, 32, 60, 61, 62] {
            row!(
                report,
                ("MSR_LBR_INFO_x: #GP on reserved bit {bit}"),
                || { refuses(INFO, 1 << bit) }
            );
        }
    } else {
        row!(
            report,
            ("MSR_LBR_INFO_x: #GP without the INFO format"),
            || { all_absent(INFO, INFO + 0x1f) }
        );
    }

    row!(
        report,
        ("MSR_LASTBRANCH_TOS: keeps every index below {depth}"),
        || { (0..u64::from(depth)).try_for_each(|tos| keeps(msr::MSR_LASTBRANCH_TOS, tos)) }
    );
    for bit in [depth.trailing_zeros(), 31, 32, 63] {
        row!(
            report,
            ("MSR_LASTBRANCH_TOS: #GP on reserved bit {bit}"),
            || { refuses(msr::MSR_LASTBRANCH_TOS, 1 << bit) }
        );
    }

    let own = [("CPL_EQ_0", 1), ("CPL_NEQ_0", 2), ("EN_CALLSTACK", 1 << 9)];
    for (name, bit) in own.into_iter().chain(FILTERS) {
        row!(
            report,
            ("MSR_LBR_SELECT.{name} can be set and cleared"),
            || {
                keeps(msr::MSR_LBR_SELECT, bit)?;
                keeps(msr::MSR_LBR_SELECT, 0)
            }
        );
    }
    for bit in [10, 11, 16, 31, 32, 63] {
        row!(
            report,
            ("MSR_LBR_SELECT: #GP on reserved bit {bit}"),
            || { refuses(msr::MSR_LBR_SELECT, 1 << bit) }
        );
    }

    row!(
        report,
        ("IA32_LBR_CTL, IA32_LBR_DEPTH: #GP without CPUID.07H:EDX[19] (Arch LBR)"),
        || {
            same(
                "Arch LBR",
                u64::from(crate::cpu::cpuid(7, 0).edx >> 19 & 1),
                0,
            )?;
            all_absent(0x14ce, 0x14cf)
        }
    );
    for (first, what) in [
        (0x1200, "IA32_LBR_x_INFO"),
        (0x1500, "IA32_LBR_x_FROM_IP"),
        (0x1600, "IA32_LBR_x_TO_IP"),
    ] {
        row!(
            report,
            ("{what}: #GP without CPUID.07H:EDX[19] (Arch LBR)"),
            || { all_absent(first, first + 0x3f) }
        );
    }
    row!(
        report,
        ("IA32_LER_INFO: #GP without CPUID.07H:EDX[19] (Arch LBR)"),
        || absent(msr::IA32_LER_INFO)
    );
    for (index, what) in [
        (msr::MSR_LER_FROM_LIP, "MSR_LER_FROM_LIP"),
        (msr::MSR_LER_TO_LIP, "MSR_LER_TO_LIP"),
    ] {
        row!(report, ("{what} is read-only: #GP on WRMSR"), || refuses(
            index, 0
        ));
    }
}

fn old(report: &mut Report) {
    for (first, last, what) in [
        (0x40, 0x47, "of the Core microarchitecture (FROM)"),
        (0x60, 0x67, "of the Core microarchitecture (TO)"),
        (
            0x1db,
            0x1dc,
            "of the P6 family (LASTBRANCHFROMIP, LASTBRANCHTOIP)",
        ),
    ] {
        row!(
            report,
            ("Last branch registers {what}: #GP"),
            || all_absent(first, last)
        );
    }
}
