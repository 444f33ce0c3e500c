// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Time-Stamp Counter Adjustment", "TSC-Deadline Mode".

use core::arch::x86_64::_mm_mfence;

use crate::apic;
use crate::cpu::{interrupt_window, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::msr::{IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST, IA32_TSC_DEADLINE};
use crate::report::{fail, row, same, Report, Verdict};
use crate::traps;

/// More cycles than a few instructions take.
const MANY: u64 = 10_000;

/// The interrupt comes when the TSC is at the deadline, and not before.
fn deadline() -> Verdict {
    traps::count(traps::LOCAL);
    apic::set_timer_entry(apic::TSC_DEADLINE | traps::LOCAL as u32);
    // SAFETY: every CPU with 64 bits has it.  WRMSR does not wait for the store.
    unsafe { _mm_mfence() }
    let deadline = rdmsr(IA32_TIME_STAMP_COUNTER).wrapping_add(MANY);
    wrmsr(IA32_TSC_DEADLINE, deadline);
    let late = loop {
        interrupt_window();
        let late = rdmsr(IA32_TIME_STAMP_COUNTER).wrapping_sub(deadline) as i64;
        if traps::interrupts().0 != 0 || late > MANY as i64 {
            break late;
        }
    };
    apic::set_timer_entry(apic::MASKED);
    if !(0..MANY as i64).contains(&late) {
        fail!("the interrupt was not there at the deadline, but {late} cycles behind it");
    }
    Ok(())
}

pub fn rows(report: &mut Report, _facts: &Facts) {
    row!(
        report,
        ("a write of IA32_TIME_STAMP_COUNTER adds as much to IA32_TSC_ADJUST"),
        || {
            wrmsr(IA32_TSC_ADJUST, 0);
            let start = rdmsr(IA32_TIME_STAMP_COUNTER);
            wrmsr(IA32_TIME_STAMP_COUNTER, start + (1 << 40));
            let adjust = rdmsr(IA32_TSC_ADJUST);
            wrmsr(IA32_TSC_ADJUST, 0);
            // Less what passed before the write.
            same("IA32_TSC_ADJUST", adjust.wrapping_add(MANY) >> 40, 1)
        }
    );
    row!(
        report,
        ("a write of IA32_TSC_ADJUST adds as much to IA32_TIME_STAMP_COUNTER"),
        || {
            let start = rdmsr(IA32_TIME_STAMP_COUNTER);
            wrmsr(IA32_TSC_ADJUST, 1 << 40);
            let found = rdmsr(IA32_TIME_STAMP_COUNTER);
            wrmsr(IA32_TSC_ADJUST, 0);
            same("TSC", found.wrapping_sub(start) >> 40, 1)
        }
    );
    for (name, adjust) in [
        ("0", 0),
        ("more", 1 << 40),
        ("less", (rdmsr(IA32_TIME_STAMP_COUNTER) / 2).wrapping_neg()),
    ] {
        row!(
            report,
            ("IA32_TSC_DEADLINE is held against the TSC: IA32_TSC_ADJUST is {name}"),
            || {
                wrmsr(IA32_TSC_ADJUST, adjust);
                let verdict = deadline();
                wrmsr(IA32_TSC_ADJUST, 0);
                verdict
            }
        );
    }
}
