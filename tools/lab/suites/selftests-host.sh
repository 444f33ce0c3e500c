# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: a guest shares the LBR with the host and other guests, its own too"
#: parts = ["module", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]

load_kvm lbr=off
load_guest_lbr
for name in reclaim host_events host_debugctl release nested; do
	subtests "lbr_$name" /selftests/kvm-selftests "lbr_$name" --provider guest_lbr
done
# What a guest does between two events of the host there has to fit into a slice.
cases=
case $LAB_KERNEL in
kernel-*)
	cases=two_vms_and_host_share_a_cpu
	skip "lbr_isolation: host_between_slices" "takes longer on $LAB_KERNEL"
	;;
esac
# shellcheck disable=SC2086
subtests lbr_isolation /selftests/kvm-selftests lbr_isolation $cases --provider guest_lbr
check "the module is unloaded after the tests" rmmod guest_lbr
