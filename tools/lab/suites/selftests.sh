# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: what a guest and userspace may do with LBR"
#: parts = ["module", "selftests"]
#: machines = ["haswell", "skylake", "icelake"]

load_kvm lbr=off
load_guest_lbr
subtests harness /selftests/kvm-selftests harness
subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
for name in msrs state_order migration passthrough filter freeze debug threads; do
	subtests "lbr_$name" /selftests/kvm-selftests "lbr_$name" --provider guest_lbr
done
check "the module is unloaded after the tests" rmmod guest_lbr
