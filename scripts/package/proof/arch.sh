# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed on a host whose CPU has the architectural LBR alone: guests
# have that.

udevadm settle
check "the CPU has the architectural LBR" grep -q "^flags.* arch_lbr" /proc/cpuinfo
check "kvm_intel brought guest_lbr" grep "^guest_lbr " /proc/modules
check "it says what it gives" sh -c \
	"dmesg | grep 'guest_lbr: architectural LBR, 32 deep'"
check_silent "no unit failed" systemctl list-units --failed --no-legend --plain
check "a guest starts" guest_start -- -cpu host,migratable=no
guest_run dmesg >/tmp/guest.dmesg
check "whose kernel finds the LBR" \
	grep 'Performance Events:.* Architectural LBR,.* 32-deep LBR' /tmp/guest.dmesg
guest_stop
check "both are unloaded and loaded again, and nothing complains" sh -c \
	"rmmod guest_lbr kvm_intel && modprobe kvm_intel && grep '^guest_lbr ' /proc/modules"
