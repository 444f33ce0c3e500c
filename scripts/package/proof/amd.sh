# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed on a host without VMX, which boots as if they were not.

udevadm settle
check "this is a CPU of AMD" grep -q "^vendor_id.*AuthenticAMD" /proc/cpuinfo
check "it has its own KVM" sh -c "grep '^kvm_amd ' /proc/modules && test -c /dev/kvm"
check_fails "kvm_intel is not loaded" grep "^kvm_intel " /proc/modules
check_fails "guest_lbr is not loaded" grep "^guest_lbr " /proc/modules
check_silent "no unit failed" systemctl list-units --failed --no-legend --plain
modprobe guest_lbr 2>/tmp/modprobe
status=$?
check_same "modprobe of it fails" 1 "$status"
check "and says that it is not supported" grep "guest_lbr.*not supported" /tmp/modprobe
check "the kernel's log says the cause" sh -c "dmesg | grep 'VMX not supported'"
guest-lbr-selftests >/tmp/selftests 2>&1
status=$?
artifact selftests /tmp/selftests
check_same "the selftests do not run" 2 "$status"
check_same "and say what is missing, in one line" \
	"error: kvm_intel is not loaded; load it, on an Intel host with VMX enabled" \
	"$(cat /tmp/selftests)"
check "a guest starts" guest_start -- -cpu host,migratable=no
check "it runs" guest_run true
guest_stop
