// SPDX-License-Identifier: GPL-2.0-only
//! CPUID (SDM vol. 2, "CPUID"), as a list of what each leaf must have.

use crate::reference::Facts;

/// What the CPU answers, of which the emulator alone would answer `own`.
pub(crate) fn expected(facts: &Facts, leaf: u32, subleaf: u32, own: [u32; 4]) -> [u32; 4] {
    let [eax, ebx, ecx, edx] = own;
    let bit = |set: bool, bit: u32| u32::from(set) << bit;
    let new = facts.version == 5;
    match leaf {
        // PDCM, but no DTES64, DS-CPL, EIST, TM2, DS, ACPI and TM.
        1 => [
            eax,
            ebx,
            ecx & !(bit(true, 2) | bit(true, 4) | bit(true, 7) | bit(true, 8)) | bit(true, 15),
            edx & !(bit(true, 21) | bit(true, 22) | bit(true, 29)),
        ],
        // ARAT, IA32_MPERF and IA32_APERF, and nothing that measures or saves power.
        6 => [eax & 4, 0, ecx & 1, 0],
        7 if subleaf == 0 => {
            let arch_lbr = bit(facts.architectural, 19);
            // No IA32_CORE_CAPABILITIES.
            [
                eax,
                ebx,
                ecx,
                edx & !(bit(true, 19) | bit(true, 30)) | arch_lbr,
            ]
        }
        // Version, counters, width, length of the vector of events; no event is absent;
        // which fixed counters; how many, width, AnyThread deprecated.
        0xa => [
            u32::from_le_bytes([
                facts.version,
                facts.general as u8,
                facts.bits as u8,
                if new { 8 } else { 7 },
            ]),
            0,
            if new {
                (0..facts.fixed).map(|n| bit(true, n as u32)).sum()
            } else {
                0
            },
            facts.fixed as u32 + (facts.bits << 5) + bit(new, 15),
        ],
        // The crystal's frequency, which is the TSC's.
        0x15 if new => [1, 1, facts.hertz, 0],
        0x15 => [0; 4],
        // Base, maximum, bus.
        0x16 => {
            let mhz = facts.hertz / 1_000_000;
            [mhz, mhz, if mhz > 100 { 100 } else { mhz }, 0]
        }
        // Depths by eights, linear addresses; filters by level and type, call stack;
        // mispredictions, timed, types.
        0x1c if facts.architectural => {
            let depths: u32 = facts
                .depths
                .iter()
                .map(|&n| bit(true, n as u32 / 8 - 1))
                .sum();
            [depths + bit(true, 31), 7, 7, 0]
        }
        0x1c => [0; 4],
        _ => own,
    }
}
