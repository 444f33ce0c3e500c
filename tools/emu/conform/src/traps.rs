// SPDX-License-Identifier: GPL-2.0-only
//! The interrupt descriptor table: what faults and interrupts do.
//!
//! By default an event resumes where the instruction that was expected to fault
//! said (see [`resume_slot`]), and ends the program if none did.  A row may point
//! a vector to a handler of its own.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::fmt;

use crate::boot;
use crate::cpu::wrmsr;
use crate::msr;

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Its vector.
    pub vector: u64,
    /// Its error code, 0 if it has none.
    pub error: u64,
}

/// #GP(0).
pub const GP: Trap = Trap {
    vector: 13,
    error: 0,
};

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vector {
            6 => write!(f, "#UD"),
            13 => write!(f, "#GP({:#x})", self.error),
            14 => write!(f, "#PF({:#x})", self.error),
            vector => write!(f, "vector {vector}, error code {:#x}", self.error),
        }
    }
}

/// What the handlers in assembly see.  There is one CPU.
#[repr(C)]
struct Shared {
    /// Where to resume, 0 if no fault is expected.
    resume: u64,
    /// 1 if a fault came, its vector and error code.
    came: [u64; 3],
    /// Interrupts that `count_interrupt` saw, and where the last one came.
    interrupts: [u64; 2],
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: there is one CPU, and handlers do not touch the table.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

extern "C" {
    static trap_stubs: [u8; 256 * 16];
    static mut trap_shared: Shared;
    fn count_interrupt();
    fn count_nmi();
    fn stop_stepping();
}

global_asm!(
    r#"
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
    .else
    push 0
    .endif
    push vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    // on the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS
trap_common:
    push rax
    mov rax, [rip + trap_shared]
    test rax, rax
    jz 20f
    mov [rsp + 24], rax
    mov qword ptr [rip + trap_shared], 0
    mov qword ptr [rip + trap_shared + 8], 1
    mov rax, [rsp + 8]
    mov [rip + trap_shared + 16], rax
    mov rax, [rsp + 16]
    mov [rip + trap_shared + 24], rax
    pop rax
    add rsp, 16
    iretq
20: pop rax
    mov rdi, rsp
    and rsp, -16
    call unexpected_trap

    // a counter and the place; no branch but its own return
    .globl count_interrupt
count_interrupt:
    push rax
    inc qword ptr [rip + trap_shared + 32]
    mov rax, [rsp + 8]
    mov [rip + trap_shared + 40], rax
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

    .globl count_nmi
count_nmi:
    push rax
    inc qword ptr [rip + trap_shared + 32]
    mov rax, [rsp + 8]
    mov [rip + trap_shared + 40], rax
    pop rax
    iretq

    // skips the two bytes of UD2
    .globl skip_two
skip_two:
    add qword ptr [rsp], 2
    iretq

    // skips three bytes, behind an error code
    .globl skip_three
skip_three:
    add rsp, 8
    add qword ptr [rsp], 3
    iretq

    .globl return_at_once
return_at_once:
    iretq

    .bss
    .balign 8
    .globl trap_shared
trap_shared:
    .zero 48
    "#
);

/// A vector that no device and no exception uses, open to ring 3.
pub const SOFTWARE: usize = 0x80;
/// The vector of interrupts from the local APIC.
pub const LOCAL: usize = 0x50;
/// NMI.
pub const NMI: usize = 2;

fn set_gate(vector: usize, handler: u64, stack: u64) {
    set_gate_to(vector, boot::KERNEL_CODE, handler, stack);
}

fn set_gate_to(vector: usize, code: u64, handler: u64, stack: u64) {
    // Present, interrupt gate, open to ring 3, so that INT n works from there.
    let low =
        handler & 0xffff | code << 16 | stack << 32 | 0xee << 40 | (handler >> 16 & 0xffff) << 48;
    // SAFETY: one CPU; events that are under way have read their gate.
    unsafe {
        (*TABLE.0.get())[vector] = [low, handler >> 32];
    }
}

/// Points `vector` to `handler` until [`restore`].  It runs on the interrupted
/// stack if that is ring 0's.
pub fn handle(vector: usize, handler: u64) {
    set_gate(vector, handler, 0);
}

/// The same for a handler that runs in ring 3, and is entered from there.
pub fn handle_in_user(vector: usize, handler: u64) {
    set_gate_to(vector, boot::USER_CODE, handler, 0);
}

/// Counts single steps, and ends them with the first; see [`interrupts`].
pub fn count_steps() {
    count(1);
    handle(1, stop_stepping as unsafe extern "C" fn() as usize as u64);
}

/// Points `vector` to the default handler, which has a stack of its own.
pub fn restore(vector: usize) {
    let stubs = &raw const trap_stubs as u64;
    set_gate(
        vector,
        stubs + vector as u64 * 16,
        if vector == NMI { 2 } else { 1 },
    );
}

/// Counts interrupts of `vector`; see [`interrupts`].
pub fn count(vector: usize) {
    let handler = if vector == NMI {
        count_nmi
    } else {
        count_interrupt
    };
    set_gate(
        vector,
        handler as unsafe extern "C" fn() as usize as u64,
        if vector == NMI { 2 } else { 1 },
    );
    // SAFETY: one CPU; no interrupt is under way.
    unsafe {
        trap_shared.interrupts = [0; 2];
    }
}

/// How many interrupts came since [`count`], and where the last one did.
pub fn interrupts() -> (u64, u64) {
    // SAFETY: one CPU; volatile, as handlers write it.
    let [number, at] = unsafe { (&raw const trap_shared.interrupts).read_volatile() };
    (number, at)
}

/// Where the address goes at which execution resumes after a fault.
pub fn resume_slot() -> *mut u64 {
    // SAFETY: only the address is taken.
    unsafe { &raw mut trap_shared.resume }
}

/// Whether a fault came since it was expected.
pub fn taken() -> Result<(), Trap> {
    // SAFETY: one CPU; volatile, as handlers write it.
    let [came, vector, error] = unsafe {
        (&raw mut trap_shared.resume).write_volatile(0);
        let came = (&raw const trap_shared.came).read_volatile();
        (&raw mut trap_shared.came).write_volatile([0; 3]);
        came
    };
    if came == 0 {
        Ok(())
    } else {
        Err(Trap { vector, error })
    }
}

#[no_mangle]
extern "C" fn unexpected_trap(frame: &[u64; 7]) -> ! {
    let [vector, error, rip, ..] = *frame;
    panic!("unexpected {} at {rip:#x}", Trap { vector, error });
}

/// The address of the table.
pub fn table() -> u64 {
    TABLE.0.get() as u64
}

/// Loads the table, and the selectors that SYSCALL and SYSRET take.
pub fn init() {
    for vector in 0..256 {
        restore(vector);
    }
    let pointer: [u16; 5] = {
        let base = TABLE.0.get() as u64;
        let part = |n: u32| (base >> (16 * n)) as u16;
        [256 * 16 - 1, part(0), part(1), part(2), part(3)]
    };
    // SAFETY: the table is complete and lives for ever.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &pointer) }
    wrmsr(
        msr::IA32_STAR,
        boot::SYSRET_BASE << 48 | boot::KERNEL_CODE << 32,
    );
}
