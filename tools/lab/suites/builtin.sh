# SPDX-License-Identifier: GPL-2.0-only
#: about = "Without the module the patched kernel answers as the unpatched one"
#: parts = ["selftests", "perf", "qemu"]
#: machines = ["skylake"]
#: full_machines = ["haswell"]
#: seconds = 300
#: kernels = ["kernel", "kernel-vanilla"]
#: same = ["msr-list", "guest-perf"]

load_kvm
subtests harness /selftests/kvm-selftests harness
subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
check "KVM lists its MSRs" sh -c '/selftests/kvm-selftests msr_list >/tmp/all-msrs'
# The series adds the LBR MSRs to the list, and IA32_PERF_GLOBAL_STATUS_SET from
# perfmon version 4 on, and changes nothing else.
lbr='^save 0x(1c[89]|6[89cd].|d[cd].)$'
status_set='^save 0x391$'
case $LAB_MACHINE in
haswell*) lbr_msrs=34 status_sets=0 ;;
*) lbr_msrs=98 status_sets=1 ;;
esac
[ -e /sys/module/kvm_intel/parameters/lbr ] || lbr_msrs=0 status_sets=0
check_same "LBR MSRs among them" $lbr_msrs "$(grep -Ec "$lbr" /tmp/all-msrs)"
check_same "IA32_PERF_GLOBAL_STATUS_SET among them" $status_sets \
	"$(grep -Ec "$status_set" /tmp/all-msrs)"
grep -Ev -e "$lbr" -e "$status_set" /tmp/all-msrs >/tmp/msr-list
artifact msr-list /tmp/msr-list

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
check "a guest with LBR starts" guest_start -- -cpu host,lbr-fmt=$lbr_fmt
caps=/sys/bus/event_source/devices/cpu/caps
{
	ask cat $caps/branches $caps/pmu_name $caps/max_precise
	ask sh -c "dmesg | sed -n 's/.*Performance Events: //p'"
	ask sh -c "perf stat -x, -e instructions:u,branches:u -- br_instr 1 1000 2>&1 |
		sed 's/..,,\\([^,]*\\).*/00 \\1/'"
	ask sh -c "perf record -o no -b -e cpu-clock -- br_instr 1 10 2>&1 | grep PMU"
	for what in any cond any_call callgraph; do
		note "step: profile $what" >&3
		guest_run profile $what 1 100000 >/tmp/profile
		echo "profile $what: exit $?"
		symbols /tmp/profile
	done
} 3>&1 >/tmp/guest-perf
check_same "all of that works" 0 "$(sed -n 's/.*exit //p' /tmp/guest-perf | sort -u)"
artifact guest-perf /tmp/guest-perf
guest_stop
