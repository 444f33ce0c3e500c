// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 1, "Managing State Using the XSAVE Feature Set", and vol. 3, "Last Branch
//! Records", "XSAVE Support for Last Branch Records".

use super::{absent, keeps, refuses};
use crate::branches;
use crate::cpu::{cpuid, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, LBREN};
use crate::msr::{self, IA32_LBR_CTL, IA32_LBR_DEPTH, IA32_XSS};
use crate::pmu::{self, INSTRUCTIONS};
use crate::report::{fail, row, same, Report, Verdict};
use crate::traps::GP;
use crate::xsave::{self, xrstors, xsavec, xsaves, Area, COMPACTED, LBR, QUADWORDS};

const MARK: u8 = 0xa5;
const MARKS: u64 = u64::from_ne_bytes([MARK; 8]);

/// What a register and its quadword of the area are called.
#[rustfmt::skip]
const HEADER: [(&str, u32, u64); 5] = [
    ("IA32_LBR_CTL", IA32_LBR_CTL, 0x7f_0006),
    ("IA32_LBR_DEPTH", IA32_LBR_DEPTH, 32),
    ("IA32_LER_FROM_IP", msr::MSR_LER_FROM_LIP, 0x1111),
    ("IA32_LER_TO_IP", msr::MSR_LER_TO_LIP, 0x2222),
    ("IA32_LER_INFO", msr::IA32_LER_INFO, 0x3333),
];

/// Register and value of quadword `n` behind the header: FROM, TO and INFO of entry
/// 0, then of entry 1, and so on.
fn entry(n: usize) -> (u32, u64) {
    let first = [
        msr::IA32_LBR_0_FROM_IP,
        msr::IA32_LBR_0_TO_IP,
        msr::IA32_LBR_0_INFO,
    ][n % 3];
    (first + n as u32 / 3, 0x4000 + n as u64)
}

/// Fills the registers with values of their own.
fn fill(facts: &Facts) {
    lbr::reset(facts, 0);
    for (_, index, value) in HEADER {
        wrmsr(index, value);
    }
    for n in 0..3 * facts.depth as usize {
        let (index, value) = entry(n);
        wrmsr(index, value);
    }
}

/// An area with values of their own.
fn filled(facts: &Facts) -> Area {
    let mut area = Area::new(0, LBR);
    for (place, (_, _, value)) in area.lbr().iter_mut().zip(HEADER) {
        *place = value;
    }
    for n in 0..3 * facts.depth as usize {
        area.lbr()[5 + n] = entry(n).1;
    }
    area
}

fn done(result: Result<(), crate::traps::Trap>) -> Verdict {
    if let Err(trap) = result {
        fail!("ends with {trap}");
    }
    Ok(())
}

fn faults(result: Result<(), crate::traps::Trap>) -> Verdict {
    match result {
        Err(GP) => Ok(()),
        Err(trap) => fail!("ends with {trap}, must with #GP(0)"),
        Ok(()) => fail!("does not fault"),
    }
}

/// The registers have the values that [`fill`] gives them.
fn are_filled(facts: &Facts) -> Verdict {
    for (name, index, value) in HEADER {
        same(name, rdmsr(index), value)?;
    }
    for n in 0..3 * facts.depth as usize {
        let (index, value) = entry(n);
        if rdmsr(index) != value {
            fail!(
                "register {index:#x}: {:#x}, must be {value:#x}",
                rdmsr(index)
            );
        }
    }
    Ok(())
}

fn entries_are_zero(facts: &Facts) -> Verdict {
    for n in 0..3 * facts.depth as usize {
        same("entry", rdmsr(entry(n).0), 0)?;
    }
    Ok(())
}

fn clear_exceptions() {
    for (_, index, _) in &HEADER[2..] {
        wrmsr(*index, 0);
    }
}

pub fn rows(report: &mut Report, facts: &Facts) {
    if !facts.is_architectural() {
        row!(
            report,
            ("CPUID.0DH.1:ECX[15] is 0 without architectural LBRs"),
            || same("bit 15", u64::from(cpuid(0xd, 1).ecx >> 15 & 1), 0)
        );
        return;
    }
    xsave::enable(0);
    leaf(report);
    save(report, facts);
    restore(report, facts);
    wrmsr(IA32_XSS, 0);
    lbr::reset(facts, 0);
    clear_exceptions();
}

fn leaf(report: &mut Report) {
    let component = cpuid(0xd, 15);
    row!(report, ("CPUID.0DH.1:EAX[3]: XSAVES, IA32_XSS"), || same(
        "bit 3",
        u64::from(cpuid(0xd, 1).eax >> 3 & 1),
        1
    ));
    row!(
        report,
        ("CPUID.0DH.1:ECX[15]: IA32_XSS has state component 15"),
        || same("bit 15", u64::from(cpuid(0xd, 1).ecx >> 15 & 1), 1)
    );
    row!(report, ("CPUID.0DH.15:EAX is 808 bytes"), || same(
        "EAX",
        u64::from(component.eax),
        808
    ));
    row!(
        report,
        ("CPUID.0DH.15:EBX is 0, as it is supervisor state"),
        || same("EBX", u64::from(component.ebx), 0)
    );
    row!(report, ("CPUID.0DH.15:ECX[0]: supervisor state"), || same(
        "ECX[0]",
        u64::from(component.ecx & 1),
        1
    ));
    for (what, supervisor, size) in [("without", 0, 576), ("with", LBR, 576 + 808)] {
        row!(
            report,
            ("CPUID.0DH.1:EBX {what} IA32_XSS[15]: {size} bytes"),
            || {
                wrmsr(IA32_XSS, supervisor);
                same("EBX", u64::from(cpuid(0xd, 1).ebx), size)
            }
        );
    }
    row!(report, ("IA32_XSS[15] can be set and cleared"), || {
        keeps(IA32_XSS, LBR)?;
        keeps(IA32_XSS, 0)
    });
    for bit in [0, 1, 2, 63] {
        row!(
            report,
            ("IA32_XSS: #GP on bit {bit}, which is no supervisor state"),
            || refuses(IA32_XSS, 1 << bit)
        );
    }
    wrmsr(IA32_XSS, LBR);
}

fn save(report: &mut Report, facts: &Facts) {
    let saved = || {
        fill(facts);
        let mut area = Area::new(MARK, 0);
        let result = xsaves(&mut area, LBR);
        done(result).map(|()| area)
    };
    for (n, (name, _, value)) in HEADER.into_iter().enumerate() {
        row!(
            report,
            ("XSAVES: {name} in bytes {} to {}", 8 * n, 8 * n + 7),
            || { same(name, saved()?.lbr()[n], value) }
        );
    }
    row!(
        report,
        ("XSAVES: FROM, TO and INFO of each entry behind them"),
        || {
            let mut area = saved()?;
            for (n, found) in area.lbr()[5..].iter().enumerate() {
                same("quadword", *found, entry(n).1)?;
            }
            same("quadwords", area.lbr().len() as u64, QUADWORDS as u64)
        }
    );
    row!(report, ("XSAVES: XSTATE_BV[15] and XCOMP_BV[15]"), || {
        let (present, format) = saved()?.header();
        same("XSTATE_BV", present, LBR)?;
        same("XCOMP_BV", format, COMPACTED | LBR)
    });
    for depth in [8, 16] {
        row!(
            report,
            ("XSAVES: with an IA32_LBR_DEPTH of {depth} no entry beyond is stored"),
            || {
                lbr::reset(facts, 0);
                wrmsr(IA32_LBR_DEPTH, depth);
                let used = 3 * depth as usize;
                for n in 0..used {
                    wrmsr(entry(n).0, entry(n).1);
                }
                let mut area = Area::new(MARK, 0);
                done(xsaves(&mut area, LBR))?;
                same("IA32_LBR_DEPTH", area.lbr()[1], depth)?;
                for (n, found) in area.lbr()[5..].iter().enumerate() {
                    same(
                        "quadword",
                        *found,
                        if n < used { entry(n).1 } else { MARKS },
                    )?;
                }
                Ok(())
            }
        );
    }
    row!(report, ("XSAVES changes no register"), || {
        saved()?;
        are_filled(facts)
    });
    row!(
        report,
        ("XSAVES: in the initial configuration XSTATE_BV[15] is 0, and nothing is stored"),
        || {
            lbr::reset(facts, 0);
            clear_exceptions();
            let mut area = Area::new(MARK, 0);
            done(xsaves(&mut area, LBR))?;
            same("XSTATE_BV", area.header().0, 0)?;
            same("XCOMP_BV", area.header().1, COMPACTED | LBR)?;
            area.lbr()
                .iter()
                .try_for_each(|found| same("quadword", *found, MARKS))
        }
    );
    for (what, index, value) in [
        ("IA32_LBR_CTL", IA32_LBR_CTL, 2),
        ("IA32_LER_INFO", msr::IA32_LER_INFO, 1),
        ("the last entry", msr::IA32_LBR_0_TO_IP + facts.depth - 1, 1),
    ] {
        row!(
            report,
            ("XSAVES: {what} alone makes another than the initial configuration"),
            || {
                lbr::reset(facts, 0);
                clear_exceptions();
                wrmsr(index, value);
                let mut area = Area::new(MARK, 0);
                done(xsaves(&mut area, LBR))?;
                same("XSTATE_BV", area.header().0, LBR)
            }
        );
    }
    row!(
        report,
        ("XSAVES stores nothing that is not requested"),
        || {
            fill(facts);
            let mut area = Area::new(MARK, 0);
            done(xsaves(&mut area, 0))?;
            same("XCOMP_BV", area.header().1, COMPACTED)?;
            same("quadword", area.lbr()[0], MARKS)
        }
    );
    row!(
        report,
        ("XSAVES stores nothing without IA32_XSS[15]"),
        || {
            fill(facts);
            wrmsr(IA32_XSS, 0);
            let mut area = Area::new(MARK, 0);
            let result = xsaves(&mut area, LBR);
            wrmsr(IA32_XSS, LBR);
            done(result)?;
            same("XCOMP_BV", area.header().1, COMPACTED)?;
            same("quadword", area.lbr()[0], MARKS)
        }
    );
    row!(report, ("XSAVEC stores no supervisor state"), || {
        fill(facts);
        let mut area = Area::new(MARK, 0);
        done(xsavec(&mut area, LBR))?;
        same("XCOMP_BV", area.header().1, COMPACTED)?;
        same("quadword", area.lbr()[0], MARKS)
    });
}

fn restore(report: &mut Report, facts: &Facts) {
    row!(report, ("XRSTORS loads all that XSAVES stores"), || {
        lbr::reset(facts, 0);
        clear_exceptions();
        done(xrstors(&mut filled(facts), LBR))?;
        are_filled(facts)
    });
    row!(
        report,
        ("XRSTORS: IA32_LBR_CTL.LBREn in the area starts recording"),
        || {
            lbr::reset(facts, 0);
            let mut area = Area::new(0, LBR);
            area.lbr()[0] = LBREN | lbr::control(0);
            area.lbr()[1] = u64::from(facts.depth);
            done(xrstors(&mut area, LBR))?;
            same("LBREn", rdmsr(IA32_LBR_CTL) & LBREN, LBREN)?;
            // Its first WRMSR changes nothing, its last one stops recording.
            lbr::run(facts, &branches::jmp_short, 0);
            let newest = lbr::record(facts, 0);
            same("newest FROM", newest.0, branches::jmp_short.first().0)
        }
    );
    for (address, what) in facts.canonical() {
        row!(report, ("XRSTORS: takes the {what} for FROM"), || {
            lbr::reset(facts, 0);
            let mut area = filled(facts);
            area.lbr()[5] = address;
            done(xrstors(&mut area, LBR))?;
            same(
                "IA32_LBR_0_FROM_IP",
                rdmsr(msr::IA32_LBR_0_FROM_IP),
                address,
            )
        });
    }
    for address in facts.not_canonical() {
        row!(
            report,
            ("XRSTORS: #GP on the non-canonical address {address:#x} for TO"),
            || {
                lbr::reset(facts, 0);
                let mut area = filled(facts);
                area.lbr()[6] = address;
                faults(xrstors(&mut area, LBR))
            }
        );
    }
    row!(
        report,
        ("XRSTORS: XSTATE_BV[15] 0 clears all but IA32_LBR_DEPTH"),
        || {
            fill(facts);
            wrmsr(IA32_LBR_DEPTH, 8);
            let shallow = Facts { depth: 8, ..*facts };
            wrmsr(msr::IA32_LBR_0_FROM_IP + 7, 0x77);
            done(xrstors(&mut Area::new(MARK, 0), LBR))?;
            same("IA32_LBR_DEPTH", rdmsr(IA32_LBR_DEPTH), 8)?;
            for (name, index, _) in [HEADER[0], HEADER[2], HEADER[3], HEADER[4]] {
                same(name, rdmsr(index), 0)?;
            }
            entries_are_zero(&shallow)
        }
    );
    row!(
        report,
        ("XRSTORS: IA32_LBR_DEPTH other than the area's stays, and all entries are cleared"),
        || {
            lbr::reset(facts, 0);
            wrmsr(IA32_LBR_DEPTH, 8);
            let shallow = Facts { depth: 8, ..*facts };
            for n in 0..24 {
                wrmsr(entry(n).0, 1);
            }
            done(xrstors(&mut filled(facts), LBR))?;
            same("IA32_LBR_DEPTH", rdmsr(IA32_LBR_DEPTH), 8)?;
            same("IA32_LBR_CTL", rdmsr(IA32_LBR_CTL), HEADER[0].2)?;
            same("IA32_LER_TO_IP", rdmsr(msr::MSR_LER_TO_LIP), HEADER[3].2)?;
            absent(msr::IA32_LBR_0_FROM_IP + 8)?;
            entries_are_zero(&shallow)
        }
    );
    row!(
        report,
        ("XRSTORS: entries of another IA32_LBR_DEPTH may have any value"),
        || {
            lbr::reset(facts, 0);
            wrmsr(IA32_LBR_DEPTH, 8);
            let mut area = filled(facts);
            area.lbr()[5] = 1 << 62;
            done(xrstors(&mut area, LBR))?;
            same("IA32_LBR_0_FROM_IP", rdmsr(msr::IA32_LBR_0_FROM_IP), 0)?;
            same("IA32_LER_TO_IP", rdmsr(msr::MSR_LER_TO_LIP), HEADER[3].2)
        }
    );
    for bit in [7, 32, 63] {
        row!(
            report,
            ("XRSTORS: #GP on reserved bit {bit} of IA32_LBR_DEPTH, with nothing changed"),
            || {
                fill(facts);
                let mut area = Area::new(0, LBR);
                area.lbr()[1] = u64::from(facts.depth) | 1 << bit;
                faults(xrstors(&mut area, LBR))?;
                are_filled(facts)
            }
        );
    }
    for bit in [4, 23, 63] {
        row!(
            report,
            ("XRSTORS: #GP on reserved bit {bit} of IA32_LBR_CTL, with nothing changed"),
            || {
                fill(facts);
                let mut area = Area::new(0, LBR);
                area.lbr()[0] = 1 << bit;
                area.lbr()[1] = u64::from(facts.depth);
                faults(xrstors(&mut area, LBR))?;
                are_filled(facts)
            }
        );
    }
    for scenario in [&xsave::xrstors_empty, &xsave::xrstors_full] {
        row!(
            report,
            (
                "{}: an interrupt right behind XRSTORS at an overflow",
                scenario.about
            ),
            || {
                let (number, at) = pmu::overflow(facts, INSTRUCTIONS, 3, scenario);
                pmu::reset(facts);
                same("interrupts", number, 1)?;
                same("RIP", at, scenario.first().0)
            }
        );
    }
    row!(
        report,
        ("XRSTORS loads nothing that is not requested"),
        || {
            fill(facts);
            let mut area = Area::new(0, LBR);
            done(xrstors(&mut area, 0))?;
            are_filled(facts)
        }
    );
    row!(
        report,
        ("XRSTORS: #GP on XCOMP_BV[15] without IA32_XSS[15]"),
        || {
            fill(facts);
            wrmsr(IA32_XSS, 0);
            let result = xrstors(&mut Area::new(0, LBR), LBR);
            wrmsr(IA32_XSS, LBR);
            faults(result)?;
            are_filled(facts)
        }
    );
}
