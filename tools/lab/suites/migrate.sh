# SPDX-License-Identifier: GPL-2.0-only
#: about = "QEMU's own migration and snapshots keep a guest's architectural LBR"
#: parts = ["module", "selftests", "qemu"]
#: machines = ["sapphire-rapids"]
#: seconds = 300

# The guest, tools/testing/qemu/arch_lbr.S, writes its registers to the debug console: CTL,
# DEPTH, 32 of FROM, TO and INFO, of 8 bytes each.
registers=98
vms=/tmp/vms
vm="qemu-system-x86_64 -M pc,accel=kvm -m 16 -nodefaults -nographic -no-reboot"
vm="$vm -L /usr/share/qemu -kernel /selftests/arch_lbr"
# Where QEMU has temporary files.
mkdir -p /var/tmp

# vm_start NAME OPTION...: returns when the guest runs.
vm_start() {
	local dir=$vms/$1
	shift
	mkdir -p "$dir"
	mkfifo "$dir/qmp.in" "$dir/qmp.out"
	$vm -debugcon "file:$dir/console" -chardev "pipe,id=qmp,path=$dir/qmp" \
		-mon chardev=qmp,mode=control "$@" >"$dir/out" 2>&1 </dev/null &
	echo $! >"$dir/pid"
	qmp "${dir##*/}" qmp_capabilities || return
	while ! qmp "${dir##*/}" query-status | grep '"running": true'; do
		[ -e "/proc/$!/exe" ] || return
		sleep 0.1
	done
}

vm_stop() {
	qmp "$1" quit && wait "$(cat "$vms/$1/pid")"
	rm -r "${vms:?}/$1"
}

# qmp NAME COMMAND [ARGUMENTS]: prints what QEMU's monitor answers, and fails if that is an error.
qmp() {
	local dir=$vms/$1 answer=
	echo "{ \"execute\": \"$2\", \"arguments\": { ${3-} } }" >"$dir/line"
	timeout 60 sh -c "cat '$dir/line' >'$dir/qmp.in'" &&
		answer=$(timeout 60 awk '/"(return|error)":/ { print; exit }' "$dir/qmp.out")
	case $answer in
	*'"return":'*) echo "$answer" ;;
	*)
		echo "$2: ${answer:-no answer}"
		cat "$dir/out"
		return 1
		;;
	esac
}

# hmp NAME COMMAND: the same of a command for people, which prints nothing if it succeeds.
hmp() {
	qmp "$1" human-monitor-command "\"command-line\": \"$2\"" | tee /tmp/hmp
	grep -q '"return": ""' /tmp/hmp
}

# reports NAME COUNT: waits until the guest has written so often, and for its HLT.
reports() {
	local tries=0
	while [ "$(stat -c %s "$vms/$1/console")" -lt $(($2 * registers * 8)) ]; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || return 1
		sleep 0.1
	done
	sleep 0.2
}

# report NAME NUMBER: the registers as the guest wrote them that time, one a line.
report() {
	od -A n -v -t x8 -w8 -j $((($2 - 1) * registers * 8)) -N $((registers * 8)) "$vms/$1/console" |
		tr -d ' '
}

# wake NAME COUNT: sends an NMI, after which the guest has written COUNT times.
wake() {
	qmp "$1" inject-nmi && reports "$1" "$2"
}

# migrate NAME URI: returns at the end, and fails if QEMU has not succeeded.
migrate() {
	local answer
	qmp "$1" migrate "\"uri\": \"$2\"" || return
	while answer=$(qmp "$1" query-migrate); do
		case $answer in
		*'"status": "completed"'*) return 0 ;;
		*'"status": "failed"'*) break ;;
		esac
		sleep 0.1
	done
	echo "$answer"
	return 1
}

# field FROM COUNT: of a report, from register FROM on.
field() {
	tail -n +$(($1 + 1)) | head -n "$2"
}

load_kvm lbr=off
load_guest_lbr
for cpu in host host,migratable=no,invtsc=off,lbr-fmt=0x3f; do
	note "step: -cpu $cpu"
	check "a guest starts" vm_start source -cpu $cpu
	check "it records" reports source 1
	report source 1 >/tmp/before
	check_same "IA32_LBR_CTL and IA32_LBR_DEPTH" "0000000000060002 0000000000000020" \
		"$(field 0 2 </tmp/before | paste -s -d ' ' -)"
	check_same "its 32 records are of 32 branches" 32 "$(field 2 32 </tmp/before | sort -u | wc -l)"
	check "it migrates to a file" migrate source "exec:cat >/tmp/state"
	check "a new QEMU takes it" vm_start destination -cpu $cpu -incoming "exec:cat /tmp/state"
	check "where the guest goes on" wake destination 1
	report destination 1 >/tmp/after
	check "CTL, DEPTH and records are the same" cmp /tmp/before /tmp/after
	check "the source goes on, too" qmp source cont
	check "with the guest" wake source 2
	report source 2 >/tmp/after
	check "whose registers are the same" cmp /tmp/before /tmp/after
	check "the source is stopped" vm_stop source

	note "step: -cpu $cpu, recording"
	check "the guest, which records now, migrates to a file" \
		migrate destination "exec:cat >/tmp/state"
	check "it is stopped" vm_stop destination
	check "a new QEMU takes it" vm_start recording -cpu $cpu -incoming "exec:cat /tmp/state"
	check "where the guest goes on" wake recording 2
	report recording 1 >/tmp/after
	check_same "it has not ceased to record" "00000000007f0007 0000000000000020" \
		"$(field 0 2 </tmp/after | paste -s -d ' ' -)"
	for first in 2 34 66; do
		field $first 31 </tmp/before
	done >/tmp/older
	for first in 3 35 67; do
		field $first 31 </tmp/after
	done >/tmp/now
	check "and has one record more" cmp /tmp/older /tmp/now
	check "it is stopped" vm_stop recording
done

note "step: savevm and loadvm"
dd if=/dev/zero of=/tmp/disk bs=1M count=1 2>/dev/null
check "a guest starts" vm_start guest -cpu host \
	-drive if=none,id=disk,format=raw,file=/tmp/disk,snapshot=on
check "it records" reports guest 1
check "savevm" hmp guest "savevm one"
check "the guest goes on" wake guest 2
check "and records other branches" wake guest 4
report guest 1 >/tmp/before
report guest 4 >/tmp/other
check_fails "than before" cmp -s /tmp/before /tmp/other
check "loadvm" hmp guest "loadvm one"
check "the guest goes on" wake guest 5
report guest 5 >/tmp/after
check "CTL, DEPTH and records are those of the snapshot" cmp /tmp/before /tmp/after

note "step: where there is no architectural LBR"
# QEMU looks at what the host has only if it is told the format.
cat >/tmp/destination <<END
exec $vm -cpu host,pmu=off,lbr-fmt=0x3f -incoming fd:0 2>/tmp/refused
END
check_fails "a guest does not migrate to a QEMU without LBR" migrate guest "exec:sh /tmp/destination"
check "which says why" grep "LBR is unsupported without pmu=on" /tmp/refused
check "the guest goes on where it was" wake guest 6
check "it is stopped" vm_stop guest
check "guest_lbr is unloaded" rmmod guest_lbr
check_fails "QEMU does not start" vm_start guest -cpu host,migratable=no,lbr-fmt=0x3f \
	-incoming "exec:cat /tmp/state"
check "and says why" grep "lbr-fmt value (0x3f) does not match the host value (0x0)" \
	$vms/guest/out
