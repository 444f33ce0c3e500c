# SPDX-License-Identifier: GPL-2.0-only
#: about = "The unmodified kernel finds the machine's PMU and LBR, and perf uses them"
#: parts = ["perf"]
#: kernels = ["kernel-vanilla"]
#: machines = ["haswell", "skylake", "icelake", "sapphire-rapids"]
#: seconds = 150

# What the kernel's driver calls each machine.
case $LAB_MACHINE in
haswell) found="Haswell events, 16-deep LBR" version=3 general=8 fixed=3 ;;
skylake) found="Skylake events, 32-deep LBR" version=4 general=4 fixed=3 ;;
icelake) found="Icelake events, AnyThread deprecated, 32-deep LBR" version=5 general=8 fixed=4 ;;
sapphire-rapids)
	found="XSAVE Architectural LBR, Sapphire Rapids events, AnyThread deprecated, 32-deep LBR"
	version=5 general=8 fixed=4
	;;
*) not_ok "the machine is known" "no expectations for $LAB_MACHINE" ;;
esac
found="$found, full-width counters, Intel PMU driver."
said() {
	dmesg | sed -n "s/.*$1: *//p"
}
# Kernels after 6.12 have other words and another order.
in_order() {
	tr , '\n' | sed 's/^ *//; s/\.$//' | sort | paste -s -d , -
}
check_same "the kernel names events and LBR" "$(echo "$found" | in_order)" \
	"$(said 'Performance Events' | in_order)"
check_same "version" $version "$(said '\.\.\. version')"
check_same "general counters" $general "$(said '\.\.\. generic [a-z]*ters')"
check_same "fixed counters" $fixed "$(said '\.\.\. fixed-purpose [ce][a-z]*s')"
check_fails "the kernel finds nothing broken" \
	sh -c "dmesg | grep -i -e 'broken pmu' -e 'unchecked msr' -e 'firmware bug.*pmu'"

# counted EVENT: how often it happens in a piece of work that never changes.
counted() {
	perf stat -x, -e "$1" -o /tmp/stat -- br_instr 1 10000 >/tmp/stat.out 2>&1
	sed -n 's/^\([0-9]*\),.*,100\.00,.*/\1/p' /tmp/stat
}
# The other counts are held against these.
instructions=$(counted instructions:u)
branches=$(counted branches:u)
near() {
	# Within one in a thousand: perf starts counting a few instructions apart.
	check "$1" test "${2:-0}" -gt 0 -a $((${2:-0} * 1000)) -ge $(($3 * 999)) \
		-a $((${2:-0} * 1000)) -le $(($3 * 1001))
}
check "instructions are counted" test "${instructions:-0}" -gt 100000
check "branches are counted" test "${branches:-0}" -gt 10000
near "a second time there are as many instructions" "$(counted instructions:u)" "$instructions"
near "a cycle for each instruction" "$(counted cycles:u)" "$instructions"
near "reference cycles pass as core cycles do" "$(counted ref-cycles:u)" "$instructions"
near "a general counter counts as the fixed one" "$(counted cpu/event=0xc0/u)" "$instructions"
near "the raw event counts as the generic one" "$(counted cpu/event=0xc4/u)" "$branches"
misses=$(counted branch-misses:u)
check "some branches are mispredicted" test "${misses:-0}" -gt 100 -a "${misses:-0}" -lt "$branches"
parts=0
for umask in 0x01 0x02 0x08 0x10 0x20 0x40; do
	count=$(counted cpu/event=0xc4,umask=$umask/u)
	note "umask $umask: $count of $branches"
	parts="$parts ${count:-0}"
done
# shellcheck disable=SC2086
set -- $parts
case $version in
5) near "taken, not taken: conditional branches" "$(counted cpu/event=0xc4,umask=0x11/u)" $(($2 + $5)) ;;
*) check "conditional branches hold those not taken" test "$2" -gt "$5" ;;
esac
if [ $fixed -gt 3 ]; then
	slots=$(counted cpu/event=0x00,umask=0x04/u)
	note "slots: $slots"
	check "slots are counted" test "${slots:-0}" -gt "$instructions"
fi
inserts=$(perf stat -x, -e cpu/event=0xcc,umask=0x20/u -o /tmp/stat -- \
	perf record -o /tmp/data -N -e cycles:u -c 1000003 -b -- br_instr 1 10000 >/dev/null 2>&1
	sed -n 's/^\([0-9]*\),.*/\1/p' /tmp/stat)
check "recorded branches are counted" test "${inserts:-0}" -gt 10000

# Registers that say more of an event take every bit that the driver lets through.  The
# events happen never, and an access that faults is a fault of the kernel's.
case $LAB_MACHINE in
haswell) requests="0xb7 0xbb" responses=0x3fffff8fff frontend= ;;
skylake)
	requests="0xb7 0xbb" responses=0x3fffff8fff
	frontend="event=0xc6,umask=0x1,frontend=0x7fff17"
	;;
icelake)
	requests="0xb7 0xbb" responses=0x3fffffbfff
	frontend="event=0xc6,umask=0x1,frontend=0x7fff17"
	;;
sapphire-rapids)
	requests="0x2a 0x2b" responses=0x3fffffffff
	frontend="event=0xc6,umask=0x1,frontend=0x7fff1f event=0xc2,umask=0x4,frontend=0x8"
	;;
esac
for event in $(printf "event=%s,umask=0x1,offcore_rsp=$responses " $requests) \
	event=0xcd,umask=0x1,ldlat=0xffff $frontend; do
	check_same "cpu/$event/" 0 "$(counted "cpu/$event/u")"
done

for filter in any ind_call; do
	if profile $filter 1 20000 >/tmp/report 2>&1; then
		samples=$(sed -n 's/^# lab-samples: //p' /tmp/report)
		check "perf record -j $filter takes samples" test "${samples:-0}" -gt 100
	else
		sed 's/^/# /' /tmp/report
		not_ok "perf record -j $filter takes samples"
	fi
	artifact "$filter" /tmp/report
done
depth=$(cat /sys/bus/event_source/devices/cpu/caps/branches)
full=$(perf record -o /tmp/data -N -e cycles:u -c 5003 -j any,u -- br_instr 1 20000 >/dev/null 2>&1
	perf script -i /tmp/data -F brstack 2>/dev/null | awk '{ print NF }' | sort -n | tail -n 1)
check_same "a branch stack is as deep as the records" "$depth" "$full"

# What was each branch?  perf decodes it, or the records tell.
kinds() {
	perf record -o /tmp/data -N -e cycles:u -c 5003 -j "$1,u,save_type" -- \
		br_instr 1 20000 >/dev/null 2>&1
	perf script -i /tmp/data -F brstack 2>/dev/null | tr ' ' '\n' |
		sed -n 's|.*/\([A-Z_]*\)/[^/]*$|\1|p' | sort -u | tr '\n' ' '
}
check_same "perf record -j cond" "COND " "$(kinds cond)"
check_same "perf record -j any_call" "CALL IND_CALL " "$(kinds any_call)"
check_same "perf record -j any_ret" "RET " "$(kinds any_ret)"

check "perf record --call-graph lbr" sh -c 'profile callgraph 1 20000 >/tmp/report'
artifact callgraph /tmp/report
check "the call chains go up to main" grep -q main /tmp/report
check "and to the function that has most samples" grep -q lfsr_cond /tmp/report

# RFLAGS.TF, and IA32_DEBUGCTL.BTF.
check "a debugger stops a program at each instruction, then at each branch" single_step
check_fails "the kernel itself is not stepped through" sh -c "dmesg | grep 'WARNING.*traps\.c'"
