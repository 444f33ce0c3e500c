// SPDX-License-Identifier: GPL-2.0-only
//! What a counter counts (SDM, "Performance Monitoring": "Architectural
//! Performance Monitoring", and the event list of Skylake).

use crate::branch::Kind;

/// A set of things that happen at one moment.
///
/// Retired branches by class in the low byte, the mispredicted ones of them in
/// the second, insertions into the LBR above.
pub type Pulses = u32;

const COND_TAKEN: Pulses = 1 << 0;
const COND_NOT_TAKEN: Pulses = 1 << 1;
const CALL: Pulses = 1 << 2;
const RETURN: Pulses = 1 << 3;
const OTHER_NEAR: Pulses = 1 << 4;
const FAR: Pulses = 1 << 5;
const NEAR_TAKEN: Pulses = COND_TAKEN | CALL | RETURN | OTHER_NEAR;
const CONDITIONAL: Pulses = COND_TAKEN | COND_NOT_TAKEN;
const ALL: Pulses = NEAR_TAKEN | COND_NOT_TAKEN | FAR;
const MISPREDICTED_SHIFT: u32 = 8;

/// A record went into the LBR stack.
pub const LBR_INSERT: Pulses = 1 << 16;

/// A conditional branch that was not taken retired.
pub fn not_taken(mispredicted: bool) -> Pulses {
    with_prediction(COND_NOT_TAKEN, mispredicted)
}

/// A taken branch retired, if its kind is an instruction at all.
pub fn taken(kind: Kind, mispredicted: bool) -> Pulses {
    let class = match kind {
        Kind::Conditional => COND_TAKEN,
        Kind::RelativeCall | Kind::IndirectCall => CALL,
        Kind::Return => RETURN,
        Kind::RelativeJump | Kind::IndirectJump => OTHER_NEAR,
        Kind::Far => FAR,
        Kind::Event => 0,
    };
    with_prediction(class, mispredicted)
}

fn with_prediction(class: Pulses, mispredicted: bool) -> Pulses {
    if mispredicted {
        class | class << MISPREDICTED_SHIFT
    } else {
        class
    }
}

/// What makes a counter advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing that the machine has.
    Nothing,
    /// Unhalted core cycles, which are the reference cycles as well.
    Cycles,
    /// Instructions retired.
    Instructions,
    /// Cycles in which no instruction retired.
    IdleCycles,
    /// One per moment at which something of the set happens.
    Pulses(Pulses),
}

/// The fixed-function counters.
pub const FIXED: [Source; 3] = [Source::Instructions, Source::Cycles, Source::Cycles];

/// IA32_PERFEVTSELx: edge detect.
pub const EDGE: u64 = 1 << 18;
/// IA32_PERFEVTSELx: invert the comparison with the counter mask.
pub const INVERT: u64 = 1 << 23;

/// What a general counter with this IA32_PERFEVTSELx counts.
///
/// At most one thing of a kind happens per cycle, so a counter mask above one
/// is never reached.  Edge detection sees no edge in cycles and instructions,
/// which are contiguous.
pub fn selected(evtsel: u64) -> Source {
    let [event, umask, _, cmask, ..] = evtsel.to_le_bytes();
    let source = unit(event, umask);
    let source = match (cmask, evtsel & INVERT != 0, source) {
        (_, _, Source::Nothing) => Source::Nothing,
        (0 | 1, false, source) => source,
        (0, true, source) => source,
        (1, true, Source::Cycles) => Source::Nothing,
        (1, true, Source::Instructions) => Source::IdleCycles,
        (_, true, _) => Source::Cycles,
        (_, false, _) => Source::Nothing,
    };
    match source {
        Source::Pulses(_) => source,
        _ if evtsel & EDGE != 0 => Source::Nothing,
        _ => source,
    }
}

fn unit(event: u8, umask: u8) -> Source {
    match (event, umask) {
        // CPU_CLK_UNHALTED.THREAD_P and .REF_XCLK
        (0x3c, 0x00 | 0x01) => Source::Cycles,
        // INST_RETIRED.ANY_P and .PREC_DIST
        (0xc0, 0x00 | 0x01) => Source::Instructions,
        (0xc4, _) => branches(umask),
        (0xc5, _) => match branches(umask) {
            Source::Pulses(classes) => Source::Pulses(classes << MISPREDICTED_SHIFT),
            other => other,
        },
        // ROB_MISC_EVENTS.LBR_INSERTS, and the architectural encoding
        (0xcc, 0x20) | (0xe4, 0x01) => Source::Pulses(LBR_INSERT),
        _ => Source::Nothing,
    }
}

/// BR_INST_RETIRED.* and BR_MISP_RETIRED.*
fn branches(umask: u8) -> Source {
    const UNITS: [(u8, Pulses); 6] = [
        (0x01, CONDITIONAL),
        (0x02, CALL),
        (0x08, RETURN),
        (0x10, COND_NOT_TAKEN),
        (0x20, NEAR_TAKEN),
        (0x40, FAR),
    ];
    if umask == 0 {
        return Source::Pulses(ALL);
    }
    let classes = UNITS
        .iter()
        .filter(|(bit, _)| umask & bit != 0)
        .fold(0, |classes, (_, unit)| classes | unit);
    if classes == 0 {
        Source::Nothing
    } else {
        Source::Pulses(classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(evtsel: u64, pulses: Pulses) -> bool {
        match selected(evtsel) {
            Source::Pulses(set) => set & pulses != 0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn levels() {
        #[rustfmt::skip]
        let rows = [
            (0x00_003c, Source::Cycles),
            (0x00_013c, Source::Cycles),
            (0x00_00c0, Source::Instructions),
            (0x00_01c0, Source::Instructions),
            (0x00_412e, Source::Nothing),
            (0x00_1b00, Source::Nothing),
            (0x0100_00c0, Source::Instructions),            // cmask=1
            (0x0200_00c0, Source::Nothing),                 // cmask=2
            (0x0180_00c0, Source::IdleCycles),              // inv, cmask=1
            (0x1080_00c0, Source::Cycles),                  // inv, cmask=16
            (0x0180_003c, Source::Nothing),                 // inv, cmask=1
            (0x0080_00c0, Source::Instructions),            // inv without cmask
            (0x1080_412e, Source::Nothing),
            (0x0004_00c0, Source::Nothing),                 // edge
        ];
        for (evtsel, source) in rows {
            assert_eq!(selected(evtsel), source, "{evtsel:#x}");
        }
    }

    #[test]
    fn branch_events_count_their_classes() {
        // Columns: Jcc taken, not taken, call, return, jump, far.
        let pulses = [
            taken(Kind::Conditional, false),
            not_taken(false),
            taken(Kind::IndirectCall, false),
            taken(Kind::Return, false),
            taken(Kind::RelativeJump, false),
            taken(Kind::Far, false),
        ];
        #[rustfmt::skip]
        let rows: [(u64, [u8; 6]); 8] = [
            (0x00c4, [1, 1, 1, 1, 1, 1]),
            (0x01c4, [1, 1, 0, 0, 0, 0]),
            (0x02c4, [0, 0, 1, 0, 0, 0]),
            (0x08c4, [0, 0, 0, 1, 0, 0]),
            (0x10c4, [0, 1, 0, 0, 0, 0]),
            (0x20c4, [1, 0, 1, 1, 1, 0]),
            (0x40c4, [0, 0, 0, 0, 0, 1]),
            (0x00c5, [0, 0, 0, 0, 0, 0]),
        ];
        for (evtsel, row) in rows {
            for (pulse, expected) in pulses.into_iter().zip(row) {
                assert_eq!(
                    counts(evtsel, pulse),
                    expected == 1,
                    "{evtsel:#x} {pulse:#x}"
                );
            }
        }
        assert!(counts(0xc5, not_taken(true)));
        assert!(counts(0x01c5, taken(Kind::Conditional, true)));
        assert!(!counts(0x02c5, taken(Kind::Conditional, true)));
        assert!(counts(0x4_00c4, not_taken(false)), "each branch is an edge");
    }

    #[test]
    fn events_are_no_retired_branches() {
        assert_eq!(taken(Kind::Event, false), 0);
        assert_eq!(taken(Kind::Event, true), 0);
    }

    #[test]
    fn insertions_have_two_encodings() {
        for evtsel in [0x20cc, 0x01e4] {
            assert!(counts(evtsel, LBR_INSERT), "{evtsel:#x}");
            assert!(!counts(evtsel, taken(Kind::Far, true)), "{evtsel:#x}");
        }
    }
}
