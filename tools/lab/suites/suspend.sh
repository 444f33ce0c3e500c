# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: the host suspends to RAM, where its CPUs lose their power"
#: parts = ["module", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]
#: kernels = ["kernel-debug"]

load_kvm lbr=off
load_guest_lbr
subtests lbr_suspend /selftests/kvm-selftests lbr_suspend --provider guest_lbr
check "the module is unloaded after the tests" rmmod guest_lbr
