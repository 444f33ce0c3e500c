# SPDX-License-Identifier: GPL-2.0-only
#: about = "guest_lbr comes and goes: loading, unloading, refusals, nothing left behind"
#: machines = ["haswell", "skylake", "sapphire-rapids"]
#: parts = ["module", "qemu"]

ko=$guest_lbr_ko
depth=$(cat /sys/bus/event_source/devices/cpu/caps/branches)
# How guest_lbr and a guest's kernel call the facility.
case $LAB_MACHINE in
sapphire-rapids*) facility="architectural LBR" finds="Architectural LBR, .*" ;;
*) facility="LBR format $((lbr_fmt))" finds=".*" ;;
esac

# said PATTERN: the kernel's log has such a line since the last clean.
said() {
	dmesg | grep -E -- "$1"
}

clean() {
	dmesg -c >/dev/null
}

references() {
	awk '$1 == "guest_lbr" { print $3 }' /proc/modules
}

loaded() {
	[ -n "$(references)" ]
}

check_fails "insmod without kvm_intel fails" insmod $ko
check "and names the missing symbol" said 'guest_lbr: Unknown symbol kvm_vmx_register_lbr_ops'

load_kvm lbr=off
clean
load_guest_lbr
check "and says in one line what it offers" \
	[ "$(said 'guest_lbr: ' | grep -vc taints)" = 1 ]
check "format and depth are the host's" \
	said "guest_lbr: $facility, $depth deep, for VMs created from now on"
check_fails "insmod of a loaded module fails" insmod $ko
check_fails "kvm_intel cannot be unloaded while guest_lbr is loaded" rmmod kvm_intel
check "nobody uses guest_lbr" [ "$(references)" = 0 ]

check "a guest starts" guest_start -- -cpu host,lbr-fmt=$lbr_fmt
guest_run dmesg >/tmp/guest.dmesg
# QEMU offers XSAVE of architectural LBR, too, which guests do not have.
check "its kernel finds the LBR" grep "Performance Events: $finds$depth-deep LBR" /tmp/guest.dmesg
check "its VM uses guest_lbr" [ "$(references)" = 1 ]
check_fails "unloading is refused while it runs" rmmod guest_lbr
check "guest_lbr is still there" loaded
check "a second guest starts" guest_start second -- -cpu host,lbr-fmt=$lbr_fmt
check "its VM uses guest_lbr too" [ "$(references)" = 2 ]
guest_stop
check "the first guest's end gives one use back" [ "$(references)" = 1 ]
guest_kill second
check "so does a killed guest's" [ "$(references)" = 0 ]
check "guest_lbr is unloaded" rmmod guest_lbr
check_fails "nothing of it is left" loaded

# QEMU refuses an LBR format that KVM does not offer.
check_fails "without guest_lbr no guest gets LBR" guest_start -- -cpu host,lbr-fmt=$lbr_fmt

check "a guest without LBR starts" guest_start older -- -cpu host
load_guest_lbr
check "the older VM does not use it" [ "$(references)" = 0 ]
check "guest_lbr is unloaded while the older VM runs" rmmod guest_lbr
guest_stop older

free() {
	awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo
}
cycle() {
	insmod $ko && rmmod guest_lbr
}
cycle
before=$(free)
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	cycle || break
done
after=$(free)
check "loading and unloading 20 times keeps the memory ($before -> $after kB)" \
	[ $((before - after)) -lt 1024 ]

clean
check "kvm_intel is unloaded" rmmod kvm_intel
check "kvm is unloaded" rmmod kvm
check "kvm loads with enable_pmu=0" sh -c 'insmod /lib/modules/kvm.ko enable_pmu=0'
load_kvm
check_fails "without vPMU insmod fails" insmod $ko
check "and says why" said 'guest_lbr: this host has no LBR to give to guests'
check_fails "it is not loaded" loaded
