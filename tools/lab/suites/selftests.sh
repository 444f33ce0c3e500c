# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: what a guest and userspace may do with LBR"
#: parts = ["module", "selftests"]
#: machines = ["haswell", "skylake", "icelake", "sapphire-rapids"]

load_kvm lbr=off
load_guest_lbr
subtests harness /selftests/kvm-selftests harness
names="msrs state_order migration passthrough filter freeze debug threads"
if grep -qw arch_lbr /proc/cpuinfo; then
	# Upstream's test writes LBR_TOS if LBR_FMT is not 0.
	skip vmx_pmu_caps_test "it knows no architectural LBR"
	names="$names arch"
else
	subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
fi
for name in $names; do
	subtests "lbr_$name" /selftests/kvm-selftests "lbr_$name" --provider guest_lbr
done
check "the module is unloaded after the tests" rmmod guest_lbr
