/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest of QEMU's (-kernel, as a Multiboot ELF) with one CPU that has architectural
 * LBR.  It writes all its registers to QEMU's debug console (-debugcon), as
 * IA32_LBR_CTL, IA32_LBR_DEPTH, FROM, TO and INFO of 8 bytes each, and then halts
 * until an NMI:
 *
 *   1. with recording off, after it recorded more jumps than there are records;
 *   2. with recording off again, and nothing recorded since;
 *   3. with recording on: the NMI alone was recorded since;
 *   4. with recording off, after it recorded other jumps.
 *
 * After that each NMI has it write once more.  No branch is taken while it records,
 * but those jumps.  The debug console gets nothing but the registers.
 */
	.intel_syntax noprefix
	.code32

	.set DEBUG_CONSOLE,	0xe9

	.set LBR_CTL,		0x14ce
	.set LBR_DEPTH,		0x14cf
	.set LBR_0_INFO,	0x1200
	.set LBR_0_FROM,	0x1500
	.set LBR_0_TO,		0x1600
	.set RECORDS,		32
	/* All kinds of branches at all privilege levels. */
	.set ON,		0x7f0007
	/* Another value, with LBREn clear: near jumps in ring 0. */
	.set OFF,		0x060002

	.set CODE,		8
	.set DATA,		16
	.set NMI,		2

	.macro write_msr msr, value
	mov	ecx, \msr
	mov	eax, \value
	xor	edx, edx
	wrmsr
	.endm

	.macro jumps
	.rept	40
	jmp	9f
	nop
9:
	.endr
	.endm

	.text
	/* The header of a Multiboot kernel. */
	.align	4
	.long	0x1badb002, 0, -0x1badb002

	.globl _start
_start:
	cli
	mov	esp, offset stack_end
	lgdt	[gdt_pointer]
	ljmp	CODE, offset .Lflat
.Lflat:
	mov	eax, DATA
	mov	ds, eax
	mov	es, eax
	mov	ss, eax
	mov	eax, offset nmi
	mov	[idt + 8 * NMI], ax
	mov	word ptr [idt + 8 * NMI + 2], CODE
	mov	word ptr [idt + 8 * NMI + 4], 0x8e00
	shr	eax, 16
	mov	[idt + 8 * NMI + 6], ax
	lidt	[idt_pointer]

	write_msr LBR_DEPTH, RECORDS
	write_msr LBR_CTL, ON
	jumps
	write_msr LBR_CTL, OFF
	call	tell
	hlt
	call	tell

	write_msr LBR_CTL, ON
	hlt
	/* As the handler found it. */
	mov	eax, [found]
	mov	[control], eax
	call	tell_records

	write_msr LBR_DEPTH, RECORDS
	write_msr LBR_CTL, ON
	jumps
	write_msr LBR_CTL, OFF
1:	call	tell
	hlt
	jmp	1b

	/* Keep IA32_LBR_CTL, switch recording off. */
nmi:
	push	eax
	push	ecx
	push	edx
	mov	ecx, LBR_CTL
	rdmsr
	mov	[found], eax
	and	eax, ~1
	wrmsr
	pop	edx
	pop	ecx
	pop	eax
	iretd

	/* Write all registers to the debug console. */
tell:
	mov	ecx, LBR_CTL
	rdmsr
	mov	[control], eax
	mov	[control + 4], edx
tell_records:
	mov	edi, offset depth
	mov	ecx, LBR_DEPTH
	mov	ebp, 1
	call	read
	mov	ecx, LBR_0_FROM
	mov	ebp, RECORDS
	call	read
	mov	ecx, LBR_0_TO
	mov	ebp, RECORDS
	call	read
	mov	ecx, LBR_0_INFO
	mov	ebp, RECORDS
	call	read
	mov	esi, offset control
	mov	ecx, offset report_end - control
	mov	edx, DEBUG_CONSOLE
	rep outsb
	ret

	/* ebp MSRs from ecx on, to edi. */
read:
	rdmsr
	stosd
	mov	eax, edx
	stosd
	inc	ecx
	dec	ebp
	jnz	read
	ret

	.data
	.align	8
gdt:
	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
idt_pointer:
	.word	8 * (NMI + 1) - 1
	.long	idt

	.bss
	.align	8
idt:
	.skip	8 * (NMI + 1)
control:
	.skip	8
depth:
	.skip	8 + 3 * 8 * RECORDS
report_end:
found:
	.skip	4
	.skip	4096
stack_end:
