# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf's grant alone: who has the LBR and when, and that nobody sees another's records"
#: parts = ["selftests"]
#: machines = ["skylake", "skylake-smp"]

module=guest_lbr_event_test
subtests $module sh -c "insmod /selftests/$module.ko; dmesg | sed -n 's/^.*$module: //p'"
check "the test is unloaded" rmmod $module
