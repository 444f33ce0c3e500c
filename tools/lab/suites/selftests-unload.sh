# SPDX-License-Identifier: GPL-2.0-only
#: about = "KVM selftests: VMs before, during and after the module's life"
#: parts = ["module", "selftests"]
#: machines = ["skylake", "sapphire-rapids"]

load_kvm lbr=off
subtests lbr_unload /selftests/kvm-selftests lbr_unload
