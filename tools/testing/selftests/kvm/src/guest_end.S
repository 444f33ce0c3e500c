/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
.globl guest_end
guest_end:

	/*
	 * For the host: { kind, from, to } of guest_mixed in the order taken,
	 * addresses relative to guest_start.  The kind is the bit of LBR_SELECT
	 * that suppresses it.
	 */
	.macro kind bit, from, to
	.quad	\bit, \from - guest_start, \to - guest_start
	.endm
	.p2align 3
	.globl guest_kinds
guest_kinds:
	.set ud_stub, guest_exceptions + 16 * 6
	kind	7, .Ljmp, .Ljmp_target
	kind	2, .Ljcc, .Lcall_rel
	kind	3, .Lcall_rel, .Lrel_target
	kind	5, .Lret1, .Lcall_ind
	kind	4, .Lcall_ind, .Lind_target
	kind	5, .Lret2, .Ljmp_ind
	kind	6, .Ljmp_ind, .Ljmp_ind_target
	kind	8, .Lfar, ud_stub
	kind	7, (ud_stub + 4), .Lexception
	kind	2, .Lskip_ud2, .Lskip
	kind	8, .Liret, .Lafter
	.globl guest_kinds_end
guest_kinds_end:

	/* The same of guest_rings, with the bit for the ring in which each ends. */
	.globl guest_ring_kinds
guest_ring_kinds:
	kind	1, .Lsysret, .Lring3
	kind	1, .Lring3, .Lsyscall
	kind	0, .Lsyscall, guest_rings_back
	kind	0, guest_rings_back, .Lring0
	.globl guest_ring_kinds_end
guest_ring_kinds_end:
	.previous
