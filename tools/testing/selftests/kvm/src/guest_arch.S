/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What else touches architectural LBR.  Follows guest_debug.S.
 */

	.set BLOCK_AREA,	0xd000
	.set XFEATURE_LBR,	1 << 15
	/* Where guest_smm reports, outside of all blocks. */
	.set SMM_REPORT,	0x39000

	/* Record the jumps, and exit often, to the kernel and to userspace. */
	routine	guest_exits
	record_on
	.globl guest_exits_first
guest_exits_first:
	jump_chain
	.rept	50
	cpuid
	out	PORT_YIELD, al
	.endr
	record_off
	ret

	/* Have XSAVES store the LBR alone. */
	routine	guest_xsaves
	lea	rdi, [r15 + BLOCK_AREA]
	mov	eax, XFEATURE_LBR
	xor	edx, edx
	.byte	0x0f, 0xc7, 0x2f
	ret

	/* The SMI handler: report IA32_LBR_CTL and that it ran, take branches, yield. */
	.p2align 4
	.globl guest_smm
guest_smm:
	.code16
	mov	ecx, 0x14ce
	rdmsr
	mov	ebx, SMM_REPORT
	mov	[ebx], eax
	inc	dword ptr [ebx + 8]
	jmp	1f
	nop
1:	jmp	1f
	nop
1:	out	PORT_YIELD, al
	rsm
	.code64
	.globl guest_smm_end
guest_smm_end:

