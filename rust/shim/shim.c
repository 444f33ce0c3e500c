// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C object of guest_lbr.ko: what Rust cannot reach.
 */
#include <linux/jiffies.h>
#include <linux/kvm_vmx_lbr.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/perf_guest_lbr.h>
#include <linux/sched.h>

#include "guest_lbr.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* rust/bindings.rs asserts the same numbers. */
static_assert(sizeof(struct kvm_vmx_lbr_caps) == 36);
static_assert(offsetof(struct kvm_vmx_lbr_caps, leaf_eax) == 20);
static_assert(offsetof(struct kvm_vmx_lbr_caps, tsx) == 32);
static_assert(sizeof(struct kvm_vmx_lbr_ops) == 112);
static_assert(offsetof(struct kvm_vmx_lbr_ops, owner) == 8);
static_assert(offsetof(struct kvm_vmx_lbr_ops, msr_filter_changed) == 104);
static_assert(sizeof(struct perf_guest_lbr) == 8);
static_assert(offsetof(struct perf_guest_lbr, cpu) == 0);
static_assert(offsetof(struct perf_guest_lbr, dirty) == 4);
static_assert(sizeof(struct perf_guest_lbr_legacy) == 792);
static_assert(offsetof(struct perf_guest_lbr_legacy, select) == 8);
static_assert(offsetof(struct perf_guest_lbr_legacy, tos) == 16);
static_assert(offsetof(struct perf_guest_lbr_legacy, from) == 24);
static_assert(offsetof(struct perf_guest_lbr_legacy, to) == 280);
static_assert(offsetof(struct perf_guest_lbr_legacy, info) == 536);
static_assert(sizeof(struct perf_guest_lbr_arch) == 1472);
static_assert(offsetof(struct perf_guest_lbr_arch, xsave) == 64);
static_assert(offsetof(struct perf_guest_lbr_arch, ctl) == 640);
static_assert(offsetof(struct perf_guest_lbr_arch, depth) == 648);
static_assert(offsetof(struct perf_guest_lbr_arch, ler_from) == 656);
static_assert(offsetof(struct perf_guest_lbr_arch, entries) == 680);
static_assert(sizeof(struct perf_guest_lbr_entry) == 24);

__u64 guest_lbr_jiffies(void)
{
	return jiffies;
}

bool guest_lbr_event_is_ours(const struct perf_event *event)
{
	/* A thread that exits leaves a tombstone. */
	return READ_ONCE(event->ctx->task) == current;
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
