/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Contract between perf and whoever keeps a guest's Last Branch Records.
 *
 * A guest LBR event stands for one vCPU's wish to use the LBRs.  It is a perf
 * event of the vCPU's thread and always schedules: it competes with no other
 * event.  Who has the LBRs of a CPU is decided by the grant:
 *
 *  - The owner asks for it before a VM-Entry, perf_guest_lbr_grant().
 *  - perf revokes it as soon as an event of the host wants to use the LBRs,
 *    when the event is scheduled out, and when somebody wants to look at the
 *    registers, perf_guest_lbr_park().
 *
 * perf moves the registers between the LBRs and a buffer of the owner's.
 *
 * The header is self-contained: perf's structures stay opaque, all fields are
 * of fixed width.
 */
#ifndef _LINUX_PERF_GUEST_LBR_H
#define _LINUX_PERF_GUEST_LBR_H

#include <linux/types.h>

struct perf_event;

#define PERF_GUEST_LBR_MAX_DEPTH	32

/* Not granted: perf_guest_lbr.cpu */
#define PERF_GUEST_LBR_NO_CPU		(-1)

/**
 * struct perf_guest_lbr - one guest's LBR registers
 * @cpu:	the CPU whose LBRs are granted, PERF_GUEST_LBR_NO_CPU if none.
 *		perf writes it, in perf_guest_lbr_grant() and when it revokes
 *		the grant; the owner initializes it to PERF_GUEST_LBR_NO_CPU.
 * @dirty:	the owner sets it when it changes a register.  perf clears it
 *		when it loads them.
 *
 * It is the head of the structure that has the registers of the host's LBR
 * facility.  While the grant lasts the LBRs of @cpu hold the registers, and perf
 * may write the structure at any moment.  Without the grant the structure holds
 * them, and belongs to the owner until it asks for the grant.  Values are what
 * RDMSR returns; the owner stores only values that the MSRs accept.
 */
struct perf_guest_lbr {
	__s32 cpu;
	__u32 dirty;
};

/**
 * struct perf_guest_lbr_legacy - LBR registers, without architectural LBR
 * @head:	whose they are
 * @select:	MSR_LBR_SELECT
 * @tos:	MSR_LBR_TOS
 * @from:	MSR_LASTBRANCH_x_FROM_IP
 * @to:		MSR_LASTBRANCH_x_TO_IP
 * @info:	MSR_LBR_INFO_x, if the format has them
 */
struct perf_guest_lbr_legacy {
	struct perf_guest_lbr head;
	__u64 select;
	__u64 tos;
	__u64 from[PERF_GUEST_LBR_MAX_DEPTH];
	__u64 to[PERF_GUEST_LBR_MAX_DEPTH];
	__u64 info[PERF_GUEST_LBR_MAX_DEPTH];
};

/**
 * struct perf_guest_lbr_entry - a record of architectural LBR
 * @from:	IA32_LBR_x_FROM_IP
 * @to:		IA32_LBR_x_TO_IP
 * @info:	IA32_LBR_x_INFO
 */
struct perf_guest_lbr_entry {
	__u64 from;
	__u64 to;
	__u64 info;
};

/**
 * struct perf_guest_lbr_arch - registers of architectural LBR
 * @head:	whose they are
 * @reserved:	must be 0
 * @xsave:	XSAVE's legacy region and header, which the owner initializes to
 *		0; state component 15 follows
 * @ctl:	must be 0: KVM has the guest's IA32_LBR_CTL
 * @depth:	IA32_LBR_DEPTH, which the owner initializes
 * @ler_from:	IA32_LER_FROM_IP
 * @ler_to:	IA32_LER_TO_IP
 * @ler_info:	IA32_LER_INFO
 * @entries:	the records; perf stores 0 beyond @depth
 */
struct perf_guest_lbr_arch {
	struct perf_guest_lbr head;
	__u64 reserved[7];
	__u64 xsave[72];
	__u64 ctl;
	__u64 depth;
	__u64 ler_from;
	__u64 ler_to;
	__u64 ler_info;
	struct perf_guest_lbr_entry entries[PERF_GUEST_LBR_MAX_DEPTH];
} __attribute__((aligned(64)));

/*
 * Create a guest LBR event of the current task.  @lbr is the head of the registers
 * of the host's LBR facility, and must stay where it is until
 * perf_event_release_kernel() returns; then it is not granted.
 * Return the event or an ERR_PTR(): -ENODEV if perf cannot lend the LBRs, -EBUSY
 * while BTS or Intel PT excludes their use, -ENOMEM.
 */
struct perf_event *perf_guest_lbr_create_event(struct perf_guest_lbr *lbr);

/*
 * Ask for the LBRs of this CPU, with interrupts disabled, right before a
 * VM-Entry.  Return true if they are granted: they hold the registers, nobody
 * records branches in host mode, and that stays so while interrupts are
 * disabled.  Return false if the event is not scheduled in on this CPU, or if
 * the host uses the LBRs.
 */
bool perf_guest_lbr_grant(struct perf_event *event);

/*
 * End the grant, on whatever CPU, if there is one.  May sleep, may be called
 * by any task; the owner sees to it that nobody asks for the grant meanwhile.
 */
void perf_guest_lbr_park(struct perf_event *event);

/*
 * Access one LBR MSR of this CPU on behalf of the guest, which must have it and
 * accept the value.  Return false, and do nothing, if this CPU's LBRs are not
 * granted to @event.
 */
bool perf_guest_lbr_read(struct perf_event *event, __u32 msr, __u64 *data);
bool perf_guest_lbr_write(struct perf_event *event, __u32 msr, __u64 data);

#endif /* _LINUX_PERF_GUEST_LBR_H */
