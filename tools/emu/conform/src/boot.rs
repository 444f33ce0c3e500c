// SPDX-License-Identifier: GPL-2.0-only
//! From the Multiboot loader to `main`: long mode, 4 GiB mapped one to one for
//! every privilege level, and once more in the upper half, SSE on.

use core::arch::global_asm;

/// The selector of ring 0's code.  In the table behind it: 10H ring 0's data, 18H
/// to 30H ring 3's as SYSRET and SYSEXIT want them (20H data, 28H 64-bit code), 38H
/// the TSS.
pub const KERNEL_CODE: u64 = 0x08;

/// The selector of ring 3's 64-bit code.
pub const USER_CODE: u64 = 0x28 | 3;

/// The selector of ring 3's data.
pub const USER_DATA: u64 = 0x20 | 3;

/// Where everything is mapped once more.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// Where SYSRET counts from.
pub const SYSRET_BASE: u64 = 0x18 | 3;

global_asm!(
    r#"
    .section .multiboot, "a"
    .balign 4
    // flags: addresses are given
multiboot:
    .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
    .long multiboot, image_start, image_end, bss_end, start

    .text
    .code32
    .globl start
start:
    cli
    mov esp, offset boot_stack_end
    mov [multiboot_information], ebx
    mov esi, ebx
    // page directories: 2048 pages of 2 MiB, present, writable, user, large
    mov edi, offset page_directories
    mov eax, 0x87
    mov ecx, 2048
20: mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 20b
    mov eax, offset page_directories + 7
    mov edi, offset page_directory_pointers
    mov ecx, 4
21: mov [edi], eax
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz 21b
    mov eax, offset page_directory_pointers + 7
    mov [page_map], eax
    mov [page_map + 8 * 256], eax
    mov eax, offset page_map
    mov cr3, eax
    // PAE, OSFXSR, OSXMMEXCPT
    mov eax, 0x620
    mov cr4, eax
    // IA32_EFER: SCE, LME
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x101
    wrmsr
    // PG, WP, NE, ET, MP, PE
    mov eax, 0x80010033
    mov cr0, eax
    lgdt [gdt_pointer]
    ljmp 0x08, offset long_mode

    .code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    // the descriptor of the TSS
    lea rax, [rip + tss]
    mov [rip + gdt_tss + 2], ax
    shr rax, 16
    mov [rip + gdt_tss + 4], al
    mov [rip + gdt_tss + 7], ah
    // available again: an INIT may have brought us here
    mov byte ptr [rip + gdt_tss + 5], 0x89
    lea rax, [rip + interrupt_stack_end]
    mov [rip + tss + 4], rax
    mov [rip + tss + 36], rax
    lea rax, [rip + nmi_stack_end]
    mov [rip + tss + 44], rax
    mov eax, 0x38
    ltr ax
    lea rsp, [rip + boot_stack_end]
    mov edi, esi
    xor ebp, ebp
    call main
22: hlt
    jmp 22b

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 08: ring 0, 64-bit code
    .quad 0x00cf93000000ffff    // 10: ring 0, data
    .quad 0x00cffb000000ffff    // 18: ring 3, 32-bit code
    .quad 0x00cff3000000ffff    // 20: ring 3, data
    .quad 0x00affb000000ffff    // 28: ring 3, 64-bit code
    .quad 0x00cff3000000ffff    // 30: ring 3, data for SYSEXIT
gdt_tss:
    .quad 0x0000890000000067, 0 // 38
    .quad 0x00cf9b001000ffff    // 48: ring 0, 32-bit code, base 1000H
    .globl gdt_call_gate
gdt_call_gate:
    .quad 0, 0                  // 50: a call gate
gdt_end:
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .balign 16
    .globl tss
tss:
    .zero 102
    .word 104                   // no I/O permission map

    .balign 4
    .globl multiboot_information
multiboot_information:
    .long 0

    .bss
    .balign 4096
page_map:
    .zero 4096
page_directory_pointers:
    .zero 4096
page_directories:
    .zero 4 * 4096
    .zero 65536
boot_stack_end:
    .zero 16384
    .globl interrupt_stack_end
interrupt_stack_end:
    .zero 16384
nmi_stack_end:
    "#
);

extern "C" {
    static mut gdt_call_gate: [u64; 2];
}

/// Points the call gate, whose selector is 50H, to ring 0's code at `target`.
pub fn set_call_gate(target: u64) {
    let low = target & 0xffff | KERNEL_CODE << 16 | 0x8c << 40 | (target >> 16 & 0xffff) << 48;
    // SAFETY: one CPU; nobody goes through the gate now.
    unsafe { (&raw mut gdt_call_gate).write_volatile([low, target >> 32]) }
}
