// SPDX-License-Identifier: GPL-2.0-only
//! The emulator's counters (Documentation/counters.rst) give the numbers that
//! this program knows from what it executes.

use core::arch::asm;

use crate::cpu::{rdmsr, try_rdmsr, try_wrmsr, wrmsr};
use crate::door::{ask, number, section};
use crate::facts::Facts;
use crate::lbr;
use crate::msr::{
    IA32_DEBUGCTL, IA32_LBR_DEPTH, IA32_PERFEVTSEL0, IA32_PERF_CAPABILITIES, MSR_LBR_SELECT,
};
use crate::report::{fail, row, same, Report, Verdict};
use crate::vmx::{self, field, guest, AreaEntry, Controls, End};

/// Retires twice as many instructions as `rounds`.
fn spin(rounds: u32) {
    // SAFETY: only a register changes.
    unsafe { asm!("2: dec {0:e}", "jnz 2b", inout(reg) rounds => _) }
}

/// A guest that ends with VMCALL or another exit, whose end nobody asks for.
fn run(code: unsafe extern "C" fn()) -> End {
    vmx::prepare(code, Controls::default());
    vmx::enter()
}

fn answers(found: &str, expected: &str) -> Verdict {
    if found != expected {
        fail!("the answer is {found}, must be {expected}");
    }
    Ok(())
}

/// Section `name` counted `expected` behind these keys.
fn counted(name: &str, path: &[&str], expected: u64) -> Verdict {
    let found = number(name, path);
    if found != expected {
        let key = path.last().unwrap_or(&"");
        fail!("{key}: {found}, must be {expected}");
    }
    Ok(())
}

pub fn rows(report: &mut Report, facts: &Facts) {
    door(report);
    instructions(report);
    exits(report);
    registers(report, facts);
    bitmap(report);
}

fn door(report: &mut Report) {
    row!(report, ("a section has one start and one stop"), || {
        answers(ask(["start", "once"]), "ok")?;
        answers(
            ask(["start", "once"]),
            "error: there is a section once already; choose another name",
        )?;
        answers(ask(["stop", "once"]), "ok")?;
        answers(
            ask(["stop", "once"]),
            "error: section once does not run or is the machine's own",
        )
    });
    row!(report, ("a line that means nothing is an error"), || {
        answers(
            ask(["halt", "once"]),
            "error: unknown line; say start NAME, stop NAME, read or read NAME",
        )
    });
}

fn instructions(report: &mut Report) {
    row!(
        report,
        ("root_instructions grow by those that retire, and guest_instructions do not"),
        || {
            for (name, rounds) in [("spin-1000", 1000), ("spin-3000", 3000)] {
                section(name, || spin(rounds))?;
                counted(name, &["guest_instructions"], 0)?;
            }
            let short = number("spin-1000", &["root_instructions"]);
            let long = number("spin-3000", &["root_instructions"]);
            same("root_instructions of 2000 rounds", long - short, 4000)
        }
    );
    for (name, code, expected) in [
        ("nops-10", guest::nops_10 as unsafe extern "C" fn(), 10),
        ("nops-110", guest::nops_110, 110),
    ] {
        row!(
            report,
            ("guest_instructions of {name} and an instruction that exits are {expected}"),
            || {
                section(name, || run(code))?;
                counted(name, &["guest_instructions"], expected)
            }
        );
    }
}

fn exits(report: &mut Report) {
    row!(
        report,
        ("VM exits are counted by reason, VM entries by themselves"),
        || {
            section("exits", || {
                run(guest::cpuid);
                run(guest::exit);
                run(guest::cpuid);
                run(guest::cpuid);
                run(guest::exit);
            })?;
            counted("exits", &["entries"], 5)?;
            counted("exits", &["exits", "CPUID", "count"], 3)?;
            counted("exits", &["exits", "CPUID", "returns"], 3)?;
            counted("exits", &["exits", "VMCALL", "count"], 2)?;
            // The last one of a section has no VM entry after it, but the one before
            // the section had its own in it.
            counted("exits", &["exits", "VMCALL", "returns"], 2)
        }
    );
    row!(
        report,
        ("instructions of an exit are those up to the next VM entry"),
        || {
            let between = |name, rounds| {
                section(name, || {
                    run(guest::cpuid);
                    spin(rounds);
                    run(guest::exit);
                })
            };
            between("trip-100", 100)?;
            between("trip-700", 700)?;
            let key = ["exits", "CPUID", "instructions"];
            let (short, long) = (number("trip-100", &key), number("trip-700", &key));
            same("instructions of 600 rounds", long - short, 1200)
        }
    );
    row!(
        report,
        ("a VM entry that fails late is an exit, and no entry"),
        || {
            section("failed", || {
                vmx::prepare(
                    guest::exit,
                    Controls {
                        entry: vmx::LOAD_DEBUG_CONTROLS,
                        ..Controls::default()
                    },
                );
                vmx::write(field::GUEST_DEBUGCTL, 1 << 63);
                vmx::enter()
            })?;
            counted("failed", &["entries"], 0)?;
            counted("failed", &["exits", "INVALID_STATE", "count"], 1)?;
            counted("failed", &["guest_instructions"], 0)
        }
    );
}

fn registers(report: &mut Report, facts: &Facts) {
    row!(
        report,
        ("accesses to registers are counted, those that fault are not"),
        || {
            // A register of the other kind of LBR.
            let legacy = !facts.is_architectural();
            let absent = if legacy {
                IA32_LBR_DEPTH
            } else {
                MSR_LBR_SELECT
            };
            section("root", || {
                for _ in 0..3 {
                    rdmsr(IA32_DEBUGCTL);
                }
                for _ in 0..2 {
                    wrmsr(IA32_DEBUGCTL, 0);
                }
                let _ = try_rdmsr(absent);
                let _ = try_wrmsr(IA32_DEBUGCTL, 1 << 63);
                let _ = try_wrmsr(IA32_PERF_CAPABILITIES, 0);
            })?;
            counted("root", &["0x1d9", "root_read"], 3)?;
            counted("root", &["0x1d9", "root_write"], 2)?;
            counted("root", &["0x1d9", "guest_read"], 0)?;
            counted("root", &["0x345", "root_write"], 0)?;
            counted(
                "root",
                &[if legacy { "0x14cf" } else { "0x1c8" }, "root_read"],
                0,
            )
        }
    );
    row!(
        report,
        ("a guest's access counts for the guest if it does not exit, else as an exit"),
        || {
            section("guest", || {
                run(guest::rdmsr);
                vmx::prepare(guest::rdmsr, Controls::default());
                vmx::intercept(IA32_DEBUGCTL, true, true);
                vmx::enter();
                vmx::prepare(guest::wrmsr, Controls::default());
                vmx::intercept(IA32_PERFEVTSEL0, true, true);
                vmx::enter();
            })?;
            counted("guest", &["0x1d9", "guest_read"], 1)?;
            counted("guest", &["0x1d9", "exit_read"], 1)?;
            counted("guest", &["0x1d9", "exit_write"], 0)?;
            counted("guest", &["0x186", "exit_write"], 1)?;
            counted("guest", &["0x186", "guest_write"], 0)?;
            counted("guest", &["exits", "MSR_READ", "count"], 1)?;
            counted("guest", &["exits", "MSR_WRITE", "count"], 1)
        }
    );
    row!(
        report,
        ("entries of MSR-load and MSR-store areas are counted"),
        || {
            let entry = AreaEntry {
                index: IA32_PERFEVTSEL0,
                ..AreaEntry::default()
            };
            let load = [entry; 3];
            let mut store = [entry; 2];
            section("areas", || {
                vmx::prepare(guest::exit, Controls::default());
                vmx::write(field::ENTRY_LOAD_ADDRESS, load.as_ptr() as u64);
                vmx::write(field::ENTRY_LOAD_COUNT, 3);
                vmx::write(field::EXIT_STORE_ADDRESS, store.as_mut_ptr() as u64);
                vmx::write(field::EXIT_STORE_COUNT, 2);
                vmx::write(field::EXIT_LOAD_ADDRESS, load.as_ptr() as u64);
                vmx::write(field::EXIT_LOAD_COUNT, 1);
                vmx::enter()
            })?;
            counted("areas", &["0x186", "load"], 4)?;
            counted("areas", &["0x186", "store"], 2)?;
            counted("areas", &["0x186", "guest_write"], 0)?;
            lbr::reset(facts, 0);
            Ok(())
        }
    );
}

fn bitmap(report: &mut Report) {
    row!(
        report,
        ("a VM entry finds what changed in its MSR bitmap"),
        || {
            run(guest::exit);
            section("bitmap", || {
                run(guest::exit);
                vmx::prepare(guest::exit, Controls::default());
                vmx::intercept(IA32_DEBUGCTL, true, true);
                vmx::intercept(MSR_LBR_SELECT, true, false);
                vmx::enter();
                vmx::prepare(guest::exit, Controls::default());
                vmx::intercept(IA32_DEBUGCTL, true, false);
                vmx::enter();
            })?;
            counted("bitmap", &["bitmap_changes"], 2)?;
            counted("bitmap", &["0x1d9", "bitmap_flips"], 3)?;
            counted("bitmap", &["0x1c8", "bitmap_flips"], 2)
        }
    );
}
