# SPDX-License-Identifier: GPL-2.0-only
#: about = "Machines of other sizes than their descriptions' have all CPUs, memory, PMU and LBR"
#: kernels = ["kernel-vanilla"]
#: machines = [
#:   "haswell:3:1000", "skylake:3:1000", "icelake:3:1000", "sapphire-rapids:3:1000",
#:   "haswell:4:1000", "skylake:4:1000", "icelake:4:1000", "sapphire-rapids:4:1000",
#:   "skylake:1:64", "skylake:1:3073", "sapphire-rapids:4:16384",
#: ]
#: full = true

memory=${LAB_MACHINE##*-}
cpus=${LAB_MACHINE%-*}
cpus=${cpus##*-}
case $LAB_MACHINE in
haswell-*) depth=16 ;;
*) depth=32 ;;
esac

# said PATTERN: what the kernel's log has of it.
said() {
	dmesg | sed -n "s/.*$1.*/\\1/p"
}
check_same "the kernel brings up all CPUs" "$cpus" "$(said 'Brought up 1 node, \([0-9]*\) CPU')"
check_same "userland has them" "$cpus" "$(grep -c '^processor' /proc/cpuinfo)"
for cpu in $(seq 0 $((cpus - 1))); do
	check_same "CPU $cpu executes" "$cpu" \
		"$(taskset -c "$cpu" awk '{ print $39 }' /proc/self/stat)"
done
# The BIOS keeps less than 1 MiB for itself.
found=$(said 'Memory: [0-9]*K.\([0-9]*\)K available')
check_same "the memory is of $memory MiB ($found K)" $((memory - 1)) $((found / 1024))
check_same "the kernel finds PMU and LBR" $depth \
	"$(said 'Performance Events: .* \([0-9]*\)-deep LBR, .*Intel PMU driver')"
check_same "and lets users have it" $depth "$(cat /sys/bus/event_source/devices/cpu/caps/branches)"
check_fails "the kernel finds nothing broken" \
	sh -c "dmesg | grep -i -e 'broken pmu' -e 'unchecked msr' -e 'firmware bug'"
