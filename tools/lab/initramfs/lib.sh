# SPDX-License-Identifier: GPL-2.0-only
# What a suite can say.  Its output is KTAP with framed files in between, as
# src/protocol.rs reads it; whatever else is printed becomes the diagnostics of
# the next result.  The shell is busybox's, or Debian's in an installed system.
#
# Results and files leave by descriptor 9, so that none is lost where a suite looks at
# what a command prints.  Names that begin with lab_ are the library's own.

exec 9>&1
tests=0
lab_newline='
'
# How many checks are under way, one inside another.
lab_depth=0

ok() {
	lab_result ok "$1"
}

# not_ok NAME [WHY]
not_ok() {
	[ -z "${2-}" ] || note "$2" >&9
	lab_result "not ok" "$1"
}

# skip NAME REASON
skip() {
	lab_result ok "$1 # SKIP $2"
}

note() {
	case $* in
	*"$lab_newline"*) printf '%s\n' "$*" | sed 's/^/# /' ;;
	*) printf '# %s\n' "$*" ;;
	esac
}

# lab_result VERDICT NAME
lab_result() {
	tests=$((tests + 1))
	case $2 in
	*"$lab_newline"*) set -- "$1" "$(printf %s "$2" | tr '\n' ' ')" ;;
	esac
	printf '%s %s %s\n' "$1" $tests "$2" >&9
}

# check NAME CMD...: passes if CMD does; its output is shown if it does not.
check() {
	lab_check passes "$@"
}

# check_fails NAME CMD...: passes if CMD is executed and refuses.
check_fails() {
	lab_check fails "$@"
}

# check_silent NAME CMD...: passes if CMD does and prints nothing.
check_silent() {
	lab_check silent "$@"
}

# lab_check KIND NAME CMD...: what CMD prints stays in /tmp/check.out.
lab_check() {
	local lab_kind="$1" lab_name="$2" lab_output=/tmp/check.out lab_status=0 lab_why=
	local lab_depth=$((lab_depth + 1))
	shift 2
	[ $lab_depth = 1 ] || lab_output=$lab_output.$lab_depth
	if [ -z "${1-}" ]; then
		not_ok "$lab_name" "there is no command"
		return 1
	fi
	"$@" >$lab_output 2>&1 || lab_status=$?
	case $lab_kind:$lab_status in
	passes:0) ;;
	silent:0) [ ! -s $lab_output ] || lab_why="$* printed something" ;;
	fails:0) lab_why="$* succeeded" ;;
	fails:*) lab_why=$(lab_no_refusal "$@") ;;
	*) lab_why="$* ended with status $lab_status" ;;
	esac
	if [ -z "$lab_why" ]; then
		ok "$lab_name"
		return
	fi
	awk '{ print "# " $0 }' $lab_output >&9
	not_ok "$lab_name" "$lab_why"
	return 1
}

# lab_no_refusal CMD...: why the command failed without having looked at what it is about.
lab_no_refusal() {
	case $1:$lab_status in
	[[]:1 | test:1 | grep:1 | cmp:1) return ;;
	[[]:* | test:* | grep:* | cmp:*) ;;
	insmod:* | rmmod:*) grep -q 'No such file' $lab_output || return ;;
	*) [ "$lab_status" -gt 125 ] || return ;;
	esac
	echo "$* is no refusal: it ended with status $lab_status"
}

# check_same NAME EXPECTED ACTUAL: passes if the texts are equal.  Two commands that both
# failed have the same to say, nothing: that it may be is for check_silent.
check_same() {
	if [ $# != 3 ]; then
		not_ok "$1" "check_same wants two texts to compare, and has $(($# - 1))"
	elif [ "$2" != "$3" ]; then
		not_ok "$1" "expected '$2', got '$3'"
	elif [ -z "$2" ]; then
		not_ok "$1" "there is nothing to compare"
	else
		ok "$1"
	fi
}

# subtests NAME CMD...: CMD prints KTAP of its own.
subtests() {
	local lab_name="$1" lab_line lab_status
	shift
	if [ -z "${1-}" ]; then
		not_ok "$lab_name" "there is no command"
		return 1
	fi
	echo "    # Subtest: $lab_name" >&9
	{
		"$@" 2>&1 </dev/null
		echo $? >/tmp/subtests.status
	} | while IFS= read -r lab_line || [ -n "$lab_line" ]; do
		printf '    %s\n' "$lab_line" >&9
	done
	read -r lab_status </tmp/subtests.status
	case $lab_status in
	0) ok "$lab_name" ;;
	4) ok "$lab_name" ;; # skipped, as its own KTAP says with the reason
	*) not_ok "$lab_name" "$* ended with status $lab_status" ;;
	esac
}

# artifact NAME FILE: FILE goes to the log folder of the build machine.
artifact() {
	{
		echo "@file $1 $(stat -c %s "$2")"
		cat "$2"
		echo
		echo "@end $1"
	} >&9
}

# counters WORD [NAME]: speaks to the emulator's counters (Documentation/counters.rst):
# counters start NAME, counters stop NAME, counters read [NAME].
counters() {
	local lab_block
	echo "$*" | dd of=/dev/port bs=4096 seek=5 conv=notrunc status=none &&
		while lab_block=$(dd if=/dev/port bs=4096 skip=5 count=1 status=none | tr -d '\0') &&
			[ -n "$lab_block" ]; do
			printf %s "$lab_block"
		done
}

# load_kvm [PARAMETER=VALUE...]: parameters are kvm_intel's; more may come from
# the command line (lab run --set KVM_INTEL=...).
load_kvm() {
	grep -q '^irqbypass ' /proc/modules || insmod /lib/modules/irqbypass.ko
	grep -q '^kvm ' /proc/modules || insmod /lib/modules/kvm.ko
	# shellcheck disable=SC2086
	insmod /lib/modules/kvm-intel.ko ${KVM_INTEL-} "$@"
}

# unload_kvm: the opposite; guest_lbr must be unloaded already.
unload_kvm() {
	rmmod kvm_intel && rmmod kvm && rmmod irqbypass
}

load_guest_lbr() {
	insmod /lib/modules/guest_lbr.ko "$@"
}

. /lab/variables
. /lab/guest.sh

[ "$LAB_MODE" = suite ] || return 0

. /lab/suite
status=$?
guest_stop_all
dmesg >/tmp/dmesg
artifact dmesg /tmp/dmesg
echo "1..$tests" >&9
echo "@exit $status" >&9
