# SPDX-License-Identifier: GPL-2.0-only
#: about = "Where KVM has no LBR to give, guest_lbr says so, and KVM works on"
#: parts = ["module", "selftests", "qemu"]
#: machines = ["sapphire-rapids"]

check "irqbypass loads" insmod /lib/modules/irqbypass.ko
check "kvm loads without a vPMU" insmod /lib/modules/kvm.ko enable_pmu=0
load_kvm
insmod $guest_lbr_ko >/tmp/insmod.out 2>&1
check_same "insmod guest_lbr.ko fails with ENODEV" 19 $?
# busybox tries twice, and of the taint it is the kernel who speaks.
dmesg | sed -n 's/^.*guest_lbr: //p' | grep -v taint | sort -u >/tmp/said
check_same "and says so in one line" 1 "$(wc -l </tmp/said)"
note "$(cat /tmp/said)"
dmesg | sed -n 's/^.*kvm_intel: no LBR for guests: //p' | sort -u >/tmp/why
check_same "KVM says why" "kvm's enable_pmu is off" "$(cat /tmp/why)"
check_fails "nothing of it is left" grep '^guest_lbr ' /proc/modules
check "a guest starts" guest_start -- -cpu host
guest_run dmesg >/tmp/guest.dmesg
check "whose kernel looks for a PMU" grep 'Performance Events:' /tmp/guest.dmesg
check_fails "and has no LBR" grep 'Performance Events:.*LBR' /tmp/guest.dmesg
check "the guest stops" guest_stop
