# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf record -b in a guest: refused without guest_lbr, then the host's profile"
#: parts = ["module", "perf", "qemu", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]
#: full_machines = ["haswell", "icelake"]
#: seconds = 1500
#: silence = 480
#: verdict = "profile"

provider=${PROVIDER-guest_lbr}
seed=${SEED-1}
# Every feature that the host's KVM offers: LBR if it does, none if not.
cpu="-cpu host,migratable=no -smp 2"
filters="any cond any_call"

note "step: a guest without guest_lbr"
load_kvm lbr=off
check "a guest starts" guest_start -- $cpu
guest_run perf record -b -o /tmp/refused -- br_instr 1 1000 >/tmp/refused 2>&1
status=$?
artifact refused /tmp/refused
if [ $status -ne 0 ] && [ $status -ne 254 ] && grep -q "PMU Hardware" /tmp/refused; then
	ok "perf record -b fails in the guest, in the kernel's words"
else
	sed 's/^/# /' /tmp/refused
	not_ok "perf record -b fails in the guest, in the kernel's words" "status $status"
fi
guest_stop

case $provider in
guest_lbr)
	note "step: insmod guest_lbr.ko"
	load_guest_lbr
	;;
builtin)
	note "step: kvm_intel with lbr=builtin"
	check "kvm_intel is unloaded" rmmod kvm_intel
	load_kvm lbr=builtin
	;;
*)
	not_ok "there is a provider $provider"
	;;
esac

# side NAME CMD...: profiles, by CMD, one side.
side() {
	side=$1
	shift
	for filter in $filters callgraph; do
		note "step: $side, $filter"
		# Shares are compared without a filter only.  System calls make
		# kernel and far branches, which the filter "cond" has to keep out.
		case $filter in
		any) work="$seed 1000000" ;;
		cond) work="$seed 250000 4" ;;
		*) work="$seed 250000" ;;
		esac
		# shellcheck disable=SC2086
		if "$@" profile $filter $work >/tmp/report 2>&1; then
			ok "$side: perf record, $filter"
			artifact "$side-$filter" /tmp/report
		else
			sed 's/^/# /' /tmp/report
			not_ok "$side: perf record, $filter"
		fi
	done
}

side host env
check "a guest with LBR starts" guest_start -- $cpu
side guest guest_run
guest_stop

# What no profile shows; tools/lab/src/demo.rs has the words for it.
note "step: guests beside guests and the host"
for case in "lbr_isolation two_vms_and_host_share_a_cpu" "lbr_reclaim coming_and_going" \
	"lbr_host_events flexible_runs_beside_a_long_slice" "lbr_threads get_and_set_same_cpu"; do
	# shellcheck disable=SC2086
	subtests "$case" /selftests/kvm-selftests $case --provider "$provider"
done
if [ "$provider" = guest_lbr ]; then
	check "guest_lbr is unloaded" rmmod guest_lbr
fi
