// SPDX-License-Identifier: GPL-2.0-only
use super::*;
use crate::machine::tests::{sapphire_rapids, skylake};
use crate::msr::*;
use proptest::prelude::*;

const OVERFLOW_FIXED0: u64 = 1 << 32;
const ENABLE_ALL: u64 = 7 << 32 | 0xf;
const MAX: u64 = (1 << 48) - 1;

fn pmu() -> Pmu {
    let mut pmu = Pmu::new(&skylake());
    set(&mut pmu, IA32_PERF_GLOBAL_CTRL, ENABLE_ALL);
    pmu
}

fn set(pmu: &mut Pmu, index: u32, value: u64) {
    try_set(pmu, index, value).unwrap();
}

fn try_set(pmu: &mut Pmu, index: u32, value: u64) -> Result<()> {
    let register = pmu.locate(index).unwrap();
    pmu.check(register, value)?;
    pmu.write(register, value);
    Ok(())
}

fn get(pmu: &Pmu, index: u32) -> u64 {
    pmu.read(pmu.locate(index).unwrap())
}

/// Lets cycles and instructions pass since the last call.
fn pass(pmu: &mut Pmu, cycles: u64, instructions: u64) -> bool {
    let now = Now {
        cycles: pmu.counted.cycles + cycles,
        instructions: pmu.counted.instructions + instructions,
    };
    pmu.advance(now).interrupt
}

#[test]
fn after_reset_the_general_counters_are_enabled_globally() {
    let pmu = Pmu::new(&skylake());
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_CTRL), 0xf);
    for index in [
        IA32_PERFEVTSEL0,
        IA32_PMC0,
        IA32_FIXED_CTR_CTRL,
        IA32_PERF_GLOBAL_STATUS,
    ] {
        assert_eq!(get(&pmu, index), 0, "{index:#x}");
    }
    assert_eq!(pmu.deadline(), u64::MAX);
}

#[test]
fn a_counter_counts_only_with_every_enable_and_in_its_rings() {
    // Each row: IA32_PERFEVTSEL0 beside the event, IA32_PERF_GLOBAL_CTRL, counts in
    // ring 0, in ring 3.
    #[rustfmt::skip]
    let rows = [
        (EN | USR | OS, 1, true, true),
        (EN | USR, 1, false, true),
        (EN | OS, 1, true, false),
        (EN, 1, false, false),
        (USR | OS, 1, false, false),
        (EN | USR | OS, 0, false, false),
        (EN | USR | OS, 2, false, false),
        (EN | USR | OS, 1 << 32, false, false),
    ];
    for (bits, global, ring0, ring3) in rows {
        for (user, counts) in [(false, ring0), (true, ring3)] {
            for (event, gain) in [(0x3c, 10), (0xc0, 7)] {
                let mut pmu = pmu();
                set(&mut pmu, IA32_PERF_GLOBAL_CTRL, global);
                set(&mut pmu, IA32_PERFEVTSEL0, bits | event);
                pmu.set_user(user);
                let _ = pass(&mut pmu, 10, 7);
                let expected = if counts { gain } else { 0 };
                assert_eq!(
                    get(&pmu, IA32_PMC0),
                    expected,
                    "{bits:#x} {global:#x} {user}"
                );
            }
        }
    }
}

#[test]
fn fixed_counters_count_by_their_field() {
    // Each row: the field, counts in ring 0, in ring 3.
    for (field, ring0, ring3) in [
        (0, false, false),
        (1, true, false),
        (2, false, true),
        (3, true, true),
        (8, false, false),
    ] {
        for n in 0..3u32 {
            for (user, counts) in [(false, ring0), (true, ring3)] {
                let mut pmu = pmu();
                set(&mut pmu, IA32_FIXED_CTR_CTRL, field << (4 * n));
                pmu.set_user(user);
                let _ = pass(&mut pmu, 10, 7);
                for other in 0..3 {
                    let unit = if other == 0 { 7 } else { 10 };
                    let expected = if counts && other == n { unit } else { 0 };
                    assert_eq!(
                        get(&pmu, IA32_FIXED_CTR0 + other),
                        expected,
                        "{field} {n} {user}"
                    );
                }
            }
        }
    }
}

#[test]
fn idle_cycles_are_those_without_an_instruction() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | 0x0180_00c0);
    let _ = pass(&mut pmu, 10, 7);
    assert_eq!(get(&pmu, IA32_PMC0), 3);
}

#[test]
fn an_overflow_wraps_sets_its_bit_and_interrupts_if_asked() {
    for interrupt in [false, true] {
        let mut pmu = pmu();
        let int = if interrupt { INT } else { 0 };
        set(&mut pmu, IA32_PERFEVTSEL0 + 2, EN | OS | int | 0xc0);
        set(&mut pmu, IA32_A_PMC0 + 2, MAX - 4);
        assert!(!pass(&mut pmu, 4, 4));
        assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS), 0);
        assert_eq!(pass(&mut pmu, 1, 1), interrupt);
        assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS), 1 << 2);
        assert_eq!(get(&pmu, IA32_PMC0 + 2), 0);
        assert!(!pass(&mut pmu, 1, 1), "once");
    }
}

#[test]
fn a_fixed_counter_overflows_into_its_own_bit() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_FIXED_CTR_CTRL, 0x9);
    set(&mut pmu, IA32_FIXED_CTR0, MAX);
    assert!(pass(&mut pmu, 5, 3));
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS), OVERFLOW_FIXED0);
    assert_eq!(get(&pmu, IA32_FIXED_CTR0), 2);
}

#[test]
fn pulses_count_and_overflow_at_once() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | INT | 0xc4);
    set(&mut pmu, IA32_A_PMC0, MAX - 1);
    assert!(pmu.wants(crate::events::WITH_BRANCHES));
    assert!(!pmu.wants(crate::events::WITH_MEMORY));
    assert!(!pmu.pulse(crate::events::LBR_INSERT).interrupt);
    assert!(!pmu.pulse(crate::events::not_taken(false)).interrupt);
    assert!(pmu.pulse(crate::events::not_taken(true)).interrupt);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS), 1);
    pmu.set_user(true);
    assert!(!pmu.wants(crate::events::WITH_BRANCHES));
}

#[test]
fn the_deadline_is_the_first_possible_overflow() {
    let mut pmu = pmu();
    let _ = pass(&mut pmu, 100, 100);
    set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | 0x3c);
    set(&mut pmu, IA32_A_PMC0, MAX - 49);
    set(&mut pmu, IA32_FIXED_CTR_CTRL, 1);
    set(&mut pmu, IA32_FIXED_CTR0, MAX - 29);
    assert_eq!(pmu.deadline(), 130);
    // Neither a counter that is off nor one of branches comes to it by time alone.
    set(&mut pmu, IA32_PMC0 + 1, MAX);
    set(&mut pmu, IA32_PERFEVTSEL0 + 2, EN | OS | 0xc4);
    set(&mut pmu, IA32_PMC0 + 2, MAX);
    assert_eq!(pmu.deadline(), 130);
    pmu.set_user(true);
    assert_eq!(pmu.deadline(), u64::MAX, "no counter of ring 3");
}

#[test]
fn frozen_counters_stand_still_until_status_reset() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | 0x3c);
    pmu.freeze(CTR_FRZ);
    let _ = pass(&mut pmu, 10, 10);
    assert_eq!(get(&pmu, IA32_PMC0), 0);
    assert!(!pmu.lbr_frozen());
    set(&mut pmu, IA32_PERF_GLOBAL_STATUS_RESET, CTR_FRZ);
    let _ = pass(&mut pmu, 10, 10);
    assert_eq!(get(&pmu, IA32_PMC0), 10);
    set(&mut pmu, IA32_PERF_GLOBAL_STATUS_SET, CTR_FRZ | LBR_FRZ);
    let _ = pass(&mut pmu, 10, 10);
    assert_eq!(get(&pmu, IA32_PMC0), 10);
    assert!(pmu.lbr_frozen());
}

#[test]
fn status_is_changed_through_its_set_and_reset_registers() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_PERF_GLOBAL_STATUS_SET, OVERFLOW_FIXED0 | 3);
    set(&mut pmu, IA32_PERF_GLOBAL_STATUS_RESET, 1);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS), OVERFLOW_FIXED0 | 2);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS_SET), 0);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_STATUS_RESET), 0);
}

#[test]
fn in_use_tells_what_is_programmed() {
    let mut pmu = pmu();
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_INUSE), 0);
    set(&mut pmu, IA32_PERFEVTSEL0 + 1, 0xc0);
    set(&mut pmu, IA32_FIXED_CTR_CTRL, 0x020);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_INUSE), 1 << 33 | 2);
    set(&mut pmu, IA32_FIXED_CTR_CTRL, 0x0a0);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_INUSE), 1 << 63 | 1 << 33 | 2);
    set(&mut pmu, IA32_PERFEVTSEL0 + 1, INT | 0xc0);
    assert_eq!(get(&pmu, IA32_PERF_GLOBAL_INUSE), 1 << 63 | 1 << 33 | 2);
}

#[test]
fn registers_take_what_they_have() {
    // Each row: register, value, what it reads then; None if the write faults.
    #[rustfmt::skip]
    let rows = [
        (IA32_PMC0, 0x7fff_ffff, Some(0x7fff_ffff)),
        (IA32_PMC0 + 3, 0x8000_0000, Some(0xffff_8000_0000)),
        (IA32_PMC0, 0x1_0000_0001, Some(1)),
        (IA32_A_PMC0, MAX, Some(MAX)),
        (IA32_A_PMC0, MAX + 1, None),
        (IA32_FIXED_CTR0 + 2, MAX, Some(MAX)),
        (IA32_FIXED_CTR0, MAX + 1, None),
        (IA32_PERFEVTSEL0, 0xffff_ffff, Some(0xffff_ffff)),
        (IA32_PERFEVTSEL0, 1 << 32, None),
        (IA32_PERFEVTSEL0, 1 << 33, None),
        (IA32_FIXED_CTR_CTRL, 0xfff, Some(0xfff)),
        (IA32_FIXED_CTR_CTRL, 0x1000, None),
        (IA32_PERF_GLOBAL_CTRL, ENABLE_ALL, Some(ENABLE_ALL)),
        (IA32_PERF_GLOBAL_CTRL, 0x10, None),
        (IA32_PERF_GLOBAL_CTRL, 1 << 35, None),
        (IA32_PERF_GLOBAL_STATUS, 0, None),
        (IA32_PERF_GLOBAL_INUSE, 0, None),
        (IA32_PERF_GLOBAL_STATUS_RESET, 0xec00_0007_0000_000f, Some(0)),
        (IA32_PERF_GLOBAL_STATUS_RESET, 1 << 55, None),
        (IA32_PERF_GLOBAL_STATUS_RESET, 1 << 60, None),
        (IA32_PERF_GLOBAL_STATUS_SET, 0x6c00_0007_0000_000f, Some(0)),
        (IA32_PERF_GLOBAL_STATUS_SET, 1 << 63, None),
        (IA32_PERF_GLOBAL_STATUS_SET, 0x10, None),
        (MSR_OFFCORE_RSP_0, 0x3f_ffff_ffff, Some(0x3f_ffff_ffff)),
        (MSR_OFFCORE_RSP_0, 1 << 38, None),
        (MSR_OFFCORE_RSP_1, 0x1_0001, Some(0x1_0001)),
        (MSR_PEBS_LD_LAT, 0xffff, Some(0xffff)),
        (MSR_PEBS_LD_LAT, 1 << 16, None),
        (MSR_PEBS_FRONTEND, 0x7f_ff17, Some(0x7f_ff17)),
        (MSR_PEBS_FRONTEND, 1 << 3, None),
    ];
    for (index, value, reads) in rows {
        let mut pmu = pmu();
        let before = get(&pmu, index);
        assert_eq!(
            try_set(&mut pmu, index, value).is_ok(),
            reads.is_some(),
            "{index:#x} {value:#x}"
        );
        assert_eq!(
            get(&pmu, index),
            reads.unwrap_or(before),
            "{index:#x} {value:#x}"
        );
    }
}

#[test]
fn there_are_as_many_registers_as_counters() {
    let pmu = pmu();
    for (first, count) in [
        (IA32_PMC0, 4),
        (IA32_PERFEVTSEL0, 4),
        (IA32_A_PMC0, 4),
        (IA32_FIXED_CTR0, 3),
    ] {
        assert!(pmu.locate(first + count - 1).is_some());
        assert!(pmu.locate(first + count).is_none());
        assert!(pmu.locate(first - 1).is_none());
    }
}

#[test]
fn rdpmc_reads_general_and_fixed_counters() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_A_PMC0 + 3, 42);
    set(&mut pmu, IA32_FIXED_CTR0 + 2, 43);
    #[rustfmt::skip]
    let rows = [(3, Ok(42)), (4, Err(Fault)), (1 << 30 | 2, Ok(43)), (1 << 30 | 3, Err(Fault)), (1 << 31, Err(Fault)), (u32::MAX, Err(Fault))];
    for (ecx, result) in rows {
        assert_eq!(pmu.rdpmc(ecx), result, "{ecx:#x}");
    }
}

#[test]
fn time_never_runs_backwards() {
    let mut pmu = pmu();
    set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | 0xc0);
    let _ = pmu.advance(Now {
        cycles: 10,
        instructions: 10,
    });
    let _ = pmu.advance(Now {
        cycles: 9,
        instructions: 9,
    });
    let _ = pmu.advance(Now {
        cycles: 11,
        instructions: 11,
    });
    assert_eq!(get(&pmu, IA32_PMC0), 11);
}

proptest! {
    /// However time is cut into pieces, the counts are the same.
    #[test]
    fn counting_is_additive(steps in prop::collection::vec((0u64..100, 0u64..100, any::<bool>()), 1..50), event in prop::sample::select(vec![0x3cu64, 0xc0])) {
        let mut pmu = pmu();
        set(&mut pmu, IA32_PERFEVTSEL0, EN | OS | event);
        set(&mut pmu, IA32_PERFEVTSEL0 + 1, EN | USR | event);
        let mut expected = [0, 0];
        for (cycles, idle, user) in steps {
            pmu.set_user(user);
            let _ = pass(&mut pmu, cycles + idle, cycles);
            expected[usize::from(user)] += if event == 0xc0 { cycles } else { cycles + idle };
        }
        prop_assert_eq!([get(&pmu, IA32_PMC0), get(&pmu, IA32_PMC0 + 1)], expected);
    }

    /// Nothing that software can write makes the facility fail.
    #[test]
    fn any_access_is_survived(steps in prop::collection::vec((0x0u32..0x1700, any::<u64>(), any::<u64>(), any::<bool>()), 0..200)) {
        let mut pmu = pmu();
        for (index, value, time, user) in steps {
            if let Some(register) = pmu.locate(index) {
                if pmu.check(register, value).is_ok() {
                    pmu.write(register, value);
                }
                pmu.read(register);
            }
            pmu.set_user(user);
            let _ = pmu.advance(Now { cycles: time, instructions: time / 2 });
            let _ = pmu.pulse(value as u32);
            let _ = pmu.rdpmc(index);
            prop_assert!(pmu.deadline() > 0);
            prop_assert!(pmu.counters.iter().all(|c| c.value <= MAX));
        }
    }
}

#[test]
fn golden_cove_selects_unknown_branches() {
    let mut pmu = Pmu::new(&sapphire_rapids());
    set(&mut pmu, MSR_PEBS_FRONTEND, 1 << 3);
    assert!(try_set(&mut pmu, MSR_PEBS_FRONTEND, 1 << 5).is_err());
    assert!(try_set(&mut pmu, MSR_PEBS_LD_LAT, 1 << 20).is_err());
}
