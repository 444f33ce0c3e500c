// SPDX-License-Identifier: GPL-2.0-only
//! What a counter counts (SDM, "Performance Monitoring": "Architectural
//! Performance Monitoring", and the event lists of the cores).

use crate::branch::Kind;

/// A set of things that happen at one moment.
///
/// Retired branches by class in the low byte, the mispredicted ones of them in
/// the second, insertions into the LBR above, then instructions that access
/// memory, and accesses that reach the last level of the caches.
pub type Pulses = u32;

const COND_TAKEN: Pulses = 1;
const COND_NOT_TAKEN: Pulses = 1 << 1;
const CALL: Pulses = 1 << 2;
const RETURN: Pulses = 1 << 3;
const DIRECT_JUMP: Pulses = 1 << 4;
const FAR: Pulses = 1 << 5;
const INDIRECT_JUMP: Pulses = 1 << 6;
const INDIRECT_CALL: Pulses = 1 << 7;
const ANY_CALL: Pulses = CALL | INDIRECT_CALL;
const INDIRECT: Pulses = INDIRECT_JUMP | INDIRECT_CALL;
const NEAR_TAKEN: Pulses = COND_TAKEN | ANY_CALL | RETURN | DIRECT_JUMP | INDIRECT_JUMP;
const CONDITIONAL: Pulses = COND_TAKEN | COND_NOT_TAKEN;
const ALL: Pulses = NEAR_TAKEN | COND_NOT_TAKEN | FAR;
const MISPREDICTED_SHIFT: u32 = 8;

/// A record went into the LBR stack.
pub const LBR_INSERT: Pulses = 1 << 16;

/// An instruction that loads.
pub const LOAD: Pulses = 1 << 17;
/// An instruction that stores.
pub const STORE: Pulses = 1 << 18;
/// An instruction that does either.
pub const MEMORY: Pulses = 1 << 19;
/// An access that the last level of the caches is asked for.
pub const LLC_REFERENCE: Pulses = 1 << 20;
/// One that it has not.
pub const LLC_MISS: Pulses = 1 << 21;
/// All that is seen with branches.
pub const WITH_BRANCHES: Pulses = (1 << 17) - 1;
/// All that is seen with accesses to memory.
pub const WITH_MEMORY: Pulses = LOAD | STORE | MEMORY | WITH_CACHES;
/// All that is seen with caches.
pub const WITH_CACHES: Pulses = LLC_REFERENCE | LLC_MISS;

/// A conditional branch that was not taken retired.
pub fn not_taken(mispredicted: bool) -> Pulses {
    with_prediction(COND_NOT_TAKEN, mispredicted)
}

/// A taken branch retired, if its kind is an instruction at all.
pub fn taken(kind: Kind, mispredicted: bool) -> Pulses {
    let class = match kind {
        Kind::Conditional => COND_TAKEN,
        Kind::RelativeCall => CALL,
        Kind::IndirectCall => INDIRECT_CALL,
        Kind::Return => RETURN,
        Kind::RelativeJump => DIRECT_JUMP,
        Kind::IndirectJump => INDIRECT_JUMP,
        Kind::Far => FAR,
        Kind::Event | Kind::Resume => 0,
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
    /// Slots of the pipeline in unhalted core cycles.
    Slots,
    /// One per moment at which something of the set happens.
    Pulses(Pulses),
}

/// The fixed-function counters.
pub const FIXED: [Source; 4] = [
    Source::Instructions,
    Source::Cycles,
    Source::Cycles,
    Source::Slots,
];

/// The version from which on a core tells conditional branches that were taken from
/// those that were not, by bits of the unit mask of their own.
const SPLITS_CONDITIONALS: u8 = 5;

/// IA32_PERFEVTSELx: edge detect.
pub const EDGE: u64 = 1 << 18;
/// IA32_PERFEVTSELx: invert the comparison with the counter mask.
pub const INVERT: u64 = 1 << 23;

/// What a general counter with this IA32_PERFEVTSELx counts on a core with this
/// version of architectural performance monitoring and so many slots in a cycle.
///
/// At most one thing of another kind happens per cycle, so a counter mask above one
/// is never reached.  Edge detection sees no edge in cycles and instructions,
/// which are contiguous.
pub fn selected(evtsel: u64, version: u8, slots: u8) -> Source {
    let [event, umask, _, cmask, ..] = evtsel.to_le_bytes();
    let source = unit(event, umask, version);
    let source = match (cmask, evtsel & INVERT != 0, source) {
        (_, _, Source::Nothing) => Source::Nothing,
        (0, _, source) => source,
        // Each cycle has as many.
        (_, invert, Source::Slots) if (cmask <= slots) == invert => Source::Nothing,
        (_, _, Source::Slots) => Source::Cycles,
        (1, false, source) => source,
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

fn unit(event: u8, umask: u8, version: u8) -> Source {
    match (event, umask) {
        // CPU_CLK_UNHALTED.THREAD_P and .REF_XCLK
        (0x3c, 0x00 | 0x01) => Source::Cycles,
        // INST_RETIRED.ANY_P and .PREC_DIST
        (0xc0, 0x00 | 0x01) => Source::Instructions,
        // LONGEST_LAT_CACHE.REFERENCE and .MISS
        (0x2e, 0x4f) => Source::Pulses(LLC_REFERENCE),
        (0x2e, 0x41) => Source::Pulses(LLC_MISS),
        // TOPDOWN.SLOTS_P
        (0xa4, 0x01) if version >= SPLITS_CONDITIONALS => Source::Slots,
        (0xc4, _) => branches(umask, version),
        (0xc5, _) => match branches(umask, version) {
            Source::Pulses(classes) => Source::Pulses(classes << MISPREDICTED_SHIFT),
            other => other,
        },
        // MEM_INST_RETIRED.ALL_LOADS, .ALL_STORES and .ANY
        (0xd0, 0x81) => Source::Pulses(LOAD),
        (0xd0, 0x82) => Source::Pulses(STORE),
        (0xd0, 0x83) => Source::Pulses(MEMORY),
        // ROB_MISC_EVENTS.LBR_INSERTS, and the architectural encoding
        (0xcc, 0x20) | (0xe4, 0x01) => Source::Pulses(LBR_INSERT),
        _ => Source::Nothing,
    }
}

/// BR_INST_RETIRED.* and BR_MISP_RETIRED.*
fn branches(umask: u8, version: u8) -> Source {
    let split = version >= SPLITS_CONDITIONALS;
    let units = [
        (0x01, if split { COND_TAKEN } else { CONDITIONAL }),
        (0x02, ANY_CALL),
        (0x08, RETURN),
        (0x10, COND_NOT_TAKEN),
        (0x20, NEAR_TAKEN),
        (0x40, FAR),
        (0x80, if split { INDIRECT } else { 0 }),
    ];
    if umask == 0 {
        return Source::Pulses(ALL);
    }
    let classes = units
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
        match selected(evtsel, 4, 0) {
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
            (0x00_402e, Source::Nothing),
            (0x00_1b00, Source::Nothing),
            (0x0100_00c0, Source::Instructions),            // cmask=1
            (0x0200_00c0, Source::Nothing),                 // cmask=2
            (0x0180_00c0, Source::IdleCycles),              // inv, cmask=1
            (0x1080_00c0, Source::Cycles),                  // inv, cmask=16
            (0x0180_003c, Source::Nothing),                 // inv, cmask=1
            (0x0080_00c0, Source::Instructions),            // inv without cmask
            (0x1080_402e, Source::Nothing),
            (0x0004_00c0, Source::Nothing),                 // edge
        ];
        for (evtsel, source) in rows {
            assert_eq!(selected(evtsel, 4, 0), source, "{evtsel:#x}");
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
    fn version_5_splits_conditionals_and_names_indirect_branches() {
        let classes = |evtsel| match selected(evtsel, 5, 6) {
            Source::Pulses(set) => set,
            other => panic!("{other:?}"),
        };
        assert_eq!(classes(0x01c4), COND_TAKEN);
        assert_eq!(classes(0x10c4), COND_NOT_TAKEN);
        assert_eq!(classes(0x11c4), CONDITIONAL);
        assert_eq!(classes(0x80c4), INDIRECT_JUMP | INDIRECT_CALL);
        assert_eq!(classes(0x11c5), CONDITIONAL << MISPREDICTED_SHIFT);
        assert_eq!(selected(0x80c4, 4, 0), Source::Nothing);
    }

    #[test]
    fn slots_are_counted_from_version_5_on() {
        assert_eq!(selected(0x01a4, 5, 6), Source::Slots);
        assert_eq!(selected(0x01a4, 4, 0), Source::Nothing);
    }

    #[test]
    fn every_cycle_has_as_many_slots() {
        let rows = [
            (0x0100_01a4, Source::Cycles),
            (0x0600_01a4, Source::Cycles),
            (0x0700_01a4, Source::Nothing),
            (0x0680_01a4, Source::Nothing),
            (0x0780_01a4, Source::Cycles),
        ];
        for (evtsel, source) in rows {
            assert_eq!(selected(evtsel, 5, 6), source, "{evtsel:#x}");
        }
    }

    #[test]
    fn events_are_no_retired_branches() {
        assert_eq!(taken(Kind::Event, false), 0);
        assert_eq!(taken(Kind::Event, true), 0);
    }

    #[test]
    fn memory_has_three_units() {
        for (evtsel, pulses) in [(0x81d0, LOAD), (0x82d0, STORE), (0x83d0, MEMORY)] {
            assert_eq!(
                selected(evtsel, 4, 0),
                Source::Pulses(pulses),
                "{evtsel:#x}"
            );
        }
        for evtsel in [0x00d0, 0x01d0, 0x80d0, 0x84d0, 0x81d1] {
            assert_eq!(selected(evtsel, 4, 0), Source::Nothing, "{evtsel:#x}");
        }
    }

    #[test]
    fn the_last_level_has_two_units() {
        for (evtsel, pulses) in [(0x4f2e, LLC_REFERENCE), (0x412e, LLC_MISS)] {
            assert_eq!(
                selected(evtsel, 4, 0),
                Source::Pulses(pulses),
                "{evtsel:#x}"
            );
        }
        for evtsel in [0x002e, 0x012e, 0x4e2e, 0x4f2f] {
            assert_eq!(selected(evtsel, 4, 0), Source::Nothing, "{evtsel:#x}");
        }
    }

    #[test]
    fn insertions_have_two_encodings() {
        for evtsel in [0x20cc, 0x01e4] {
            assert!(counts(evtsel, LBR_INSERT), "{evtsel:#x}");
            assert!(!counts(evtsel, taken(Kind::Far, true)), "{evtsel:#x}");
        }
    }
}
