// SPDX-License-Identifier: GPL-2.0-only
//! The performance monitoring counters, as software uses them.

use crate::apic;
use crate::branches::Scenario;
use crate::cpu::{rdmsr, try_wrmsr, wrmsr};
use crate::facts::Facts;
use crate::msr;
use crate::traps;

/// IA32_PERFEVTSELx.USR
pub const USR: u64 = 1 << 16;
/// IA32_PERFEVTSELx.OS
pub const OS: u64 = 1 << 17;
/// IA32_PERFEVTSELx.E
pub const EDGE: u64 = 1 << 18;
/// IA32_PERFEVTSELx.INT
pub const INT: u64 = 1 << 20;
/// IA32_PERFEVTSELx.EN
pub const EN: u64 = 1 << 22;
/// IA32_PERFEVTSELx.INV
pub const INV: u64 = 1 << 23;

/// Unhalted core cycles.
pub const CYCLES: u64 = 0x003c;
/// Unhalted reference cycles.
pub const REFERENCE_CYCLES: u64 = 0x013c;
/// Instructions retired.
pub const INSTRUCTIONS: u64 = 0x00c0;
/// Branch instructions retired.
pub const BRANCHES: u64 = 0x00c4;
/// Slots of the pipeline.
pub const SLOTS: u64 = 0x01a4;
/// Records that went into the LBR stack (LBR_INSERTS of the cores' event lists).
pub const LBR_INSERTS: u64 = 0x20cc;
/// Mispredicted branches retired.
pub const MISPREDICTED: u64 = 0x00c5;

/// IA32_PERF_GLOBAL_STATUS.LBR_FRZ
pub const LBR_FRZ: u64 = 1 << 58;
/// IA32_PERF_GLOBAL_STATUS.CTR_FRZ
pub const CTR_FRZ: u64 = 1 << 59;
/// IA32_PERF_GLOBAL_STATUS: an uncore counter overflowed.
pub const OVF_UNCORE: u64 = 1 << 61;
/// IA32_PERF_GLOBAL_STATUS: the buffer of PEBS is full.
pub const OVF_DS: u64 = 1 << 62;

/// A counter.
#[derive(Clone, Copy)]
pub enum Counter {
    General(u32),
    Fixed(u32),
}

impl Counter {
    /// Its bit in the global registers.
    pub fn bit(self) -> u64 {
        match self {
            Self::General(n) => 1 << n,
            Self::Fixed(n) => 1 << (32 + n),
        }
    }

    fn register(self) -> u32 {
        match self {
            Self::General(n) => msr::IA32_A_PMC0 + n,
            Self::Fixed(n) => msr::IA32_FIXED_CTR0 + n,
        }
    }

    /// Its value.
    pub fn read(self) -> u64 {
        rdmsr(self.register())
    }

    /// Sets its value.
    pub fn write(self, value: u64) {
        wrmsr(self.register(), value);
    }
}

/// Stops and clears everything.
pub fn reset(facts: &Facts) {
    wrmsr(msr::IA32_PERF_GLOBAL_CTRL, 0);
    wrmsr(msr::IA32_DEBUGCTL, 0);
    for n in 0..facts.general {
        wrmsr(msr::IA32_PERFEVTSEL0 + n, 0);
        Counter::General(n).write(0);
    }
    wrmsr(msr::IA32_FIXED_CTR_CTRL, 0);
    for n in 0..facts.fixed {
        Counter::Fixed(n).write(0);
    }
    clear_status(facts);
    apic::set_performance_entry(apic::MASKED);
    for vector in [traps::LOCAL, traps::NMI] {
        traps::restore(vector);
    }
}

/// Clears all of IA32_PERF_GLOBAL_STATUS.
pub fn clear_status(facts: &Facts) {
    let frozen = if facts.version >= 4 {
        LBR_FRZ | CTR_FRZ
    } else {
        0
    };
    // That it takes all of them is for a row to say.
    let all = facts.global() | frozen | OVF_UNCORE | OVF_DS;
    let _ = try_wrmsr(msr::IA32_PERF_GLOBAL_STATUS_RESET, all);
}

/// What general counter `n` counts with this IA32_PERFEVTSELx while `scenario` runs.
pub fn count_on(facts: &Facts, n: u32, select: u64, scenario: &Scenario) -> u64 {
    reset(facts);
    wrmsr(msr::IA32_PERFEVTSEL0 + n, select);
    scenario.run(msr::IA32_PERF_GLOBAL_CTRL, 1 << n);
    let counted = Counter::General(n).read();
    reset(facts);
    counted
}

/// What the first general counter counts of this event, at all privilege levels.
pub fn count(facts: &Facts, event: u64, scenario: &Scenario) -> u64 {
    count_on(facts, 0, event | USR | OS | EN, scenario)
}

/// Runs `scenario` with the first general counter at `before` of this event, at all
/// privilege levels, to its overflow, which is an NMI.  Gives how many came, and where the
/// last one did.
pub fn overflow(facts: &Facts, event: u64, before: u64, scenario: &Scenario) -> (u64, u64) {
    reset(facts);
    wrmsr(msr::IA32_PERFEVTSEL0, event | USR | OS | EN | INT);
    Counter::General(0).write((facts.counter_mask() + 1).wrapping_sub(before));
    apic::set_performance_entry(apic::NMI);
    traps::count(traps::NMI);
    scenario.run(msr::IA32_PERF_GLOBAL_CTRL, 1);
    traps::interrupts()
}

/// What fixed counter `n` counts with this field of IA32_FIXED_CTR_CTRL.
pub fn count_fixed(facts: &Facts, n: u32, field: u64, scenario: &Scenario) -> u64 {
    reset(facts);
    wrmsr(msr::IA32_FIXED_CTR_CTRL, field << (4 * n));
    scenario.run(msr::IA32_PERF_GLOBAL_CTRL, Counter::Fixed(n).bit());
    let counted = Counter::Fixed(n).read();
    reset(facts);
    counted
}
