# SPDX-License-Identifier: GPL-2.0-only
#: about = "Profiles of many seeds on both sides, to measure how far chance goes"
#: parts = ["module", "perf", "qemu"]
#: seconds = 3600
#: check = false

load_kvm lbr=off
case ${PROVIDER-guest_lbr} in
guest_lbr) load_guest_lbr ;;
builtin)
	check "kvm_intel is unloaded" rmmod kvm_intel
	load_kvm lbr=builtin
	;;
esac
check "a guest with LBR starts" guest_start -- -cpu host,migratable=no -smp 2
for seed in $SEEDS; do
	note "step: host, seed $seed"
	profile any "$seed" 1000000 >/tmp/host
	status=$?
	# The host's profile must not change the guest's, nor the other way round.
	note "step: guest, seed $seed"
	guest_run profile any "$seed" 1000000 >/tmp/guest
	if [ $status$? = 00 ]; then
		ok "seed $seed"
		artifact "host-$seed" /tmp/host
		artifact "guest-$seed" /tmp/guest
	else
		sed 's/^/# /' /tmp/host /tmp/guest
		not_ok "seed $seed"
	fi
done
guest_stop
