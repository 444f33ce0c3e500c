# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed, and a kernel without the hooks was booted: Debian's own.

udevadm settle
check "Debian's kernel runs" sh -c "uname -v | grep Debian"
check "the packages are installed" dpkg -s guest-lbr-common "guest-lbr-modules-$release"
check "kvm_intel is loaded" grep "^kvm_intel " /proc/modules
check_fails "guest_lbr is not" grep "^guest_lbr " /proc/modules
check_silent "no unit failed" systemctl list-units --failed --no-legend --plain
check_fails "the kernel's log says nothing of it" sh -c "dmesg | grep -i 'guest.lbr'"
modprobe guest_lbr 2>/tmp/modprobe
status=$?
check_same "modprobe of it fails" 1 "$status"
check "and says that this kernel has none" grep "guest_lbr not found in directory /lib/modules/$(uname -r)" \
	/tmp/modprobe
check "a guest starts" guest_start -- -cpu host,migratable=no
check "it runs" guest_run true
guest_stop
