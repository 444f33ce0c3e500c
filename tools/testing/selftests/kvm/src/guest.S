/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The code that runs inside a guest, position independent, copied to guest
 * memory as it is.  Ring 0, 64-bit, interrupts off unless said otherwise.  It goes
 * on in guest_debug.S and guest_nested.S, and ends in guest_end.S.
 *
 * r15 always points to the vCPU's block (struct layout in guest.rs).  The
 * interpreter walks the commands there: r14 is the current one, r13 receives
 * the vector of an exception.  A command is { u32 code, u32 arg, u64 value,
 * u64 result, u64 vector }.  Commands of a guest that is a hypervisor are in
 * guest_nested.S.
 */
	.section .rodata.guest, "a", @progbits
	.p2align 12
	.globl guest_start
guest_start:

	.set PORT_DONE,		0xf1
	.set PORT_YIELD,	0xf2
	.set PORT_FAULT,	0xf3

	.set MSR_PMC0,		0xc1
	.set MSR_GLOBAL_STATUS,	0x38e
	.set MSR_GLOBAL_CTRL,	0x38f
	.set MSR_GLOBAL_OVF,	0x390
	.set MSR_X2APIC_EOI,	0x80b

	.set BLOCK_PMI_COUNT,	0x00
	.set BLOCK_PMI_CONTROL, 0x08
	.set BLOCK_FAULT_VECTOR, 0x10
	.set BLOCK_FAULT_RIP,	0x18
	.set BLOCK_NOTE_VECTOR,	0x20
	.set BLOCK_NOTE_CONTROL, 0x28
	.set BLOCK_NOTE_COUNT,	0x30
	.set BLOCK_SPARE,	0x38
	/* The register that switches recording, and its value for on. */
	.set BLOCK_CONTROL,	0x40
	.set BLOCK_ON,		0x48
	/* What is between is in guest_nested.S. */
	.set BLOCK_PMI_STATUS,	0xd0
	.set BLOCK_PMI_COUNTER,	0xd8
	.set BLOCK_COMMANDS,	0x1000

	.macro write_msr msr, low
	mov	ecx, \msr
	mov	eax, \low
	xor	edx, edx
	wrmsr
	.endm

	/* Switch recording, to what is in eax or in the block. */
	.macro record_eax
	mov	ecx, [r15 + BLOCK_CONTROL]
	xor	edx, edx
	wrmsr
	.endm

	.macro record_on
	mov	eax, [r15 + BLOCK_ON]
	record_eax
	.endm

	.macro record_off
	xor	eax, eax
	record_eax
	.endm

	/* ---- interpreter ---- */
	.globl guest_entry
guest_entry:
	lea	r14, [r15 + BLOCK_COMMANDS]
.Lnext:
	mov	r13, -1
	mov	ecx, [r14 + 4]
	mov	rax, [r14 + 8]
	mov	rdx, rax
	shr	rdx, 32
	mov	ebx, [r14]
	cmp	ebx, 1
	je	.Lrdmsr
	cmp	ebx, 2
	je	.Lwrmsr
	cmp	ebx, 3
	je	.Lcall
	cmp	ebx, 4
	jae	.Lnested
	out	PORT_DONE, al
	jmp	guest_entry
.Lrdmsr:
	xor	eax, eax
	xor	edx, edx
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	jmp	.Lstore
.Lwrmsr:
	wrmsr
	jmp	.Lstore
.Lcall:
	mov	edi, ecx
	call	rax
	mov	r13, -1
.Lstore:
	mov	[r14 + 16], rax
	mov	[r14 + 24], r13
	add	r14, 32
	jmp	.Lnext

	/* ---- exceptions: one stub of 16 bytes for each vector below 32 ---- */
	.p2align 4
	.globl guest_exceptions
guest_exceptions:
	.set vector, 0
	.rept	32
	.p2align 4
	.if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
	.else
	push	0
	.endif
	push	vector
	jmp	.Lexception
	.set vector, vector + 1
	.endr

	/*
	 * RDMSR, WRMSR, RDPMC and UD2, two bytes each, may fault: report the
	 * vector in r13 and go on behind.  Anything else is a bug of a test.
	 */
	.p2align 4
.Lexception:
	push	rax
	mov	rax, [rsp + 24]
	mov	ax, [rax]
	cmp	ax, 0x320f
	je	.Lskip
	cmp	ax, 0x300f
	je	.Lskip
	cmp	ax, 0x330f
	je	.Lskip
	cmp	ax, 0x0b0f
.Lskip_ud2:
	je	.Lskip
	mov	rax, [rsp + 8]
	mov	[r15 + BLOCK_FAULT_VECTOR], rax
	mov	rax, [rsp + 24]
	mov	[r15 + BLOCK_FAULT_RIP], rax
	out	PORT_FAULT, al
	ud2
.Lskip:
	mov	r13, [rsp + 8]
	add	qword ptr [rsp + 24], 2
	pop	rax
	add	rsp, 16
.Liret:	iretq

	/*
	 * The PMI, as interrupt or as NMI: keep the control as found, take two
	 * branches that an LBR left running must hold, then switch all off.  Keep
	 * how far the counter came, and the status.
	 */
	.p2align 4
	.globl guest_pmi
guest_pmi:
	push	rax
	push	rcx
	push	rdx
	mov	ecx, [r15 + BLOCK_CONTROL]
	rdmsr
	shl	rdx, 32
	or	rax, rdx
	mov	[r15 + BLOCK_PMI_CONTROL], rax
	.globl guest_pmi_marks
guest_pmi_marks:
	jmp	1f
	nop
1:	jmp	1f
	nop
1:	record_off
	mov	ecx, MSR_PMC0
	rdmsr
	mov	[r15 + BLOCK_PMI_COUNTER], eax
	write_msr MSR_GLOBAL_CTRL, 0
	mov	ecx, MSR_GLOBAL_STATUS
	rdmsr
	mov	[r15 + BLOCK_PMI_STATUS], eax
	mov	[r15 + BLOCK_PMI_STATUS + 4], edx
	mov	ecx, MSR_GLOBAL_OVF
	wrmsr
	write_msr MSR_X2APIC_EOI, 0
	inc	qword ptr [r15 + BLOCK_PMI_COUNT]
	pop	rdx
	pop	rcx
	pop	rax
	iretq
	.globl guest_pmi_end
guest_pmi_end:

	/*
	 * ---- work, to be called with an argument in edi; may fault, which is
	 * no outcome of the call ----
	 */

	/* As many taken jumps as there are, each three bytes further. */
	.macro jump_chain
	.rept	40
	jmp	9f
	nop
9:
	.endr
	.endm

	/* Record exactly the jumps, nothing else. */
	.p2align 4
	.globl guest_jumps
guest_jumps:
	record_on
	.globl guest_jumps_first
guest_jumps_first:
	jump_chain
	.globl guest_jumps_end
guest_jumps_end:
	record_off
	ret

	/* The same, but leave recording on and let userspace look at it. */
	.p2align 4
	.globl guest_jumps_on
guest_jumps_on:
	record_on
	.globl guest_jumps_on_first
guest_jumps_on_first:
	jump_chain
	out	PORT_YIELD, al
	ret

	/* Exit to userspace. */
	.p2align 4
	.globl guest_yield
guest_yield:
	out	PORT_YIELD, al
	ret

	/* edi times: a call, a return and a jump back. */
	.p2align 4
	.globl guest_spin
guest_spin:
	call	1f
	dec	edi
	jnz	guest_spin
	ret
1:	ret

	/* One of each kind of branch; where they are is in guest_kinds. */
	.p2align 4
	.globl guest_mixed
guest_mixed:
	lea	rbx, [rip + .Lind_target]
	lea	rsi, [rip + .Ljmp_ind_target]
	record_on
.Ljmp:	jmp	.Ljmp_target
	nop
.Ljmp_target:
	test	eax, 0
.Ljcc:	jz	.Lcall_rel
	nop
.Lcall_rel:
	call	.Lrel_target
.Lcall_ind:
	call	rbx
.Ljmp_ind:
	jmp	rsi
	nop
.Ljmp_ind_target:
	nop
.Lfar:	ud2
.Lafter:
	record_off
	ret
.Lrel_target:
	nop
.Lret1:	ret
.Lind_target:
	nop
.Lret2:	ret

	/*
	 * To ring 3 and back, with a jump in each; what is taken is in
	 * guest_ring_kinds.  IA32_LSTAR is guest_rings_back.
	 */
	.p2align 4
	.globl guest_rings
guest_rings:
	record_on
	lea	rcx, [rip + .Lring3]
	mov	r11d, 2
.Lsysret:
	sysretq
.Lring3:
	jmp	.Lsyscall
	nop
.Lsyscall:
	syscall
	.globl guest_rings_back
guest_rings_back:
	jmp	.Lring0
	nop
.Lring0:
	record_off
	ret

	/*
	 * Count branches until PMC0 overflows.  edi is the control to use; the
	 * counter is set up but for GLOBAL_CTRL.  Gives up after a while.
	 */
	.p2align 4
	.globl guest_wait_pmi
guest_wait_pmi:
	mov	qword ptr [r15 + BLOCK_PMI_COUNT], 0
	mov	ebx, 40000000
	write_msr MSR_GLOBAL_CTRL, 1
	mov	eax, edi
	record_eax
	sti
	.globl guest_wait_pmi_loop
guest_wait_pmi_loop:
	cmp	qword ptr [r15 + BLOCK_PMI_COUNT], 0
	jne	1f
	dec	ebx
	jnz	guest_wait_pmi_loop
	.globl guest_wait_pmi_end
guest_wait_pmi_end:
1:	cli
	mov	rax, [r15 + BLOCK_PMI_COUNT]
	mov	r8, rax
	record_off
	write_msr MSR_GLOBAL_CTRL, 0
	mov	rax, r8
	ret
