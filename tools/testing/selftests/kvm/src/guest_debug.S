/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Exceptions by which debuggers live, while branches are recorded.  Follows
 * guest.S.
 */

	/*
	 * The handlers: note vector and control, switch recording off before any
	 * branch is taken, and all breakpoints; then go on.
	 */
	.macro note name, vector, error_code=0
	.p2align 4
	.globl \name
\name:
	push	rax
	push	rcx
	push	rdx
	mov	ecx, [r15 + BLOCK_CONTROL]
	rdmsr
	mov	[r15 + BLOCK_NOTE_CONTROL], eax
	mov	[r15 + BLOCK_NOTE_CONTROL + 4], edx
	record_off
	mov	qword ptr [r15 + BLOCK_NOTE_VECTOR], \vector
	inc	qword ptr [r15 + BLOCK_NOTE_COUNT]
	xor	eax, eax
	mov	dr7, rax
	pop	rdx
	pop	rcx
	pop	rax
	.if \error_code
	add	rsp, 8
	/* Past the instruction that faults, of two bytes. */
	add	qword ptr [rsp], 2
	.endif
	/* TF off. */
	and	dword ptr [rsp + 16], ~0x100
	iretq
	.endm

	note	guest_note_db, 1
	note	guest_note_bp, 3
	note	guest_note_pf, 14, 1

	/* Record a jump, to be the newest branch. */
	.macro mark name
	record_on
	.globl \name\()_mark
\name\()_mark:
	jmp	9f
	nop
9:
	.endm

	.macro routine name
	.p2align 4
	.globl \name
\name:
	.endm

	.macro done
	record_off
	ret
	.endm

	routine	guest_icebp
	mark	guest_icebp
	.byte	0xf1
	done

	routine	guest_single_step
	record_on
	pushfq
	or	dword ptr [rsp], 0x100
	popfq
	.globl guest_single_step_mark
guest_single_step_mark:
	jmp	9f
	nop
9:	done

	.set DR7_ENABLE_0,	0x402
	.set DR7_WRITE_0,	0x10000

	routine	guest_data_breakpoint
	lea	rax, [r15 + BLOCK_SPARE]
	mov	dr0, rax
	mov	eax, DR7_ENABLE_0 | DR7_WRITE_0
	mov	dr7, rax
	mark	guest_data_breakpoint
	mov	[r15 + BLOCK_SPARE], al
	done

	routine	guest_code_breakpoint
	lea	rax, [rip + 1f]
	mov	dr0, rax
	mov	eax, DR7_ENABLE_0
	mov	dr7, rax
	mark	guest_code_breakpoint
1:	nop
	done

	routine	guest_int3
	mark	guest_int3
	.globl guest_int3_at
guest_int3_at:
	int3
	done

	/* Nothing is at linear address 0. */
	routine	guest_page_fault
	xor	esi, esi
	mark	guest_page_fault
	.globl guest_page_fault_at
guest_page_fault_at:
	mov	al, [rsi]
	done

