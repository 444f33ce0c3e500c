# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf's own tests, unmodified, on the host"
#: parts = ["perf-tests"]
#: kernels = ["kernel-vanilla"]
#: machines = ["haswell", "skylake", "icelake", "sapphire-rapids"]
#: seconds = 5400
#: full = true
#: [[allow]]
#: line = "traps: perf["
#: reason = "perf annotate crashes on some samples, and with the same ones on other emulators"

# On one CPU: on two, perf record LBR tests has twice as many samples, prints each of their
# branches, and has not been seen to end.  With fewer samples it ends, but some of its
# events, which compete for the LBR with others of another filter, get none.

# known NAME: why a test fails; nothing if it should pass.
known() {
	case $1 in
	"'import perf' in python") echo "perf is built without its Python module" ;;
	'Number of exit events of a simple workload')
		echo "polls a thousand times, and is through before the task has gone on the only CPU"
		;;
	'perf all metrics test') echo "perf is built without tables of metrics, and the test wants one" ;;
	'perf ftrace tests') echo "the kernel is built without the function tracer" ;;
	'perf script task-analyzer tests') echo "perf is built without scripts in Python" ;;
	"probe libc's inet_pton & backtrace it with ping") echo "the kernel is built without uprobes" ;;
	'test Intel TPEBS counting mode') echo "no PEBS" ;;
	esac
}

# why NAME: why perf skips a test without a word.
why() {
	case $1 in
	'AMD IBS via core pmu' | 'Check Arm'* | CoreSight*) echo "the CPU is Intel's" ;;
	'Check open filename arg using perf trace + vfs_getname' | *' vfs_getname probe '*)
		echo "the kernel is built without kprobes"
		;;
	'Event groups') echo "the host has no uncore PMU" ;;
	'Miscellaneous Intel PT testing') echo "the host has no Processor Trace" ;;
	'PE file support') echo "perf is built without libbfd" ;;
	'Probe SDT events') echo "perf is built without SDT probes" ;;
	'perf stat --bpf-counters'*) echo "perf is built without BPF" ;;
	'Test data symbol') echo "no memory events, which are of PEBS" ;;
	'Zstd perf.data compression/decompression') echo "perf is built without zstd" ;;
	esac
}

# Real programs before those of busybox; perf looks for its scripts from here.
export PATH="/perf-tests:/usr/bin:$PATH"
cd /perf-tests || exit 1
# The shell of busybox prefers its own programs.
ln -sf bash /bin/sh
load_kvm
# A test may be silent for longer than others on this machine.
(while sleep 1; do echo "# ..."; done) &
heart=$!
perf test list 2>&1 | sed -n 's/^ *\([0-9]*\): *\(.*[^ ]\) *$/\1 \2/p' >/tmp/list
while read -r number name; do
	case " ${TESTS-$number} " in
	*" $number "*) ;;
	*) continue ;;
	esac
	reason=$(known "$name")
	note "step: $name"
	# -vv: it says why it skips, if anything.
	timeout -s KILL 600 perf test -vv "$number" >/tmp/out 2>&1 </dev/null
	status=$?
	# The samples decide which way it goes, so this is known by what it says.
	if grep -q 'Segmentation fault *perf annotate' /tmp/out; then
		reason="perf annotate crashes on some samples, and with the same ones on other emulators"
	fi
	tail -n 25 /tmp/out | cut -c 1-300 | sed 's/^/#   /'
	tests=$((tests + 1))
	if [ $status = 137 ]; then
		note "killed: over its time"
		echo "not ok $tests $name${reason:+ # XFAIL $reason}"
	elif grep -q ': FAILED!' /tmp/out || [ $status != 0 ]; then
		echo "not ok $tests $name${reason:+ # XFAIL $reason}"
	elif grep -q ': Ok$' /tmp/out; then
		if [ -z "$reason" ]; then
			echo "ok $tests $name"
		else
			note "passes, though it is listed as failing: $reason"
			echo "not ok $tests $name"
		fi
	else
		said=$(sed -n 's/.*: Skip *//p' /tmp/out | head -n 1)
		[ -n "$said" ] || said=$(why "$name")
		[ -n "$said" ] || said=$(grep -v -e ': Running' -e ': Skip' -e '^--' -e '^test child' \
			-e '^ *[0-9.]*: ' -e '^Using CPUID' /tmp/out | sed -n '$s/^SKIP: //p;$p' | head -n 1)
		echo "ok $tests $name # SKIP ${said:-perf does not say why}"
	fi
done </tmp/list
kill $heart
