# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf's grant alone: who has the LBR and when, and that nobody sees another's records"
#: parts = ["selftests"]
#: machines = ["skylake", "skylake-smp"]

module=guest_lbr_event_test
# What BPF calls to take a snapshot of branches.
snapshot=$(sed -n 's/^\([0-9a-f]*\) . __SCT__perf_snapshot_branch_stack$/0x\1/p' /proc/kallsyms)
subtests $module sh -c "insmod /selftests/$module.ko snapshot=${snapshot:-0}; dmesg | sed -n 's/^.*$module: //p'"
check "the test is unloaded" rmmod $module
