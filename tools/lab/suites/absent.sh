# SPDX-License-Identifier: GPL-2.0-only
#: about = "On a host without model-specific LBR guest_lbr says so, and KVM works on"
#: parts = ["module", "selftests", "qemu"]
#: machines = ["sapphire-rapids"]

load_kvm
insmod $guest_lbr_ko >/tmp/insmod.out 2>&1
check_same "insmod guest_lbr.ko fails with ENODEV" 19 $?
# busybox tries twice, and of the taint it is the kernel who speaks.
dmesg | sed -n 's/^.*guest_lbr: //p' | grep -v taint | sort -u >/tmp/said
check_same "and says why in one line" 1 "$(wc -l </tmp/said)"
check "namely that there is no such LBR" grep -i 'lbr' /tmp/said
note "$(cat /tmp/said)"
check_fails "nothing of it is left" grep '^guest_lbr ' /proc/modules
subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
check "a guest starts" guest_start -- -cpu host
guest_run dmesg >/tmp/guest.dmesg
check "whose kernel finds a PMU" grep 'Performance Events:' /tmp/guest.dmesg
check_fails "and no LBR" grep 'Performance Events:.*LBR' /tmp/guest.dmesg
check "the guest stops" guest_stop
