# SPDX-License-Identifier: GPL-2.0-only
#: about = "On a kernel without the hooks guest_lbr says what is missing"
#: parts = ["module"]
#: kernels = ["kernel-vanilla"]

load_kvm
check_fails "insmod guest_lbr.ko fails" insmod $guest_lbr_ko
check "and the log names the missing symbol" sh -c \
	"dmesg | grep 'guest_lbr: Unknown symbol kvm_vmx_register_lbr_ops'"
