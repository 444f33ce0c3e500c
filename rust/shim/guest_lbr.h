/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust side of guest_lbr needs of C: inlines, macros and tracepoints.
 * Self-contained like <linux/kvm_vmx_lbr.h>: bindgen reads both.
 */
#ifndef _GUEST_LBR_SHIM_H
#define _GUEST_LBR_SHIM_H

#include <linux/types.h>

struct perf_event;

__u64 guest_lbr_jiffies(void);

/* Whether the event belongs to the current thread. */
bool guest_lbr_event_is_ours(const struct perf_event *event);

/* As in <linux/perf_event.h>, which bindgen does not read. */
int perf_event_release_kernel(struct perf_event *event);

/* Tracepoints. */
void guest_lbr_trace_owned(__u32 vcpu_id);
void guest_lbr_trace_lost(__u32 vcpu_id);
void guest_lbr_trace_regained(__u32 vcpu_id);
void guest_lbr_trace_released(__u32 vcpu_id);
void guest_lbr_trace_create_failed(__u32 vcpu_id, int error);

#endif /* _GUEST_LBR_SHIM_H */
