# SPDX-License-Identifier: GPL-2.0-only
#: about = "Two VMs do anything while the host does anything: each sees its own branches alone"
#: parts = ["module", "selftests"]
#: machines = ["skylake-smp", "sapphire-rapids:2"]
#: seconds = 300

# --set STEPS=.. and --set SEED=..: more or other lives, or the one that failed.
load_kvm lbr=off
load_guest_lbr
subtests lbr_disturb /selftests/kvm-selftests lbr_disturb --provider guest_lbr \
	--steps "${STEPS-2000}" --seed "${SEED-1}"
check "the module is unloaded after the tests" rmmod guest_lbr
