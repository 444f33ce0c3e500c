// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "VM Entries" and "VM Exits": IA32_DEBUGCTL and pending debug exceptions.

use super::vmx::{ends, exits, DEBUG, EXCEPTION_OR_NMI, INVALID_GUEST_STATE, NONE, VMCALL};
use crate::cpu::{rdmsr, read_dr6, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, BTF, FREEZE_LBRS_ON_PMI};
use crate::msr::IA32_DEBUGCTL;
use crate::report::{row, same, Failure, Report, Verdict};
use crate::vmx::{self, field, guest, Controls, End};

// Basic exit reasons.
const MONITOR_TRAP_FLAG: u64 = 37;
/// Pending debug exceptions, exit qualification: a single step.
const BS: u64 = 1 << 14;
/// RFLAGS: what is always set, TF, IF.
const RFLAGS: u64 = 2;
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;

/// A guest that meets a debug exception.
pub(super) struct Debugged {
    /// How, for the name of a row.
    pub(super) about: &'static str,
    code: unsafe extern "C" fn(),
    rflags: u64,
    dr7: u64,
    /// Interruption type.
    kind: u64,
    /// What the exit qualification says of it.
    qualification: u64,
}

pub(super) const DEBUGGED: [Debugged; 3] = [
    Debugged {
        about: "a single step",
        code: guest::step,
        rflags: 0x102,
        dr7: 0x400,
        kind: 3,
        qualification: 1 << 14,
    },
    Debugged {
        about: "INT1",
        code: guest::int1,
        rflags: 2,
        dr7: 0x400,
        kind: 5,
        qualification: 0,
    },
    Debugged {
        about: "a data breakpoint",
        code: guest::store,
        rflags: 2,
        dr7: 0x1_0401,
        kind: 3,
        qualification: 1,
    },
];

/// The #DB of a guest with `controls` and `value` in `field` exits: the field is as before,
/// DR6 and DR7 are, and nothing is recorded.
pub(super) fn debug_exits(
    facts: &Facts,
    guest: &Debugged,
    controls: Controls,
    (field, value): (u64, u64),
) -> Verdict {
    lbr::reset(facts, 0);
    vmx::break_at_store();
    let entry = controls.entry | vmx::LOAD_DEBUG_CONTROLS;
    vmx::prepare(guest.code, Controls { entry, ..controls });
    vmx::write(field, value);
    vmx::write(field::EXCEPTION_BITMAP, 1 << 1);
    vmx::write(field::GUEST_RFLAGS, guest.rflags);
    vmx::write(field::GUEST_DR7, guest.dr7);
    let dr6 = read_dr6();
    exits(EXCEPTION_OR_NMI)?;
    let event = vmx::read(field::EXIT_INTERRUPTION);
    same("vector", event & 0xff, 1)?;
    same("type", event >> 8 & 7, guest.kind)?;
    let qualification = vmx::read(field::EXIT_QUALIFICATION);
    same("qualification", qualification, guest.qualification)?;
    same("the guest's field", vmx::read(field), value)?;
    same("DR6", read_dr6(), dr6)?;
    same("record", lbr::record(facts, 0).0, 0)
}

pub fn rows(report: &mut Report, _facts: &Facts) {
    register(report);
    single_step(report);
    checks(report);
}

fn register(report: &mut Report) {
    for value in [BTF, FREEZE_LBRS_ON_PMI, 0] {
        row!(
            report,
            ("load debug controls: the guest's IA32_DEBUGCTL is {value:#x}"),
            || {
                vmx::prepare(guest::rdmsr, DEBUG);
                vmx::write(field::GUEST_DEBUGCTL, value);
                exits(VMCALL)?;
                same("IA32_DEBUGCTL in the guest", vmx::answer(), value)
            }
        );
        row!(
            report,
            ("save debug controls: VM exit saves an IA32_DEBUGCTL of {value:#x}"),
            || {
                vmx::prepare(guest::rdmsr, Controls { entry: 0, ..DEBUG });
                vmx::write(field::GUEST_DEBUGCTL, 0x1234);
                wrmsr(IA32_DEBUGCTL, value);
                exits(VMCALL)?;
                same(
                    "guest IA32_DEBUGCTL field",
                    vmx::read(field::GUEST_DEBUGCTL),
                    value,
                )
            }
        );
    }
    row!(
        report,
        ("without load debug controls the guest keeps IA32_DEBUGCTL"),
        || {
            vmx::prepare(guest::rdmsr, NONE);
            vmx::write(field::GUEST_DEBUGCTL, 0);
            wrmsr(IA32_DEBUGCTL, FREEZE_LBRS_ON_PMI);
            exits(VMCALL)?;
            same(
                "IA32_DEBUGCTL in the guest",
                vmx::answer(),
                FREEZE_LBRS_ON_PMI,
            )
        }
    );
    row!(
        report,
        ("without save debug controls VM exit leaves the field alone"),
        || {
            vmx::prepare(guest::rdmsr, NONE);
            vmx::write(field::GUEST_DEBUGCTL, 0x1234);
            wrmsr(IA32_DEBUGCTL, FREEZE_LBRS_ON_PMI);
            exits(VMCALL)?;
            same(
                "guest IA32_DEBUGCTL field",
                vmx::read(field::GUEST_DEBUGCTL),
                0x1234,
            )
        }
    );
    for (name, controls) in [("with", DEBUG), ("without", NONE)] {
        row!(
            report,
            ("VM exit clears IA32_DEBUGCTL, {name} save debug controls"),
            || {
                vmx::prepare(guest::exit, controls);
                vmx::write(field::GUEST_DEBUGCTL, FREEZE_LBRS_ON_PMI);
                wrmsr(IA32_DEBUGCTL, FREEZE_LBRS_ON_PMI);
                exits(VMCALL)?;
                same("IA32_DEBUGCTL", rdmsr(IA32_DEBUGCTL), 0)
            }
        );
    }
    for bit in [3, 16, 32, 63] {
        row!(
            report,
            ("load debug controls: VM entry fails on reserved bit {bit}"),
            || {
                vmx::prepare(guest::exit, DEBUG);
                vmx::write(field::GUEST_DEBUGCTL, 1 << bit);
                exits(INVALID_GUEST_STATE)
            }
        );
    }
    row!(
        report,
        ("a VM entry that fails late clears IA32_DEBUGCTL as a VM exit does"),
        || {
            vmx::prepare(guest::exit, DEBUG);
            vmx::write(field::GUEST_DEBUGCTL, 1 << 63);
            wrmsr(IA32_DEBUGCTL, FREEZE_LBRS_ON_PMI);
            exits(INVALID_GUEST_STATE)?;
            same("IA32_DEBUGCTL", rdmsr(IA32_DEBUGCTL), 0)
        }
    );
    row!(
        report,
        ("without load debug controls the field is not checked"),
        || {
            vmx::prepare(guest::exit, NONE);
            vmx::write(field::GUEST_DEBUGCTL, 1 << 63);
            exits(VMCALL)
        }
    );
}

fn single_step(report: &mut Report) {
    // One instruction, no branch, is stepped over, and a VM exit comes before the trap.
    let step = |debugctl| -> Result<u64, Failure> {
        let processor = vmx::MONITOR_TRAP;
        vmx::prepare(guest::nops_10, Controls { processor, ..DEBUG });
        vmx::write(field::GUEST_DEBUGCTL, debugctl);
        vmx::write(field::GUEST_RFLAGS, 0x102);
        exits(MONITOR_TRAP_FLAG)?;
        Ok(vmx::read(field::GUEST_PENDING_DEBUG) & BS)
    };
    row!(
        report,
        ("a VM exit saves a single step (BS) as pending"),
        || { same("BS", step(0)?, BS) }
    );
    row!(
        report,
        ("a VM exit saves no single step with BTF and without a branch"),
        || { same("BS", step(BTF)?, 0) }
    );
    row!(
        report,
        ("a single step (BS) that is pending at VM entry traps, whatever BTF says"),
        || {
            step(BTF)?;
            vmx::prepare(guest::nops_10, DEBUG);
            vmx::write(field::GUEST_DEBUGCTL, BTF);
            vmx::write(field::EXCEPTION_BITMAP, 1 << 1);
            vmx::write(field::GUEST_PENDING_DEBUG, BS);
            exits(EXCEPTION_OR_NMI)?;
            same("BS", vmx::read(field::EXIT_QUALIFICATION) & BS, BS)
        }
    );
}

/// What VM entry checks of pending debug exceptions.
fn checks(report: &mut Report) {
    let enter = |state: (u64, u64), debugctl, rflags, pending| {
        vmx::prepare(guest::exit, DEBUG);
        vmx::write(state.0, state.1);
        vmx::write(field::GUEST_DEBUGCTL, debugctl);
        vmx::write(field::GUEST_RFLAGS, rflags);
        vmx::write(field::GUEST_PENDING_DEBUG, pending);
        vmx::write(field::EXCEPTION_BITMAP, 1 << 1);
        vmx::enter()
    };
    for bit in [4, 11, 13, 15, 17, 32, 63] {
        row!(
            report,
            ("pending debug exceptions: VM entry fails on reserved bit {bit}"),
            || {
                let active = (field::GUEST_ACTIVITY, 0);
                ends(
                    enter(active, 0, RFLAGS, 1 << bit),
                    End::Exit(INVALID_GUEST_STATE),
                )
            }
        );
    }
    // With each state what a guest with a pending single step does; one that is halted and
    // has none is not entered, as it would stay so.
    for (what, state, trap) in [
        (
            "blocking by STI",
            (field::GUEST_INTERRUPTIBILITY, 1),
            EXCEPTION_OR_NMI,
        ),
        (
            "blocking by MOV SS",
            (field::GUEST_INTERRUPTIBILITY, 2),
            VMCALL,
        ),
        ("HLT", (field::GUEST_ACTIVITY, 1), EXCEPTION_OR_NMI),
    ] {
        for (flags, rflags, debugctl, steps) in [
            ("TF without BTF", TF, 0, true),
            ("TF and BTF", TF, BTF, false),
            ("no TF", 0, 0, false),
        ] {
            let (right, wrong, must) = if steps {
                (BS, 0, "BS")
            } else {
                (0, BS, "no BS")
            };
            row!(
                report,
                ("{what}: with {flags} VM entry wants {must}"),
                || {
                    let rflags = RFLAGS | IF | rflags;
                    let failed = End::Exit(INVALID_GUEST_STATE);
                    ends(enter(state, debugctl, rflags, wrong), failed)?;
                    if state.0 == field::GUEST_ACTIVITY && !steps {
                        return Ok(());
                    }
                    let reason = if steps { trap } else { VMCALL };
                    ends(enter(state, debugctl, rflags, right), End::Exit(reason))?;
                    // What blocks the trap goes on blocking it, and what is pending stays so.
                    if trap == VMCALL {
                        let pending = vmx::read(field::GUEST_PENDING_DEBUG);
                        same("pending", pending & BS, right)?;
                    }
                    Ok(())
                }
            );
        }
    }
}
