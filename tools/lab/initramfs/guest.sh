# SPDX-License-Identifier: GPL-2.0-only
# Virtual machines inside the emulated host: QEMU, the host's own kernel, and a
# shell in the guest that takes commands through its second serial port.

guests=/tmp/guests
# IA32_PERF_CAPABILITIES.LBR_FMT of the host, which QEMU wants to be told.
case ${LAB_MACHINE-} in
haswell*) lbr_fmt=0x4 ;;
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

# guest_start [NAME] [-- QEMU OPTION...]: returns when the guest's shell answers.
guest_start() {
	guest=guest
	if [ $# -gt 0 ] && [ "$1" != -- ]; then
		guest=$1
		shift
	fi
	[ "${1-}" != -- ] || shift
	dir=$guests/$guest
	rm -rf "$dir"
	mkdir -p "$dir"
	mkfifo "$dir/shell.in" "$dir/shell.out"
	guest_initramfs
	# shellcheck disable=SC2086
	$qemu -serial "file:$dir/console" -chardev "pipe,id=shell,path=$dir/shell" \
		-serial chardev:shell \
		-append "console=ttyS0 loglevel=5 nokaslr tsc=reliable panic=-1 ${GUEST_APPEND-}" \
		"$@" >"$dir/qemu.out" 2>&1 </dev/null &
	echo $! >"$dir/pid"
	if ! guest_answer "$guest"; then
		note "guest $guest does not answer"
		sed 's/^/# qemu: /' "$dir/qemu.out"
		tail -n 20 "$dir/console" 2>/dev/null | sed 's/^/# console: /'
		return 1
	fi
}

guest_alive() {
	kill -0 "$(cat "$guests/$1/pid")" 2>/dev/null
}

# guest_run [-g NAME] CMD ARGUMENT...: prints what the command prints in the guest, and
# returns its exit status, or 254 if the guest is gone.  The arguments arrive as they are.
guest_run() {
	guest=guest
	if [ "$1" = -g ]; then
		guest=$2
		shift 2
	fi
	guest_ask "$guest" "$(guest_quote "$@")"
}

# guest_sh [-g NAME] SCRIPT: the same for a script of the guest's shell.
guest_sh() {
	guest=guest
	if [ "$1" = -g ]; then
		guest=$2
		shift 2
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
	guest_alive "$1" || return 254
	# Encoded, it is one line.
	printf %s "$2" | base64 -w 0 >"$guests/$1/line"
	echo >>"$guests/$1/line"
	cat "$guests/$1/line" >"$guests/$1/shell.in" &
	guest_answer "$1"
}

# guest_answer NAME: what the guest's shell prints up to the end of a command.
# It may take $guest_seconds of the host's clock.
guest_seconds=120
guest_answer() {
	# QEMU has both ends of the pipe open; when it dies, reading ends.
	timeout "$guest_seconds" awk 'BEGIN { status = 254 }
		/^@exit / { status = $2; exit }
		{ if (n++) print line; line = $0 }
		END { if (line != "") print line; exit status }' \
		"$guests/$1/shell.out"
}

# guest_stop [NAME]: switches the guest off and keeps its console.
guest_stop() {
	guest=${1-guest}
	dir=$guests/$guest
	[ -e "$dir/pid" ] || return 0
	if guest_alive "$guest"; then
		echo poweroff >"$dir/shell.in"
		# The process is our child: wait, but not for ever.
		(sleep 20; kill -9 "$(cat "$dir/pid")") 2>/dev/null &
		watchdog=$!
		wait "$(cat "$dir/pid")"
		kill "$watchdog" 2>/dev/null
	fi
	[ ! -s "$dir/console" ] || artifact "console-$guest" "$dir/console"
	rm -rf "$dir"
}

guest_stop_all() {
	for dir in "$guests"/*; do
		[ ! -e "$dir/pid" ] || guest_stop "${dir##*/}"
	done
}
