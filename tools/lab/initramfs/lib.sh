# SPDX-License-Identifier: GPL-2.0-only
# What a suite can say.  Its output is KTAP with framed files in between, as
# src/protocol.rs reads it; whatever else is printed becomes the diagnostics of
# the next result.

tests=0

ok() {
	tests=$((tests + 1))
	echo "ok $tests $1"
}

# not_ok NAME [WHY]
not_ok() {
	tests=$((tests + 1))
	[ -z "${2-}" ] || note "$2"
	echo "not ok $tests $1"
}

# skip NAME REASON
skip() {
	tests=$((tests + 1))
	echo "ok $tests $1 # SKIP $2"
}

note() {
	echo "# $*"
}

# check NAME CMD...: passes if CMD does; its output is shown if it does not.
check() {
	name=$1
	shift
	if "$@" >/tmp/check.out 2>&1; then
		ok "$name"
	else
		status=$?
		sed 's/^/# /' /tmp/check.out
		not_ok "$name" "$* ended with status $status"
	fi
}

# check_fails NAME CMD...: passes if CMD does not.
check_fails() {
	name=$1
	shift
	if "$@" >/tmp/check.out 2>&1; then
		sed 's/^/# /' /tmp/check.out
		not_ok "$name" "$* succeeded"
	else
		ok "$name"
	fi
}

# check_same NAME EXPECTED ACTUAL: passes if the texts are equal.
check_same() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		not_ok "$1" "expected '$2', got '$3'"
	fi
}

# subtests NAME CMD...: CMD prints KTAP of its own.
subtests() {
	name=$1
	shift
	echo "    # Subtest: $name"
	{
		"$@" 2>&1 </dev/null
		echo $? >/tmp/subtests.status
	} | while IFS= read -r line; do
		printf '    %s\n' "$line"
	done
	read -r status </tmp/subtests.status
	case $status in
	0) ok "$name" ;;
	4) ok "$name" ;; # skipped, as its own KTAP says with the reason
	*) not_ok "$name" "$* ended with status $status" ;;
	esac
}

# artifact NAME FILE: FILE goes to the log folder of the build machine.
artifact() {
	echo "@file $1 $(stat -c %s "$2")"
	cat "$2"
	echo
	echo "@end $1"
}

# counters WORD [NAME]: speaks to the emulator's counters (Documentation/counters.rst):
# counters start NAME, counters stop NAME, counters read [NAME].
counters() {
	echo "$*" | dd of=/dev/port bs=4096 seek=5 conv=notrunc status=none &&
		while block=$(dd if=/dev/port bs=4096 skip=5 count=1 status=none | tr -d '\0') &&
			[ -n "$block" ]; do
			printf %s "$block"
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
echo "1..$tests"
echo "@exit $status"
