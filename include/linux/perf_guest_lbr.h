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
 * @dirty:	the owner sets it when it changes a register below.  perf clears
 *		it when it loads them.
 * @select:	MSR_LBR_SELECT
 * @tos:	MSR_LBR_TOS
 * @from:	MSR_LASTBRANCH_x_FROM_IP
 * @to:		MSR_LASTBRANCH_x_TO_IP
 * @info:	MSR_LBR_INFO_x, if the format has them
 *
 * While the grant lasts the LBRs of @cpu hold the registers, and perf may
 * write the buffer at any moment.  Without the grant the buffer holds them,
 * and belongs to the owner until it asks for the grant.  Values are what RDMSR
 * returns; the owner stores only values that the MSRs accept.
 */
struct perf_guest_lbr {
	__s32 cpu;
	__u32 dirty;
	__u64 select;
	__u64 tos;
	__u64 from[PERF_GUEST_LBR_MAX_DEPTH];
	__u64 to[PERF_GUEST_LBR_MAX_DEPTH];
	__u64 info[PERF_GUEST_LBR_MAX_DEPTH];
};

/*
 * Create a guest LBR event of the current task.  @lbr must stay where it is
 * until perf_event_release_kernel() returns; then it is not granted.
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
 * Access one LBR MSR of this CPU on behalf of the guest.  Return false, and do
 * nothing, if this CPU's LBRs are not granted to @event.
 */
bool perf_guest_lbr_read(struct perf_event *event, __u32 msr, __u64 *data);
bool perf_guest_lbr_write(struct perf_event *event, __u32 msr, __u64 data);

#endif /* _LINUX_PERF_GUEST_LBR_H */
