/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * A routine for guests that are disturbed.  Follows guest_debug.S.
 */
	/* edi times: an exit that userspace does not see. */
	routine	guest_cpuid
	mov	esi, edi
1:	xor	eax, eax
	xor	ecx, ecx
	cpuid
	dec	esi
	jnz	1b
	ret

