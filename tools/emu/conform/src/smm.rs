// SPDX-License-Identifier: GPL-2.0-only
//! System management mode (SDM vol. 3, "System Management Mode"): a handler in SMRAM
//! that reads and writes registers and takes a jump.

use core::arch::global_asm;
use core::ptr;

use crate::apic;
use crate::cpu::{out32, out8};
use crate::traps;

/// SMBASE as the firmware leaves it, the base of CS in a handler.
pub const SMBASE: usize = 0xa_0000;
/// Where a handler begins.
const HANDLER: usize = SMBASE + 0x8000;
/// What a handler can read at most.
const READS: usize = 2;

/// A register to read, and what was read.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Register {
    index: u32,
    value: u64,
}

/// What the handler does.  There is one CPU.
#[repr(C)]
struct Shared {
    /// How many registers to read.
    reads: u32,
    /// The register to write, 0 for none.
    write: u32,
    /// What to write.
    value: u64,
    registers: [Register; READS],
}

extern "C" {
    static mut smm_shared: Shared;
    static smm_handler: [u8; 0];
    static smm_handler_end: [u8; 0];
    static smm_jump: [u8; 0];
    static smm_rsm: [u8; 0];
    fn smm_send(command: u64, smi: u32, flags: u64);
    fn smm_sent();
}

/// RFLAGS.TF
const TF: u64 = 1 << 8;

global_asm!(
    ".pushsection .data",
    ".balign 8",
    ".globl smm_shared",
    "smm_shared: .zero 16 + {reads} * 16",
    // Copied to SMRAM: 16-bit code, flat data segments.
    ".globl smm_handler, smm_handler_end, smm_jump, smm_rsm",
    ".code16",
    "smm_handler:",
    "mov esi, offset smm_shared",
    "mov ebp, [esi]",
    "lea edi, [esi + 16]",
    "20: test ebp, ebp",
    "jz 21f",
    "mov ecx, [edi]",
    "rdmsr",
    "mov [edi + 8], eax",
    "mov [edi + 12], edx",
    "add edi, 16",
    "dec ebp",
    "jmp 20b",
    "21:",
    "smm_jump: jmp 22f",
    "nop",
    "22: mov ecx, [esi + 4]",
    "test ecx, ecx",
    "jz 23f",
    "mov eax, [esi + 8]",
    "mov edx, [esi + 12]",
    "wrmsr",
    "23:",
    "smm_rsm: rsm",
    "smm_handler_end:",
    ".code64",
    ".popsection",
    ".pushsection .text",
    ".globl smm_send, smm_sent",
    // The SMI comes behind the store; with TF in `flags` a single step, too.
    "smm_send:",
    "pushfq",
    "or [rsp], rdx",
    "popfq",
    "mov [rdi], esi",
    "smm_sent: ret",
    ".popsection",
    reads = const READS,
);

/// Puts the handler into SMRAM, in the place of the firmware's.
pub fn init() {
    let smram_control = |value| {
        // The host bridge of an i440FX: SMRAM Control, 72H.
        out32(0xcf8, 1 << 31 | 0x70);
        out8(0xcfc + 2, value);
    };
    // D_OPEN: SMRAM is seen outside of SMM.
    smram_control(0x4a);
    let from = &raw const smm_handler;
    // SAFETY: both labels are of the handler, which has less than a page; SMRAM is open,
    // and nothing of ours is there.
    unsafe {
        let length = (&raw const smm_handler_end).addr() - from.addr();
        ptr::copy_nonoverlapping(from.cast::<u8>(), HANDLER as *mut u8, length);
    }
    smram_control(0x0a);
}

/// Has an SMI handled that comes together with a single step; the handler reads `register`.
/// Gives what it read, how many steps were taken, and where the last one was.
pub fn interrupt_at_step(register: u32) -> (u64, (u64, u64)) {
    traps::count_steps();
    let [found] = send(apic::this(), [register], None, TF);
    traps::restore(1);
    (found, traps::interrupts())
}

/// Has an SMI handled that reads the registers `reads` and then writes `write`, a register
/// and its value.  Gives what it read.
pub fn interrupt<const N: usize>(reads: [u32; N], write: Option<(u32, u64)>) -> [u64; N] {
    send(apic::this(), reads, write, 0)
}

/// The same, but sends the SMI to any destination, by the same instructions.
#[inline(never)]
pub fn interrupt_at(destination: u32, reads: [u32; READS]) {
    send(destination, reads, None, 0);
}

/// Has an SMI handled that `send` has for us, by a store to the APIC's command register; the
/// handler reads `register`.  Gives what it read, and what `send` gave.
pub fn interrupt_by<T>(register: u32, send: impl FnOnce() -> T) -> (u64, T) {
    apic::command_to(apic::this());
    let ([found], result) = handled([register], None, send);
    (found, result)
}

fn send<const N: usize>(
    destination: u32,
    reads: [u32; N],
    write: Option<(u32, u64)>,
    flags: u64,
) -> [u64; N] {
    let command = apic::command_to(destination);
    // SAFETY: the address is the APIC's; it returns when the handler has, which changes
    // nothing of ours but `Shared`, and whoever sets TF has a handler for traps.
    handled(reads, write, || unsafe {
        smm_send(command, apic::SMI, flags)
    })
    .0
}

fn handled<const N: usize, T>(
    reads: [u32; N],
    write: Option<(u32, u64)>,
    send: impl FnOnce() -> T,
) -> ([u64; N], T) {
    const { assert!(N <= READS) };
    let shared = &raw mut smm_shared;
    let (index, value) = write.unwrap_or((0, 0));
    let mut registers = [Register::default(); READS];
    for (place, index) in registers.iter_mut().zip(reads) {
        place.index = index;
    }
    // SAFETY: one CPU; volatile, as the handler reads it.
    unsafe {
        shared.write_volatile(Shared {
            reads: N as u32,
            write: index,
            value,
            registers,
        });
    }
    let result = send();
    // SAFETY: as above; it has returned.
    let shared = unsafe { shared.read_volatile() };
    let mut found = [0; N];
    for (place, register) in found.iter_mut().zip(shared.registers) {
        *place = register.value;
    }
    (found, result)
}

fn address(label: *const [u8; 0]) -> u64 {
    (HANDLER + label.addr() - (&raw const smm_handler).addr()) as u64
}

/// Where an SMI comes: the linear address of the instruction that is next.
pub fn interrupted() -> u64 {
    smm_sent as unsafe extern "C" fn() as usize as u64
}

/// The linear address of the handler's jump.
pub fn jump() -> u64 {
    address(&raw const smm_jump)
}

/// The linear address of the handler's RSM.
pub fn rsm() -> u64 {
    address(&raw const smm_rsm)
}
