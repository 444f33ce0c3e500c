// SPDX-License-Identifier: GPL-2.0-only
use super::*;
use proptest::prelude::*;

const TYPES: u64 =
    JCC | NEAR_REL_JMP | NEAR_IND_JMP | NEAR_REL_CALL | NEAR_IND_CALL | NEAR_RET | OTHER_BRANCH;
const ALL: u64 = LBREN | OS | USR | TYPES;
const STACK: u64 = LBREN | OS | USR | CALL_STACK | NEAR_REL_CALL | NEAR_IND_CALL | NEAR_RET;

fn lbr(ctl: u64) -> Architectural {
    let mut lbr = Architectural::new(&[8, 16, 32], 48);
    set(&mut lbr, msr::IA32_LBR_CTL, ctl);
    lbr
}

fn set(lbr: &mut Architectural, index: u32, value: u64) {
    assert_eq!(
        lbr.write(index, value),
        Some(Ok(())),
        "{index:#x} {value:#x}"
    );
}

fn get(lbr: &Architectural, index: u32) -> u64 {
    lbr.read(index).unwrap().unwrap()
}

fn taken(kind: Kind, from: u64) -> Taken {
    Taken::flat(kind, from, from + 0x100, 5)
}

fn record(lbr: &mut Architectural, kind: Kind, from: u64) -> bool {
    lbr.branch(&taken(kind, from), Circumstances::default())
}

fn froms(lbr: &Architectural) -> Vec<u64> {
    lbr.newest_first()
        .map(|record| record.from)
        .take_while(|&from| from != 0)
        .collect()
}

#[test]
fn entry_0_is_the_youngest() {
    let mut lbr = lbr(ALL);
    for n in 1..=40 {
        assert!(record(&mut lbr, Kind::Conditional, n));
    }
    for entry in 0..32 {
        assert_eq!(
            get(&lbr, msr::IA32_LBR_0_FROM_IP + entry),
            40 - u64::from(entry)
        );
        assert_eq!(
            get(&lbr, msr::IA32_LBR_0_TO_IP + entry),
            0x128 - u64::from(entry)
        );
    }
}

#[test]
fn each_type_is_recorded_by_its_bit_and_named_in_info() {
    use Kind::*;
    let rows = [
        (Conditional, JCC, 0),
        (IndirectJump, NEAR_IND_JMP, 1),
        (RelativeJump, NEAR_REL_JMP, 2),
        (IndirectCall, NEAR_IND_CALL, 3),
        (RelativeCall, NEAR_REL_CALL, 4),
        (Return, NEAR_RET, 5),
        (Far, OTHER_BRANCH, 8),
        (Event, OTHER_BRANCH, 8),
    ];
    for (kind, bit, br_type) in rows {
        let mut only = lbr(LBREN | OS | USR | bit);
        assert!(record(&mut only, kind, 1), "{kind:?}");
        assert_eq!(
            get(&only, msr::IA32_LBR_0_INFO) >> 56 & 0xf,
            br_type,
            "{kind:?}"
        );
        let mut others = lbr(ALL & !bit);
        assert!(!record(&mut others, kind, 1), "{kind:?}");
        assert!(froms(&others).is_empty());
    }
}

#[test]
fn the_level_at_the_end_decides() {
    for (ctl, user, recorded) in [
        (OS, false, true),
        (OS, true, false),
        (USR, false, false),
        (USR, true, true),
        (0, false, false),
        (0, true, false),
    ] {
        let mut lbr = lbr(LBREN | TYPES | ctl);
        let how = Circumstances {
            user,
            from_user: user,
            ..Circumstances::default()
        };
        assert_eq!(
            lbr.branch(&taken(Kind::Conditional, 1), how),
            recorded,
            "{ctl:#x} user {user}"
        );
    }
}

#[test]
fn a_level_that_is_not_recorded_hides_where_the_branch_came_from() {
    for (ctl, from_user, user, from) in [
        (USR, false, true, u64::MAX),
        (OS, true, false, u64::MAX),
        (OS | USR, false, true, 0x1000),
        (OS | USR, true, false, 0x1000),
    ] {
        let mut lbr = lbr(LBREN | TYPES | ctl);
        let how = Circumstances {
            user,
            from_user,
            ..Circumstances::default()
        };
        assert!(lbr.branch(&taken(Kind::Far, 0x1000), how));
        assert_eq!(get(&lbr, msr::IA32_LBR_0_FROM_IP), from, "{ctl:#x}");
        assert_eq!(get(&lbr, msr::IA32_LBR_0_TO_IP), 0x1100);
    }
}

#[test]
fn a_call_of_the_next_instruction_is_no_call() {
    let call = Taken::flat(Kind::RelativeCall, 0x10, 0x15, 5);
    for ctl in [ALL, STACK] {
        let mut lbr = lbr(ctl);
        assert!(!lbr.branch(&call, Circumstances::default()));
        let longer = Taken::flat(Kind::RelativeCall, 0x10, 0x16, 5);
        assert!(lbr.branch(&longer, Circumstances::default()));
    }
}

#[test]
fn records_have_linear_addresses() {
    let mut lbr = lbr(ALL);
    let far = Taken {
        from_ip: 0x10,
        to_ip: 0x20,
        ..taken(Kind::Far, 0x1_0010)
    };
    lbr.branch(&far, Circumstances::default());
    let newest = lbr.newest_first().next().unwrap();
    assert_eq!((newest.from, newest.to), (0x1_0010, 0x1_0110));
}

#[test]
fn addresses_have_as_many_bits_as_the_cpus() {
    for (bits, taken) in [(48, false), (57, true)] {
        let mut lbr = Architectural::new(&[8], bits);
        let mut area = lbr.save();
        area[HEADER] = 1 << 50;
        assert_eq!(lbr.restore(&area).is_ok(), taken);
        let written = lbr.write(msr::IA32_LBR_0_TO_IP, 1 << 50);
        assert_eq!(written.map(|result| result.is_ok()), Some(taken));
    }
}

#[test]
fn a_return_pops_entry_0() {
    let mut lbr = lbr(STACK);
    for from in [0x10, 0x20, 0x30] {
        assert!(record(&mut lbr, Kind::RelativeCall, from));
    }
    assert!(!record(&mut lbr, Kind::Return, 0x31));
    assert_eq!(froms(&lbr), [0x20, 0x10]);
    assert!(record(&mut lbr, Kind::IndirectCall, 0x40));
    assert_eq!(froms(&lbr), [0x40, 0x20, 0x10]);
    for _ in 0..4 {
        record(&mut lbr, Kind::Return, 0x31);
    }
    assert!(froms(&lbr).is_empty());
    assert!(lbr
        .newest_first()
        .all(|record| *record == Record::default()));
}

#[test]
fn a_popped_full_stack_ends_in_an_empty_entry() {
    let mut lbr = lbr(STACK);
    (1..=32).for_each(|n| assert!(record(&mut lbr, Kind::RelativeCall, n)));
    record(&mut lbr, Kind::Return, 0x31);
    assert_eq!(get(&lbr, msr::IA32_LBR_0_FROM_IP), 31);
    assert_eq!(get(&lbr, msr::IA32_LBR_0_FROM_IP + 30), 1);
    assert_eq!(get(&lbr, msr::IA32_LBR_0_FROM_IP + 31), 0);
}

#[test]
fn a_call_stack_holds_calls_only() {
    for kind in Kind::ALL {
        let mut lbr = lbr(ALL | CALL_STACK);
        let call = matches!(kind, Kind::RelativeCall | Kind::IndirectCall);
        assert_eq!(record(&mut lbr, kind, 1), call, "{kind:?}");
    }
}

#[test]
fn returns_that_are_not_enabled_do_not_pop() {
    let mut lbr = lbr(STACK & !NEAR_RET);
    record(&mut lbr, Kind::RelativeCall, 1);
    record(&mut lbr, Kind::Return, 2);
    assert_eq!(froms(&lbr), [1]);
}

#[test]
fn cycles_are_valid_from_the_second_record_on() {
    let mut lbr = lbr(ALL);
    let mut info = |cycles, mispredicted| {
        let how = Circumstances {
            mispredicted,
            cycles,
            ..Circumstances::default()
        };
        lbr.branch(&taken(Kind::Conditional, 1), how);
        get(&lbr, msr::IA32_LBR_0_INFO)
    };
    assert_eq!(info(100, false), 0);
    assert_eq!(info(107, true), INFO_MISPREDICTED | INFO_CYC_CNT_VALID | 7);
    assert_eq!(info(1_000_000, false), INFO_CYC_CNT_VALID | 0xffff);
    set(&mut lbr, msr::IA32_LBR_CTL, 0);
    set(&mut lbr, msr::IA32_LBR_CTL, ALL);
    record(&mut lbr, Kind::Conditional, 1);
    assert_eq!(
        get(&lbr, msr::IA32_LBR_0_INFO),
        0,
        "since it was switched on"
    );
}

#[test]
fn a_write_of_the_depth_clears_the_entries() {
    let mut lbr = lbr(ALL);
    assert_eq!(get(&lbr, msr::IA32_LBR_DEPTH), 32);
    for depth in [8, 16, 32, 32] {
        record(&mut lbr, Kind::Event, 1);
        set(&mut lbr, msr::IA32_LBR_DEPTH, depth);
        assert_eq!(get(&lbr, msr::IA32_LBR_DEPTH), depth);
        assert!(froms(&lbr).is_empty());
        assert_eq!(get(&lbr, msr::IA32_LBR_CTL), ALL);
    }
    for depth in [0, 1, 7, 9, 24, 33, 64, 8 | 1 << 32, u64::MAX] {
        assert_eq!(
            lbr.write(msr::IA32_LBR_DEPTH, depth),
            Some(Err(Fault)),
            "{depth}"
        );
        assert_eq!(get(&lbr, msr::IA32_LBR_DEPTH), 32);
    }
}

#[test]
fn entries_beyond_the_depth_fault() {
    let mut lbr = lbr(0);
    set(&mut lbr, msr::IA32_LBR_DEPTH, 8);
    for first in [
        msr::IA32_LBR_0_FROM_IP,
        msr::IA32_LBR_0_TO_IP,
        msr::IA32_LBR_0_INFO,
    ] {
        assert_eq!(lbr.read(first + 7), Some(Ok(0)));
        for beyond in [8, 31, 32, 63] {
            assert_eq!(lbr.read(first + beyond), Some(Err(Fault)));
            assert_eq!(lbr.write(first + beyond, 0), Some(Err(Fault)));
        }
        assert_eq!(lbr.read(first + 64), None);
    }
    for foreign in [0x680, 0x1c8, 0x1c9, 0xdc0, 0x1d9] {
        assert_eq!(lbr.read(foreign), None, "{foreign:#x}");
    }
}

#[test]
fn writes_keep_to_what_exists() {
    const HIGH: u64 = 0xffff_8000_0000_0000;
    #[rustfmt::skip]
    let rows = [
        (msr::IA32_LBR_CTL, CTL_VALID, Some(CTL_VALID)),
        (msr::IA32_LBR_CTL, 1 << 4, None),
        (msr::IA32_LBR_CTL, 1 << 15, None),
        (msr::IA32_LBR_CTL, 1 << 23, None),
        (msr::IA32_LBR_CTL, 1 << 63, None),
        (msr::IA32_LBR_0_FROM_IP, HIGH, Some(HIGH)),
        (msr::IA32_LBR_0_FROM_IP, 1 << 47, None),
        (msr::IA32_LBR_0_TO_IP + 31, 1 << 63, None),
        (msr::IA32_LBR_0_INFO, u64::MAX, Some(0x9f00_0000_0000_ffff)),
        (msr::MSR_LER_FROM_LIP, HIGH, Some(HIGH)),
        (msr::MSR_LER_FROM_LIP, 1 << 47, None),
        (msr::MSR_LER_TO_LIP, 1 << 62, None),
        (msr::MSR_LER_TO_LIP, 1, Some(1)),
        (msr::IA32_LER_INFO, 1 << 63, Some(1 << 63)),
    ];
    for (index, value, kept) in rows {
        let mut lbr = lbr(0);
        let result = if kept.is_some() { Ok(()) } else { Err(Fault) };
        assert_eq!(
            lbr.write(index, value),
            Some(result),
            "{index:#x} {value:#x}"
        );
        assert_eq!(get(&lbr, index), kept.unwrap_or(0), "{index:#x} {value:#x}");
    }
}

#[test]
fn the_last_event_record_is_the_branch_before_the_event() {
    let mut lbr = lbr(ALL & !JCC);
    record(&mut lbr, Kind::RelativeJump, 0x10);
    record(&mut lbr, Kind::Conditional, 0x18);
    record(&mut lbr, Kind::Event, 0x20);
    assert_eq!(get(&lbr, msr::MSR_LER_FROM_LIP), 0x10);
    assert_eq!(get(&lbr, msr::MSR_LER_TO_LIP), 0x110);
    record(&mut lbr, Kind::Event, 0x30);
    assert_eq!(get(&lbr, msr::MSR_LER_FROM_LIP), 0x20);
    assert_eq!(get(&lbr, msr::IA32_LER_INFO) >> 56 & 0xf, 8);
}

#[test]
fn smm_switches_recording_off_and_back() {
    for ctl in [ALL, ALL & !LBREN] {
        let mut lbr = lbr(ctl);
        lbr.smm(true);
        assert_eq!(get(&lbr, msr::IA32_LBR_CTL), ALL & !LBREN);
        lbr.smm(false);
        assert_eq!(get(&lbr, msr::IA32_LBR_CTL), ctl);
        lbr.smm(false);
        assert_eq!(get(&lbr, msr::IA32_LBR_CTL), ctl);
    }
}

#[test]
fn another_depth_in_the_area_clears_the_entries_only() {
    let mut original = lbr(ALL);
    record(&mut original, Kind::Conditional, 1);
    record(&mut original, Kind::Event, 2);
    let area = original.save();
    let mut other = lbr(ALL & !NEAR_RET);
    set(&mut other, msr::IA32_LBR_DEPTH, 16);
    record(&mut other, Kind::Conditional, 9);
    let mut reserved = area;
    for bit in [7, 32, 63] {
        reserved[1] = 32 | 1 << bit;
        assert_eq!(other.restore(&reserved), Err(Fault), "{bit}");
        assert_eq!(froms(&other), [9]);
    }
    // What is not loaded may have any value.
    let mut area = area;
    area[5] = 1 << 62;
    assert_eq!(other.restore(&area), Ok(()));
    assert_eq!(get(&other, msr::IA32_LBR_DEPTH), 16);
    assert_eq!(get(&other, msr::IA32_LBR_CTL), ALL);
    assert_eq!(get(&other, msr::MSR_LER_FROM_LIP), 1);
    assert!(froms(&other).is_empty());
}

#[test]
fn an_area_with_a_bad_value_changes_nothing() {
    let mut original = lbr(ALL);
    record(&mut original, Kind::Conditional, 1);
    let good = original.save();
    for (quadword, value) in [
        (0, 1 << 4),
        (2, 1 << 47),
        (3, 1 << 47),
        (5, 1 << 47),
        (6, 1 << 47),
        (5 + 3 * 31, 1 << 62),
    ] {
        let mut area = good;
        area[quadword] = value;
        let mut lbr = original.clone();
        assert_eq!(lbr.restore(&area), Err(Fault), "{quadword}");
        assert_eq!(lbr.save(), good, "{quadword}");
    }
}

#[test]
fn the_initial_configuration_is_zero_but_for_the_depth() {
    let mut lbr = lbr(0);
    set(&mut lbr, msr::IA32_LBR_DEPTH, 16);
    assert!(!lbr.is_in_use());
    for (index, value) in [
        (msr::IA32_LBR_CTL, OS),
        (msr::IA32_LBR_0_FROM_IP, 1),
        (msr::IA32_LBR_0_TO_IP + 15, 1),
        (msr::IA32_LBR_0_INFO + 3, 1),
        (msr::MSR_LER_FROM_LIP, 1),
        (msr::IA32_LER_INFO, 1),
    ] {
        set(&mut lbr, index, value);
        assert!(lbr.is_in_use(), "{index:#x}");
        lbr.initialise();
        assert!(!lbr.is_in_use(), "{index:#x}");
        assert_eq!(get(&lbr, index), 0);
        assert_eq!(get(&lbr, msr::IA32_LBR_DEPTH), 16);
    }
}

#[test]
fn power_up_takes_the_largest_depth() {
    let mut lbr = lbr(ALL);
    set(&mut lbr, msr::IA32_LBR_DEPTH, 8);
    record(&mut lbr, Kind::Event, 1);
    lbr.reset();
    assert_eq!(get(&lbr, msr::IA32_LBR_DEPTH), 32);
    assert!(!lbr.is_in_use());
}

prop_compose! {
    fn branches()(steps in prop::collection::vec((0u8..9, any::<bool>(), any::<bool>(), 1u64..1000), 0..100))
        -> Vec<(Taken, Circumstances)> {
        steps.into_iter().map(|(number, user, crossed, from)| {
            let how = Circumstances {
                user,
                from_user: user != crossed,
                mispredicted: from % 2 == 0,
                cycles: from * 3,
            };
            (taken(Kind::from_number(number).unwrap(), from), how)
        }).collect()
    }
}

proptest! {
    /// XSAVES then XRSTORS into another CPU, or each register by RDMSR and WRMSR,
    /// makes the same state.
    #[test]
    fn saved_is_restored(branches in branches(), ctl in any::<u64>(), depth in 1u64..=4) {
        let depth = if depth == 3 { 16 } else { depth * 8 };
        let mut original = lbr(ctl & CTL_VALID | LBREN);
        set(&mut original, msr::IA32_LBR_DEPTH, depth);
        for (branch, how) in branches {
            original.branch(&branch, how);
        }
        let area = original.save();
        prop_assert_eq!(area[1], depth);
        prop_assert!(area[original.saved()..].iter().all(|&value| value == 0));
        let mut copy = lbr(0);
        set(&mut copy, msr::IA32_LBR_DEPTH, depth);
        prop_assert_eq!(copy.restore(&area), Ok(()));
        prop_assert_eq!(copy.save(), area);
        let mut copy = lbr(0);
        set(&mut copy, msr::IA32_LBR_DEPTH, depth);
        let registers = [msr::IA32_LBR_CTL, msr::MSR_LER_FROM_LIP, msr::MSR_LER_TO_LIP, msr::IA32_LER_INFO];
        for index in registers {
            set(&mut copy, index, get(&original, index));
        }
        for entry in 0..u32::try_from(depth).unwrap() {
            for first in [msr::IA32_LBR_0_FROM_IP, msr::IA32_LBR_0_TO_IP, msr::IA32_LBR_0_INFO] {
                set(&mut copy, first + entry, get(&original, first + entry));
            }
        }
        prop_assert_eq!(copy.save(), area);
    }

    /// In call-stack mode the entries are the program's calls, up to the depth.
    #[test]
    fn the_call_stack_is_the_programs(calls in prop::collection::vec(any::<bool>(), 0..200)) {
        let mut lbr = lbr(STACK);
        let mut stack = Vec::new();
        for (n, call) in (1..).zip(calls) {
            if call {
                record(&mut lbr, Kind::RelativeCall, n);
                stack.insert(0, n);
                stack.truncate(32);
            } else if !stack.is_empty() {
                record(&mut lbr, Kind::Return, n);
                stack.remove(0);
            }
        }
        prop_assert_eq!(froms(&lbr), stack);
    }
}
