# SPDX-License-Identifier: GPL-2.0-only
# Virtual machines inside the emulated host: QEMU, the host's own kernel, and a
# shell in the guest that takes commands through its second serial port.

guests=/tmp/guests
# IA32_PERF_CAPABILITIES.LBR_FMT of the host, which QEMU wants to be told.
case ${LAB_MACHINE-} in
haswell*) lbr_fmt=0x4 ;;
sapphire-rapids*) lbr_fmt=0x3f ;;
*) lbr_fmt=0x5 ;;
esac
# What a QEMU command line starts with; options of guest_start come after it.
qemu="qemu-system-x86_64 -M pc,accel=kvm -m 256 -nodefaults -nographic -no-reboot"
qemu="$qemu -L /usr/share/qemu -kernel /guest/bzImage -initrd /tmp/guest.cpio"

# guest_add FILE...: programs to have in guests started from now on, in /bin.
guest_add() {
	mkdir -p /guest/root/bin
	ln -f "$@" /guest/root/bin/
	rm -f /tmp/guest.cpio
}

guest_initramfs() {
	[ ! -e /tmp/guest.cpio ] || return 0
	mkdir -p /guest/root/dev
	guest_add /bin/busybox
	[ ! -x /bin/perf ] || guest_add /bin/perf /bin/br_instr /bin/profile
	[ -e /guest/root/dev/console ] || mknod /guest/root/dev/console c 5 1
	(cd /guest/root && find . | cpio -o -H newc >/tmp/guest.cpio 2>/dev/null)
}

# guest_start [NAME] [-- QEMU OPTION...]: returns when the guest's shell answers.  If it does
# not, nothing of the guest is left but its console, and no check need say that it failed.
guest_start() {
	local guest=guest dir
	if [ $# -gt 0 ] && [ "$1" != -- ]; then
		guest=$1
		shift
	fi
	[ "${1-}" != -- ] || shift
	dir=$guests/$guest
	if [ -e "$dir" ]; then
		lab_fault "guest $guest is to start, and was not stopped"
		return 1
	fi
	mkdir -p "$dir"
	mkfifo "$dir/shell.in" "$dir/shell.out"
	guest_initramfs
	# shellcheck disable=SC2086
	$qemu -serial "file:$dir/console" -chardev "pipe,id=shell,path=$dir/shell" \
		-serial chardev:shell \
		-append "console=ttyS0 loglevel=5 nokaslr tsc=reliable panic=-1 ${GUEST_APPEND-}" \
		"$@" >"$dir/qemu.out" 2>&1 </dev/null &
	echo $! >"$dir/pid"
	# What QEMU did not come to open has no end.
	while guest_alive "$guest" && ! ls -l "/proc/$!/fd" | grep -q "$dir/shell.out"; do
		sleep 0.1
	done
	if ! guest_alive "$guest" || ! guest_answer "$guest"; then
		awk '{ print "# qemu: " $0 }' "$dir/qemu.out"
		[ ! -e "$dir/console" ] || tail -n 20 "$dir/console" | awk '{ print "# console: " $0 }'
		guest_kill "$guest"
		[ $lab_depth -gt 0 ] || not_ok "guest $guest starts"
		return 1
	fi
}

# guest_alive NAME: its QEMU runs; a zombie has no program.
guest_alive() {
	local pid
	[ -e "$guests/$1/pid" ] && read -r pid <"$guests/$1/pid" && [ -e "/proc/$pid/exe" ]
}

# guest_lost NAME WHY: what is said of it is no result.
guest_lost() {
	[ ! -e "$guests/$1/lost" ] || return
	[ ! -e "$guests/$1" ] || : >"$guests/$1/lost"
	lab_fault "guest $1 $2"
}

# guest_run [-g NAME] CMD ARGUMENT...: prints what the command prints in the guest, and
# returns its exit status, or 254 if the guest is gone.  The arguments arrive as they are.
guest_run() {
	local guest=guest
	if [ "${1-}" = -g ]; then
		guest=$2
		shift 2
	fi
	if [ -z "${1-}" ]; then
		lab_fault "guest_run has no command"
		return 2
	fi
	guest_ask "$guest" "$(guest_quote "$@")"
}

# guest_sh [-g NAME] SCRIPT: the same for a script of the guest's shell.
guest_sh() {
	local guest=guest
	if [ "${1-}" = -g ]; then
		guest=$2
		shift 2
	fi
	if [ $# != 1 ] || [ -z "$1" ]; then
		lab_fault "guest_sh wants one script, and has $#: $*"
		return 2
	fi
	guest_ask "$guest" "$1"
}

# guest_quote WORD...: the words as a shell reads them.
guest_quote() {
	local word quoted
	for word; do
		quoted=
		while [ "$word" != "${word#*\'}" ]; do
			quoted="$quoted${word%%\'*}'\\''"
			word=${word#*\'}
		done
		printf "'%s' " "$quoted$word"
	done
}

# guest_ask NAME SCRIPT
guest_ask() {
	local guest="$1" dir="$guests/$1" status
	if ! guest_alive "$guest"; then
		guest_lost "$guest" "is gone"
		return 254
	fi
	# Each of two would take what the other one's command prints.
	if ! mkdir "$dir/busy" 2>/dev/null; then
		lab_fault "guest $guest is asked while it has not answered"
		return 254
	fi
	# Encoded, it is one line.
	printf %s "$2" | base64 -w 0 >"$dir/line"
	echo >>"$dir/line"
	cat "$dir/line" >"$dir/shell.in" &
	if guest_answer "$guest"; then
		read -r status <"$dir/exit"
		rmdir "$dir/busy"
		return "$status"
	fi
	if guest_alive "$guest"; then
		guest_lost "$guest" "does not answer"
		kill -9 "$(cat "$dir/pid")"
	else
		guest_lost "$guest" "is gone"
	fi
	return 254
}

# guest_answer NAME: what the guest's shell prints up to the end of a command, whose status is
# in the file exit then.  It may take $guest_seconds of the host's clock.
guest_seconds=120
guest_answer() {
	local name
	rm -f "$guests/$1/exit" "$guests/$1/unknown"
	# QEMU has both ends of the pipe open; when it dies, reading ends.
	timeout "$guest_seconds" awk -v dir="$guests/$1" '
		/^@unknown / { print $2 >(dir "/unknown"); next }
		/^@exit / { print $2 >(dir "/exit"); exit }
		{ if (n++) print line; line = $0 }
		END { if (line != "") print line }' \
		"$guests/$1/shell.out"
	if [ -e "$guests/$1/unknown" ]; then
		while read -r name; do
			lab_fault "guest $1: $name: not found"
		done <"$guests/$1/unknown"
	fi
	[ -s "$guests/$1/exit" ]
}

# guest_stop [NAME]: switches the guest off and keeps its console.  A guest that does not go
# off, or has gone before, is not as it should be.
guest_stop() {
	local guest="${1-guest}" dir status=0 watchdog
	dir=$guests/$guest
	[ -e "$dir" ] || return 1
	if guest_alive "$guest"; then
		echo poweroff >"$dir/shell.in"
		# The process is our child: wait, but not for ever.
		(sleep 20; kill -9 "$(cat "$dir/pid")") 2>/dev/null &
		watchdog=$!
		wait "$(cat "$dir/pid")" || status=$?
		kill "$watchdog" 2>/dev/null
		[ $status = 0 ] || guest_lost "$guest" "does not switch off"
	else
		guest_lost "$guest" "is gone"
		status=1
	fi
	guest_keep "$guest"
	return $status
}

# guest_kill [NAME]: ends its QEMU, which has no say in it, and keeps its console.
guest_kill() {
	local guest="${1-guest}"
	[ -e "$guests/$guest" ] || return 1
	kill -9 "$(cat "$guests/$guest/pid")" 2>/dev/null
	wait "$(cat "$guests/$guest/pid")" 2>/dev/null
	guest_keep "$guest"
}

guest_keep() {
	[ ! -s "$guests/$1/console" ] || artifact "console-$1" "$guests/$1/console"
	rm -rf "${guests:?}/$1"
}

guest_stop_all() {
	local dir
	for dir in "$guests"/*; do
		[ ! -e "$dir" ] || guest_stop "${dir##*/}"
	done
}
