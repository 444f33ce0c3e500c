// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The facility of LASTBRANCH and LBR_INFO registers, which DEBUGCTL controls.

use kvm_selftests::msr::{self, Geometry};

use super::{records, Control, Facility, Recorded, Register, Selection, Sort, Takes, EXCEPTIONS};

/// LBR_SELECT.
const CPL_EQ_0: u64 = 1 << 0;
const NEAR_REL_JMP: u64 = 1 << 7;
const EN_CALLSTACK: u64 = 1 << 9;
const SELECT_TAKES: u64 = 0x3ff;
/// LBR_INFO: mispredicted, and a count of cycles.
const INFO_TAKES: u64 = 1 << 63 | 0xffff;
const NOT_CANONICAL: u64 = 0x5a5a << 47;

fn selection(_: u64, select: u64) -> Selection {
    let recorded = if select & CPL_EQ_0 != 0 {
        Recorded::Nothing
    } else if select & (NEAR_REL_JMP | EN_CALLSTACK) != 0 {
        Recorded::Some
    } else {
        Recorded::Jumps
    };
    Selection {
        recorded,
        call_stack: select & EN_CALLSTACK != 0,
    }
}

/// Returns it.
pub(super) fn facility(lbr: Geometry) -> Facility {
    // Format 6 has a count of cycles above TO.
    let to_refuses = match lbr.format {
        6 => vec![],
        _ => vec![NOT_CANONICAL],
    };
    let mut registers = vec![
        Register {
            msr: msr::LBR_SELECT,
            sort: Sort::Select,
            takes: Takes::Bits(SELECT_TAKES),
            refuses: vec![SELECT_TAKES + 1],
        },
        Register {
            msr: msr::LBR_TOS,
            sort: Sort::Top,
            takes: Takes::Bits(u64::from(lbr.depth) - 1),
            refuses: vec![lbr.depth.into()],
        },
    ];
    let address = || Takes::Address(lbr.address(u64::MAX));
    registers.extend(records(
        lbr,
        [
            (address(), vec![NOT_CANONICAL]),
            (address(), to_refuses),
            (Takes::Bits(INFO_TAKES), vec![1 << 40]),
        ],
    ));
    Facility {
        depth: lbr.depth as usize,
        control: Control {
            msr: msr::DEBUGCTL,
            record: msr::DEBUGCTL_LBR,
            on: msr::DEBUGCTL_LBR,
            takes: msr::DEBUGCTL_LBR | msr::DEBUGCTL_FREEZE_LBRS_ON_PMI,
            refuses: 1 << 40,
        },
        freeze: msr::DEBUGCTL_FREEZE_LBRS_ON_PMI,
        registers,
        exceptions: EXCEPTIONS,
        moves: false,
        host_records_guests: lbr.host_records_guests(),
        happens: &[],
        selection,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super::super) fn facility(depth: u32) -> Facility {
        super::facility(Geometry { format: 5, depth })
    }
}
