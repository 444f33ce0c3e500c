// SPDX-License-Identifier: GPL-2.0-only
//! Resets: the firmware starts this program again.  After RESET it boots as at power-up;
//! after INIT it jumps where software wants, which is back to the start.

use core::arch::global_asm;
use core::ptr;

use crate::cpu::{in8, out8};
use crate::serial;

/// The real-time clock's memory: why the CPU was shut down, and a byte that the firmware
/// does not use.  No reset touches them.
const SHUTDOWN: u8 = 0x0f;
const BYTE: u8 = 0x7e;
/// Of [`SHUTDOWN`]: jump to the address in [`VECTOR`].
const JUMP: u8 = 0x0a;
/// Offset and segment, in the BIOS data area.
const VECTOR: usize = 0x467;
/// Where the way back is put; nobody uses this memory.
const BACK: usize = 0x7000;
/// The reset control register of the PIIX3: bit 1 is [`Reset`], bit 2 starts it.
const RESET: u16 = 0xcf9;

extern "C" {
    static life_back: [u8; 0];
    static life_back_end: [u8; 0];
}

global_asm!(
    ".pushsection .data",
    ".globl life_back, life_back_end",
    // Copied, and entered in real mode with CS at its beginning.
    ".code16",
    "life_back: jmp 20f", // two bytes
    ".word 23",
    ".long life_descriptors",
    "20: cli",
    "lgdt cs:[2]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long 21f",
    ".word 0x08",
    "life_back_end:",
    ".code32",
    "21: mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov ebx, [multiboot_information]",
    "jmp start",
    ".code64",
    ".balign 8",
    // Flat code and data of 32 bits, below 16 MiB, as LGDT of 16 bits wants.
    "life_descriptors: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff",
    ".popsection",
);

/// How a life ends and another one begins; values of [`RESET`].
#[derive(Clone, Copy)]
pub enum Reset {
    /// INIT#.
    Init = 0,
    /// RESET#, while the power stays on.
    Warm = 2,
}

fn write_clock(index: u8, value: u8) {
    out8(0x70, index);
    out8(0x71, value);
}

/// How many lives there were before this one.
pub fn before() -> u8 {
    out8(0x70, BYTE);
    in8(0x71)
}

/// Ends this life.
pub fn end(reset: Reset) -> ! {
    write_clock(BYTE, before() + 1);
    if let Reset::Init = reset {
        let from = &raw const life_back;
        // SAFETY: both labels are of the way back; the firmware's vector and what is at
        // `BACK` belong to nobody now.
        unsafe {
            let length = (&raw const life_back_end).addr() - from.addr();
            ptr::copy_nonoverlapping(from.cast::<u8>(), BACK as *mut u8, length);
            (VECTOR as *mut u32).write_unaligned((BACK as u32 >> 4) << 16);
        }
        write_clock(SHUTDOWN, JUMP);
    }
    serial::flush();
    out8(RESET, reset as u8);
    out8(RESET, reset as u8 | 4);
    loop {
        core::hint::spin_loop();
    }
}
