/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust side of guest_lbr needs of C: inlines, macros and bulk MSR
 * accesses.  Self-contained like <linux/kvm_vmx_lbr.h>: bindgen reads both.
 */
#ifndef _GUEST_LBR_SHIM_H
#define _GUEST_LBR_SHIM_H

#include <linux/types.h>

struct perf_event;

#define GUEST_LBR_MAX_DEPTH	32

/**
 * struct guest_lbr_msrs - the LBR MSRs of this host's CPUs
 * @depth:	number of records, at most GUEST_LBR_MAX_DEPTH
 * @from:	first LASTBRANCH_x_FROM_IP MSR
 * @to:		first LASTBRANCH_x_TO_IP MSR
 * @info:	first LBR_INFO_x MSR, 0 if there is none
 * @sign_bits:	bits of FROM that a write needs as sign extension of the bits
 *		below them, although a read shows them as 0
 */
struct guest_lbr_msrs {
	__u32 depth;
	__u32 from;
	__u32 to;
	__u32 info;
	__u64 sign_bits;
};

/* The values of all LBR MSRs. */
struct guest_lbr_records {
	__u64 select;
	__u64 tos;
	__u64 from[GUEST_LBR_MAX_DEPTH];
	__u64 to[GUEST_LBR_MAX_DEPTH];
	__u64 info[GUEST_LBR_MAX_DEPTH];
};

/* Read or write all LBR MSRs of this CPU. */
void guest_lbr_save(const struct guest_lbr_msrs *msrs,
		    struct guest_lbr_records *records);
void guest_lbr_load(const struct guest_lbr_msrs *msrs,
		    const struct guest_lbr_records *records);

/* Read or write one. */
__u64 guest_lbr_rdmsr(__u32 msr);
void guest_lbr_wrmsr(__u32 msr, __u64 value);

/* The number of this CPU; interrupts or preemption are disabled. */
__u32 guest_lbr_cpu(void);

__u64 guest_lbr_jiffies(void);

/* 1 if the event belongs to the current thread. */
__u32 guest_lbr_event_is_ours(const struct perf_event *event);

/* As in <linux/perf_event.h>, which bindgen does not read. */
void perf_event_enable(struct perf_event *event);
int perf_event_release_kernel(struct perf_event *event);

/* A raw spinlock that disables interrupts; @lock is a raw_spinlock_t. */
void guest_lbr_lock_init(void *lock, const char *name, void *key);
unsigned long guest_lbr_lock(void *lock);
void guest_lbr_unlock(void *lock, unsigned long flags);

/* Tracepoints. */
void guest_lbr_trace_owned(__u32 vcpu_id);
void guest_lbr_trace_lost(__u32 vcpu_id);
void guest_lbr_trace_regained(__u32 vcpu_id);
void guest_lbr_trace_released(__u32 vcpu_id);
void guest_lbr_trace_create_failed(__u32 vcpu_id, int error);

#endif /* _GUEST_LBR_SHIM_H */
