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
lab_faults=/tmp/lab.faults
lab_unknown=/tmp/lab.unknown
# What shells say of what they cannot do; src/outcome.rs knows it too.
lab_complaint="^(/lab/lib\.sh|sh): |^[^ ]+: (line )?([0-9]+: )?[^ ]+: (command )?not found\$|: can't execute '"

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
	lab_tell
}

# lab_fault WHAT: that results may mean nothing, wherever it happens, be it in a command
# whose output nobody sees.  It is a failed test of its own, once.
lab_fault() {
	note "$*" >&2
	grep -q -s -x -F -e "$*" $lab_faults $lab_faults.told || printf '%s\n' "$*" >>$lab_faults
}

# lab_tell: results of what was wrong meanwhile.
lab_tell() {
	local lab_line lab_name
	if [ -s $lab_unknown ]; then
		mv $lab_unknown $lab_unknown.now
		while IFS= read -r lab_name; do
			lab_line=$(grep -n -w -F -e "$lab_name" "$lab_script" | cut -d : -f 1 | paste -s -d , -)
			lab_fault "${lab_script##*/}: line ${lab_line:-?}: $lab_name: not found"
		done <$lab_unknown.now
	fi
	[ -s $lab_faults ] || return 0
	cat $lab_faults >>$lab_faults.told
	mv $lab_faults $lab_faults.now
	while IFS= read -r lab_line; do
		not_ok "$lab_line"
	done <$lab_faults.now
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
	if [ -z "$lab_why" ] && [ -s $lab_output ]; then
		lab_why=$(grep -m 1 -E -e "$lab_complaint" $lab_output)
	fi
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
	if [ ! -f "$2" ]; then
		lab_fault "the artifact $1 is missing: there is no file $2"
		return 1
	fi
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

# load_kvm [PARAMETER=VALUE...]: a check.  The parameters are kvm_intel's; more may come from
# the command line (lab run --set KVM_INTEL=...).
load_kvm() {
	check "kvm_intel loads${*:+ with $*}" insmod_kvm "$@"
}

# insmod_kvm [PARAMETER=VALUE...]: the same as a command.
insmod_kvm() {
	if ! grep -q '^irqbypass ' /proc/modules; then
		insmod /lib/modules/irqbypass.ko || return
	fi
	if ! grep -q '^kvm ' /proc/modules; then
		insmod /lib/modules/kvm.ko || return
	fi
	# shellcheck disable=SC2086
	insmod /lib/modules/kvm-intel.ko ${KVM_INTEL-} "$@"
}

# unload_kvm: the opposite; guest_lbr must be unloaded already.
unload_kvm() {
	rmmod kvm_intel && rmmod kvm && rmmod irqbypass
}

guest_lbr_ko=/lib/modules/guest_lbr.ko

# load_guest_lbr: a check; where it should fail, insmod $guest_lbr_ko is the command.
load_guest_lbr() {
	check "guest_lbr loads" insmod $guest_lbr_ko "$@"
}

. /lab/variables
. /lab/guest.sh

[ "$LAB_MODE" = suite ] || return 0

# What the suite's shell or a part of it does not find, whatever becomes of its complaint.
# Nothing but builtins: a part of busybox's shell that forked in here would not end.  Debian's
# shell does not ask.
command_not_found_handle() {
	printf '%s\n' "$1" >>$lab_unknown
	return 127
}

# lab_end STATUS LINE: the end of the suite's shell, at its last line or not.
lab_end() {
	trap - EXIT
	set +u
	if [ -z "$lab_reached" ]; then
		not_ok "${lab_script##*/}: it ended early${2:+, at line $2}, with status $1"
	fi
	guest_stop_all
	dmesg >/tmp/dmesg
	artifact dmesg /tmp/dmesg
	lab_tell
	echo "1..$tests" >&9
	echo "@exit $1" >&9
}

lab_script=/tmp/${LAB_SUITE-suite}.sh
{
	cat /lab/suite
	printf '\nlab_reached=yes\n'
} >"$lab_script"
lab_reached=
trap 'lab_end $? ${LINENO-}' EXIT
# A mistyped variable is no empty text.
set -u
. "$lab_script"
