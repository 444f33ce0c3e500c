# SPDX-License-Identifier: GPL-2.0-only
#: about = "What guest LBR costs, in executed instructions and VM exits (lab bench)"
#: parts = ["module", "perf", "qemu", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]
#: full_machines = ["haswell", "icelake"]
#: seconds = 1800
#: silence = 600
#: verdict = "costs"

provider=${PROVIDER-guest_lbr}
# Unless the host freezes its counters in SMM, reads of IA32_DEBUGCTL need no VM exit.
freeze_on_smi=${FREEZE_ON_SMI-0}
period=10007

echo "$freeze_on_smi" >/sys/devices/cpu/freeze_on_smi
case $provider in
guest_lbr)
	load_kvm lbr=off
	load_guest_lbr
	;;
builtin) load_kvm ;;
none) load_kvm lbr=off ;;
*) not_ok "there is a provider $provider" ;;
esac

note "step: single operations"
check "single operations are measured" /selftests/kvm-selftests bench

# profile SIDE HOW [OPTION...]: fixed work, once and twice, so that what starting perf costs is
# known; each in a section of its own.
profile() {
	side=$1
	how=$2
	shift 2
	run=
	[ "$side" != guest ] || run=guest_run
	for steps in 100000 200000; do
		note "step: $side, $how, $steps"
		section=$side-$how.$steps
		counters start "$section" >/dev/null
		if [ "$how" = plain ]; then
			$run br_instr 1 $steps >/tmp/out 2>&1
		else
			$run perf record -e cycles -c $period "$@" -m 2M -N -o /tmp/data -- \
				br_instr 1 $steps >/tmp/out 2>&1
		fi
		status=$?
		counters stop "$section" >/dev/null
		if [ $status = 0 ] && ! grep -q -i -e lost -e throttled /tmp/out; then
			ok "$section"
		else
			sed 's/^/# /' /tmp/out
			not_ok "$section" "status $status"
		fi
		sed -n "s/.*(\([0-9]*\) samples).*/$section \1/p" /tmp/out >>/tmp/samples
	done
}

# side NAME: all of it on the host or in the guest.
side() {
	profile "$1" plain
	profile "$1" record
	if [ "$1" = host ] || [ "$provider" != none ]; then
		profile "$1" branches -b
		profile "$1" callgraph --call-graph lbr
	fi
}

if [ -n "${FIXED_WORK-}" ]; then
	: >/tmp/samples
	side host
	check "a guest starts" guest_start -- -cpu host,migratable=no
	side guest
	guest_stop
	artifact samples /tmp/samples
else
	skip "fixed work, profiled" "lab bench does it"
fi
