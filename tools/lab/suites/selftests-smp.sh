# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: the LBR of a vCPU that runs on another CPU"
#: parts = ["module", "selftests"]
#: machines = ["skylake-smp", "sapphire-rapids:2"]

load_kvm lbr=off
load_guest_lbr
subtests lbr_threads /selftests/kvm-selftests lbr_threads --provider guest_lbr
subtests lbr_reclaim /selftests/kvm-selftests lbr_reclaim by_ipi --provider guest_lbr
check "the module is unloaded after the tests" rmmod guest_lbr
