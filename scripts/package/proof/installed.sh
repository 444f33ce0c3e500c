# SPDX-License-Identifier: GPL-2.0-only
# The packages are installed, the machine was rebooted, and nobody touched it since.

udevadm settle
check_same "the packaged kernel runs" "$release" "$(uname -r)"
check "kvm_intel brought guest_lbr" grep -q "^guest_lbr " /proc/modules
check_same "it is the packaged module" "$(modinfo -F version guest_lbr)" \
	"$(cat /sys/module/guest_lbr/version)"
check "it says what it gives" sh -c 'dmesg | grep "guest_lbr: LBR format 5, 32 deep"'
check_silent "no unit failed" systemctl list-units --failed --no-legend --plain

subtests selftests guest-lbr-selftests

# apart HOST GUEST: the host's branches, of 3 % or more, whose share in the guest is over two
# points off.  That is the lab's bound for a demo, of 30 times as many samples, times sqrt(30).
apart() {
	awk -F'|' '/\[\.\]/ {
			branch = $5 "->" $6
			gsub(" ", "", branch)
			found[FILENAME, branch] += $2
			all[FILENAME] += $2
			if (FILENAME == ARGV[1]) branches[branch]
		}
		END {
			for (branch in branches) {
				host = 100 * found[ARGV[1], branch] / all[ARGV[1]]
				guest = all[ARGV[2]] ? 100 * found[ARGV[2], branch] / all[ARGV[2]] : 0
				if (host >= 3 && (host - guest > 2 || guest - host > 2))
					print branch, host, guest
			}
		}' "$1" "$2"
}

ldd /usr/bin/br_instr | awk '$(NF - 1) ~ "^/" { print $(NF - 1) }' | while read -r library; do
	mkdir -p "/guest/root${library%/*}"
	cp "$library" "/guest/root$library"
done
cp /lab/perf /lab/profile /usr/bin/
check "perf on the host records the packaged workload" sh -c 'profile any 1 30000 >/tmp/host'
artifact profile-host /tmp/host
guest_add /usr/bin/perf /usr/bin/profile /usr/bin/br_instr
check "a guest starts" guest_start -- -cpu host,migratable=no
guest_run profile any 1 30000 >/tmp/guest
artifact profile-guest /tmp/guest
for side in host guest; do
	for pair in "cmp_end.*lfsr_cond" "lfsr_cond.*cmp_end" "main.*mix"; do
		check "the $side's profile has $pair" grep -q "$pair" "/tmp/$side"
	done
done
check_silent "the guest's profile is the host's" apart /tmp/host /tmp/guest
check "the guest's samples are whole" grep -q "lab-samples: [1-9]" /tmp/guest
guest_stop

# As documented to keep the module off, and what that is good for.
check "the module can be kept off" sh -c "rmmod guest_lbr kvm_intel &&
	touch /etc/modprobe.d/guest-lbr-common.conf && modprobe kvm_intel lbr=off &&
	! grep '^guest_lbr ' /proc/modules"
subtests lbr_unload guest-lbr-selftests lbr_unload
check "and brought back" sh -c "rmmod kvm_intel && rm /etc/modprobe.d/guest-lbr-common.conf &&
	modprobe kvm_intel && grep '^guest_lbr ' /proc/modules"
