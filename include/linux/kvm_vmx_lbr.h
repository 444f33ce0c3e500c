/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Contract between kvm-intel and a provider of guest Last Branch Records, i.e.
 * of LBR for the guests of KVM on Intel.
 *
 * A provider is a table of operations.  The host kernel has one of its own
 * (built-in); a module may register another.  A VM takes its provider when it
 * is created and keeps it for life, see kvm_vmx_register_lbr_ops().
 *
 * The header is self-contained: KVM's structures stay opaque, all fields are of
 * fixed width, and whatever touches a VMCS is a function.  What perf offers to a
 * provider is in <linux/perf_guest_lbr.h>.
 */
#ifndef _LINUX_KVM_VMX_LBR_H
#define _LINUX_KVM_VMX_LBR_H

#include <linux/types.h>

struct kvm_vcpu;
struct module;
struct perf_guest_lbr;

/* Bumped with every change of the two headers that a provider could notice. */
#define KVM_VMX_LBR_ABI		2

/* kvm_vmx_lbr_caps.format of architectural LBR */
#define KVM_VMX_LBR_FORMAT_ARCH		0x3f

/**
 * struct kvm_vmx_lbr_caps - the LBR facility of the host or of a vCPU
 * @format:	IA32_PERF_CAPABILITIES.LBR_FMT, KVM_VMX_LBR_FORMAT_ARCH for
 *		architectural LBR
 * @depth:	number of records, the greatest if there are several
 * @from:	first MSR_LASTBRANCH_x_FROM_IP or IA32_LBR_x_FROM_IP
 * @to:		first MSR_LASTBRANCH_x_TO_IP or IA32_LBR_x_TO_IP
 * @info:	first MSR_LBR_INFO_x or IA32_LBR_x_INFO, 0 if the format has none
 * @leaf_eax:	CPUID.1CH:EAX, 0 without architectural LBR
 * @leaf_ebx:	CPUID.1CH:EBX
 * @leaf_ecx:	CPUID.1CH:ECX
 * @tsx:	the IN_TX and ABORT flags are recorded
 */
struct kvm_vmx_lbr_caps {
	__u32 format;
	__u32 depth;
	__u32 from;
	__u32 to;
	__u32 info;
	__u32 leaf_eax;
	__u32 leaf_ebx;
	__u32 leaf_ecx;
	bool tsx;
};

/**
 * struct kvm_vmx_lbr_ops - a provider of guest LBR
 * @abi:	KVM_VMX_LBR_ABI of the header the provider was built with
 * @size:	sizeof(struct kvm_vmx_lbr_ops) of that header
 * @owner:	the provider's module, pinned while a VM uses the provider
 *
 * All operations are mandatory.  Unless noted otherwise they are called with
 * vcpu->mutex held, the vCPU loaded and interrupts enabled, i.e. may sleep.
 * @priv is what @vcpu_create returned.
 *
 * @vcpu_create: a vCPU was created; return the provider's data for it in
 *	*@priv.  The vCPU is not loaded.  Return 0 or a negative errno.
 * @vcpu_free: the vCPU is gone, no operation follows.  Not loaded.
 * @refresh: the vCPU's CPUID or IA32_PERF_CAPABILITIES changed; it has the LBR
 *	facility @caps from now on, NULL if it has none.  Architectural LBR may be
 *	less than the host's.  Called only if that changed, and never after the
 *	vCPU has run.
 * @reset: the vPMU is about to be set up anew or destroyed: release the guest
 *	LBR event.  All registers keep their values.  On destruction the vCPU
 *	is not loaded.
 * @is_valid_msr: return whether @msr is one of the enabled vCPU's LBR MSRs
 *	(records, LBR_SELECT and LBR_TOS, or IA32_LBR_CTL, IA32_LBR_DEPTH and
 *	IA32_LER_x).
 * @get_msr: read a valid MSR.  Return 0, or 1 for #GP.  @host_initiated: it is
 *	userspace that reads, on whatever thread.
 * @set_msr: write a valid MSR.  Return 0, or 1 for #GP.
 * @debugctl_written: the guest's IA32_DEBUGCTL was set to @data, by WRMSR, by
 *	userspace, or by a nested VM-Entry.  The provider may read it, not write
 *	it.
 * @deliver_pmi: a virtual PMI is about to be delivered to a guest whose
 *	CPUID.0AH version is @version.  The provider freezes the LBRs for versions
 *	that do so in IA32_DEBUGCTL or IA32_LBR_CTL, KVM for later ones, see
 *	kvm_vmx_lbr_is_frozen().
 * @service: once for each kvm_vmx_lbr_request(), and with @new_slice once after
 *	the vCPU was scheduled in, always on the vCPU's own thread, from
 *	KVM_RUN.  The one place to create and release the guest LBR event.
 * @enter: VM-Entry is imminent, interrupts are disabled.  Called if attention
 *	was asked for, if the LBRs have become frozen or are not any more, or if
 *	the grant differs from the published passthrough; publish attention and
 *	passthrough before it returns.  The one place to ask for the grant and
 *	to change intercepts, beside @msr_filter_changed.
 * @msr_filter_changed: userspace replaced the MSR filter.
 */
struct kvm_vmx_lbr_ops {
	__u32 abi;
	__u32 size;
	struct module *owner;

	int (*vcpu_create)(struct kvm_vcpu *vcpu, void **priv);
	void (*vcpu_free)(void *priv);
	void (*refresh)(void *priv, const struct kvm_vmx_lbr_caps *caps);
	void (*reset)(void *priv);
	bool (*is_valid_msr)(void *priv, __u32 msr);
	int (*get_msr)(void *priv, __u32 msr, __u64 *data, bool host_initiated);
	int (*set_msr)(void *priv, __u32 msr, __u64 data, bool host_initiated);
	void (*debugctl_written)(void *priv, __u64 data);
	void (*deliver_pmi)(void *priv, __u32 version);
	void (*service)(void *priv, bool new_slice);
	void (*enter)(void *priv);
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
 * Tell KVM what it tests inline before each VM-Entry.  @lbr says whether the
 * LBRs are granted; it must stay valid until NULL is published or the vCPU is
 * freed.  @passthrough: the LBR MSRs are not intercepted.  With it KVM lets the
 * guest record branches unless the LBRs are frozen, i.e. loads the guest's
 * IA32_DEBUGCTL.LBR, or its IA32_LBR_CTL, into hardware; without it they are kept
 * from the hardware.  @has_event: have @service called when a time slice begins.
 * @attention: have @enter called before the next VM-Entry; once asked for, only
 * the call of @enter ends it.
 */
void kvm_vmx_lbr_publish(struct kvm_vcpu *vcpu, const struct perf_guest_lbr *lbr,
			 bool passthrough, bool has_event, bool attention);

/* Have @service called before the next VM-Entry (asked by @enter: the one after). */
void kvm_vmx_lbr_request(struct kvm_vcpu *vcpu);

/*
 * The guest's IA32_LBR_CTL.  The vCPU is loaded.  While the LBR MSRs are passed
 * through, the guest may write it without a VM-Exit.  KVM itself clears LBREn
 * when it injects a #DB and on SMI, and restores it on RSM.
 */
__u64 kvm_vmx_lbr_read_ctl(struct kvm_vcpu *vcpu);
void kvm_vmx_lbr_write_ctl(struct kvm_vcpu *vcpu, __u64 data);

/*
 * Whether the guest's IA32_PERF_GLOBAL_STATUS.LBR_FRZ is set.  No branch is
 * recorded then, whatever IA32_DEBUGCTL.LBR and IA32_LBR_CTL.LBREn say, and the
 * records stay.  Meanwhile IA32_LBR_CTL has to be intercepted, grant or not: the
 * hardware does not have the guest's.
 */
bool kvm_vmx_lbr_is_frozen(struct kvm_vcpu *vcpu);

/*
 * IA32_DEBUGCTL as the guest, L1 or L2, sees it: what was written, whatever of
 * it the hardware may have.  The vCPU is loaded.  A write does not call
 * @debugctl_written.
 */
__u64 kvm_vmx_lbr_read_debugctl(struct kvm_vcpu *vcpu);
void kvm_vmx_lbr_write_debugctl(struct kvm_vcpu *vcpu, __u64 data);

/* Whether the vCPU's linear addresses cannot hold @address. */
bool kvm_vmx_lbr_is_noncanonical(struct kvm_vcpu *vcpu, __u64 address);

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

/* The same for all accesses of @count MSRs from @first on, none above 1FFFH. */
void vmx_set_intercept_for_msr_range(struct kvm_vcpu *vcpu, __u32 first, __u32 count,
				     bool intercept);

#endif /* _LINUX_KVM_VMX_LBR_H */
