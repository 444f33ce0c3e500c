// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "VM Entries", "VM Exits", "VMX Capability Reporting Facility": what
//! they do to the PMU and to the LBR.

use super::vmx_debugctl::{debug_exits, DEBUGGED};
use crate::apic;
use crate::branches::{self, Branch, Kind, Ring};
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr::{self, LBR};
use crate::msr::{self, IA32_DEBUGCTL, IA32_PERF_GLOBAL_CTRL};
use crate::pmu::{self, Counter, EN, INSTRUCTIONS, INT, OS};
use crate::report::{fail, row, same, Report, Verdict};
use crate::smm;
use crate::traps;
use crate::vmx::{self, field, guest, Controls, End};

/// VM-entry interruption information: valid, external interrupt.
pub(super) const EXTERNAL_INTERRUPT: u64 = 1 << 31 | traps::LOCAL as u64;
/// VM-entry interruption information: valid, hardware exception, #DB.
pub(super) const DEBUG_EXCEPTION: u64 = 1 << 31 | 3 << 8 | 1;
/// VM-entry interruption information: valid, privileged software exception, #DB.
pub(super) const INT1: u64 = 1 << 31 | 5 << 8 | 1;
// Basic exit reasons.
pub(super) const EXCEPTION_OR_NMI: u64 = 0;
pub(super) const VMCALL: u64 = 18;
const MONITOR_TRAP_FLAG: u64 = 37;
pub(super) const INVALID_GUEST_STATE: u64 = 1 << 31 | 33;
/// VM-instruction error: VM entry with invalid host-state fields.
const INVALID_HOST_STATE: u64 = 8;

pub(super) const DEBUG: Controls = Controls {
    pin: 0,
    processor: 0,
    exit: vmx::SAVE_DEBUG_CONTROLS,
    entry: vmx::LOAD_DEBUG_CONTROLS,
};
pub(super) const NONE: Controls = Controls {
    pin: 0,
    processor: 0,
    exit: 0,
    entry: 0,
};
const GLOBAL: Controls = Controls {
    pin: 0,
    processor: 0,
    exit: vmx::EXIT_LOAD_GLOBAL_CTRL,
    entry: vmx::ENTRY_LOAD_GLOBAL_CTRL,
};

pub(super) fn ends(found: End, expected: End) -> Verdict {
    if found == expected {
        return Ok(());
    }
    match found {
        End::Exit(reason) => fail!("VM exit with reason {reason:#x}"),
        End::Failed(error) => fail!("VMLAUNCH fails with error {error}"),
    }
}

pub(super) fn exits(reason: u64) -> Verdict {
    ends(vmx::enter(), End::Exit(reason))
}

/// A branch of ring 0.
fn branch((from, to): (u64, u64)) -> Branch {
    Branch {
        kind: Kind::RelJmp,
        ring: Ring::K,
        from,
        to,
    }
}

fn newest(facts: &Facts, expected: (u64, u64)) -> Verdict {
    let (from, to) = lbr::record(facts, 0);
    same("newest FROM", from, expected.0)?;
    same("newest TO", to, expected.1)
}

pub fn rows(report: &mut Report, facts: &Facts) {
    pmu::reset(facts);
    lbr::reset(facts, 0);
    let works = vmx::start();
    row!(report, ("CPUID.01H:ECX[5] VMX: VMXON works"), || same(
        "VMX",
        u64::from(works),
        1
    ));
    if !works {
        return;
    }
    let (exit, entry) = vmx::allowed();
    for (name, allowed, bit) in [
        (
            "exit control \"save debug controls\"",
            exit,
            vmx::SAVE_DEBUG_CONTROLS,
        ),
        (
            "exit control \"load IA32_PERF_GLOBAL_CTRL\"",
            exit,
            vmx::EXIT_LOAD_GLOBAL_CTRL,
        ),
        (
            "entry control \"load debug controls\"",
            entry,
            vmx::LOAD_DEBUG_CONTROLS,
        ),
        (
            "entry control \"load IA32_PERF_GLOBAL_CTRL\"",
            entry,
            vmx::ENTRY_LOAD_GLOBAL_CTRL,
        ),
    ] {
        row!(report, ("VM-{name} is allowed"), || same(
            "allowed",
            u64::from(allowed & bit != 0),
            1
        ));
    }
    capabilities(report);
    if !facts.is_architectural() {
        records(report, facts);
    }
    smm(report);
    global_ctrl(report, facts);
    pmu::reset(facts);
    lbr::reset(facts, 0);
}

/// The registers that have not what each control may be, but what old software may assume.
fn capabilities(report: &mut Report) {
    for (name, index, exact, default) in [
        (
            "EXIT",
            vmx::IA32_VMX_EXIT_CTLS,
            vmx::IA32_VMX_TRUE_EXIT_CTLS,
            0x3_6dff,
        ),
        (
            "ENTRY",
            vmx::IA32_VMX_ENTRY_CTLS,
            vmx::IA32_VMX_TRUE_ENTRY_CTLS,
            0x11ff,
        ),
    ] {
        row!(
            report,
            ("IA32_VMX_{name}_CTLS allows what IA32_VMX_TRUE_{name}_CTLS allows"),
            || same("bits 63:32", rdmsr(index) >> 32, rdmsr(exact) >> 32)
        );
        row!(
            report,
            ("IA32_VMX_{name}_CTLS: what is reserved and 1 by default must be 1"),
            || same("bits 31:0", rdmsr(index) & 0xffff_ffff, default)
        );
    }
}

/// A VM entry with `controls` and `value` in `field` injects `event`; its delivery is
/// recorded, and the field is as before.
pub(super) fn injection(
    facts: &Facts,
    controls: Controls,
    (field, value): (u64, u64),
    event: u64,
) -> Verdict {
    let vector = event as u8 as usize;
    let code = guest::nops_10 as unsafe extern "C" fn();
    let handler = guest::exit as unsafe extern "C" fn();
    lbr::reset(facts, 0);
    vmx::prepare(code, controls);
    vmx::write(field, value);
    vmx::write(field::ENTRY_INTERRUPTION, event);
    vmx::write(field::ENTRY_INSTRUCTION_LENGTH, 1);
    vmx::write(field::GUEST_RFLAGS, 0x202);
    traps::handle(vector, handler as usize as u64);
    let end = vmx::enter();
    traps::restore(vector);
    ends(end, End::Exit(VMCALL))?;
    newest(facts, (code as usize as u64, handler as usize as u64))?;
    same("FROM of the one before", lbr::record(facts, 1).0, 0)?;
    same("the guest's field", vmx::read(field), value)
}

/// A guest with `controls` and `value` in `field` is stepped; the delivery of its #DB exits,
/// for a fault, and the field is `left`.
pub(super) fn step_delivery_exits(
    facts: &Facts,
    controls: Controls,
    (field, value): (u64, u64),
    left: u64,
) -> Verdict {
    lbr::reset(facts, 0);
    vmx::prepare(guest::step, controls);
    vmx::write(field, value);
    // There is no entry for #DB.
    vmx::write(field::GUEST_IDTR_LIMIT, 0xf);
    vmx::write(field::EXCEPTION_BITMAP, 1 << 13);
    vmx::write(field::GUEST_RFLAGS, 0x102);
    exits(EXCEPTION_OR_NMI)?;
    same("vector", vmx::read(field::EXIT_INTERRUPTION) & 0xff, 13)?;
    same("delivered vector", vmx::read(field::VECTORING) & 0xff, 1)?;
    same("the guest's field", vmx::read(field), left)
}

fn records(report: &mut Report, facts: &Facts) {
    row!(
        report,
        ("an interrupt that VM entry injects is recorded from the guest's RIP to its handler"),
        || {
            let on = (field::GUEST_DEBUGCTL, LBR);
            injection(facts, DEBUG, on, EXTERNAL_INTERRUPT)
        }
    );
    row!(
        report,
        ("a #DB that VM entry injects is recorded and leaves IA32_DEBUGCTL.LBR set"),
        || injection(facts, DEBUG, (field::GUEST_DEBUGCTL, LBR), DEBUG_EXCEPTION)
    );
    row!(report, ("a #DB that VM entry injects as that of INT1 is recorded and leaves IA32_DEBUGCTL.LBR set"), || injection(
        facts,
        DEBUG,
        (field::GUEST_DEBUGCTL, LBR),
        INT1
    ));
    for guest in &DEBUGGED {
        row!(
            report,
            (
                "a #DB that exits leaves the guest's IA32_DEBUGCTL.LBR set: {}",
                guest.about
            ),
            || debug_exits(facts, guest, DEBUG, (field::GUEST_DEBUGCTL, LBR))
        );
    }
    row!(
        report,
        ("a #DB whose delivery exits clears the guest's IA32_DEBUGCTL.LBR"),
        || step_delivery_exits(facts, DEBUG, (field::GUEST_DEBUGCTL, LBR), 0)
    );
    row!(
        report,
        ("a guest's branches are recorded with its IA32_DEBUGCTL.LBR, VM exit is not"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::jump, DEBUG);
            vmx::write(field::GUEST_DEBUGCTL, LBR);
            exits(VMCALL)?;
            lbr::holds(facts, core::iter::once(branch(vmx::guest_jump())))
        }
    );
    row!(
        report,
        ("a guest's branches are not recorded without it, nor is VM entry"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::jump, DEBUG);
            vmx::write(field::GUEST_DEBUGCTL, 0);
            wrmsr(IA32_DEBUGCTL, LBR);
            exits(VMCALL)?;
            newest(facts, vmx::jump())
        }
    );
    row!(
        report,
        ("without load debug controls recording goes on in the guest"),
        || {
            lbr::reset(facts, 0);
            vmx::prepare(guest::jump, NONE);
            wrmsr(IA32_DEBUGCTL, LBR);
            exits(VMCALL)?;
            newest(facts, vmx::guest_jump())
        }
    );
    row!(
        report,
        ("VM entry and VM exit keep the records, TOS and MSR_LBR_SELECT"),
        || {
            lbr::records(facts, &branches::call_relative, 0)?;
            wrmsr(msr::MSR_LBR_SELECT, 0x3c5);
            vmx::prepare(guest::exit, DEBUG);
            exits(VMCALL)?;
            same("MSR_LBR_SELECT", rdmsr(msr::MSR_LBR_SELECT), 0x3c5)?;
            lbr::holds(facts, branches::call_relative.branches())
        }
    );
}

/// What waits while a guest is in SMM.
fn smm(report: &mut Report) {
    smm::init();
    row!(
        report,
        ("an SMI comes before a monitor trap flag VM exit, which waits for RSM"),
        || {
            let processor = vmx::MONITOR_TRAP;
            vmx::prepare(guest::smi, Controls { processor, ..NONE });
            vmx::write(field::GUEST_GS_BASE, apic::BASE);
            wrmsr(IA32_DEBUGCTL, lbr::FREEZE_PERFMON_ON_PMI);
            let (found, end) = smm::interrupt_by(IA32_DEBUGCTL, vmx::enter);
            wrmsr(IA32_DEBUGCTL, 0);
            ends(end, End::Exit(MONITOR_TRAP_FLAG))?;
            same("IA32_DEBUGCTL in SMM", found, lbr::FREEZE_PERFMON_ON_PMI)
        }
    );
}

fn global_ctrl(report: &mut Report, facts: &Facts) {
    // What a counter that only the guest's register enables counts of a guest.
    let count = |code| {
        pmu::reset(facts);
        wrmsr(msr::IA32_PERFEVTSEL0, INSTRUCTIONS | OS | EN);
        vmx::prepare(code, GLOBAL);
        vmx::write(field::GUEST_GLOBAL_CTRL, 1);
        vmx::write(field::HOST_GLOBAL_CTRL, 0);
        (vmx::enter(), Counter::General(0).read())
    };
    row!(
        report,
        ("load IA32_PERF_GLOBAL_CTRL: a guest's 100 more instructions count 100 more"),
        || {
            let (end, few) = count(guest::nops_10);
            ends(end, End::Exit(VMCALL))?;
            let (_, many) = count(guest::nops_110);
            same("more", many - few, 100)
        }
    );
    row!(
        report,
        ("load IA32_PERF_GLOBAL_CTRL: the host's instructions are not counted"),
        || {
            let (_, few) = count(guest::nops_10);
            if !(10..=12).contains(&few) {
                fail!("{few} counted of 10 NOPs and a VMCALL");
            }
            Ok(())
        }
    );
    row!(
        report,
        ("exit control load IA32_PERF_GLOBAL_CTRL: the host's value is loaded"),
        || {
            pmu::reset(facts);
            vmx::prepare(guest::exit, GLOBAL);
            vmx::write(field::GUEST_GLOBAL_CTRL, 1);
            vmx::write(field::HOST_GLOBAL_CTRL, 2);
            exits(VMCALL)?;
            same("IA32_PERF_GLOBAL_CTRL", rdmsr(IA32_PERF_GLOBAL_CTRL), 2)
        }
    );
    row!(
        report,
        ("without the exit control the guest's value stays"),
        || {
            pmu::reset(facts);
            vmx::prepare(guest::exit, Controls { exit: 0, ..GLOBAL });
            vmx::write(field::GUEST_GLOBAL_CTRL, 1);
            vmx::write(field::HOST_GLOBAL_CTRL, 2);
            exits(VMCALL)?;
            same("IA32_PERF_GLOBAL_CTRL", rdmsr(IA32_PERF_GLOBAL_CTRL), 1)
        }
    );
    row!(
        report,
        ("without the entry control the host's value stays"),
        || {
            pmu::reset(facts);
            wrmsr(IA32_PERF_GLOBAL_CTRL, 1);
            vmx::prepare(guest::exit, NONE);
            vmx::write(field::GUEST_GLOBAL_CTRL, 2);
            exits(VMCALL)?;
            same("IA32_PERF_GLOBAL_CTRL", rdmsr(IA32_PERF_GLOBAL_CTRL), 1)
        }
    );
    // The guest has what the host wrote; the host's is loaded after it was saved.
    for (rule, exit, saved) in [
        (
            "save IA32_PERF_GLOBAL_CTRL: VM exit saves the guest's",
            vmx::SAVE_GLOBAL_CTRL,
            2,
        ),
        (
            "save and load IA32_PERF_GLOBAL_CTRL: what is saved is the guest's",
            vmx::SAVE_GLOBAL_CTRL | vmx::EXIT_LOAD_GLOBAL_CTRL,
            2,
        ),
        (
            "without save IA32_PERF_GLOBAL_CTRL VM exit leaves the field alone",
            0,
            1,
        ),
    ] {
        if exit != 0 && !facts.is_architectural() {
            continue;
        }
        row!(report, ("{rule}"), || {
            pmu::reset(facts);
            wrmsr(IA32_PERF_GLOBAL_CTRL, 2);
            vmx::prepare(guest::exit, Controls { exit, ..NONE });
            vmx::write(field::GUEST_GLOBAL_CTRL, 1);
            vmx::write(field::HOST_GLOBAL_CTRL, 0);
            exits(VMCALL)?;
            let found = vmx::read(field::GUEST_GLOBAL_CTRL);
            same("guest IA32_PERF_GLOBAL_CTRL field", found, saved)
        });
    }
    pmu::reset(facts);
    for bit in [facts.general, 32 + facts.fixed, 63] {
        row!(
            report,
            ("guest IA32_PERF_GLOBAL_CTRL: VM entry fails on reserved bit {bit}"),
            || {
                vmx::prepare(guest::exit, GLOBAL);
                vmx::write(field::GUEST_GLOBAL_CTRL, 1 << bit);
                exits(INVALID_GUEST_STATE)
            }
        );
        row!(
            report,
            ("host IA32_PERF_GLOBAL_CTRL: VMLAUNCH fails on reserved bit {bit}"),
            || {
                vmx::prepare(guest::exit, GLOBAL);
                vmx::write(field::HOST_GLOBAL_CTRL, 1 << bit);
                ends(vmx::enter(), End::Failed(INVALID_HOST_STATE))
            }
        );
    }
    row!(
        report,
        ("without the controls neither field is checked"),
        || {
            vmx::prepare(guest::exit, NONE);
            vmx::write(field::GUEST_GLOBAL_CTRL, 1 << 63);
            vmx::write(field::HOST_GLOBAL_CTRL, 1 << 63);
            exits(VMCALL)
        }
    );
    row!(
        report,
        ("an overflow in a guest whose NMIs exit: a VM exit for the NMI"),
        || {
            pmu::reset(facts);
            wrmsr(msr::IA32_PERFEVTSEL0, INSTRUCTIONS | OS | EN | INT);
            Counter::General(0).write(facts.counter_mask() - 100);
            apic::set_performance_entry(apic::NMI);
            let pin = vmx::NMI_EXITING;
            vmx::prepare(guest::nops_long, Controls { pin, ..GLOBAL });
            vmx::write(field::GUEST_GLOBAL_CTRL, 1);
            exits(EXCEPTION_OR_NMI)?;
            same(
                "interruption type and vector",
                vmx::read(field::EXIT_INTERRUPTION) & 0x7ff,
                0x202,
            )
        }
    );
    pmu::reset(facts);
}
