# SPDX-License-Identifier: GPL-2.0-only
#: about = "perf's own tests, unmodified, on the host"
#: parts = ["perf-tests"]
#: kernels = ["kernel-vanilla"]
#: machines = ["haswell", "skylake", "icelake", "sapphire-rapids"]
#: seconds = 1800
#: full = true

# known NAME: why a test fails; nothing if it should pass.
known() {
	case $1 in
	"'import perf' in python" | 'Setup struct perf_event_attr') echo "the host has no Python" ;;
	perftool-testsuite_report) echo "the host has no Perl" ;;
	'Object code reading') echo "the host has no objdump" ;;
	esac
}

# Tests of hardware, filesystems and programs that this host has nothing of, and of
# scripting: nothing is said by skipping them one by one.
elsewhere() {
	case $1 in
	*Core[Ss]ight* | *Arm64* | *TPEBS* | *'Arm SPE'* | *probe* | *java* | *offcpu* | *BPF* | *bpf* | \
		*'kernel lock'* | *ftrace* | *daemon* | *'Task Analyzer'* | *btf* | \
		*converter* | *'Intel PT'* | *'vmlinux symtab'*) true ;;
	*) false ;;
	esac
}

# Real programs before those of busybox; perf looks for its scripts from here.
export PATH="/perf-tests:/usr/bin:$PATH"
cd /perf-tests || exit 1
# The shell of busybox prefers its own programs.
ln -sf bash /bin/sh
load_kvm
(while sleep 10; do echo "# ..."; done) &
heart=$!
perf test list 2>&1 | sed -n 's/^ *\([0-9]*\): *\(.*[^ ]\) *$/\1 \2/p' >/tmp/list
while read -r number name; do
	elsewhere "$name" && continue
	case " ${TESTS-$number} " in
	*" $number "*) ;;
	*) continue ;;
	esac
	reason=$(known "$name")
	note "step: $name"
	timeout -s KILL 600 perf test -v "$number" >/tmp/out 2>&1 </dev/null
	status=$?
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
		why=$(sed -n 's/.*: Skip *//p' /tmp/out | head -n 1)
		echo "ok $tests $name # SKIP ${why:-$(grep -v ': Running\|^---\|^test child\|: Skip' /tmp/out | tail -n 1)}" |
			sed 's/# SKIP *$/# SKIP perf does not say why/'
	fi
done </tmp/list
kill $heart
