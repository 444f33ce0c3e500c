# SPDX-License-Identifier: GPL-2.0-only
#: about = "The machine does the same twice, to the byte"
#: parts = ["perf"]
#: kernels = ["kernel-vanilla"]
#: machines = ["skylake", "skylake-smp"]
#: seconds = 30
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
