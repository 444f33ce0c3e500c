// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C object of guest_lbr.ko: what Rust cannot reach.
 */
#include <linux/jiffies.h>
#include <linux/kvm_vmx_lbr.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/spinlock.h>

#include <asm/msr.h>

#include "guest_lbr.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* rust/ffi.rs asserts the same numbers about the generated bindings. */
static_assert(sizeof(struct kvm_vmx_lbr_caps) == 24);
static_assert(sizeof(struct kvm_vmx_lbr_ops) == 128);
static_assert(offsetof(struct kvm_vmx_lbr_ops, owner) == 8);
static_assert(offsetof(struct kvm_vmx_lbr_ops, msr_filter_changed) == 120);
static_assert(sizeof(struct perf_guest_lbr_owner) == 32);
static_assert(offsetof(struct perf_guest_lbr_owner, data) == 24);
static_assert(sizeof(struct guest_lbr_msrs) == 24);
static_assert(sizeof(struct guest_lbr_records) == 784);

void guest_lbr_save(const struct guest_lbr_msrs *msrs,
		    struct guest_lbr_records *records)
{
	u32 i;

	rdmsrl(MSR_LBR_SELECT, records->select);
	rdmsrl(MSR_LBR_TOS, records->tos);
	for (i = 0; i < msrs->depth; i++) {
		rdmsrl(msrs->from + i, records->from[i]);
		rdmsrl(msrs->to + i, records->to[i]);
		if (msrs->info)
			rdmsrl(msrs->info + i, records->info[i]);
	}
}

static u64 extend_sign(u64 from, u64 sign_bits)
{
	/* Bits 62:61 follow bit 60. */
	return from & (sign_bits & -sign_bits) >> 1 ? from | sign_bits : from;
}

void guest_lbr_load(const struct guest_lbr_msrs *msrs,
		    const struct guest_lbr_records *records)
{
	u32 i;

	for (i = 0; i < msrs->depth; i++) {
		wrmsrl(msrs->from + i,
		       extend_sign(records->from[i], msrs->sign_bits));
		wrmsrl(msrs->to + i, records->to[i]);
		if (msrs->info)
			wrmsrl(msrs->info + i, records->info[i]);
	}
	wrmsrl(MSR_LBR_TOS, records->tos);
	wrmsrl(MSR_LBR_SELECT, records->select);
}

__u64 guest_lbr_rdmsr(__u32 msr)
{
	u64 value;

	rdmsrl(msr, value);
	return value;
}

void guest_lbr_wrmsr(__u32 msr, __u64 value)
{
	wrmsrl(msr, value);
}

__u32 guest_lbr_cpu(void)
{
	return smp_processor_id();
}

__u64 guest_lbr_jiffies(void)
{
	return jiffies;
}

__u32 guest_lbr_event_is_ours(const struct perf_event *event)
{
	/* A thread that exits leaves a tombstone. */
	return READ_ONCE(event->ctx->task) == current;
}

void guest_lbr_lock_init(void *lock, const char *name, void *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(lock, name, key, LD_WAIT_SPIN);
#else
	raw_spin_lock_init((raw_spinlock_t *)lock);
#endif
}

unsigned long guest_lbr_lock(void *lock)
{
	unsigned long flags;

	raw_spin_lock_irqsave((raw_spinlock_t *)lock, flags);
	return flags;
}

void guest_lbr_unlock(void *lock, unsigned long flags)
{
	raw_spin_unlock_irqrestore((raw_spinlock_t *)lock, flags);
}

void guest_lbr_trace_owned(__u32 vcpu_id)
{
	trace_guest_lbr_owned(vcpu_id);
}

void guest_lbr_trace_lost(__u32 vcpu_id)
{
	trace_guest_lbr_lost(vcpu_id);
}

void guest_lbr_trace_regained(__u32 vcpu_id)
{
	trace_guest_lbr_regained(vcpu_id);
}

void guest_lbr_trace_released(__u32 vcpu_id)
{
	trace_guest_lbr_released(vcpu_id);
}

void guest_lbr_trace_create_failed(__u32 vcpu_id, int error)
{
	trace_guest_lbr_create_failed(vcpu_id, error);
}

MODULE_IMPORT_NS(GUEST_LBR);
MODULE_VERSION(GUEST_LBR_VERSION);
