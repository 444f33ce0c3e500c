/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * A guest that is a hypervisor (L1), and its guest (L2): the same interpreter at
 * another linear address, with another block.  Follows guest_debug.S.
 */

	.set PORT_SMI,		0xf4

	.set VM_INSTRUCTION_ERROR,	0x4400
	.set VM_EXIT_REASON,	0x4402
	.set VM_EXIT_INSTRUCTION_LEN,	0x440c
	.set GUEST_RIP,		0x681e
	.set HOST_RSP,		0x6c14

	.set EXIT_REASON_VMCALL, 18
	.set EXIT_REASON_RDMSR,	31
	.set EXIT_REASON_WRMSR,	32

	/* What is no exception: a VMX instruction fails. */
	.set VMX_FAILED,	0x100

	.set BLOCK_L2_MSR_EXITS, 0x50
	.set BLOCK_L2_R15,	0x58
	.set BLOCK_L2,		0x60

	.macro l2_registers do
	.set at, BLOCK_L2
	.irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14
	\do	\register
	.set at, at + 8
	.endr
	.endm

	.macro l2_load register
	mov	\register, [r15 + at]
	.endm

	.macro l2_save register
	mov	[r15 + at], \register
	.endm

	/* ---- more commands ---- */
	.globl guest_nested
guest_nested:
.Lnested:
	je	.Lvmcall
	cmp	ebx, 6
	jb	.Lvmxon
	je	.Lvmptrld
	cmp	ebx, 8
	jb	.Lvmwrite
	je	.Lvmread
.Lvmenter:
	push	r14
	push	r15
	mov	ecx, HOST_RSP
	vmwrite	rcx, rsp
	l2_registers l2_load
	mov	r15, [r15 + BLOCK_L2_R15]
	vmresume
	/* It was not launched yet. */
	vmlaunch
	pop	r15
	pop	r14
	mov	ecx, VM_INSTRUCTION_ERROR
	vmread	rax, rcx
	mov	r13, VMX_FAILED
	jmp	.Lstore
.Lvmxon:
	vmxon	[r14 + 8]
	jmp	.Lvmx_done
.Lvmptrld:
	vmclear	[r14 + 8]
	jbe	.Lvmx_done
	vmptrld	[r14 + 8]
	jmp	.Lvmx_done
.Lvmwrite:
	vmwrite	rcx, rax
	jmp	.Lvmx_done
.Lvmread:
	vmread	rax, rcx
.Lvmx_done:
	ja	.Lstore
	mov	r13, VMX_FAILED
	jmp	.Lstore

	/* The end of a list in L2; VMRESUME begins the next one. */
	.p2align 4
	.globl guest_vmcall
guest_vmcall:
.Lvmcall:
	vmcall
	jmp	guest_entry

	/*
	 * L1 after a VM-exit: keep L2's registers and step over the instruction.
	 * RDMSR and WRMSR are counted and do nothing.  Anything else is the result
	 * of the command that entered L2.
	 */
	.p2align 4
	.globl guest_l2_exit
guest_l2_exit:
	xchg	r15, [rsp]
	l2_registers l2_save
	pop	qword ptr [r15 + BLOCK_L2_R15]
	pop	r14
	mov	r13, -1
	mov	ecx, VM_EXIT_INSTRUCTION_LEN
	vmread	rbx, rcx
	mov	ecx, GUEST_RIP
	vmread	rdx, rcx
	add	rdx, rbx
	mov	ecx, VM_EXIT_REASON
	vmread	rax, rcx
	cmp	eax, EXIT_REASON_RDMSR
	je	1f
	cmp	eax, EXIT_REASON_WRMSR
	je	1f
	cmp	eax, EXIT_REASON_VMCALL
	jne	.Lstore
	mov	ecx, GUEST_RIP
	vmwrite	rcx, rdx
	jmp	.Lstore
1:	mov	ecx, GUEST_RIP
	vmwrite	rcx, rdx
	inc	qword ptr [r15 + BLOCK_L2_MSR_EXITS]
	jmp	.Lvmenter

	/* SMM's, copied to where it begins, 16-bit: tell, and go back. */
	.globl guest_smm_tell
guest_smm_tell:
	out	PORT_SMI, al
	rsm
	.globl guest_smm_tell_end
guest_smm_tell_end:
