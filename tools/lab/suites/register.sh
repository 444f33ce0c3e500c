# SPDX-License-Identifier: GPL-2.0-only
#: about = "Which providers of guest LBR KVM accepts, and what it says of the others"
#: parts = ["selftests"]

module=guest_lbr_register_test
load_kvm
subtests $module sh -c "insmod /selftests/$module.ko; dmesg | sed -n 's/^.*$module: //p'"
check "a wrong ABI is named, beside KVM's" sh -c \
	"dmesg | grep -q 'provider has ABI 3 of [0-9]* bytes, KVM has ABI 2 of [0-9]* bytes'"
check "the test is unloaded" rmmod $module
