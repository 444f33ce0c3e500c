// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 2, "CPUID", and what IA32_PERF_CAPABILITIES and IA32_MISC_ENABLE say.

use super::{absent, keeps, refuses};
use crate::cpu::{cpuid, rdmsr, wrmsr, CpuidResult};
use crate::facts::Facts;
use crate::msr;
use crate::report::{row, same, Report, Verdict};

fn field(what: &str, register: u32, low: u32, bits: u32, expected: u32) -> Verdict {
    let value = register >> low & ((1 << bits) - 1);
    same(what, u64::from(value), u64::from(expected))
}

pub fn rows(report: &mut Report, facts: &Facts) {
    let one = cpuid(1, 0);
    row!(
        report,
        ("CPUID.01H:ECX[15] PDCM: IA32_PERF_CAPABILITIES exists"),
        || { field("PDCM", one.ecx, 15, 1, 1) }
    );
    row!(
        report,
        ("CPUID.01H:EDX[21] DS is 0 without a debug store"),
        || { field("DS", one.edx, 21, 1, 0) }
    );
    row!(
        report,
        ("CPUID.01H:ECX[2] DTES64 is 0 without a debug store"),
        || { field("DTES64", one.ecx, 2, 1, 0) }
    );
    row!(
        report,
        ("CPUID.01H:ECX[4] DS-CPL is 0 without a debug store"),
        || { field("DS-CPL", one.ecx, 4, 1, 0) }
    );
    thermal(report, one);
    row!(
        report,
        ("CPUID.80000008H:EAX[15:8] is the number of bits of a linear address"),
        || { field("EAX", cpuid(0x8000_0008, 0).eax, 8, 8, facts.linear) }
    );
    row!(report, ("CPUID.0AH is a basic leaf"), || {
        same(
            "maximum basic leaf >= 0AH",
            u64::from(cpuid(0, 0).eax >= 0xa),
            1,
        )
    });
    let perf = cpuid(0xa, 0);
    #[rustfmt::skip]
    let fields = [
        ("EAX[7:0] version", perf.eax, 0, 8, facts.version),
        ("EAX[15:8] number of general counters", perf.eax, 8, 8, facts.general),
        ("EAX[23:16] width of general counters", perf.eax, 16, 8, facts.bits),
        ("EDX[4:0] number of fixed counters", perf.edx, 0, 5, facts.fixed),
        ("EDX[12:5] width of fixed counters", perf.edx, 5, 8, facts.bits),
        ("EBX[0] core cycles available", perf.ebx, 0, 1, 0),
        ("EBX[1] instructions retired available", perf.ebx, 1, 1, 0),
        ("EBX[2] reference cycles available", perf.ebx, 2, 1, 0),
        ("EBX[3] LLC references available", perf.ebx, 3, 1, 0),
        ("EBX[4] LLC misses available", perf.ebx, 4, 1, 0),
        ("EBX[5] branch instructions available", perf.ebx, 5, 1, 0),
        ("EBX[6] mispredicted branches available", perf.ebx, 6, 1, 0),
        ("EBX[7] topdown slots available", perf.ebx, 7, 1, 0),
        ("EDX[14:13] reserved", perf.edx, 13, 2, 0),
    ];
    for (what, register, low, bits, expected) in fields {
        row!(report, ("CPUID.0AH:{what}"), || field(
            what, register, low, bits, expected
        ));
    }
    let events = if facts.version < 5 { 7 } else { 8 };
    row!(
        report,
        ("CPUID.0AH:EAX[31:24] has the events up to mispredicted branches, from version 5 slots"),
        || { same("events", u64::from(perf.eax >> 24), events) }
    );
    if facts.version < 5 {
        row!(
            report,
            ("CPUID.0AH:ECX is reserved before version 5"),
            || { same("ECX", u64::from(perf.ecx), 0) }
        );
    } else {
        row!(
            report,
            ("CPUID.0AH:ECX is the bit map of fixed counters"),
            || { same("ECX", u64::from(perf.ecx), (1 << facts.fixed) - 1) }
        );
    }
    let highest = cpuid(0, 0).eax;
    let clock = cpuid(0x15, 0);
    if highest >= 0x15 && facts.version < 5 {
        row!(
            report,
            ("CPUID.15H:EBX is 0: no ratio of TSC and crystal clock is enumerated"),
            || same("EBX", u64::from(clock.ebx), 0)
        );
    } else if highest >= 0x15 {
        row!(
            report,
            ("CPUID.15H: the crystal clock times EBX / EAX is the TSC's frequency"),
            || {
                let frequency = |eax| u64::from(clock.ecx) * u64::from(clock.ebx) / u64::from(eax);
                let found =
                    core::num::NonZeroU32::new(clock.eax).map_or(0, |eax| frequency(eax.get()));
                same("frequency", found, u64::from(facts.mhz) * 1_000_000)
            }
        );
    }
    if highest >= 0x16 {
        row!(
            report,
            ("CPUID.16H:EAX[15:0] is the base frequency in MHz"),
            || { field("EAX", cpuid(0x16, 0).eax, 0, 16, facts.mhz) }
        );
    }
    let last = cpuid(highest, 0);
    for (what, leaf) in [
        ("behind the highest basic one", highest + 1),
        ("1FFFFFFFH", 0x1fff_ffff),
        ("40000000H", 0x4000_0000),
        (
            "behind the highest extended one",
            cpuid(0x8000_0000, 0).eax + 1,
        ),
    ] {
        row!(
            report,
            ("CPUID of the leaf {what} is that of the highest basic one"),
            || {
                let found = cpuid(leaf, 0);
                same("EAX", found.eax.into(), last.eax.into())?;
                same("EBX", found.ebx.into(), last.ebx.into())?;
                same("ECX", found.ecx.into(), last.ecx.into())?;
                same("EDX", found.edx.into(), last.edx.into())
            }
        );
    }

    let capabilities = rdmsr(msr::IA32_PERF_CAPABILITIES);
    row!(
        report,
        ("IA32_PERF_CAPABILITIES.LBR_FMT is the format of the records"),
        || { same("LBR_FMT", capabilities & 0x3f, u64::from(facts.format)) }
    );
    row!(
        report,
        ("IA32_PERF_CAPABILITIES: no PEBS (PEBS_TRAP, PEBS_ARCH_REG, PEBS_REC_FMT)"),
        || { same("bits 11:6", capabilities >> 6 & 0x3f, 0) }
    );
    row!(
        report,
        ("IA32_PERF_CAPABILITIES.FREEZE_WHILE_SMM is supported"),
        || { same("bit 12", capabilities >> 12 & 1, 1) }
    );
    row!(
        report,
        ("IA32_PERF_CAPABILITIES.FW_WRITE: full-width writes are supported"),
        || { same("bit 13", capabilities >> 13 & 1, 1) }
    );
    row!(
        report,
        ("IA32_PERF_CAPABILITIES is read-only: #GP on WRMSR"),
        || { refuses(msr::IA32_PERF_CAPABILITIES, capabilities) }
    );

    let enable = rdmsr(msr::IA32_MISC_ENABLE);
    for (bit, what, expected) in [
        (7, "Performance Monitoring Available", 1),
        (11, "Branch Trace Storage Unavailable", 1),
        (12, "PEBS Unavailable", 1),
    ] {
        row!(report, ("IA32_MISC_ENABLE[{bit}] {what}"), || {
            same(what, enable >> bit & 1, expected)
        });
        row!(
            report,
            ("IA32_MISC_ENABLE[{bit}] {what} is read-only"),
            || {
                wrmsr(msr::IA32_MISC_ENABLE, enable ^ 1 << bit);
                let found = rdmsr(msr::IA32_MISC_ENABLE);
                wrmsr(msr::IA32_MISC_ENABLE, enable);
                same(what, found >> bit & 1, expected)
            }
        );
    }
    for (bit, what) in [
        (0, "Fast-Strings Enable"),
        (3, "Automatic Thermal Control Circuit Enable"),
        (18, "ENABLE MONITOR FSM"),
        (22, "Limit CPUID Maxval"),
        (23, "xTPR Message Disable"),
        (34, "XD Bit Disable"),
    ] {
        row!(
            report,
            ("IA32_MISC_ENABLE[{bit}] {what} can be set and cleared"),
            || {
                let kept = [enable | 1 << bit, enable & !(1 << bit)]
                    .into_iter()
                    .try_for_each(|value| keeps(msr::IA32_MISC_ENABLE, value));
                wrmsr(msr::IA32_MISC_ENABLE, enable);
                kept
            }
        );
    }
    row!(
        report,
        ("IA32_MISC_ENABLE[16]: #GP on SpeedStep without CPUID.01H:ECX[7]"),
        || { refuses(msr::IA32_MISC_ENABLE, enable | 1 << 16) }
    );
    platform(report, facts);
    absent_everywhere(report);
    row!(
        report,
        ("IA32_BIOS_SIGN_ID has the microcode revision after CPUID.01H"),
        || {
            wrmsr(msr::IA32_BIOS_SIGN_ID, 0);
            cpuid(1, 0);
            same(
                "revision",
                rdmsr(msr::IA32_BIOS_SIGN_ID) >> 32,
                u64::from(facts.microcode),
            )
        }
    );
}

/// CPUID says of nothing that measures temperature or saves power.
fn thermal(report: &mut Report, one: CpuidResult) {
    let six = cpuid(6, 0);
    #[rustfmt::skip]
    let fields = [
        ("01H:ECX[7] Enhanced Intel SpeedStep", one.ecx, 7, 1),
        ("01H:ECX[8] TM2", one.ecx, 8, 1),
        ("01H:EDX[22] ACPI", one.edx, 22, 1),
        ("01H:EDX[29] TM", one.edx, 29, 1),
        ("06H:EAX[1:0] temperature sensor, Turbo Boost", six.eax, 0, 2),
        ("06H:EAX[6:4] power limits, clock modulation, package", six.eax, 4, 3),
        ("06H:EAX[11:7] HWP", six.eax, 7, 5),
        ("06H:EAX[30:13] HDC, Turbo Boost Max, HWP, feedback", six.eax, 13, 18),
        ("06H:EBX[3:0] interrupt thresholds", six.ebx, 0, 4),
        ("06H:ECX[3] energy performance bias", six.ecx, 3, 1),
        ("06H:EDX[15:0] feedback", six.edx, 0, 16),
    ];
    for (what, register, low, bits) in fields {
        row!(
            report,
            ("CPUID.{what} is 0: nothing measures or saves power"),
            || field(what, register, low, bits, 0)
        );
    }
    for (name, index) in [
        ("IA32_PERF_STATUS", 0x198),
        ("IA32_PERF_CTL", 0x199),
        ("IA32_CLOCK_MODULATION", 0x19a),
        ("IA32_THERM_INTERRUPT", 0x19b),
        ("IA32_THERM_STATUS", 0x19c),
        ("IA32_ENERGY_PERF_BIAS", 0x1b0),
        ("IA32_PACKAGE_THERM_STATUS", 0x1b1),
        ("IA32_PACKAGE_THERM_INTERRUPT", 0x1b2),
        ("IA32_PM_ENABLE", 0x770),
        ("IA32_HWP_CAPABILITIES", 0x771),
    ] {
        row!(report, ("{name}: #GP, as CPUID says"), || absent(index));
    }
}

/// Registers that software takes for granted by the model.
fn platform(report: &mut Report, facts: &Facts) {
    row!(
        report,
        ("CPUID.01H:EDX[14] MCA: IA32_MCG_CAP is read-only, and has no bank"),
        || {
            field("MCA", cpuid(1, 0).edx, 14, 1, 1)?;
            same("Count", rdmsr(msr::IA32_MCG_CAP) & 0xff, 0)?;
            refuses(msr::IA32_MCG_CAP, 0)?;
            absent(0x400)
        }
    );
    row!(
        report,
        ("IA32_MCG_STATUS: RIPV, EIPV and MCIP can be set and cleared"),
        || {
            keeps(msr::IA32_MCG_STATUS, 7)?;
            keeps(msr::IA32_MCG_STATUS, 0)
        }
    );
    row!(report, ("MSR_POWER_CTL.C1E can be set and cleared"), || {
        keeps(msr::MSR_POWER_CTL, 2)?;
        keeps(msr::MSR_POWER_CTL, 0)
    });
    row!(
        report,
        ("MSR_MISC_PWR_MGMT: bits 0 and 1 can be set and cleared"),
        || {
            keeps(msr::MSR_MISC_PWR_MGMT, 3)?;
            keeps(msr::MSR_MISC_PWR_MGMT, 0)
        }
    );
    for bit in [2, 63] {
        row!(
            report,
            ("MSR_MISC_PWR_MGMT: #GP on reserved bit {bit}"),
            || refuses(msr::MSR_MISC_PWR_MGMT, 1 << bit)
        );
    }
    for bit in [3, 63] {
        row!(
            report,
            ("IA32_MCG_STATUS: #GP on reserved bit {bit}"),
            || refuses(msr::IA32_MCG_STATUS, 1 << bit)
        );
    }
    row!(
        report,
        ("MSR_PLATFORM_INFO[15:8] is the frequency by 100 MHz; #GP on WRMSR"),
        || {
            let info = rdmsr(msr::MSR_PLATFORM_INFO);
            same("bits 15:8", info >> 8 & 0xff, u64::from(facts.mhz / 100))?;
            refuses(msr::MSR_PLATFORM_INFO, info)
        }
    );
    row!(
        report,
        ("MSR_PKG_CST_CONFIG_CONTROL is locked (bit 15): #GP on WRMSR"),
        || {
            let locked = rdmsr(msr::MSR_PKG_CST_CONFIG_CONTROL);
            same("bit 15", locked >> 15 & 1, 1)?;
            refuses(msr::MSR_PKG_CST_CONFIG_CONTROL, locked)
        }
    );
    row!(
        report,
        ("IA32_CORE_CAPABILITIES: #GP without CPUID.07H:EDX[30]"),
        || {
            field("EDX[30]", cpuid(7, 0).edx, 30, 1, 0)?;
            absent(0xcf)
        }
    );
    row!(
        report,
        ("IA32_PLATFORM_ID is read-only: #GP on WRMSR"),
        || refuses(msr::IA32_PLATFORM_ID, rdmsr(msr::IA32_PLATFORM_ID))
    );
}

/// Registers that no machine has.
fn absent_everywhere(report: &mut Report) {
    for (index, what) in [
        (0x1900, "a counter of perfmon version 6"),
        (0xc001_0000, "an event select of AMD's"),
        (0xc001_010e, "the LBR_SELECT of AMD's"),
        (0x4000_0000, "a hypervisor's"),
        (u32::MAX, "nobody's"),
    ] {
        row!(report, ("MSR {index:#x}, {what}: #GP"), || absent(index));
    }
}
