# SPDX-License-Identifier: GPL-2.0-only
#: about = "Machines of other sizes than their descriptions' have all CPUs, memory, PMU and LBR"
#: kernels = ["kernel-vanilla"]
#: machines = [
#:   "haswell:3", "skylake:3", "icelake:3", "sapphire-rapids:3",
#:   "haswell:4", "skylake:4", "icelake:4", "sapphire-rapids:4",
#: ]
#: memory = 1000
#: full = true

cpus=${LAB_MACHINE##*-}
case $LAB_MACHINE in
haswell-*) depth=16 ;;
*) depth=32 ;;
esac

# said PATTERN: what the kernel's log has of it.
said() {
	dmesg | sed -n "s/.*$1.*/\\1/p"
}
check_same "the kernel brings up all CPUs" "$cpus" "$(said 'Brought up 1 node, \([0-9]*\) CPUs')"
check_same "userland has them" "$cpus" "$(grep -c '^processor' /proc/cpuinfo)"
for cpu in $(seq 0 $((cpus - 1))); do
	check_same "CPU $cpu executes" "$cpu" \
		"$(taskset -c "$cpu" awk '{ print $39 }' /proc/self/stat)"
done
# The BIOS keeps less than 1 MiB for itself.
memory=$(said 'Memory: [0-9]*K.\([0-9]*\)K available')
check "the memory is of 1000 MiB ($memory K)" test "$((memory / 1024))" = 999
check_same "the kernel finds PMU and LBR" $depth \
	"$(said 'Performance Events: .* \([0-9]*\)-deep LBR, .*Intel PMU driver')"
check_same "and lets users have it" $depth "$(cat /sys/bus/event_source/devices/cpu/caps/branches)"
check_fails "the kernel finds nothing broken" \
	sh -c "dmesg | grep -i -e 'broken pmu' -e 'unchecked msr' -e 'firmware bug'"
