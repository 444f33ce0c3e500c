# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf's guest LBR event alone: who owns the LBR, and what its owner is told"
#: parts = ["selftests"]
#: machines = ["skylake", "skylake-smp"]

name=guest_lbr_event_test
subtests $name sh -c "insmod /selftests/$name.ko; dmesg | sed -n 's/^.*$name: //p'"
check "the test is unloaded" rmmod $name
