// SPDX-License-Identifier: GPL-2.0-only
//! The CPUID leaves that follow from the machine description (SDM vol. 2,
//! "CPUID"); the emulator's CPU model answers the others.

use crate::machine::{Lbr, Machine};

/// The registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// EAX
    pub eax: u32,
    /// EBX
    pub ebx: u32,
    /// ECX
    pub ecx: u32,
    /// EDX
    pub edx: u32,
}

/// Leaf 01H: DTES64 and DS_CPL in ECX, DS in EDX.
const DEBUG_STORE_ECX: u32 = 1 << 2 | 1 << 4;
const DEBUG_STORE_EDX: u32 = 1 << 21;
const PDCM: u32 = 1 << 15;
/// Leaf 01H: EIST and TM2 in ECX, ACPI and TM in EDX: SpeedStep and the thermal monitor.
const THERMAL_ECX: u32 = 1 << 7 | 1 << 8;
const THERMAL_EDX: u32 = 1 << 22 | 1 << 29;

/// Leaf 06H: the APIC timer always runs (EAX), IA32_MPERF and IA32_APERF (ECX).
const ARAT: u32 = 1 << 2;
const HARDWARE_FEEDBACK: u32 = 1;

/// Leaf 0AH, EAX[31:24]: architectural events, none of which EBX marks as absent.
const ARCHITECTURAL_EVENTS: u32 = 7;
/// The same where there are slots.
const EVENTS_WITH_SLOTS: u32 = 8;

/// Leaf 0AH, EDX: AnyThread is deprecated.
const ANY_THREAD_DEPRECATED: u32 = 1 << 15;

/// Leaf 07H, EDX: architectural LBR.
const ARCH_LBR: u32 = 1 << 19;
/// Leaf 07H, EDX: IA32_CORE_CAPABILITIES, which would have nothing to say.
const CORE_CAPABILITIES: u32 = 1 << 30;
/// Leaf 1CH, EAX: addresses are linear ones.
const LINEAR: u32 = 1 << 31;

/// Changes what the emulator's CPU model answers for `leaf` and `subleaf`.
pub fn amend(machine: &Machine, leaf: u32, subleaf: u32, registers: &mut Registers) {
    let pmu = &machine.pmu;
    match (leaf, subleaf) {
        (0x01, _) => {
            registers.ecx = (registers.ecx | PDCM) & !(DEBUG_STORE_ECX | THERMAL_ECX);
            registers.edx &= !(DEBUG_STORE_EDX | THERMAL_EDX);
        }
        (0x06, _) => {
            registers.eax &= ARAT;
            registers.ebx = 0;
            registers.ecx &= HARDWARE_FEEDBACK;
            registers.edx = 0;
        }
        (0x07, 0) => {
            registers.edx &= !(ARCH_LBR | CORE_CAPABILITIES);
            if machine.lbr.is_architectural() {
                registers.edx |= ARCH_LBR;
            }
        }
        (0x0a, _) => {
            let v5 = pmu.version >= 5;
            let events = if v5 {
                EVENTS_WITH_SLOTS
            } else {
                ARCHITECTURAL_EVENTS
            };
            *registers = Registers {
                eax: u32::from(pmu.version)
                    | u32::from(pmu.general_counters) << 8
                    | u32::from(pmu.counter_bits) << 16
                    | events << 24,
                ebx: 0,
                ecx: if v5 { (1 << pmu.fixed_counters) - 1 } else { 0 },
                edx: u32::from(pmu.fixed_counters)
                    | u32::from(pmu.counter_bits) << 5
                    | if v5 { ANY_THREAD_DEPRECATED } else { 0 },
            };
        }
        // The crystal clock, by which the APIC timer counts, is that of the core.  Cores
        // before version 5 leave the frequency to leaf 16H.
        (0x15, _) if pmu.version >= 5 => {
            *registers = Registers {
                eax: 1,
                ebx: 1,
                ecx: machine.cpu.ips,
                edx: 0,
            };
        }
        (0x15, _) => *registers = Registers::default(),
        (0x16, _) => {
            let mhz = machine.cpu.ips / 1_000_000;
            *registers = Registers {
                eax: mhz,
                ebx: mhz,
                ecx: mhz.min(100),
                edx: 0,
            };
        }
        (0x1c, _) => *registers = last_branch_records(&machine.lbr),
        _ => {}
    }
}

fn last_branch_records(lbr: &Lbr) -> Registers {
    let Lbr::Architectural { depths } = lbr else {
        return Registers::default();
    };
    Registers {
        // Bit n: depth 8 * (n + 1).
        eax: depths.iter().fold(LINEAR, |bits, depth| {
            bits | 1 << (depth / 8).saturating_sub(1)
        }),
        // Filters by level and by type, call-stack mode.
        ebx: 0b111,
        // Mispredictions, cycles, types in IA32_LBR_x_INFO.
        ecx: 0b111,
        edx: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::{haswell, icelake, sapphire_rapids, skylake};

    #[test]
    fn perf_capabilities_are_there_whatever_the_cpu_model_says() {
        let mut registers = Registers::default();
        amend(&skylake(), 0x01, 0, &mut registers);
        assert_eq!(registers.ecx, 1 << 15);
    }

    #[test]
    fn skylake_leaves() {
        let all = Registers {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        #[rustfmt::skip]
        let rows = [
            (0x00, [u32::MAX; 4]),
            (0x01, [u32::MAX, u32::MAX, 0xffff_fe6b, 0xdf9f_ffff]),
            (0x06, [4, 0, 1, 0]),
            (0x0a, [0x0730_0404, 0, 0, 0x603]),
            (0x07, [u32::MAX, u32::MAX, u32::MAX, 0xbff7_ffff]),
            (0x1c, [0; 4]),
            (0x15, [0; 4]),
            (0x16, [100, 100, 100, 0]),
        ];
        for (leaf, [eax, ebx, ecx, edx]) in rows {
            let mut registers = all;
            amend(&skylake(), leaf, 0, &mut registers);
            assert_eq!(
                registers,
                Registers { eax, ebx, ecx, edx },
                "leaf {leaf:#x}"
            );
        }
    }

    #[test]
    fn leaves_of_the_other_machines() {
        let rows = [
            (haswell(), 0x0a, [0x0730_0803, 0, 0, 0x603]),
            (haswell(), 0x07, [0, 0, 0, 0]),
            (icelake(), 0x0a, [0x0830_0805, 0, 0xf, 0x8604]),
            (haswell(), 0x15, [0; 4]),
            (icelake(), 0x15, [1, 1, 100_000_000, 0]),
            (sapphire_rapids(), 0x15, [1, 1, 100_000_000, 0]),
            (icelake(), 0x1c, [0; 4]),
            (sapphire_rapids(), 0x0a, [0x0830_0805, 0, 0xf, 0x8604]),
            (sapphire_rapids(), 0x07, [0, 0, 0, 1 << 19]),
            (sapphire_rapids(), 0x1c, [0x8000_000b, 7, 7, 0]),
        ];
        for (machine, leaf, [eax, ebx, ecx, edx]) in rows {
            let mut registers = Registers::default();
            amend(&machine, leaf, 0, &mut registers);
            let expected = Registers { eax, ebx, ecx, edx };
            assert_eq!(registers, expected, "{} {leaf:#x}", machine.description);
        }
        let mut other = Registers::default();
        amend(&sapphire_rapids(), 0x07, 1, &mut other);
        assert_eq!(other, Registers::default());
    }
}
