# SPDX-License-Identifier: GPL-2.0-only
#: about = "A guest keeps its LBR when the CPU under it is taken away, and when it is killed"
#: parts = ["module", "perf", "qemu"]
#: machines = ["skylake-smp"]
#: seconds = 120

online=/sys/devices/system/cpu/cpu1/online
tracing=/sys/kernel/tracing
record='0x[0-9a-f]*/0x[0-9a-f]*/'

owned() {
	grep -c " guest_lbr_owned: " $tracing/trace
}

check "kvm_intel loads with lbr=off" load_kvm lbr=off
check "guest_lbr loads" load_guest_lbr
echo 1 >$tracing/events/guest_lbr/enable
check "a guest starts" guest_start -- -cpu host,lbr-fmt=0x5

guest_run "perf record -b -e cycles:u -c 200003 -N -B -o /tmp/guest.data" \
	"-- br_instr 1 3000000 >/dev/null 2>&1 &&" \
	"perf script -i /tmp/guest.data -F brstack 2>/dev/null >/tmp/script;" \
	"echo \$(wc -l </tmp/script) \$(grep -c $record /tmp/script)" >/tmp/counts &
profile=$!
sleep 1
good=0
for _ in 1 2 3 4 5; do
	# The vCPU's thread has to be on CPU 1 to lose it.
	for task in /proc/"$(cat $guests/guest/pid)"/task/*; do
		taskset -p 2 "${task##*/}" >/dev/null 2>&1
	done
	sleep 0.1
	echo 0 >$online && sleep 0.1 && echo 1 >$online && good=$((good + 1))
done
check_same "CPU 1 went and came five times under the guest" 5 $good
check "it ran there" sh -c 'dmesg | grep "(qemu-system.*) no longer affine to cpu1"'
wait $profile
check_same "the guest's profile ends well" 0 $?
read -r samples with_records </tmp/counts
check "all $samples samples of the guest have records" \
	[ "$samples" -gt 200 -a "$with_records" = "$samples" ]
check "the guest owned the LBR" [ "$(owned)" -ge 1 ]

# Killed while it profiles: nothing of it may be left.
guest_run "perf record -b -e cycles:u -c 200003 -N -B -o /tmp/guest.data" \
	"-- br_instr 1 30000000" >/dev/null 2>&1 &
sleep 1
kill -9 "$(cat $guests/guest/pid)"
wait
check "the host has its LBR back after a kill" \
	sh -c 'perf record -q -b -e cycles:u -c 10007 -N -B -o /tmp/host.data -- br_instr 1 50000 &&
		[ "$(perf script -i /tmp/host.data -F brstack | grep -c 0x)" -gt 100 ]'
check "guest_lbr is unloaded" rmmod guest_lbr
