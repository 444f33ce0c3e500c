# SPDX-License-Identifier: GPL-2.0-only
#: about = "Without the module the patched kernel answers as the unpatched one"
#: parts = ["selftests"]
#: kernels = ["kernel", "kernel-vanilla"]
#: same = ["msr-list"]

load_kvm
subtests harness /selftests/kvm-selftests harness
subtests vmx_pmu_caps_test /selftests/vmx_pmu_caps_test
check "KVM lists its MSRs" sh -c '/selftests/kvm-selftests msr_list >/tmp/msr-list'
artifact msr-list /tmp/msr-list
