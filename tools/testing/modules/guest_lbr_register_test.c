// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests which providers of guest LBR KVM accepts.  Runs at insmod and prints
 * KTAP to the kernel log.  No VM may be created meanwhile: the operations here
 * are never to be called.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_vmx_lbr.h>
#include <linux/module.h>

static int vcpu_create(struct kvm_vcpu *vcpu, void **priv) { return 0; }
static void vcpu_free(void *priv) { }
static void refresh(void *priv, const struct kvm_vmx_lbr_caps *caps) { }
static void reset(void *priv) { }
static bool is_valid_msr(void *priv, __u32 msr) { return false; }
static void debugctl_written(void *priv, __u64 data) { }
static void deliver_pmi(void *priv, __u32 version) { }
static void service(void *priv, bool new_slice) { }
static void enter(void *priv) { }
static void msr_filter_changed(void *priv) { }

static int get_msr(void *priv, __u32 msr, __u64 *data, bool host_initiated)
{
	return 1;
}

static int set_msr(void *priv, __u32 msr, __u64 data, bool host_initiated)
{
	return 1;
}

static const struct kvm_vmx_lbr_ops good = {
	.abi = KVM_VMX_LBR_ABI,
	.size = sizeof(struct kvm_vmx_lbr_ops),
	.owner = THIS_MODULE,
	.vcpu_create = vcpu_create,
	.vcpu_free = vcpu_free,
	.refresh = refresh,
	.reset = reset,
	.is_valid_msr = is_valid_msr,
	.get_msr = get_msr,
	.set_msr = set_msr,
	.debugctl_written = debugctl_written,
	.deliver_pmi = deliver_pmi,
	.service = service,
	.enter = enter,
	.msr_filter_changed = msr_filter_changed,
};

static int test;

static void result(bool passed, const char *name)
{
	pr_info("%sok %d %s\n", passed ? "" : "not ", ++test, name);
}

/* The answer to @ops, which is unregistered again if it was accepted. */
static int try(const struct kvm_vmx_lbr_ops *ops)
{
	int r = kvm_vmx_register_lbr_ops(ops);

	if (!r)
		kvm_vmx_unregister_lbr_ops(ops);
	return r;
}

#define WITHOUT(op)						\
do {								\
	struct kvm_vmx_lbr_ops ops = good;			\
								\
	ops.op = NULL;						\
	result(try(&ops) == -EINVAL, "refused without " #op);	\
} while (0)

static int __init guest_lbr_register_test_init(void)
{
	struct kvm_vmx_lbr_ops ops = good;

	pr_info("1..18\n");
	result(!try(&good), "a complete provider is accepted");
	result(!try(&good), "and again, when it has gone");

	ops.abi = KVM_VMX_LBR_ABI + 1;
	result(try(&ops) == -EINVAL, "a newer ABI is refused");
	ops.abi = KVM_VMX_LBR_ABI - 1;
	result(try(&ops) == -EINVAL, "an older ABI is refused");
	ops = good;
	ops.size -= sizeof(void *);
	result(try(&ops) == -EINVAL, "a table of another size is refused");

	WITHOUT(vcpu_create);
	WITHOUT(vcpu_free);
	WITHOUT(refresh);
	WITHOUT(reset);
	WITHOUT(is_valid_msr);
	WITHOUT(get_msr);
	WITHOUT(set_msr);
	WITHOUT(debugctl_written);
	WITHOUT(deliver_pmi);
	WITHOUT(service);
	WITHOUT(enter);
	WITHOUT(msr_filter_changed);

	ops = good;
	if (!kvm_vmx_register_lbr_ops(&good)) {
		result(try(&ops) == -EBUSY, "a second provider is refused");
		kvm_vmx_unregister_lbr_ops(&good);
	} else {
		result(false, "a second provider is refused");
	}
	return 0;
}
module_init(guest_lbr_register_test_init);

static void __exit guest_lbr_register_test_exit(void)
{
}
module_exit(guest_lbr_register_test_exit);

MODULE_DESCRIPTION("Test of the registration of guest LBR providers");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(GUEST_LBR);
