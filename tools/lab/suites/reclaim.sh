# SPDX-License-Identifier: GPL-2.0-only
#: about = "A host event that is pinned to the CPU takes the LBR from a profiling guest and gives it back"
#: parts = ["module", "perf", "qemu"]
#: seconds = 300

tracing=/sys/kernel/tracing
data=/tmp/host.data

# traced EVENT: how often a tracepoint of guest_lbr fired.
traced() {
	grep -c " guest_lbr_$1: " $tracing/trace
}

record='0x[0-9a-f]*/0x[0-9a-f]*/'

# profile_guest STEPS: profiles in the guest; prints the number of samples, of
# samples with branch records, and of those among the last five.
profile_guest() {
	guest_sh "perf record -b -e cycles:u -c 500009 -N -B -o /tmp/guest.data \
		-- br_instr 1 $1 >/dev/null 2>&1 &&
		perf script -i /tmp/guest.data -F brstack >/tmp/script 2>/dev/null
		echo \$(wc -l </tmp/script) \$(grep -c '$record' /tmp/script) \
		\$(tail -n 5 /tmp/script | grep -c '$record')" >/tmp/guest.counts
	read -r samples with_records last </tmp/guest.counts
}

load_kvm lbr=off
load_guest_lbr
echo 1 >$tracing/events/guest_lbr/enable
check "a guest starts" guest_start -- -cpu host,lbr-fmt=$lbr_fmt

check "the guest profiles" profile_guest 400000
check "all $samples samples have records" \
	[ "$samples" -gt 5 -a "$with_records" = "$samples" ]
check "the guest owned the LBR" [ "$(traced owned)" -ge 1 ]
check "and never lost it" [ "$(traced lost)" = 0 ]

profile_guest 12000000 &
guest=$!
sleep 1
check "the host profiles the CPU meanwhile" \
	perf record -q -b -e cycles:kD -c 100003 -a -N -B -o $data -- sleep 2
wait $guest
check "the guest's profile ends well" [ $? = 0 ]
read -r samples with_records last </tmp/guest.counts
note "$with_records of the guest's $samples samples have records"
perf script -i $data -F brstack 2>/dev/null >/tmp/host.script
samples=$(wc -l </tmp/host.script)
check "all $samples samples of the host have records" \
	[ "$samples" -gt 5 -a "$(grep -c "$record" /tmp/host.script)" = "$samples" ]
check "the guest lost the LBR" [ "$(traced lost)" -ge 1 ]
check "and got it back" [ "$(traced regained)" -ge 1 ]
check "the guest's last samples have records" [ "$last" = 5 ]

check "the guest still works" guest_run true
sleep 2
check "an idle guest releases the LBR" [ "$(traced released)" -ge 1 ]
check "and gets it again" profile_guest 400000
check "all $samples samples have records again" \
	[ "$samples" -gt 5 -a "$with_records" = "$samples" ]
cat $tracing/trace >/tmp/trace
artifact trace /tmp/trace
guest_stop
check "guest_lbr is unloaded" rmmod guest_lbr
