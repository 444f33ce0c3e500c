// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "VM Entries", "VM Exits", "VMX Capability Reporting Facility": what they
//! do to the architectural last branch records.

use super::vmx::{
    ends, exits, injection, step_delivery_exits, DEBUG_EXCEPTION, EXTERNAL_INTERRUPT, INT1,
    INVALID_GUEST_STATE, NONE, VMCALL,
};
use super::vmx_debugctl::{debug_exits, DEBUGGED};
use crate::boot;
use crate::branches;
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, LBREN};
use crate::msr::{IA32_LBR_CTL, IA32_LBR_DEPTH};
use crate::report::{row, same, Report};
use crate::traps;
use crate::vmx::{self, field, guest, Controls, End};

const BOTH: Controls = Controls {
    pin: 0,
    processor: 0,
    exit: vmx::CLEAR_LBR_CTL,
    entry: vmx::LOAD_LBR_CTL,
};

pub fn rows(report: &mut Report, facts: &Facts) {
    let (exit, entry) = vmx::allowed();
    let expected = u64::from(facts.is_architectural());
    for (name, allowed, bit) in [
        (
            "exit control \"clear IA32_LBR_CTL\"",
            exit,
            vmx::CLEAR_LBR_CTL,
        ),
        (
            "entry control \"load guest IA32_LBR_CTL\"",
            entry,
            vmx::LOAD_LBR_CTL,
        ),
        // It came with the same CPUs.
        (
            "exit control \"save IA32_PERF_GLOBAL_CTRL\"",
            exit,
            vmx::SAVE_GLOBAL_CTRL,
        ),
    ] {
        row!(report, ("VM-{name}: allowed {expected}"), || same(
            "allowed",
            u64::from(allowed & bit != 0),
            expected
        ));
    }
    if !facts.is_architectural() {
        return;
    }
    control(report, facts);
    records(report, facts);
    lbr::reset(facts, 0);
}

fn control(report: &mut Report, facts: &Facts) {
    let all = lbr::control(0);
    for value in [all, all | LBREN, 0] {
        row!(
            report,
            ("load guest IA32_LBR_CTL: the guest's is {value:#x}"),
            || {
                lbr::reset(facts, 0);
                vmx::prepare(guest::rdmsr_lbr_ctl, BOTH);
                vmx::write(field::GUEST_LBR_CTL, value);
                exits(VMCALL)?;
                same("IA32_LBR_CTL in the guest", vmx::answer(), value)
            }
        );
        row!(
            report,
            ("VM exit saves an IA32_LBR_CTL of {value:#x}, with no control for it"),
            || {
                lbr::reset(facts, 0);
                vmx::prepare(guest::exit, NONE);
                vmx::write(field::GUEST_LBR_CTL, 0x6);
                wrmsr(IA32_LBR_CTL, value);
                exits(VMCALL)?;
                same(
                    "guest IA32_LBR_CTL field",
                    vmx::read(field::GUEST_LBR_CTL),
                    value,
                )
            }
        );
    }
    row!(
        report,
        ("without load guest IA32_LBR_CTL the guest has the host's"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::rdmsr_lbr_ctl, Controls { entry: 0, ..BOTH });
            vmx::write(field::GUEST_LBR_CTL, 0);
            wrmsr(IA32_LBR_CTL, all);
            exits(VMCALL)?;
            same("IA32_LBR_CTL in the guest", vmx::answer(), all)
        }
    );
    row!(report, ("clear IA32_LBR_CTL: VM exit clears it"), || {
        vmx::prepare(guest::exit, BOTH);
        vmx::write(field::GUEST_LBR_CTL, all | LBREN);
        exits(VMCALL)?;
        same("IA32_LBR_CTL", rdmsr(IA32_LBR_CTL), 0)
    });
    row!(
        report,
        ("without clear IA32_LBR_CTL the guest's stays after VM exit"),
        || {
            vmx::prepare(guest::exit, Controls { exit: 0, ..BOTH });
            vmx::write(field::GUEST_LBR_CTL, all);
            exits(VMCALL)?;
            let found = rdmsr(IA32_LBR_CTL);
            lbr::reset(facts, 0);
            same("IA32_LBR_CTL", found, all)
        }
    );
    for bit in [4, 15, 23, 32, 63] {
        row!(
            report,
            ("load guest IA32_LBR_CTL: VM entry fails on reserved bit {bit}"),
            || {
                vmx::prepare(guest::exit, BOTH);
                vmx::write(field::GUEST_LBR_CTL, 1 << bit);
                exits(INVALID_GUEST_STATE)
            }
        );
    }
    row!(
        report,
        ("without load guest IA32_LBR_CTL the field is not checked"),
        || {
            vmx::prepare(guest::exit, Controls { entry: 0, ..BOTH });
            vmx::write(field::GUEST_LBR_CTL, 1 << 63);
            exits(VMCALL)
        }
    );
    row!(
        report,
        ("clear IA32_LBR_CTL: a VM entry that fails late clears it as well"),
        || {
            vmx::prepare(guest::exit, BOTH);
            vmx::write(field::GUEST_LBR_CTL, 1 << 63);
            wrmsr(IA32_LBR_CTL, all);
            exits(INVALID_GUEST_STATE)?;
            same("IA32_LBR_CTL", rdmsr(IA32_LBR_CTL), 0)
        }
    );
}

fn records(report: &mut Report, facts: &Facts) {
    let on = LBREN | lbr::control(0);
    row!(
        report,
        ("a guest's branches are recorded with its LBREn, VM exit is not"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::jump, BOTH);
            vmx::write(field::GUEST_LBR_CTL, on);
            exits(VMCALL)?;
            same("FROM", lbr::record(facts, 0).0, vmx::guest_jump().0)?;
            same("TO", lbr::record(facts, 0).1, vmx::guest_jump().1)?;
            same("the one before", lbr::record(facts, 1).0, 0)
        }
    );
    row!(
        report,
        ("a guest's branches are not recorded without it, nor is VM entry"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::jump, BOTH);
            vmx::write(field::GUEST_LBR_CTL, on & !LBREN);
            wrmsr(IA32_LBR_CTL, on);
            ends(vmx::enter(), End::Exit(VMCALL))?;
            same("FROM", lbr::record(facts, 0).0, vmx::jump().0)?;
            same("TO", lbr::record(facts, 0).1, vmx::jump().1)
        }
    );
    row!(
        report,
        ("an interrupt that VM entry injects is recorded from the guest's RIP to its handler"),
        || injection(facts, BOTH, (field::GUEST_LBR_CTL, on), EXTERNAL_INTERRUPT)
    );
    row!(
        report,
        ("a #DB that VM entry injects is recorded and leaves IA32_LBR_CTL.LBREn set"),
        || injection(facts, BOTH, (field::GUEST_LBR_CTL, on), DEBUG_EXCEPTION)
    );
    row!(report, ("a #DB that VM entry injects as that of INT1 is recorded and leaves IA32_LBR_CTL.LBREn set"), || injection(
        facts,
        BOTH,
        (field::GUEST_LBR_CTL, on),
        INT1
    ));
    for guest in &DEBUGGED {
        row!(
            report,
            (
                "a #DB that exits leaves the guest's IA32_LBR_CTL.LBREn set: {}",
                guest.about
            ),
            || debug_exits(facts, guest, BOTH, (field::GUEST_LBR_CTL, on))
        );
    }
    row!(
        report,
        ("a #DB whose delivery exits clears the guest's IA32_LBR_CTL.LBREn"),
        || step_delivery_exits(facts, BOTH, (field::GUEST_LBR_CTL, on), on & !LBREN)
    );
    row!(
        report,
        ("an interrupt that VM entry injects in ring 3 is recorded from the guest's RIP"),
        || {
            let code = guest::nops_10 as unsafe extern "C" fn();
            let handler = guest::exit as unsafe extern "C" fn() as usize as u64;
            lbr::reset(facts, 0);
            vmx::prepare(code, BOTH);
            vmx::write(field::GUEST_LBR_CTL, on & !lbr::OS);
            vmx::write(field::GUEST_CS, boot::USER_CODE);
            vmx::write(field::GUEST_SS, boot::USER_DATA);
            vmx::write(field::GUEST_CS_RIGHTS, 0xa0fb);
            vmx::write(field::GUEST_SS_RIGHTS, 0xc0f3);
            vmx::write(field::ENTRY_INTERRUPTION, EXTERNAL_INTERRUPT);
            vmx::write(field::GUEST_RFLAGS, 0x202);
            traps::handle_in_user(traps::LOCAL, handler);
            let end = vmx::enter();
            traps::restore(traps::LOCAL);
            ends(end, End::Exit(VMCALL))?;
            same("FROM", lbr::record(facts, 0).0, code as usize as u64)?;
            same("TO", lbr::record(facts, 0).1, handler)
        }
    );
    row!(report, ("VM entry and VM exit keep the records"), || {
        lbr::records(facts, &branches::call_relative, 0)?;
        vmx::prepare(guest::exit, BOTH);
        exits(VMCALL)?;
        lbr::holds(facts, lbr::expected(facts, &branches::call_relative, 0))
    });
    row!(report, ("VM entry and VM exit keep IA32_LBR_DEPTH"), || {
        let smallest = 8 * (u64::from(facts.depths.trailing_zeros()) + 1);
        wrmsr(IA32_LBR_DEPTH, smallest);
        vmx::prepare(guest::exit, BOTH);
        let exit = exits(VMCALL);
        let found = rdmsr(IA32_LBR_DEPTH);
        lbr::reset(facts, 0);
        exit?;
        same("IA32_LBR_DEPTH", found, smallest)
    });
}
