# SPDX-License-Identifier: GPL-2.0-only
#: about = "What a provider of guest LBR does by the rules of all behaviour cases (lab compare)"
#: parts = ["module", "selftests"]
#: machines = ["skylake-smp", "haswell:2", "sapphire-rapids:2"]
#: seconds = 1800
#: silence = 600
#: check = false

# A test that does not end is an answer, too.  In emulated seconds.
limit=60

provider=${PROVIDER-guest_lbr}
load_kvm
[ "$provider" != guest_lbr ] || load_guest_lbr
# lbr_unload is about the module's life.  lbr_leak loads the module itself.
for name in msrs state_order migration arch passthrough freeze debug filter threads reclaim \
	host_events host_debugctl release isolation nested leak; do
	note "step: lbr_$name"
	subtests "lbr_$name" timeout -s KILL $limit /selftests/kvm-selftests "lbr_$name" \
		--rules --provider "$provider"
done
