/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Contract between the host kernel (kvm-intel and perf) and a provider of
 * guest Last Branch Records, i.e. of LBR for the guests of KVM on Intel.
 *
 * A provider is a table of operations.  The host kernel has one of its own
 * (built-in); a module may register another.  A VM takes its provider when it
 * is created and keeps it for life, see kvm_vmx_register_lbr_ops().
 *
 * The header is self-contained: KVM's and perf's structures stay opaque, all
 * fields are of fixed width, and whatever touches a VMCS is a function.
 */
#ifndef _LINUX_KVM_VMX_LBR_H
#define _LINUX_KVM_VMX_LBR_H

#include <linux/types.h>

struct kvm_vcpu;
struct module;
struct perf_event;

/* Bumped with every change of this file that a provider could notice. */
#define KVM_VMX_LBR_ABI		1

/**
 * struct kvm_vmx_lbr_caps - the host's LBR facility, as perf found it
 * @format:	IA32_PERF_CAPABILITIES.LBR_FMT
 * @depth:	number of records, a power of two
 * @from:	first IA32 LASTBRANCH_x_FROM_IP MSR
 * @to:		first IA32 LASTBRANCH_x_TO_IP MSR
 * @info:	first LBR_INFO_x MSR, 0 if the format has none
 * @tsx:	1 if the IN_TX and ABORT flags are recorded, 0 if not
 */
struct kvm_vmx_lbr_caps {
	__u32 format;
	__u32 depth;
	__u32 from;
	__u32 to;
	__u32 info;
	__u32 tsx;
};

/**
 * struct kvm_vmx_lbr_ops - a provider of guest LBR
 * @abi:	KVM_VMX_LBR_ABI of the header the provider was built with
 * @size:	sizeof(struct kvm_vmx_lbr_ops) of that header
 * @owner:	the provider's module, pinned while a VM uses the provider
 *
 * Unless noted otherwise an operation is mandatory and is called with
 * vcpu->mutex held, the vCPU loaded and interrupts enabled, i.e. may sleep.
 * @priv is what @vcpu_create returned.
 *
 * @vcpu_create: a vCPU was created; return the provider's data for it in
 *	*@priv.  The vCPU is not loaded.  Return 0 or a negative errno.
 * @vcpu_free: the vCPU is gone, no operation follows.  Not loaded.
 * @refresh: the vCPU's CPUID or IA32_PERF_CAPABILITIES changed; @enabled is 1
 *	if it has LBR from now on, 0 if not.  Never after the vCPU has run.
 * @reset: the vPMU is about to be set up anew or destroyed: release the guest
 *	LBR event.  All registers keep their values.  On destruction the vCPU
 *	is not loaded.
 * @is_valid_msr: return 1 if @msr is one of the enabled vCPU's LBR MSRs
 *	(records, LBR_SELECT, LBR_TOS), else 0.
 * @get_msr: read a valid MSR.  Return 0, or 1 for #GP.  @host_initiated is 1
 *	if userspace reads, on whatever thread.
 * @set_msr: write a valid MSR.  Return 0, or 1 for #GP.
 * @get_debugctl: return the IA32_DEBUGCTL that the guest sees, given the one
 *	in the VMCS.  May be NULL: they are the same.
 * @set_debugctl: the guest's IA32_DEBUGCTL becomes @data (already checked);
 *	return what the VMCS gets.  May be NULL: they are the same.
 * @debugctl_written: IA32_DEBUGCTL was written by WRMSR or by userspace and
 *	the VMCS is up to date.  May be NULL.
 * @deliver_pmi: a virtual PMI is about to be delivered to a guest whose
 *	CPUID.0AH version is @version.
 * @service: once for each kvm_vmx_lbr_request(), and with @new_slice = 1 once
 *	after the vCPU was scheduled in, always on the vCPU's own thread, from
 *	KVM_RUN.  The one place to create and release the guest LBR event.
 * @enter: VM-entry is imminent, interrupts are disabled.  @active is 1 if the
 *	published event is ACTIVE on this CPU.  Called only if that differs from
 *	the published passthrough state, or if attention was asked for.
 * @msr_filter_changed: userspace replaced the MSR filter.  May be NULL.
 */
struct kvm_vmx_lbr_ops {
	__u32 abi;
	__u32 size;
	struct module *owner;

	int (*vcpu_create)(struct kvm_vcpu *vcpu, void **priv);
	void (*vcpu_free)(void *priv);
	void (*refresh)(void *priv, __u32 enabled);
	void (*reset)(void *priv);
	__u32 (*is_valid_msr)(void *priv, __u32 msr);
	int (*get_msr)(void *priv, __u32 msr, __u64 *data,
		       __u32 host_initiated);
	int (*set_msr)(void *priv, __u32 msr, __u64 data,
		       __u32 host_initiated);
	__u64 (*get_debugctl)(void *priv, __u64 vmcs);
	__u64 (*set_debugctl)(void *priv, __u64 data);
	void (*debugctl_written)(void *priv, __u64 data);
	void (*deliver_pmi)(void *priv, __u32 version);
	void (*service)(void *priv, __u32 new_slice);
	void (*enter)(void *priv, __u32 active);
	void (*msr_filter_changed)(void *priv);
};

/*
 * Registration.  VMs created from now on use @ops; kvm_vmx_register_lbr_ops()
 * returns 0, -EINVAL (built for another ABI, or an operation is missing),
 * -EBUSY (there is a provider already) or -ENODEV (no usable LBR, or the vPMU
 * is disabled).  Unregister only from module exit, when no VM can hold @ops.
 */
int kvm_vmx_register_lbr_ops(const struct kvm_vmx_lbr_ops *ops);
void kvm_vmx_unregister_lbr_ops(const struct kvm_vmx_lbr_ops *ops);

/* Describe the host's LBR facility.  Return 0 or -ENODEV. */
int kvm_vmx_lbr_get_caps(struct kvm_vmx_lbr_caps *caps);

/*
 * What KVM tests inline before each VM-entry.  @event is the guest LBR event
 * or NULL, @passthrough is 1 if the LBR MSRs are not intercepted, @attention
 * is 1 to have @enter called before the next VM-entry whatever the state.
 * vcpu->mutex held, or the vCPU is about to enter.
 */
void kvm_vmx_lbr_publish(struct kvm_vcpu *vcpu, struct perf_event *event,
			 __u32 passthrough, __u32 attention);

/* Have @service called before the next VM-entry (asked by @enter: the one after). */
void kvm_vmx_lbr_request(struct kvm_vcpu *vcpu);

/* IA32_DEBUGCTL in the current VMCS of the loaded vCPU. */
__u64 kvm_vmx_lbr_read_debugctl(struct kvm_vcpu *vcpu);
void kvm_vmx_lbr_write_debugctl(struct kvm_vcpu *vcpu, __u64 data);

/* 1 if the vCPU's linear addresses cannot hold @address. */
__u32 kvm_vmx_lbr_is_noncanonical(struct kvm_vcpu *vcpu, __u64 address);

/* KVM's number of the vCPU, for tracing. */
__u32 kvm_vmx_lbr_vcpu_id(struct kvm_vcpu *vcpu);

#define KVM_VMX_LBR_MSR_R	1
#define KVM_VMX_LBR_MSR_W	2

/*
 * Intercept (@intercept = true) or pass through @type accesses of @msr.  An
 * access that the VM's MSR filter denies stays intercepted.
 */
void vmx_set_intercept_for_msr(struct kvm_vcpu *vcpu, __u32 msr, int type,
			       bool intercept);

/**
 * struct perf_guest_lbr_owner - who keeps the records of a guest LBR event
 * @gained:	the LBR facility was given to the event on this CPU.  @intact is
 *		1 if the hardware still holds the records that it held when
 *		@lost was last called for the same event; if 0, it holds
 *		somebody else's and the owner must overwrite every record,
 *		LBR_TOS and LBR_SELECT before a guest can see them.
 * @lost:	the LBR facility is about to be taken from the event; the
 *		hardware holds the owner's records for the last time.
 * @sync:	perf_guest_lbr_sync_event() was called, maybe by another CPU:
 *		bring the owner's copy up to date.
 * @data:	for the owner's use
 *
 * All are called on the CPU that the event is on, interrupts disabled, with
 * perf's context lock held: they may read and write the LBR MSRs and take raw
 * spinlocks, nothing else.  The structure must outlive the event.
 */
struct perf_guest_lbr_owner {
	void (*gained)(void *data, __u32 intact);
	void (*lost)(void *data);
	void (*sync)(void *data);
	void *data;
};

/*
 * Create a guest LBR event for the current task: pinned, excluding the host,
 * without a hardware counter, and exclusive: while it is ACTIVE no other event
 * uses the LBR facility, and perf neither saves, restores nor clears the
 * records.  By perf's ordinary priorities a host event that is pinned to the
 * CPU takes the facility away; the event is then in ERROR state until
 * perf_event_enable().  Release it with perf_event_release_kernel().
 * Return the event, for which @owner's gained() may have been called already,
 * or an ERR_PTR().
 */
struct perf_event *
perf_guest_lbr_create_event(struct perf_guest_lbr_owner *owner);

/*
 * Bring the owner's copy up to date, from any task, may sleep: if the hardware
 * holds the records of @event, sync() has been called when this returns.
 */
void perf_guest_lbr_sync_event(struct perf_event *event);

#endif /* _LINUX_KVM_VMX_LBR_H */
