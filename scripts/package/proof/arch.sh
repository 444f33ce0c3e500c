# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed on a host whose CPU has the architectural LBR alone, which
# guest_lbr cannot give to guests: it boots as if they were not.

udevadm settle
check "the CPU has the architectural LBR" grep -q "^flags.* arch_lbr" /proc/cpuinfo
check "kvm_intel is loaded" grep "^kvm_intel " /proc/modules
check_fails "guest_lbr is not" grep "^guest_lbr " /proc/modules
check "the kernel's log says why" sh -c "dmesg | grep 'guest_lbr: this host has no LBR'"
check_silent "no unit failed" systemctl list-units --failed --no-legend --plain
check "kvm_intel is loaded again, and nothing complains" sh -c \
	"rmmod kvm_intel && modprobe kvm_intel"
modprobe guest_lbr 2>/tmp/modprobe
status=$?
check_same "modprobe of guest_lbr fails" 1 "$status"
check "and says that there is no such device" grep "guest_lbr.*No such device" /tmp/modprobe
check "a guest starts" guest_start -- -cpu host,migratable=no
check "it runs" guest_run true
guest_stop
