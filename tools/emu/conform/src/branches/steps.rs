// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios with RFLAGS.TF.  If a single step traps, it does before the last branch.

use core::arch::global_asm;

use super::{scenarios, Scenario};

scenarios! {
    popf_clears "POPFQ that clears TF"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["push 2" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "popfq"
        "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    iret_sets "IRETQ that sets TF"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x10" "push rax" "push 0x102" "push 0x08" "lea rax, [rip + 21f]"
        "push rax" "20: iretq" "21: nop" "22: jmp 23f" "nop" "23:"]
    branches [Far K "20b" "21b", RelJmp K "22b" "23b",]

    iret_clears "IRETQ that clears TF"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x10" "push rax" "push 2" "push 0x08" "lea rax, [rip + 21f]"
        "push rax" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "20: iretq"
        "21: jmp 22f" "nop" "22:"]
    branches [Far K "20b" "21b", RelJmp K "21b" "22b",]

    // The stack pointer stays the one of ring 3.
    syscall_clears "SYSCALL with TF in IA32_FMASK"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0xc0000084" "mov esi, 0x100" "call conform_wrmsr"
        "mov edi, 0xc0000082" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 0x102" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: syscall" "29: jmp 30f" "nop" "30: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b", RelJmp K "29b" "30b",]

    syscall_keeps "SYSCALL without TF in IA32_FMASK"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0xc0000084" "xor esi, esi" "call conform_wrmsr"
        "mov edi, 0xc0000082" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 0x102" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: syscall" "29: jmp 30f" "nop" "30: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b", RelJmp K "29b" "30b",]

    sysret_sets "SYSRET that sets TF"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rcx, [rip + 22f]" "mov r11d, 0x102" "20: sysretq" "22: jmp 23f" "nop"
        "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", RelJmp U "22b" "23b",]

    sysret_clears "SYSRET that clears TF"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rcx, [rip + 22f]" "mov r11d, 2" "pushfq" "or qword ptr [rsp], 0x100" "popfq"
        "20: sysretq" "22: jmp 23f" "nop" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", RelJmp U "22b" "23b",]

    syscall_sysret "SYSCALL and the SYSRET from it"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x80" "lea rsi, [rip + 30f]" "call conform_gate"
        "mov edi, 0xc0000084" "mov esi, 0x100" "call conform_wrmsr"
        "mov edi, 0xc0000082" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 0x102" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: syscall" "23: jmp 24f" "nop" "24: int 0x80"
        "29: sysretq" "30: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b", Far U "29b" "23b", RelJmp U "23b" "24b",]

    sysenter_keeps "SYSENTER"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x175" "mov rsi, r13" "call conform_wrmsr"
        "mov edi, 0x176" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 0x102" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: sysenter" "29: jmp 30f" "nop" "30: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b", RelJmp K "29b" "30b",]

    sysexit_keeps "SYSEXIT"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rdx, [rip + 22f]" "mov rcx, rsp" "pushfq" "or qword ptr [rsp], 0x100" "popfq"
        "20: .byte 0x48, 0x0f, 0x35" "22: jmp 23f" "nop" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", RelJmp U "22b" "23b",]

    mov_ss "MOV SS and the instruction behind it"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["mov eax, 0x10" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "mov ss, eax" "nop"
        "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    int_n_resets "INT n"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "20: int 0x80" "21: nop"
        "22: jmp 23f" "nop" "23:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b", RelJmp K "22b" "23b",]

    fault_resets "a fault (#UD)"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "20: ud2" "21: nop"
        "22: jmp 23f" "nop" "23:"]
    branches [Event K "20b" "skip_two", Far K "skip_two + 5" "21b", RelJmp K "22b" "23b",]
}
