// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios of several branches, or of none.

use core::arch::global_asm;

use super::{scenarios, Scenario};

scenarios! {
    nothing "no branch"
    before []
    code ["nop"]
    branches []

    jcc_not_taken "a Jcc that is not taken"
    before []
    code ["xor eax, eax" "20: jnz 21f" "nop" "21:"]
    branches []

    user "ring 3 by IRETQ, branches there, back by INT n"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 28f]"
        "push rax" "20: iretq"
        "28: xor eax, eax"
        "22: jz 23f" "nop"
        "23: call 26f"
        "24: jmp 25f" "nop"
        "25: int 0x80"
        "29: mov rsp, r13"
        ".pushsection .text.out" "26: ret" ".popsection"]
    branches [Far U "20b" "28b", Jcc U "22b" "23b", RelCall U "23b" "26b", Ret U "26b" "24b",
        RelJmp U "24b" "25b", Far K "25b" "29b",]

    all "one branch of each kind"
    before ["mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["xor eax, eax"
        "20: jz 30f" "nop"
        "30: jmp 31f" "nop"
        "31: lea rax, [rip + 33f]"
        "32: jmp rax" "nop"
        "33: call 40f"
        "34: lea rax, [rip + 41f]"
        "35: call rax"
        "36: int 0x80"
        "37:"
        ".pushsection .text.out" "40: ret" "41: ret" ".popsection"]
    branches [Jcc K "20b" "30b", RelJmp K "30b" "31b", IndJmp K "32b" "33b",
        RelCall K "33b" "40b", Ret K "40b" "34b", IndCall K "35b" "41b", Ret K "41b" "36b",
        Far K "36b" "return_at_once", Far K "return_at_once" "37b",]

    many "forty jumps"
    before []
    code ["mov ecx, 41" "20: loop 20b"]
    branches [
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",]

    call_stays "CALL without RET"
    before []
    code ["20: call 22f" "21:" ".pushsection .text.out" "22: mov rsp, r13" "jmp 23f" ".popsection" "nop" "23:"]
    branches [RelCall K "20b" "22b",]

    call_register_stays "an indirect CALL without RET"
    before []
    code ["lea rax, [rip + 22f]" "20: call rax" "nop" "22: mov rsp, r13"]
    branches [IndCall K "20b" "22b",]

    call_nested "CALL, in it CALL and RET"
    before []
    code ["20: call 22f" "nop" "22: call 23f" "24: mov rsp, r13"
        ".pushsection .text.out" "23: ret" ".popsection"]
    branches [RelCall K "20b" "22b", RelCall K "22b" "23b", Ret K "23b" "24b",]

    call_zero_nested "CALL, in it CALL of the next instruction"
    before []
    code ["20: call 22f" "nop" "22: call 23f" "23: mov rsp, r13"]
    branches [RelCall K "20b" "22b", ZeroCall K "22b" "23b",]

    calls "forty CALLs without RET"
    before []
    code ["mov ecx, 40" "20: call 22f" "nop" "22: dec ecx" "jnz 20b" "mov rsp, r13"]
    branches [
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",]

    jump_fault_jump "JMP, then a fault, then JMP"
    before ["mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: ud2" "22: jmp 23f" "nop" "23:"]
    branches [RelJmp K "20b" "21b", Event K "21b" "skip_two", Far K "skip_two + 5" "22b",
        RelJmp K "22b" "23b",]

    jump_interrupt "JMP, then an interrupt"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "sti" "20: jmp 21f" "nop" "21: mov dword ptr [rax], 0x40050"
        "22: nop" "cli"]
    branches [RelJmp K "20b" "21b", Event K "22b" "acknowledge", Far K "acknowledge_end" "22b",]

    jump_int_n "JMP, then INT n"
    before ["mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: int 0x80" "22:"]
    branches [RelJmp K "20b" "21b", Far K "21b" "return_at_once", Far K "return_at_once" "22b",]

    jumps_fault "JMP r64, JMP, then a fault"
    before ["mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["lea rax, [rip + 21f]" "20: jmp rax" "nop" "21: jmp 22f" "nop" "22: ud2" "23:"]
    branches [IndJmp K "20b" "21b", RelJmp K "21b" "22b", Event K "22b" "skip_two",
        Far K "skip_two + 5" "23b",]

    // Of the branches of these those before the #DB.
    int1 "INT1 between two JMPs"
    before ["mov edi, 1" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: .byte 0xf1" "jmp 22f" "nop" "22:"]
    branches [RelJmp K "20b" "21b",]

    data_breakpoint "a store that a breakpoint is for between two JMPs"
    before ["mov edi, 1" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["lea rax, [rsp - 64]" "mov dr0, rax" "mov eax, 0x10401" "mov dr7, rax"
        "20: jmp 21f" "nop" "21: mov byte ptr [rsp - 64], 0" "jmp 22f" "nop"
        "22: mov eax, 0x400" "mov dr7, rax"]
    branches [RelJmp K "20b" "21b",]

    int_n_of_db "INT n with the vector of #DB, and a JMP"
    before ["mov edi, 1" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: .byte 0xcd, 1" "21: jmp 22f" "nop" "22:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b", RelJmp K "21b" "22b",]

    // TF takes effect behind the instruction after POPFQ.
    single_step "a single step (#DB) between two JMPs"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "nop"
        "jmp 22f" "nop" "22:"]
    branches [RelJmp K "20b" "21b",]

    branch_step "steps by branches"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "nop" "nop" "20: jmp 21f" "nop"
        "21: nop" "nop"]
    branches [RelJmp K "20b" "21b",]

    // Of the branches of these the last one is the step.
    call_step "a CALL"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "20: call 22f" "nop"
        ".pushsection .text.out" "22: nop" "jmp 23f" ".popsection" "23:"]
    branches [RelCall K "20b" "22b",]

    ret_step "a RET"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["20: call 22f" "21: nop" "nop" ".pushsection .text.out"
        "22: pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "23: ret" ".popsection"]
    branches [RelCall K "20b" "22b", Ret K "23b" "21b",]

    jcc_step "a taken Jcc"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "xor eax, eax" "20: jz 21f" "nop"
        "21: nop" "nop"]
    branches [Jcc K "20b" "21b",]

    jcc_not_taken_step "no Jcc that is not taken"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "xor eax, eax" "jnz 21f" "nop"
        "20: jmp 22f" "21: nop" "22: nop" "nop"]
    branches [RelJmp K "20b" "22b",]

    indirect_step "a JMP r64"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["lea rdx, [rip + 21f]" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop"
        "20: jmp rdx" "nop" "21: nop" "nop"]
    branches [IndJmp K "20b" "21b",]

    iret_step "an IRETQ"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x10" "push rax" "push 0x102" "push 0x08" "lea rax, [rip + 21f]"
        "push rax" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "20: iretq" "nop"
        "21: nop" "nop"]
    branches [Far K "20b" "21b",]

    // Events clear TF; the IRETQ that sets it again is no step either.
    int_n_step "no INT n"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "20: int 0x80" "21: nop"
        "22: jmp 23f" "nop" "23: nop" "nop"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b", RelJmp K "22b" "23b",]

    fault_step "no fault (#UD)"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "20: ud2" "21: nop"
        "22: jmp 23f" "nop" "23: nop" "nop"]
    branches [Event K "20b" "skip_two", Far K "skip_two + 5" "21b", RelJmp K "22b" "23b",]

    interrupt_step "no interrupt"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"
        "mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "sti" "pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop"
        "mov dword ptr [rax], 0x40050" "20: nop" "nop" "22: jmp 23f" "nop" "23: nop" "cli"]
    branches [Event K "20b" "acknowledge", Far K "acknowledge_end" "20b", RelJmp K "22b" "23b",]

    nops_10 "10 NOPs"
    before []
    code [".fill 10, 1, 0x90"]
    branches []

    nops_110 "110 NOPs"
    before []
    code [".fill 110, 1, 0x90"]
    branches []

    load_fault "a load that faults (#PF)"
    before ["mov edi, 14" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x200000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    repeated "STOSB repeated 50 times"
    before []
    code ["mov ecx, 50" "mov rdi, rsp" "sub rdi, 200" "cld" "rep stosb"]
    branches []

    not_repeated "STOSB repeated once"
    before []
    code ["mov ecx, 1" "mov rdi, rsp" "sub rdi, 200" "cld" "rep stosb"]
    branches []

    user_nops_10 "10 NOPs in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: .fill 10, 1, 0x90" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "23b" "29b",]

    user_nops_60 "60 NOPs in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: .fill 60, 1, 0x90" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "23b" "29b",]

    // RBX is 0 if RDPMC did not fault.
    user_rdpmc "RDPMC in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 28f]" "call conform_gate"
        "mov edi, 13" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "iretq" "22: xor ecx, ecx" "rdpmc" "int 0x80"
        "28: mov qword ptr [rip + trap_shared + 32], 1"
        "29: mov rsp, r13"]
    branches []

    // The interrupt comes from the local APIC's timer.
    halt "HLT until an interrupt"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee003e0" "mov dword ptr [rax], 0xb"
        "mov eax, 0xfee00320" "mov dword ptr [rax], 0x50"
        "mov eax, 0xfee00380" "mov dword ptr [rax], 200000" "sti" "hlt" "cli"]
    branches []

    mwait "MWAIT until an interrupt"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee003e0" "mov dword ptr [rax], 0xb"
        "mov eax, 0xfee00320" "mov dword ptr [rax], 0x50"
        "mov eax, 0xfee00380" "mov dword ptr [rax], 200000"
        "lea rax, [rsp - 256]" "xor ecx, ecx" "xor edx, edx" "monitor"
        "xor eax, eax" "sti" "mwait" "cli"]
    branches []

    jumps_and_nops "JMP, 50 NOPs, JMP"
    before []
    code ["20: jmp 21f" "nop" "21: .fill 50, 1, 0x90" "22: jmp 23f" "nop" "23:"]
    branches [RelJmp K "20b" "21b", RelJmp K "22b" "23b",]

    not_taken_and_jmp "a Jcc that is not taken, JMP"
    before []
    code ["xor eax, eax" "jnz 21f" "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    // Of the loops only the newest branches are named.
    loop_back "a loop of 1000 rounds"
    before []
    code ["mov ecx, 1000" "20: dec ecx" "21: jnz 20b"]
    branches [Jcc K "21b" "20b",]

    loop_exit "a loop of 1000 rounds that a taken Jcc leaves"
    before []
    code ["mov ecx, 1000" "20: dec ecx" "21: jz 23f" "22: jmp 20b" "nop" "23:"]
    branches [RelJmp K "22b" "20b", Jcc K "21b" "23b",]

    loop_indirect "a JMP r64 that goes elsewhere the 1000th time"
    before []
    code ["mov ecx, 1000" "lea rax, [rip + 22f]" "lea rdx, [rip + 23f]"
        "20: dec ecx" "cmovz rax, rdx" "21: jmp rax" "nop" "22: jmp 20b" "nop" "23:"]
    branches [IndJmp K "21b" "22b", RelJmp K "22b" "20b", IndJmp K "21b" "23b",]

    loop_ret "CALL and RET 1000 times"
    before []
    code ["mov ecx, 1000" "20: call 22f" "21: dec ecx" "jnz 20b"
        ".pushsection .text.out" "22: ret" ".popsection"]
    branches [RelCall K "20b" "22b", Ret K "22b" "21b",]

    ret_elsewhere "CALL, and a RET to elsewhere"
    before []
    code ["lea rdx, [rip + 23f]" "20: call 21f" "nop" "21: mov [rsp], rdx" "22: ret" "nop" "23:"]
    branches [RelCall K "20b" "21b", Ret K "22b" "23b",]

    // What LOOP does is for JCC to filter.
    jump_loop_jumps "JMP, LOOP 5000 times, JMP, JMP"
    before []
    code ["mov ecx, 5000" "20: jmp 21f" "nop" "21: loop 21b" "22: jmp 23f" "nop"
        "23: jmp 24f" "nop" "24:"]
    branches [RelJmp K "20b" "21b", RelJmp K "22b" "23b", RelJmp K "23b" "24b",]

    jump_long_loop_jump "JMP, LOOP 200000 times, JMP"
    before []
    code ["mov ecx, 200000" "20: jmp 21f" "nop" "21: loop 21b" "22: jmp 23f" "nop" "23:"]
    branches [RelJmp K "20b" "21b", RelJmp K "22b" "23b",]
}
