// SPDX-License-Identifier: GPL-2.0-only
//! Instructions, and what becomes of those that may fault.

use core::arch::asm;

use crate::traps::{self, Trap};

pub use core::arch::x86_64::CpuidResult;

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// Writes a byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: the program owns the machine and all its devices.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Writes 16 bits to an I/O port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: the program owns the machine and all its devices.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) }
}

/// Writes 32 bits to an I/O port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: the program owns the machine and all its devices.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) }
}

/// Reads a byte from an I/O port.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the program owns the machine and all its devices.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// RDMSR.
pub fn try_rdmsr(index: u32) -> Result<u64, Trap> {
    let (low, high): (u32, u32);
    // SAFETY: a fault resumes at the label, with nothing changed.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov [{slot}], {resume}",
            "rdmsr",
            "2:",
            resume = out(reg) _,
            slot = in(reg) traps::resume_slot(),
            in("ecx") index, inout("eax") 0 => low, inout("edx") 0 => high,
        );
    }
    traps::taken()?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// WRMSR.
pub fn try_wrmsr(index: u32, value: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes at the label, with nothing changed.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov [{slot}], {resume}",
            "wrmsr",
            "2:",
            resume = out(reg) _,
            slot = in(reg) traps::resume_slot(),
            in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
        );
    }
    traps::taken()
}

/// RDPMC in ring 0.
pub fn try_rdpmc(index: u32) -> Result<u64, Trap> {
    let (low, high): (u32, u32);
    // SAFETY: a fault resumes at the label, with nothing changed.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov [{slot}], {resume}",
            "rdpmc",
            "2:",
            resume = out(reg) _,
            slot = in(reg) traps::resume_slot(),
            in("ecx") index, inout("eax") 0 => low, inout("edx") 0 => high,
        );
    }
    traps::taken()?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// RDMSR of a register that every machine has; a fault ends the program.
pub fn rdmsr(index: u32) -> u64 {
    try_rdmsr(index).unwrap_or_else(|trap| panic!("RDMSR {index:#x}: {trap}"))
}

/// WRMSR of a value that the register takes; a fault ends the program.
pub fn wrmsr(index: u32, value: u64) {
    try_wrmsr(index, value).unwrap_or_else(|trap| panic!("WRMSR {index:#x}, {value:#x}: {trap}"));
}

/// DR6.
pub fn read_dr6() -> u64 {
    let value;
    // SAFETY: reading has no effect.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack)) }
    value
}

/// CR4.
pub fn read_cr4() -> u64 {
    let value;
    // SAFETY: reading has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) }
    value
}

/// Sets CR4.
///
/// # Safety
///
/// The paging bits must stay.
pub unsafe fn write_cr4(value: u64) {
    // SAFETY: by the caller's promise memory stays mapped.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) }
}

/// Lets maskable interrupts in for a few instructions.
pub fn interrupt_window() {
    // SAFETY: every vector has a handler.
    unsafe { asm!("sti", "nop", "nop", "nop", "cli") }
}
