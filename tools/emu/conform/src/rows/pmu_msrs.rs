// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "Performance Monitoring": "Architectural Performance Monitoring":
//! the registers.

use super::{absent, keeps, refuses};
use crate::cpu::{cpuid, rdmsr, try_wrmsr, wrmsr};
use crate::facts::Facts;
use crate::msr;
use crate::pmu::{self, Counter, BRANCHES, CTR_FRZ, EN, LBR_FRZ, OS, OVF_DS, OVF_UNCORE};
use crate::report::{fail, row, same, Report, Verdict};

fn takes(index: u32, value: u64) -> Verdict {
    if let Err(trap) = try_wrmsr(index, value) {
        fail!("WRMSR {index:#x}, {value:#x} ends with {trap}");
    }
    Ok(())
}

pub fn rows(report: &mut Report, facts: &Facts) {
    pmu::reset(facts);
    let (general, fixed, bits) = (facts.general, facts.fixed, facts.bits);
    let mask = facts.counter_mask();
    let select = msr::IA32_PERFEVTSEL0;
    row!(
        report,
        ("IA32_PERFEVTSELx: {general} registers that keep what is written"),
        || {
            (0..general).try_for_each(|n| keeps(select + n, BRANCHES | OS | u64::from(n) << 24))?;
            (0..general).try_for_each(|n| {
                same(
                    "register",
                    rdmsr(select + n),
                    BRANCHES | OS | u64::from(n) << 24,
                )
            })
        }
    );
    pmu::reset(facts);
    for (name, low, width) in [
        ("event select", 0, 8),
        ("UMASK", 8, 8),
        ("USR", 16, 1),
        ("OS", 17, 1),
        ("E", 18, 1),
        ("INT", 20, 1),
        ("EN", 22, 1),
        ("INV", 23, 1),
        ("CMASK", 24, 8),
    ] {
        row!(
            report,
            ("IA32_PERFEVTSELx.{name} can be set and cleared"),
            || {
                keeps(select, ((1 << width) - 1) << low)?;
                keeps(select, 0)
            }
        );
    }
    for bit in [34, 40, 63] {
        row!(
            report,
            ("IA32_PERFEVTSELx: #GP on reserved bit {bit}"),
            || { refuses(select, 1 << bit) }
        );
    }
    for (name, bit) in [("IN_TX", 32), ("IN_TXCP", 33)] {
        row!(report, ("IA32_PERFEVTSELx.{name}: #GP without RTM"), || {
            refuses(select, 1 << bit)
        });
    }
    for (name, first, count) in [
        ("IA32_PERFEVTSELx", select, general),
        ("IA32_PMCx", msr::IA32_PMC0, general),
        ("IA32_A_PMCx", msr::IA32_A_PMC0, general),
    ] {
        if count < 8 {
            row!(
                report,
                ("{name}: #GP beyond the {count} counters of CPUID.0AH"),
                || { (first + count..first + 8).try_for_each(absent) }
            );
        }
    }
    row!(
        report,
        ("IA32_FIXED_CTRx: #GP beyond the {fixed} counters of CPUID.0AH"),
        || { (msr::IA32_FIXED_CTR0 + fixed..msr::IA32_FIXED_CTR0 + 8).try_for_each(absent) }
    );

    row!(
        report,
        ("IA32_A_PMCx: {general} registers that keep {bits} bits"),
        || {
            (0..general).try_for_each(|n| keeps(msr::IA32_A_PMC0 + n, mask - u64::from(n)))?;
            (0..general)
                .try_for_each(|n| same("counter", Counter::General(n).read(), mask - u64::from(n)))
        }
    );
    row!(
        report,
        ("IA32_FIXED_CTRx: {fixed} registers that keep {bits} bits"),
        || {
            (0..fixed).try_for_each(|n| keeps(msr::IA32_FIXED_CTR0 + n, mask - u64::from(n)))?;
            (0..fixed)
                .try_for_each(|n| same("counter", Counter::Fixed(n).read(), mask - u64::from(n)))
        }
    );
    for bit in [bits, 63] {
        row!(
            report,
            ("IA32_A_PMCx: #GP on bit {bit}, beyond the counter's width"),
            || { refuses(msr::IA32_A_PMC0, 1 << bit) }
        );
        row!(
            report,
            ("IA32_FIXED_CTRx: #GP on bit {bit}, beyond the counter's width"),
            || { refuses(msr::IA32_FIXED_CTR0, 1 << bit) }
        );
    }
    for (value, expected) in [
        (0x7fff_ffff, 0x7fff_ffff),
        (0x8000_0000, mask & !0x7fff_ffff),
        (0x1234_8765_4321, mask & 0xffff_ffff_8765_4321),
    ] {
        row!(
            report,
            ("IA32_PMCx: WRMSR of {value:#x} sign-extends bits 31:0"),
            || {
                takes(msr::IA32_PMC0, value)?;
                same("IA32_PMC0", rdmsr(msr::IA32_PMC0), expected)
            }
        );
    }
    row!(
        report,
        ("IA32_PMCx and IA32_A_PMCx are the same counter"),
        || {
            takes(msr::IA32_A_PMC0 + 1, mask - 5)?;
            same("IA32_PMC1", rdmsr(msr::IA32_PMC0 + 1), mask - 5)
        }
    );

    let control = msr::IA32_FIXED_CTR_CTRL;
    for n in 0..fixed {
        for (name, field) in [("EN", 1), ("EN", 2), ("EN", 3), ("PMI", 8)] {
            row!(
                report,
                ("IA32_FIXED_CTR_CTRL.{name} of counter {n} takes {field:#x}"),
                || { keeps(control, field << (4 * n)) }
            );
        }
    }
    for bit in [4 * fixed, 31, 32, 63] {
        row!(
            report,
            ("IA32_FIXED_CTR_CTRL: #GP on reserved bit {bit}"),
            || { refuses(control, 1 << bit) }
        );
    }
    pmu::reset(facts);

    let global = msr::IA32_PERF_GLOBAL_CTRL;
    row!(
        report,
        ("IA32_PERF_GLOBAL_CTRL has a bit for each counter"),
        || {
            keeps(global, facts.global())?;
            keeps(global, 0)
        }
    );
    for bit in [general, 31, 32 + fixed, 55, 58, 63] {
        row!(
            report,
            ("IA32_PERF_GLOBAL_CTRL: #GP on reserved bit {bit}"),
            || { refuses(global, 1 << bit) }
        );
    }
    row!(
        report,
        ("IA32_PERF_GLOBAL_STATUS is read-only: #GP on WRMSR"),
        || { refuses(msr::IA32_PERF_GLOBAL_STATUS, 0) }
    );
    let reset = msr::IA32_PERF_GLOBAL_STATUS_RESET;
    let settable = facts.global()
        | if facts.version >= 4 {
            LBR_FRZ | CTR_FRZ
        } else {
            0
        };
    row!(
        report,
        ("IA32_PERF_GLOBAL_STATUS_RESET takes each counter's bit"),
        || { takes(reset, settable) }
    );
    row!(
        report,
        ("IA32_PERF_GLOBAL_STATUS_RESET.COND_CHGD is accepted"),
        || { takes(reset, 1 << 63) }
    );
    for (bit, name) in [(OVF_UNCORE, "OVF_UNCORE"), (OVF_DS, "OVF_DS")] {
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_RESET.{name} is accepted"),
            || takes(reset, bit)
        );
    }
    // LBR_FRZ and CTR_FRZ are of version 4, Trace ToPA and ASCI of Processor Trace and SGX.
    let freezing = [58, 59].into_iter().filter(|_| facts.version < 4);
    for bit in [general, 31, 32 + fixed, 47, 55, 57, 60]
        .into_iter()
        .chain(freezing)
    {
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_RESET: #GP on reserved bit {bit}"),
            || { refuses(reset, 1 << bit) }
        );
    }
    let set = msr::IA32_PERF_GLOBAL_STATUS_SET;
    if facts.version < 4 {
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_SET, _INUSE: #GP before version 4"),
            || {
                absent(set)?;
                absent(msr::IA32_PERF_GLOBAL_INUSE)
            }
        );
    } else {
        version_4(report, facts, settable);
    }
    filters(report, facts);
    any_thread(report, facts);
    for (index, name) in [
        (
            0x329,
            "MSR_PERF_METRICS: #GP without PERF_METRICS_AVAILABLE",
        ),
        (0x3f1, "IA32_PEBS_ENABLE: #GP without PEBS"),
        (0x3f2, "MSR_PEBS_DATA_CFG: #GP without PEBS"),
        (0x600, "IA32_DS_AREA: #GP without the debug store"),
        (0x560, "IA32_RTIT_OUTPUT_BASE: #GP without Processor Trace"),
        (0x570, "IA32_RTIT_CTL: #GP without Processor Trace"),
        (0x572, "IA32_RTIT_CR3_MATCH: #GP without Processor Trace"),
        (0x580, "IA32_RTIT_ADDR0_A: #GP without Processor Trace"),
        (0x587, "IA32_RTIT_ADDR3_B: #GP without Processor Trace"),
    ] {
        row!(report, ("{name}"), || absent(index));
    }
}

/// AnyThread, which CPUID.0AH:EDX[15] takes back from version 5 on.
fn any_thread(report: &mut Report, facts: &Facts) {
    let deprecated = facts.version >= 5;
    let edx = cpuid(0xa, 0).edx;
    row!(
        report,
        ("CPUID.0AH:EDX[15] AnyThread deprecation from version 5 on"),
        || same("bit 15", u64::from(edx >> 15 & 1), u64::from(deprecated))
    );
    let what = if deprecated {
        "#GP"
    } else {
        "can be set and cleared"
    };
    for (name, index, bit) in [
        ("IA32_PERFEVTSELx", msr::IA32_PERFEVTSEL0, 21),
        (
            "IA32_FIXED_CTR_CTRL, counter 0",
            msr::IA32_FIXED_CTR_CTRL,
            2,
        ),
        (
            "IA32_FIXED_CTR_CTRL, counter 2",
            msr::IA32_FIXED_CTR_CTRL,
            10,
        ),
    ] {
        row!(report, ("{name}: AnyThread {what}"), || {
            if deprecated {
                return refuses(index, 1 << bit);
            }
            keeps(index, 1 << bit)?;
            keeps(index, 0)
        });
    }
}

/// What narrows an event that IA32_PERFEVTSELx selects, with its bits.
fn filters(report: &mut Report, facts: &Facts) {
    // Unknown branches, from Golden Cove on.
    let unknown = u64::from(facts.is_architectural()) << 3;
    for (index, name, valid, reserved, since) in [
        (0x1a6, "MSR_OFFCORE_RSP_0", (1 << 38) - 1, [38, 63], 3),
        (0x1a7, "MSR_OFFCORE_RSP_1", (1 << 38) - 1, [38, 63], 3),
        (0x3f6, "MSR_PEBS_LD_LAT", 0xffff, [16, 63], 3),
        (
            0x3f7,
            "MSR_PEBS_FRONTEND",
            0x7f_ff17 | unknown,
            [5, 23],
            4_u32,
        ),
    ] {
        if facts.version < since {
            row!(report, ("{name}: #GP before version {since}"), || absent(
                index
            ));
            continue;
        }
        row!(report, ("{name} keeps what is written, apart"), || {
            keeps(index, valid)?;
            for other in [0x1a6, 0x1a7, 0x3f6] {
                if other != index {
                    keeps(other, 0)?;
                }
            }
            same(name, rdmsr(index), valid)?;
            keeps(index, 0)
        });
        for bit in reserved {
            row!(report, ("{name}: #GP on reserved bit {bit}"), || {
                refuses(index, 1 << bit)
            });
        }
    }
}

fn version_4(report: &mut Report, facts: &Facts, settable: u64) {
    let set = msr::IA32_PERF_GLOBAL_STATUS_SET;
    let reset = msr::IA32_PERF_GLOBAL_STATUS_RESET;
    let status = || rdmsr(msr::IA32_PERF_GLOBAL_STATUS);
    let bits = [
        ("OVF_PMC0", 1),
        ("OVF_FIXEDCTR0", 1 << 32),
        ("LBR_FRZ", LBR_FRZ),
        ("CTR_FRZ", CTR_FRZ),
        ("OVF_UNCORE", OVF_UNCORE),
        ("OVF_DS", OVF_DS),
    ];
    let settable = settable | OVF_UNCORE | OVF_DS;
    for (name, bit) in bits {
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_SET.{name} sets that bit"),
            || {
                pmu::reset(facts);
                takes(set, bit)?;
                same("IA32_PERF_GLOBAL_STATUS", status(), bit)
            }
        );
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_RESET.{name} clears that bit and no other"),
            || {
                takes(set, settable)?;
                takes(reset, bit)?;
                same("IA32_PERF_GLOBAL_STATUS", status(), settable & !bit)
            }
        );
    }
    pmu::reset(facts);
    for bit in [facts.general, 31, 32 + facts.fixed, 47, 55, 57, 60, 63] {
        row!(
            report,
            ("IA32_PERF_GLOBAL_STATUS_SET: #GP on reserved bit {bit}"),
            || { refuses(set, 1 << bit) }
        );
    }
    let in_use = msr::IA32_PERF_GLOBAL_INUSE;
    row!(
        report,
        ("IA32_PERF_GLOBAL_INUSE is read-only: #GP on WRMSR"),
        || refuses(in_use, 0)
    );
    row!(
        report,
        ("IA32_PERF_GLOBAL_INUSE is 0 while nothing is selected"),
        || {
            pmu::reset(facts);
            same("IA32_PERF_GLOBAL_INUSE", rdmsr(in_use), 0)
        }
    );
    for n in 0..facts.general {
        row!(
            report,
            ("IA32_PERF_GLOBAL_INUSE.PERFEVTSEL{n} while its event select is not 0"),
            || {
                wrmsr(msr::IA32_PERFEVTSEL0 + n, 1);
                let used = rdmsr(in_use);
                wrmsr(msr::IA32_PERFEVTSEL0 + n, EN);
                let unused = rdmsr(in_use);
                pmu::reset(facts);
                same("with an event", used, 1 << n)?;
                same("without", unused, 0)
            }
        );
    }
    for n in 0..facts.fixed {
        row!(
            report,
            ("IA32_PERF_GLOBAL_INUSE.FIXED_CTR{n} while its enable field is not 0"),
            || {
                wrmsr(msr::IA32_FIXED_CTR_CTRL, 2 << (4 * n));
                let used = rdmsr(in_use);
                pmu::reset(facts);
                same("IA32_PERF_GLOBAL_INUSE", used, 1 << (32 + n))
            }
        );
    }
    for (index, value, what) in [
        (msr::IA32_PERFEVTSEL0, pmu::INT, "IA32_PERFEVTSELx.INT"),
        (msr::IA32_FIXED_CTR_CTRL, 8, "IA32_FIXED_CTR_CTRL.PMI"),
    ] {
        row!(
            report,
            ("IA32_PERF_GLOBAL_INUSE.PMI while {what} is set"),
            || {
                wrmsr(index, value);
                let used = rdmsr(in_use);
                pmu::reset(facts);
                same("bit 63", used >> 63, 1)
            }
        );
    }
}
