/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM guest_lbr

#if !defined(_GUEST_LBR_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _GUEST_LBR_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(guest_lbr_vcpu,
	TP_PROTO(u32 vcpu_id),
	TP_ARGS(vcpu_id),

	TP_STRUCT__entry(
		__field(u32,	vcpu_id)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
	),

	TP_printk("vcpu %u", __entry->vcpu_id)
);

/* The guest got the LBR facility. */
DEFINE_EVENT(guest_lbr_vcpu, guest_lbr_owned,
	TP_PROTO(u32 vcpu_id),
	TP_ARGS(vcpu_id)
);

/* The host took the facility away, or had it when the guest wanted it. */
DEFINE_EVENT(guest_lbr_vcpu, guest_lbr_lost,
	TP_PROTO(u32 vcpu_id),
	TP_ARGS(vcpu_id)
);

/* The guest got the facility back. */
DEFINE_EVENT(guest_lbr_vcpu, guest_lbr_regained,
	TP_PROTO(u32 vcpu_id),
	TP_ARGS(vcpu_id)
);

/* The guest does not use the facility any more. */
DEFINE_EVENT(guest_lbr_vcpu, guest_lbr_released,
	TP_PROTO(u32 vcpu_id),
	TP_ARGS(vcpu_id)
);

/* perf refused a guest LBR event; it is asked again. */
TRACE_EVENT(guest_lbr_create_failed,
	TP_PROTO(u32 vcpu_id, int error),
	TP_ARGS(vcpu_id, error),

	TP_STRUCT__entry(
		__field(u32,	vcpu_id)
		__field(int,	error)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->error = error;
	),

	TP_printk("vcpu %u error %d", __entry->vcpu_id, __entry->error)
);

#endif /* _GUEST_LBR_TRACE_H */

/* Beside shim.c, which has its own directory in the include path. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
