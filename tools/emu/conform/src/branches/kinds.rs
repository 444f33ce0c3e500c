// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios of one kind of branch each.

use core::arch::global_asm;

use super::{scenarios, Scenario};

scenarios! {
    jcc_short "a taken Jcc rel8"
    before []
    code ["xor eax, eax" "20: jz 21f" "nop" "21:"]
    branches [Jcc K "20b" "21b",]

    jcc_near "a taken Jcc rel32"
    before []
    code ["xor eax, eax" "20: jz 21f" ".fill 200, 1, 0x90" "21:"]
    branches [Jcc K "20b" "21b",]

    jrcxz "a taken JRCXZ"
    before []
    code ["xor ecx, ecx" "20: jrcxz 21f" "nop" "21:"]
    branches [Jcc K "20b" "21b",]

    loops "LOOP that is taken once"
    before []
    code ["mov ecx, 2" "20: loop 20b"]
    branches [Jcc K "20b" "20b",]

    jmp_short "JMP rel8"
    before []
    code ["20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    jmp_near "JMP rel32"
    before []
    code ["20: jmp 21f" ".fill 200, 1, 0x90" "21:"]
    branches [RelJmp K "20b" "21b",]

    jmp_register "JMP r64"
    before []
    code ["lea rax, [rip + 21f]" "20: jmp rax" "nop" "21:"]
    branches [IndJmp K "20b" "21b",]

    jmp_memory "JMP m64"
    before []
    code ["lea rax, [rip + 21f]" "push rax" "20: jmp qword ptr [rsp]" "nop" "21:" "pop rax"]
    branches [IndJmp K "20b" "21b",]

    call_relative "CALL rel32 and RET"
    before []
    code ["20: call 22f" "21:" ".pushsection .text.out" "22: ret" ".popsection"]
    branches [RelCall K "20b" "22b", Ret K "22b" "21b",]

    call_register "CALL r64 and RET imm16"
    before []
    code ["lea rax, [rip + 22f]" "push rax" "20: call rax" "21:"
        ".pushsection .text.out" "22: ret 8" ".popsection"]
    branches [IndCall K "20b" "22b", Ret K "22b" "21b",]

    call_memory "CALL m64 and RET"
    before []
    code ["lea rax, [rip + 22f]" "push rax" "20: call qword ptr [rsp]" "21:"
        ".pushsection .text.out" "22: ret" ".popsection"]
    branches [IndCall K "20b" "22b", Ret K "22b" "21b",]

    call_zero "CALL of the next instruction"
    before []
    code ["20: call 21f" "21: pop rax"]
    branches [ZeroCall K "20b" "21b",]

    jmp_far "far JMP m16:64"
    before []
    code ["lea rax, [rip + 21f]" "mov qword ptr [rsp - 8], 8" "mov [rsp - 16], rax"
        "20: .byte 0x48, 0xff, 0x6c, 0x24, 0xf0" "nop" "21:"]
    branches [Far K "20b" "21b",]

    call_far "far CALL m16:64 and far RET"
    before []
    code ["lea rax, [rip + 22f]" "mov qword ptr [rsp - 8], 8" "mov [rsp - 16], rax"
        "20: .byte 0x48, 0xff, 0x5c, 0x24, 0xf0" "21:"
        ".pushsection .text.out" "22: .byte 0x48, 0xcb" ".popsection"]
    branches [Far K "20b" "22b", Far K "22b" "21b",]

    call_gate "far CALL m16:32 through a call gate to the upper half and far RET"
    before ["lea rdi, [rip + 22f]" "call conform_call_gate"]
    code ["mov word ptr [rsp - 12], 0x50" "20: .byte 0xff, 0x5c, 0x24, 0xf0" "21:"
        ".pushsection .text.out" "22: .byte 0x48, 0xcb" ".popsection"]
    branches [Far K "20b" "22b + 0xffff800000000000", Far K "22b + 0xffff800000000000" "21b",]

    segment "far JMPs to and from a 32-bit code segment with a base, and a JMP in it"
    before []
    code ["lea rax, [rip + 22f - 0x1000]" "mov qword ptr [rsp - 8], 0x48" "mov [rsp - 16], rax"
        "20: .byte 0x48, 0xff, 0x6c, 0x24, 0xf0" "21:"
        ".pushsection .text.out" ".code32" "22: jmp 23f" "nop"
        "23: .byte 0xea" ".long 21b" ".word 8" ".code64" ".popsection"]
    branches [Far K "20b" "22b", RelJmp K "22b" "23b", Far K "23b" "21b",]

    iret "IRETQ"
    before []
    code ["mov rax, rsp" "push 0x10" "push rax" "pushfq" "push 0x08" "lea rax, [rip + 21f]"
        "push rax" "20: iretq" "nop" "21:"]
    branches [Far K "20b" "21b",]

    int_n "INT n and IRETQ"
    before ["mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: int 0x80" "21:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b",]

    int3 "INT3 and IRETQ"
    before ["mov edi, 3" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: int3" "21:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b",]

    undefined "a fault (#UD) and IRETQ"
    before ["mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["20: ud2" "21:"]
    branches [Event K "20b" "skip_two", Far K "skip_two + 5" "21b",]

    protection "a fault with an error code (#GP) and IRETQ"
    before ["mov edi, 13" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x8000000000000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    page_fault "a page fault and IRETQ"
    before ["mov edi, 14" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x200000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    interrupt "a maskable interrupt and IRETQ"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "sti" "nop" "mov dword ptr [rax], 0x40050" "20: nop" "cli"]
    branches [Event K "20b" "acknowledge", Far K "acknowledge_end" "20b",]

    nmi "an NMI and IRETQ"
    before ["mov edi, 2" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "mov dword ptr [rax], 0x4400" "20: nop" "nop"]
    branches [Event K "20b" "return_at_once", Far K "return_at_once" "20b",]

    syscall "SYSCALL"
    before ["mov edi, 0xc0000082" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: syscall" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysret "SYSRET"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rcx, [rip + 22f]" "mov r11d, 2" "20: sysretq" "22: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysenter "SYSENTER"
    before ["mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x175" "mov rsi, r13" "call conform_wrmsr"
        "mov edi, 0x176" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: sysenter" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysexit "SYSEXIT"
    before ["mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rdx, [rip + 22f]" "mov rcx, rsp" "20: .byte 0x48, 0x0f, 0x35"
        "22: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]
}

/// Scenarios whose branches are all different in kind, place or cause.
pub static KINDS: [&Scenario; 27] = [
    &jcc_short,
    &jcc_near,
    &jrcxz,
    &loops,
    &jmp_short,
    &jmp_near,
    &jmp_register,
    &jmp_memory,
    &call_relative,
    &call_register,
    &call_memory,
    &call_zero,
    &jmp_far,
    &call_far,
    &call_gate,
    &iret,
    &int_n,
    &int3,
    &undefined,
    &protection,
    &page_fault,
    &interrupt,
    &nmi,
    &syscall,
    &sysret,
    &sysenter,
    &sysexit,
];
