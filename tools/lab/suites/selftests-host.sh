# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: a guest shares the LBR with the host and other guests, its own too"
#: parts = ["module", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]

load_kvm lbr=off
load_guest_lbr
for name in reclaim host_events host_debugctl release isolation nested; do
	subtests "lbr_$name" /selftests/kvm-selftests "lbr_$name" --provider guest_lbr
done
check "the module is unloaded after the tests" rmmod guest_lbr
