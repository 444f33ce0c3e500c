// SPDX-License-Identifier: GPL-2.0-only
//! Resets: the firmware starts this program again.  After RESET it boots as at power-up;
//! after INIT and S3 it jumps where software wants, which is back to the start.

use core::arch::global_asm;
use core::ptr;

use crate::cpu::{in8, out16, out8};
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
/// The reset control register of the PIIX3: bit 1 is RESET#, bit 2 starts it.
const RESET: u16 = 0xcf9;
/// The ACPI controller's: bits 12:10 the sleep type, which the firmware names, bit 13 SLP_EN.
const PM1_CONTROL: u16 = 0xb004;

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

/// How a life ends and another one begins.
#[derive(Clone, Copy)]
pub enum Reset {
    /// INIT#.
    Init,
    /// RESET#, while the power stays on.
    Warm,
    /// S3, from which the machine wakes at once.
    Sleep,
}

fn write_clock(index: u8, value: u8) {
    out8(0x70, index);
    out8(0x71, value);
}

/// Where the firmware's tables have what S3 wakes up to, a real-mode address.
fn waking_vector() -> usize {
    // SAFETY: the tables are in memory, which is mapped.
    let read = |address: usize| unsafe { (address as *const u32).read_unaligned() };
    let is = |address: usize, text: &[u8; 4]| read(address).to_le_bytes() == *text;
    let rsdt = (0xe_0000..0x10_0000)
        .step_by(16)
        .find(|&at| is(at, b"RSD ") && is(at + 4, b"PTR "))
        .map(|rsdp| read(rsdp + 16) as usize)
        .expect("no RSDP");
    let fadt = (rsdt + 36..rsdt + read(rsdt + 4) as usize)
        .step_by(4)
        .map(|entry| read(entry) as usize)
        .find(|&table| is(table, b"FACP"))
        .expect("no FADT");
    let facs = read(fadt + 36) as usize;
    facs + 12
}

fn start(reset: u8) {
    out8(RESET, reset);
    out8(RESET, reset | 4);
}

/// How many lives there were before this one.
pub fn before() -> u8 {
    out8(0x70, BYTE);
    in8(0x71)
}

/// Ends this life.
pub fn end(reset: Reset) -> ! {
    write_clock(BYTE, before() + 1);
    let from = &raw const life_back;
    // SAFETY: both labels are of the way back; the firmware's vectors and what is at `BACK`
    // belong to nobody now.
    unsafe {
        let length = (&raw const life_back_end).addr() - from.addr();
        ptr::copy_nonoverlapping(from.cast::<u8>(), BACK as *mut u8, length);
        (VECTOR as *mut u32).write_unaligned((BACK as u32 >> 4) << 16);
        (waking_vector() as *mut u32).write_unaligned(BACK as u32);
    }
    serial::flush();
    match reset {
        Reset::Init => {
            write_clock(SHUTDOWN, JUMP);
            start(0);
        }
        Reset::Warm => start(2),
        Reset::Sleep => out16(PM1_CONTROL, 1 << 10 | 1 << 13),
    }
    loop {
        core::hint::spin_loop();
    }
}
