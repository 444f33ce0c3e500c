# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf record -b in a guest on a host with architectural LBR"
#: parts = ["module", "perf", "qemu"]
#: machines = ["sapphire-rapids"]

load_kvm
load_guest_lbr
check "insmod names the facility" sh -c "dmesg | grep 'guest_lbr: architectural LBR, 32 deep'"

# guest CPU: what a guest of this model has of LBR, and what its perf records with it.
guest() {
	check "$1: a guest starts" guest_start -- -cpu "$1"
	guest_run dmesg >/tmp/guest.dmesg
	check "$1: its kernel finds the LBR" \
		grep 'Performance Events:.* Architectural LBR,.* 32-deep LBR' /tmp/guest.dmesg
	check_fails "$1: and nothing that it does not understand" \
		grep -e 'unchecked MSR access' -e 'Call Trace' -e 'WARNING:' /tmp/guest.dmesg
	check "$1: perf record -b" guest_run perf record -b -c 1009 -o /tmp/data -- br_instr 1 20000
	guest_run perf script -i /tmp/data -F brstack >/tmp/stacks
	# Branches of the program, which is not in the kernel's half of the addresses.
	check "$1: each sample has branches" awk 'NF < 1 { bad++ } END { exit NR < 1000 || bad }' /tmp/stacks
	note "$1: $(wc -l </tmp/stacks) samples, $(awk '{ n += NF } END { printf "%.1f", n / NR }' /tmp/stacks) branches each"
	check "$1: the program's branches are among them" grep '^ *0x[0-7]\{0,11\}[0-9a-f]\{0,11\}/' /tmp/stacks
	check "$1: the guest stops" guest_stop
}

guest host
guest host,migratable=no
check "the module is unloaded" rmmod guest_lbr
check "a guest without guest_lbr starts" guest_start -- -cpu host
guest_run dmesg >/tmp/guest.dmesg
check_fails "whose kernel finds no LBR" grep 'Performance Events:.*LBR' /tmp/guest.dmesg
check "it stops" guest_stop
