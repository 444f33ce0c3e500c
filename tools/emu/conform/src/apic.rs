// SPDX-License-Identifier: GPL-2.0-only
//! The local APIC (SDM vol. 3, "Advanced Programmable Interrupt Controller").

use crate::cpu::out8;

/// Where it is.
pub const BASE: u64 = 0xfee0_0000;
const SPURIOUS: u64 = 0xf0;
const ID: u64 = 0x20;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_PERFORMANCE: u64 = 0x340;

/// The mask bit of an LVT entry.
pub const MASKED: u32 = 1 << 16;
/// The LVT entry of a timer that IA32_TSC_DEADLINE starts.
pub const TSC_DEADLINE: u32 = 2 << 17;
/// An LVT entry that delivers an NMI.
pub const NMI: u32 = 4 << 8;

fn read(register: u64) -> u32 {
    // SAFETY: the APIC's page is mapped and is no memory.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: the APIC's page is mapped and is no memory.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

/// Switches the APIC on, and the interrupt controllers of old off.
pub fn init() {
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    write(SPURIOUS, 0x1ff);
    set_performance_entry(MASKED);
}

/// The command that sends a system management interrupt: asserted, to a physical
/// destination.
pub const SMI: u32 = 1 << 14 | 2 << 8;

/// A destination that is not there.
pub const NOBODY: u32 = 0xe << 24;

/// This CPU as a destination.
pub fn this() -> u32 {
    read(ID)
}

/// The address that takes commands, which are then for this destination.
pub fn command_to(destination: u32) -> u64 {
    write(COMMAND_HIGH, destination);
    BASE + COMMAND
}

/// Sets the timer's LVT entry.
pub fn set_timer_entry(entry: u32) {
    write(LVT_TIMER, entry);
}

/// The performance monitoring counters' LVT entry.
pub fn performance_entry() -> u32 {
    read(LVT_PERFORMANCE)
}

/// Sets the performance monitoring counters' LVT entry.
pub fn set_performance_entry(entry: u32) {
    write(LVT_PERFORMANCE, entry);
}
