// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Architectural LBR, which IA32_LBR_CTL controls.

use kvm_selftests::msr::{self, Geometry};

use super::{records, Control, Facility, Recorded, Register, Selection, Sort, Takes, EXCEPTIONS};

/// IA32_LBR_CTL.
const NEAR_REL_JMP: u64 = 1 << 17;
const KINDS: u64 = 0x7f << 16;
const CTL_TAKES: u64 = msr::LBR_CTL_ON | msr::LBR_CTL_CALL_STACK;
/// The bits of IA32_LBR_x_INFO that are defined and do not depend on TSX.
const INFO_TAKES: u64 = 0xffff | 0xf << 56 | 1 << 60 | 1 << 63;
/// Not canonical, be the addresses of 48 or of 57 bits.
const NOT_CANONICAL: [u64; 2] = [0x5a5a << 47, 1 << 63];
/// What IA32_LBR_DEPTH refuses unless it is a depth.
const NO_DEPTHS: [u64; 8] = [0, 1, 5, 31, 33, 64, 1 << 32 | 8, 1 << 63 | 32];

fn selection(control: u64, _: u64) -> Selection {
    let call_stack = control & msr::LBR_CTL_CALL_STACK != 0;
    let recorded = if control & msr::LBR_CTL_OS == 0 || control & KINDS == 0 {
        Recorded::Nothing
    } else if control & NEAR_REL_JMP == 0 || call_stack {
        Recorded::Some
    } else {
        Recorded::Jumps
    };
    Selection {
        recorded,
        call_stack,
    }
}

/// Returns it, with these depths to choose from.
pub(super) fn facility(lbr: Geometry, depths: &[u32]) -> Facility {
    let depths: Vec<u64> = depths.iter().map(|depth| u64::from(*depth)).collect();
    let no_depths = NO_DEPTHS.into_iter().filter(|n| !depths.contains(n));
    let address = || Takes::Address(lbr.address(u64::MAX));
    let info = || Takes::Bits(INFO_TAKES);
    let mut registers = vec![
        Register {
            msr: msr::LBR_DEPTH,
            sort: Sort::Depth,
            refuses: no_depths.collect(),
            takes: Takes::OneOf(depths),
        },
        Register {
            msr: msr::DEBUGCTL,
            sort: Sort::Freeze,
            takes: Takes::Bits(msr::DEBUGCTL_FREEZE_LBRS_ON_PMI),
            refuses: vec![1 << 40],
        },
    ];
    for (msr, takes, refuses) in [
        (msr::LER_FROM, address(), NOT_CANONICAL.to_vec()),
        (msr::LER_TO, address(), NOT_CANONICAL.to_vec()),
        (msr::LER_INFO, info(), vec![]),
    ] {
        registers.push(Register {
            msr,
            sort: Sort::Last,
            takes,
            refuses,
        });
    }
    registers.extend(records(
        lbr,
        [
            (address(), NOT_CANONICAL.to_vec()),
            (address(), NOT_CANONICAL.to_vec()),
            (info(), vec![]),
        ],
    ));
    Facility {
        depth: lbr.depth as usize,
        control: Control {
            msr: msr::LBR_CTL,
            record: msr::LBR_CTL_LBREN,
            on: msr::LBR_CTL_ON,
            takes: CTL_TAKES,
            refuses: !CTL_TAKES,
        },
        freeze: msr::DEBUGCTL_FREEZE_LBRS_ON_PMI,
        registers,
        exceptions: EXCEPTIONS,
        moves: true,
        host_records_guests: lbr.host_records_guests(),
        happens: &["depths written", "accesses beyond the depth"],
        selection,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super::super) fn facility(depth: u32) -> Facility {
        let lbr = Geometry {
            format: msr::LBR_FMT_ARCHITECTURAL,
            depth,
        };
        super::facility(lbr, &[depth / 2, depth])
    }
}
