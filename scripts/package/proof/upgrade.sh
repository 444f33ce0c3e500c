# SPDX-License-Identifier: GPL-2.0-only
# A newer version of the packages, and their end, on the running system.

before=$(dpkg-query -W -f '${Version}' guest-lbr-common)
check "newer packages are installed" sh -c \
	"cd /lab/newer && dpkg -i guest-lbr-modules-*.deb guest-lbr-common_*.deb guest-lbr-tools_*.deb"
check_same "they are newer" "$before+newer" "$(dpkg-query -W -f '${Version}' guest-lbr-common)"
check "the loaded module is exchanged for theirs" sh -c "rmmod guest_lbr && modprobe guest_lbr"
check "they are purged" dpkg --purge "guest-lbr-modules-$release" guest-lbr-tools guest-lbr-common
check "a loaded module stays" grep -q "^guest_lbr " /proc/modules
check "until it is unloaded" rmmod guest_lbr
check_fails "modprobe does not know it any more" modprobe guest_lbr
check "kvm_intel is loaded again without it" sh -c \
	"modprobe -r kvm_intel && modprobe kvm_intel && ! grep '^guest_lbr ' /proc/modules"
check "a guest starts without it" guest_start -- -cpu host,migratable=no
guest_stop
find / -xdev '(' -path /lab -o -path /guest -o -path /srv -o -path /var/log -o -path /var/lib/apt -o \
	-path /var/cache -o -path /root ')' -prune -o '(' -name '*guest?lbr*' -o -name 'br_instr*' ')' \
	! -name "$release" ! -name "linux-image-$release*" ! -name "linux-headers-$release*" -print >/tmp/left
grep -rl guest_lbr "/lib/modules/$release/" --include='modules.*' >>/tmp/left
check_silent "no file of them is left" cat /tmp/left
check_silent "no unit failed by all that" systemctl list-units --failed --no-legend --plain
