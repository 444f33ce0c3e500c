// SPDX-License-Identifier: GPL-2.0-only
//! What the compiler wants to find: a few functions of a C library, and a name
//! that the core library mentions but nothing calls where a panic ends all.

core::arch::global_asm!(
    r#"
    .text
    .globl memcpy, memmove, memset, memcmp, bcmp, strlen
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jae memcpy
    // the source lies before the target and they overlap: backwards
    mov rax, rdi
    mov rcx, rdx
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xor eax, eax
    mov rcx, rdx
    cmp rcx, rcx
    repe cmpsb
    je 20f
    movzx eax, byte ptr [rdi - 1]
    movzx ecx, byte ptr [rsi - 1]
    sub ecx, eax
    mov eax, ecx
20: ret
strlen:
    xor eax, eax
    mov rcx, -1
    repne scasb
    not rcx
    lea rax, [rcx - 1]
    ret
    .globl rust_eh_personality
rust_eh_personality:
    ud2
    "#
);
