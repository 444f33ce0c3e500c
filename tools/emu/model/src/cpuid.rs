// SPDX-License-Identifier: GPL-2.0-only
//! The CPUID leaves that follow from the machine description (SDM vol. 2,
//! "CPUID"); the emulator's CPU model answers the others.

use crate::machine::Machine;

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

/// Leaf 0AH: architectural events that EBX can mark as absent.
const ARCHITECTURAL_EVENTS: u32 = 7;
const ABSENT_EVENTS: u32 = 1 << 3 | 1 << 4; // last-level cache references, misses

/// Changes what the emulator's CPU model answers for `leaf`.
pub fn amend(machine: &Machine, leaf: u32, registers: &mut Registers) {
    let pmu = &machine.pmu;
    match leaf {
        0x01 => {
            registers.ecx = (registers.ecx | PDCM) & !DEBUG_STORE_ECX;
            registers.edx &= !DEBUG_STORE_EDX;
        }
        0x0a => {
            *registers = Registers {
                eax: u32::from(pmu.version)
                    | u32::from(pmu.general_counters) << 8
                    | u32::from(pmu.counter_bits) << 16
                    | ARCHITECTURAL_EVENTS << 24,
                ebx: ABSENT_EVENTS,
                ecx: 0,
                edx: u32::from(pmu.fixed_counters) | u32::from(pmu.counter_bits) << 5,
            };
        }
        // No ratio of TSC and crystal clock: leaf 16H has the frequency.
        0x15 => *registers = Registers::default(),
        0x16 => {
            let mhz = machine.cpu.ips / 1_000_000;
            *registers = Registers {
                eax: mhz,
                ebx: mhz,
                ecx: mhz.min(100),
                edx: 0,
            };
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::skylake;

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
            (0x01, [u32::MAX, u32::MAX, 0xffff_ffeb, 0xffdf_ffff]),
            (0x0a, [0x0730_0404, 0x18, 0, 0x603]),
            (0x15, [0; 4]),
            (0x16, [100, 100, 100, 0]),
        ];
        for (leaf, [eax, ebx, ecx, edx]) in rows {
            let mut registers = all;
            amend(&skylake(), leaf, &mut registers);
            assert_eq!(
                registers,
                Registers { eax, ebx, ecx, edx },
                "leaf {leaf:#x}"
            );
        }
    }
}
