# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed, the machine was rebooted, and nobody touched it since.

udevadm settle
check_same "the packaged kernel runs" "$(cat /lab/release)" "$(uname -r)"
check "kvm_intel brought guest_lbr" grep -q "^guest_lbr " /proc/modules
check_same "it is the packaged module" "$(modinfo -F version guest_lbr)" \
	"$(cat /sys/module/guest_lbr/version)"
check "it says what it gives" sh -c 'dmesg | grep "guest_lbr: LBR format 5, 32 deep"'
check_same "no unit failed" "" \
	"$(systemctl list-units --failed --no-legend --plain)"

subtests selftests guest-lbr-selftests

# A virtual machine with the same kernel, and the packaged workload.
mkdir -p /guest/root/bin /guest/root/lib64
ln -sf /boot/vmlinuz-"$(uname -r)" /guest/bzImage
ldd /usr/bin/br_instr | awk '$(NF - 1) ~ "^/" { print $(NF - 1) }' | while read -r library; do
	mkdir -p "/guest/root${library%/*}"
	cp "$library" "/guest/root$library"
done
cp /lab/guest-init /guest/root/init
cp /lab/perf /lab/profile /usr/bin/
check "perf on the host records the packaged workload" sh -c 'profile any 1 30000 >/tmp/host'
artifact profile-host /tmp/host
guest_add /usr/bin/perf /usr/bin/profile /usr/bin/br_instr
check "a guest starts" guest_start -- -cpu host,migratable=no
guest_run profile any 1 30000 >/tmp/guest
artifact profile-guest /tmp/guest
for pair in "cmp_end.*lfsr_cond" "lfsr_cond.*cmp_end" "main.*mix"; do
	check "the guest's profile has $pair, as the host's" grep -q "$pair" /tmp/guest /tmp/host
done
check "the guest's samples are whole" grep -q "lab-samples: [1-9]" /tmp/guest
guest_stop
