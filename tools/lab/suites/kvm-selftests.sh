# SPDX-License-Identifier: GPL-2.0-only
#: about = "All x86 KVM selftests of the unpatched kernel, unmodified"
#: parts = ["kvm-selftests"]
#: kernels = ["kernel-vanilla"]
#: machines = ["haswell", "skylake", "icelake", "sapphire-rapids"]
#: cpus = 2
#: seconds = 5400
#: full = true

# arguments NAME: what keeps a test short on an emulated machine of 2 GiB.
arguments() {
	case $1 in
	access_tracking_perf_test | demand_paging_test) echo -b 16M ;;
	dirty_log_page_splitting_test) echo -b 32M ;;
	dirty_log_perf_test) echo -b 16M -i 2 ;;
	dirty_log_test) echo -i 4 ;;
	kvm_page_table_test) echo -b 64M ;;
	max_guest_memory_test) echo -m 1 -s 1 ;;
	memslot_modification_stress_test) echo -b 16M -i 20 ;;
	memslot_perf_test) echo -l 1 -r 1 ;;
	# As its wrapper does.
	nx_huge_pages_test) echo -t 887563923 -p 100 -r ;;
	esac
}

# prepare NAME: gives a test what it wants of the host; fails if that is nothing.
prepare() {
	case $1 in
	dirty_log_page_splitting_test) echo 40 >/proc/sys/vm/nr_hugepages ;;
	nx_huge_pages_test)
		echo 3 >/proc/sys/vm/nr_hugepages
		(
			cd /sys/module/kvm/parameters || exit
			echo 1 >nx_huge_pages
			echo 1 >nx_huge_pages_recovery_ratio
			echo 100 >nx_huge_pages_recovery_period_ms
		)
		;;
	smaller_maxphyaddr_emulation_test) unload_kvm && insmod_kvm allow_smaller_maxphyaddr=1 ;;
	*) false ;;
	esac
}

# unprepare: the host as it was.
unprepare() {
	echo 0 >/proc/sys/vm/nr_hugepages
	unload_kvm && insmod_kvm || not_ok "KVM is loaded again"
}

# limit NAME: in emulated seconds.
limit() {
	case $1 in
	# These count or wait by processor time, of which an emulated second has little,
	# or write a GiB again and again, or move to the other CPU 100,000 times.
	dirty_log_test | hardware_disable_test | hyperv_* | memslot_perf_test | pmu_counters_test | \
		rseq_test) echo 1500 ;;
	*) echo 60 ;;
	esac
}

# known NAME: why a test fails; nothing if it should pass.
known() {
	case $1 in
	monitor_mwait_test)
		echo "expects that a quirk comes back; since 6.12's stable updates a disabled one stays so"
		;;
	pmu_counters_test)
		dmesg | grep -q '\.\.\. version: *5' ||
			echo "expects that every CPU counts slots; in later kernels it asks the host"
		;;
	esac
}

# elsewhere NAME: why a test is left to one machine; fails if it runs on all.
elsewhere() {
	case $1 in
	hardware_disable_test | memslot_perf_test)
		[ "${LAB_MACHINE%-*}" != skylake ] && [ -z "${TESTS-}" ] &&
			echo "takes long, alike on all machines; it is run on skylake"
		;;
	*) false ;;
	esac
}

load_kvm
# Longer than a test may be silent on this machine.
(while sleep 10; do echo "# ..."; done) &
heart=$!
for program in ${TESTS-$(cd /kvm-selftests && echo *)}; do
	if reason=$(elsewhere "$program"); then
		skip "$program" "$reason"
		continue
	fi
	reason=$(known "$program")
	note "step: $program"
	prepared=
	prepare "$program" && prepared=yes
	# shellcheck disable=SC2046
	timeout -s KILL "$(limit "$program")" "/kvm-selftests/$program" \
		$(arguments "$program") >/tmp/out 2>&1 </dev/null
	status=$?
	[ -z "$prepared" ] || unprepare
	tail -n 25 /tmp/out | cut -c 1-300 | sed 's/^/#   /'
	tests=$((tests + 1))
	case $status in
	0)
		if [ -z "$reason" ]; then
			echo "ok $tests $program"
		else
			note "passes, though it is listed as failing: $reason"
			echo "not ok $tests $program"
		fi
		;;
	4)
		why=$(sed -n -e 's/^.*# SKIP[ :-]*//p' -e 's/^.*skipping test: *//p' /tmp/out | head -n 1)
		echo "ok $tests $program # SKIP ${why:-$(tail -n 1 /tmp/out)}"
		;;
	*)
		[ $status = 137 ] && note "killed: over its time"
		note "ended with status $status"
		echo "not ok $tests $program${reason:+ # XFAIL $reason}"
		;;
	esac
done
kill $heart
check "kvm_intel unloads" unload_kvm
