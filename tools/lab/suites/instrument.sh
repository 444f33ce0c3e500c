# SPDX-License-Identifier: GPL-2.0-only
#: about = "The emulator's counters are reached from a shell and say what a guest did"
#: parts = ["perf", "qemu"]
#: kernels = ["kernel-vanilla"]
#: machines = ["skylake-smp"]
#: full_machines = ["skylake"]
#: seconds = 300

# number SECTION KEY: the sum of all numbers behind KEY, over the CPUs.
number() {
	counters read "$1" | grep -o "\"$2\":[0-9]*" | awk -F : '{ sum += $2 } END { print sum + 0 }'
}

# of SECTION OBJECT KEY: the same of KEY in all objects with the name OBJECT.
of() {
	counters read "$1" | grep -o "\"$2\":{[^}]*}" | grep -o "\"$3\":[0-9]*" |
		awk -F : '{ sum += $2 } END { print sum + 0 }'
}

check_same "a section is started" ok "$(counters start nothing)"
check_same "and stopped" ok "$(counters stop nothing)"
check_same "a name is taken once" "error: there is a section nothing already; choose another name" \
	"$(counters start nothing)"
check_same "a line of no meaning is answered" \
	"error: unknown line; say start NAME, stop NAME, read or read NAME" "$(counters hello)"
check_same "without a guest there are no VM entries" 0 "$(number nothing entries)"
check_same "nor instructions of one" 0 "$(number nothing guest_instructions)"
check "instructions retired" test "$(number nothing root_instructions)" -gt 1000

load_kvm
counters start boot >/dev/null
check "a guest starts" guest_start -- -cpu host,migratable=no
check_same "its section is stopped" ok "$(counters stop boot)"
check "it executed instructions" test "$(number boot guest_instructions)" -gt 1000000
for reason in CPUID IO_INSTRUCTION EPT_VIOLATION MSR_WRITE; do
	check "it exited for $reason" test "$(of boot "$reason" count)" -gt 0
	check "and returned" test "$(of boot "$reason" returns)" -gt 0
	check "after some instructions" test "$(of boot "$reason" instructions)" -gt 1000
done
entries=$(number boot entries)
returns=$(number boot returns)
check "each entry but the first of a CPU follows an exit ($entries, $returns)" \
	test "$((entries - returns))" -le 4

# The built-in LBR of KVM lets the guest have the registers while it samples.
counters start sample >/dev/null
check "the guest samples branches" guest_run profile any 1 30000
counters stop sample >/dev/null
check "the intercepts of its LBR registers change" test "$(number sample bitmap_changes)" -gt 0
for msr in 0x1c9 0x680 0x6c0 0xdc0; do
	check "those of $msr do" test "$(of sample $msr bitmap_flips)" -gt 0
	check "and it is read without an exit" test "$(of sample $msr guest_read)" -gt 0
done
check "each write to IA32_DEBUGCTL exits" test "$(of sample 0x1d9 exit_write)" -gt 0
check_same "and none goes by" 0 "$(of sample 0x1d9 guest_write)"
guest_run true
counters start twice >/dev/null
guest_run cat /proc/cpuinfo >/dev/null
counters stop twice >/dev/null
check "a section counts only what happens in it" \
	test "$(number twice guest_instructions)" -lt "$(number boot guest_instructions)"
check "the total counts all" test "$(number total guest_instructions)" -ge \
	"$(($(number boot guest_instructions) + $(number twice guest_instructions)))"
counters read >/tmp/counters
artifact counters-read /tmp/counters
guest_stop
