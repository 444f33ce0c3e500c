# SPDX-License-Identifier: GPL-2.0-only
# module.sig_enforce=1: the kernel loads what the key of its builder signed, and no more.

refused() {
	dmesg -C
	! insmod "/lab/$1.ko" 2>/tmp/insmod && cat /tmp/insmod &&
		grep -q "Key was rejected by service" /tmp/insmod &&
		if [ -n "${2-}" ]; then dmesg | grep "$2"; fi
}

dmesg >/tmp/dmesg-before
artifact dmesg-before /tmp/dmesg-before
check_same "signatures are enforced" Y "$(cat /sys/module/module/parameters/sig_enforce)"
check_same "the module says who signed it" "guest_lbr test key signing" \
	"$(modinfo -F signer guest_lbr)"
check "guest_lbr is unloaded" rmmod guest_lbr
check "one that nobody signed is refused" refused unsigned "unsigned module is rejected"
check "one that somebody else signed is refused" refused foreign "unavailable key is rejected"
check "one that was changed after it was signed is refused" refused damaged
check "modprobe loads the packaged one" modprobe guest_lbr
