# SPDX-License-Identifier: GPL-2.0-only
#: about = "The machine does the same twice, to the byte"
#: parts = ["perf", "qemu"]
#: kernels = ["kernel-vanilla"]
#: machines = ["skylake-smp"]
#: full_machines = [
#:   "haswell", "skylake", "icelake", "sapphire-rapids",
#:   "haswell:2", "icelake:2", "sapphire-rapids:2",
#: ]
#: seconds = 300
#: twice = true

# Interrupts, counters, branch records, random numbers and several CPUs at once.
check "a profile is taken" sh -c 'profile any 1 30000 >/tmp/profile'
artifact profile /tmp/profile
for cpu in 1 2; do
	od -A n -t x1 -N 16 /dev/urandom >"/tmp/random$cpu" &
done
wait
cat /tmp/random* /proc/interrupts /proc/stat >/tmp/state
check "there are random numbers" test -s /tmp/random1
artifact state /tmp/state

# A guest: VM exits, timers of the host, two emulators in one another.
load_kvm
check "a guest starts" guest_start -- -cpu host,migratable=no
case $LAB_MACHINE in
# This kernel gives guests no architectural LBR.
sapphire-rapids*) check "it counts its instructions" guest_run perf stat -e instructions:u true ;;
*) check "it profiles itself" guest_run profile any 1 30000 ;;
esac
guest_stop
