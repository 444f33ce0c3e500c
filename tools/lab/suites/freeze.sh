# SPDX-License-Identifier: GPL-2.0-only
#: about = "What the PMI of Linux in a guest leaves of the records, by the version of its perfmon"
#: parts = ["module", "perf", "qemu", "selftests"]
#: machines = ["sapphire-rapids"]
#: full_machines = ["skylake"]
#: seconds = 600
#: silence = 300

# Code that runs from the PMI on, till perf has stopped the recording.
handler='asm_exc_nmi|end_repeat_nmi|exc_nmi|nmi_enter|default_do_nmi|nmi_handle|perf_event_nmi_handler'
handler="$handler|intel_pmu_handle_irq|native_apic_msr_write|native_apic_mem_write"

# records FILTER: profiles br_instr and the system calls that it makes in the guest; prints
# the number of samples, of records, and of those of the PMI's handler.
records() {
	guest_sh "perf record -b -e branches:$1 -c 5003 -m 2M -N -B -o /tmp/data \
		-- br_instr 1 30000 4 >/dev/null 2>/tmp/record.err || cat /tmp/record.err
		perf script -i /tmp/data -F brstacksym 2>/dev/null | awk -v handler='^($handler)[+]' '
		{
			samples++
			for (i = 1; i <= NF; i++) {
				split(\$i, ends, \"/\")
				records++
				handled += ends[1] ~ handler
			}
		}
		END { print samples + 0, records + 0, handled + 0 }'"
}

load_kvm lbr=off
load_guest_lbr
for version in 2 4; do
	note "step: version $version"
	LD_PRELOAD=/selftests/pmu_version.so PMU_VERSION=$version \
		check "a guest with version $version starts" guest_start -- -cpu host,migratable=no
	check "its kernel says so" \
		guest_sh "dmesg | grep -q 'version: *$version\$'"
	for filter in k uk; do
		records $filter >/tmp/counts
		cat /tmp/counts
		samples=0 records=0 handled=1
		read -r samples records handled </tmp/counts
		note "version $version, branches:$filter: $samples samples, $records records," \
			"$handled of the PMI's handler"
		check "version $version, branches:$filter: the records are full" \
			[ "$samples" -gt 30 -a "$records" -gt $((samples * 28)) ]
		check "version $version, branches:$filter: none is of the PMI's handler" \
			[ "$handled" = 0 ]
	done
	guest_stop
done
check "guest_lbr is unloaded" rmmod guest_lbr
