// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios whose matter is what they access in memory.

use core::arch::global_asm;

use crate::branches::{scenarios, Scenario};

scenarios! {
    loads_10 "10 loads"
    before []
    code [".rept 10" "mov rax, [rsp - 64]" ".endr"]
    branches []

    stores_10 "10 stores"
    before []
    code [".rept 10" "mov [rsp - 64], rax" ".endr"]
    branches []

    both_10 "10 instructions that load and store"
    before ["mov qword ptr [rsp - 64], 0"]
    code [".rept 10" "inc qword ptr [rsp - 64]" ".endr"]
    branches []

    pushes_10 "5 PUSHes and 5 POPs"
    before []
    code [".rept 5" "push rax" ".endr" ".rept 5" "pop rdx" ".endr"]
    branches []

    loads_40 "40 loads, 20 of them across pages"
    before []
    code ["mov rsi, rsp" "and rsi, -4096" ".rept 20" "mov rax, [rsi]" "mov rax, [rsi - 4]" ".endr"]
    branches []

    flushed_10 "10 loads of a line that CLFLUSH flushed"
    before []
    code [".rept 10" "clflush [rsp - 64]" "mfence" "mov rax, [rsp - 64]" ".endr"]
    branches []

    flushed_pages_10 "10 loads of two lines, in two pages, of which CLFLUSH flushed one"
    before []
    code ["mov rsi, rsp" "and rsi, -4096" ".rept 10" "clflush [rsi]" "mfence"
        "mov rax, [rsi - 4]" ".endr"]
    branches []

    flushed_code_10 "10 turns of a loop that flushes its own code"
    before []
    code ["mov ecx, 10" "20: clflush [rip + 20b]" "mfence" "dec ecx" "jnz 20b"]
    branches []

    all_flushed "10 loads of lines after WBINVD"
    before []
    code ["wbinvd" "lea rsi, [rsp - 4096]" ".rept 10" "mov rax, [rsi]" "add rsi, 64" ".endr"]
    branches []

    walk_1m "a load of each line of 1 MiB"
    before []
    code ["mov esi, 0x4000000" "mov ecx, 16384" "20: mov rax, [rsi]" "add rsi, 64" "dec ecx"
        "jnz 20b"]
    branches []
}
