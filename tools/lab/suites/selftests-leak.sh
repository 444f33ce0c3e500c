# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: a VM that is older than the module records nothing into others' LBR"
#: parts = ["module", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]

# With the built-in provider the VMM of a VM without LBR may set DEBUGCTL.LBR.
load_kvm
subtests lbr_leak /selftests/kvm-selftests lbr_leak --provider guest_lbr
check "the module is unloaded after the tests" rmmod guest_lbr
