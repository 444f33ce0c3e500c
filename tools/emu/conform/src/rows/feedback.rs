// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Power and Thermal Management": "P-State Hardware Coordination".

use crate::branches;
use crate::cpu::{cpuid, rdmsr, wrmsr};
use crate::facts::Facts;
use crate::msr::{self, IA32_APERF, IA32_MPERF};
use crate::report::{fail, row, same, Report, Verdict};

/// More cycles than a few instructions take.
const MANY: u64 = 10_000;

/// The register counted a few cycles since it was `start`.
fn few_since(name: &str, index: u32, start: u64) -> Verdict {
    let found = rdmsr(index);
    if !(1..MANY).contains(&found.wrapping_sub(start)) {
        fail!("{name} is {found:#x} soon after {start:#x}");
    }
    Ok(())
}

pub fn rows(report: &mut Report, _facts: &Facts) {
    row!(
        report,
        ("CPUID.06H:ECX[0]: IA32_MPERF and IA32_APERF exist"),
        || { same("bit 0", u64::from(cpuid(6, 0).ecx & 1), 1) }
    );
    for ((name, index), (other_name, other)) in [
        (("IA32_MPERF", IA32_MPERF), ("IA32_APERF", IA32_APERF)),
        (("IA32_APERF", IA32_APERF), ("IA32_MPERF", IA32_MPERF)),
    ] {
        row!(report, ("{name} counts on from what is written"), || {
            [0, 1 << 40, 1 << 63].into_iter().try_for_each(|start| {
                wrmsr(index, start);
                few_since(name, index, start)
            })
        });
        row!(
            report,
            ("a write of {name} leaves {other_name} alone"),
            || {
                wrmsr(other, 1 << 40);
                wrmsr(index, 1 << 50);
                few_since(other_name, other, 1 << 40)
            }
        );
        row!(report, ("an overflow of {name} starts both from 0"), || {
            wrmsr(other, 1 << 40);
            wrmsr(index, u64::MAX);
            few_since(name, index, 0)?;
            few_since(other_name, other, 0)
        });
        row!(
            report,
            ("HLT: {name} stands still, the TSC does not"),
            || {
                let now = || (rdmsr(index), rdmsr(msr::IA32_TIME_STAMP_COUNTER));
                wrmsr(index, 0);
                let before = now();
                branches::halt.run(msr::IA32_PERF_GLOBAL_CTRL, 0);
                let after = now();
                let (counted, time) = (after.0 - before.0, after.1 - before.1);
                if time < 10 * MANY || counted > MANY {
                    fail!("{counted} cycles counted in {time} cycles of the TSC");
                }
                Ok(())
            }
        );
    }
}
