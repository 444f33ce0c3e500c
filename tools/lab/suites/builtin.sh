# SPDX-License-Identifier: GPL-2.0-only
#: about = "Without the module the patched kernel answers as the unpatched one"
#: parts = ["selftests", "perf", "qemu"]
#: machines = ["skylake", "sapphire-rapids"]
#: full_machines = ["haswell"]
#: seconds = 300
#: kernels = ["kernel", "kernel-vanilla"]
#: same = ["answers", "guest-perf"]

case $LAB_MACHINE in
haswell*) lbr_msrs=34 status_sets=0 lbr='1c[89]|6[89cd].|d[cd].' offered=yes ;;
# The kernel's own provider has no architectural LBR to give.
sapphire-rapids*) lbr_msrs=99 status_sets=1 lbr='14c[ef]|1e0|(12|15|16)[01].' offered= ;;
*) lbr_msrs=98 status_sets=1 lbr='1c[89]|6[89cd].|d[cd].' offered=yes ;;
esac

load_kvm
[ -e /sys/module/kvm_intel/parameters/lbr ] || lbr_msrs=0 status_sets=0
subtests harness /selftests/kvm-selftests harness
subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
check "KVM answers" sh -c '/selftests/kvm-selftests answers >/tmp/all-answers'
# The series adds the LBR MSRs to the list, and IA32_PERF_GLOBAL_STATUS_SET from perfmon
# version 4 on, and changes nothing else.
added="^save 0x($lbr)$"
check_same "LBR MSRs in its list" $lbr_msrs "$(grep -Ec "$added" /tmp/all-answers)"
check_same "IA32_PERF_GLOBAL_STATUS_SET in its list" $status_sets \
	"$(grep -c '^save 0x391$' /tmp/all-answers)"
added="$added|^save 0x391$"
if [ -z "$offered" ]; then
	# What is in the list userspace may save and restore.
	added="$added|^userspace 0x($lbr): "
	check_same "LBR MSRs that userspace reads as 0 and sets to 0 only" $lbr_msrs \
		"$(grep -Ec "^userspace 0x($lbr): Some\(0\), .*\[false, true\]$" /tmp/all-answers)"
fi
grep -Ev "$added" /tmp/all-answers >/tmp/answers
artifact answers /tmp/answers

# What perf in a guest has and does.  Where samples fall is a matter of chance, so
# shares are left out, and so is what an interrupt more or less makes: the workload
# has no symbols or pairs of them near 1 %.
ask() {
	echo "\$ $*"
	guest_run "$@" 2>&1
	echo "exit $?"
}
symbols() {
	sed -n 's/^# lab-samples: /samples /p' "$1"
	# perf has a line for each number of cycles.
	sed -n -e 's/ *|[0-9 ]*$//' -e 's/^ *\([0-9.]*\)% *|[^[]*/\1 /p' "$1" |
		awk '{ share = $1; $1 = ""; sum[$0] += share }
			END { for (name in sum) if (sum[name] > 1) print "over 1 %:" name }' |
		sort
}
check "a guest starts" guest_start -- -cpu host${offered:+,lbr-fmt=$lbr_fmt}
caps=/sys/bus/event_source/devices/cpu/caps
{
	ask sh -c "cd $caps && grep . *"
	ask sh -c "dmesg | sed -n 's/.*Performance Events: //p'"
	ask sh -c "perf stat -x, -e instructions:u,branches:u -- br_instr 1 1000 2>&1 |
		sed 's/..,,\\([^,]*\\).*/00 \\1/'"
	ask sh -c "perf record -o no -b -e cpu-clock -- br_instr 1 10 2>&1 | grep PMU"
	ask sh -c "perf record -o no -b -e cycles:u -- br_instr 1 10 2>&1 | sed -n '/PMU/p'"
	for what in ${offered:+any cond any_call callgraph}; do
		note "step: profile $what" >&3
		guest_run profile $what 1 100000 >/tmp/profile
		echo "profile $what: exit $?"
		symbols /tmp/profile
	done
} 3>&1 >/tmp/guest-perf
check_same "all of that works" 0 "$(sed -n 's/.*exit //p' /tmp/guest-perf | sort -u)"
artifact guest-perf /tmp/guest-perf
guest_stop
