// SPDX-License-Identifier: GPL-2.0-only
use super::*;
use proptest::prelude::*;

fn lbr() -> Legacy {
    Legacy::new(32, LbrFormat::Info, 48)
}

fn how(user: bool, mispredicted: bool, cycles: u64) -> Circumstances {
    Circumstances {
        user,
        from_user: user,
        mispredicted,
        cycles,
    }
}

fn taken(kind: Kind, from: u64, to: u64) -> Taken {
    Taken::flat(kind, from, to, 5)
}

fn record(lbr: &mut Legacy, kind: Kind, from: u64) -> bool {
    lbr.branch(&taken(kind, from, from + 0x100), how(false, false, 0))
}

fn froms(lbr: &Legacy) -> Vec<u64> {
    lbr.newest_first()
        .map(|r| r.from)
        .take_while(|&from| from != 0)
        .collect()
}

#[test]
fn the_ring_keeps_the_newest() {
    let mut lbr = lbr();
    for n in 1..=40 {
        assert!(record(&mut lbr, Kind::Conditional, n));
        assert_eq!(lbr.read(msr::MSR_LASTBRANCH_TOS), Some(Ok(n % 32)));
        let at = msr::MSR_LASTBRANCH_0_FROM_IP + (n % 32) as u32;
        assert_eq!(lbr.read(at), Some(Ok(n)));
    }
    assert_eq!(froms(&lbr), (9..=40).rev().collect::<Vec<_>>());
}

#[test]
fn select_suppresses_what_it_names() {
    use Kind::*;
    // Each row: the filter, the kinds that it suppresses, ring 0, ring 3.
    #[rustfmt::skip]
    let rows: [(u64, &[Kind], bool, bool); 10] = [
        (0, &[], false, false),
        (CPL_EQ_0, &Kind::ALL, true, false),
        (CPL_NEQ_0, &Kind::ALL, false, true),
        (JCC, &[Conditional], true, true),
        (NEAR_REL_CALL, &[RelativeCall], true, true),
        (NEAR_IND_CALL, &[IndirectCall], true, true),
        (NEAR_RET, &[Return], true, true),
        (NEAR_IND_JMP, &[IndirectJump], true, true),
        (NEAR_REL_JMP, &[RelativeJump], true, true),
        (FAR_BRANCH, &[Far, Event], true, true),
    ];
    for (select, kinds, ring0, ring3) in rows {
        for kind in Kind::ALL {
            for user in [false, true] {
                let mut lbr = lbr();
                lbr.write(msr::MSR_LBR_SELECT, select).unwrap().unwrap();
                let recorded = lbr.branch(&taken(kind, 1, 2), how(user, false, 0));
                let suppressed =
                    kind == Resume || kinds.contains(&kind) && if user { ring3 } else { ring0 };
                assert_eq!(recorded, !suppressed, "{select:#x} {kind:?} user {user}");
                assert_eq!(froms(&lbr).len(), usize::from(recorded));
            }
        }
    }
}

const CALLSTACK: u64 = EN_CALLSTACK | JCC | NEAR_IND_JMP | NEAR_REL_JMP | FAR_BRANCH;

#[test]
fn the_call_stack_pops_on_return() {
    let mut lbr = lbr();
    lbr.write(msr::MSR_LBR_SELECT, CALLSTACK).unwrap().unwrap();
    record(&mut lbr, Kind::RelativeCall, 0x10);
    record(&mut lbr, Kind::IndirectCall, 0x20);
    record(&mut lbr, Kind::Conditional, 0x21);
    record(&mut lbr, Kind::RelativeCall, 0x30);
    assert_eq!(froms(&lbr), [0x30, 0x20, 0x10]);
    assert!(!record(&mut lbr, Kind::Return, 0x31));
    assert_eq!(froms(&lbr), [0x20, 0x10]);
    assert_eq!(lbr.read(msr::MSR_LASTBRANCH_TOS), Some(Ok(2)));
    let popped = msr::MSR_LASTBRANCH_0_FROM_IP + 3;
    assert_eq!(lbr.read(popped), Some(Ok(0)));
    record(&mut lbr, Kind::Return, 0x22);
    record(&mut lbr, Kind::Return, 0x11);
    assert!(froms(&lbr).is_empty());
    record(&mut lbr, Kind::Return, 0x1);
    assert_eq!(lbr.read(msr::MSR_LASTBRANCH_TOS), Some(Ok(31)), "wraps");
}

#[test]
fn a_call_stack_holds_calls_only() {
    for kind in Kind::ALL {
        let mut lbr = lbr();
        lbr.write(msr::MSR_LBR_SELECT, EN_CALLSTACK)
            .unwrap()
            .unwrap();
        let call = matches!(kind, Kind::RelativeCall | Kind::IndirectCall);
        assert_eq!(record(&mut lbr, kind, 0x10), call, "{kind:?}");
        assert_eq!(froms(&lbr).len(), usize::from(call), "{kind:?}");
    }
}

#[test]
fn zero_length_calls_are_exempt_from_the_call_stack_only() {
    let mut lbr = lbr();
    let call = taken(Kind::RelativeCall, 0x10, 0x15);
    assert!(lbr.branch(&call, how(false, false, 0)));
    lbr.write(msr::MSR_LBR_SELECT, CALLSTACK).unwrap().unwrap();
    assert!(!lbr.branch(&call, how(false, false, 0)));
    assert!(lbr.branch(&taken(Kind::IndirectCall, 0x10, 0x15), how(false, false, 0)));
}

#[test]
fn suppressed_returns_do_not_pop() {
    let mut lbr = lbr();
    lbr.write(msr::MSR_LBR_SELECT, CALLSTACK | NEAR_RET)
        .unwrap()
        .unwrap();
    record(&mut lbr, Kind::RelativeCall, 0x10);
    record(&mut lbr, Kind::Return, 0x20);
    assert_eq!(froms(&lbr), [0x10]);
}

#[test]
fn info_has_cycles_and_prediction() {
    let mut lbr = lbr();
    let jump = taken(Kind::RelativeJump, 0x10, 0x20);
    lbr.branch(&jump, how(false, false, 100));
    lbr.branch(&jump, how(false, true, 107));
    lbr.branch(&jump, how(false, false, 200_000));
    let infos: Vec<_> = lbr.newest_first().take(3).map(|r| r.info).collect();
    assert_eq!(infos, [0xffff, INFO_MISPREDICTED | 7, 100]);
}

#[test]
fn cycles_run_on_over_suppressed_branches() {
    let mut lbr = lbr();
    lbr.write(msr::MSR_LBR_SELECT, JCC).unwrap().unwrap();
    lbr.branch(&taken(Kind::RelativeJump, 1, 2), how(false, false, 10));
    lbr.branch(&taken(Kind::Conditional, 1, 2), how(false, false, 15));
    lbr.branch(&taken(Kind::RelativeJump, 1, 2), how(false, false, 20));
    assert_eq!(lbr.newest_first().next().unwrap().info, 10);
}

#[test]
fn the_last_exception_record_is_the_branch_before_the_event() {
    let mut lbr = lbr();
    lbr.write(msr::MSR_LBR_SELECT, JCC).unwrap().unwrap();
    record(&mut lbr, Kind::Conditional, 0x10);
    record(&mut lbr, Kind::Event, 0x111);
    assert_eq!(lbr.read(msr::MSR_LER_FROM_LIP), Some(Ok(0x10)));
    assert_eq!(lbr.read(msr::MSR_LER_TO_LIP), Some(Ok(0x110)));
    assert_eq!(lbr.write(msr::MSR_LER_FROM_LIP, 0), Some(Err(Fault)));
    record(&mut lbr, Kind::Event, 0x222);
    assert_eq!(lbr.read(msr::MSR_LER_FROM_LIP), Some(Ok(0x111)));
}

#[test]
fn writes_keep_to_the_bits_that_exist() {
    #[rustfmt::skip]
    let rows = [
        (msr::MSR_LBR_SELECT, 0x3ff, true),
        (msr::MSR_LBR_SELECT, 0x400, false),
        (msr::MSR_LASTBRANCH_TOS, 31, true),
        (msr::MSR_LASTBRANCH_TOS, 32, false),
        (msr::MSR_LASTBRANCH_0_FROM_IP, 0x7fff_ffff_ffff, true),
        (msr::MSR_LASTBRANCH_0_FROM_IP, 0x8000_0000_0000, false),
        (msr::MSR_LASTBRANCH_0_FROM_IP + 31, u64::MAX, true),
        (msr::MSR_LASTBRANCH_0_TO_IP, 1 << 63, false),
        (msr::MSR_LASTBRANCH_0_TO_IP + 31, 0xffff_8000_0000_0000, true),
        (msr::MSR_LBR_INFO_0, 1 << 63 | 0xffff, true),
        (msr::MSR_LBR_INFO_0, 1 << 62, false),
        (msr::MSR_LBR_INFO_0, 1 << 61, false),
        (msr::MSR_LBR_INFO_0, 1 << 16, false),
        (msr::MSR_LBR_INFO_0 + 31, 0, true),
    ];
    for (index, value, fine) in rows {
        let mut lbr = lbr();
        assert_eq!(
            lbr.write(index, value).unwrap().is_ok(),
            fine,
            "{index:#x} {value:#x}"
        );
        let read = lbr.read(index).unwrap().unwrap();
        assert_eq!(read, if fine { value } else { 0 }, "{index:#x}");
    }
}

#[test]
fn registers_end_at_the_depth() {
    let mut lbr = Legacy::new(16, LbrFormat::Info, 48);
    assert!(lbr.read(msr::MSR_LASTBRANCH_0_FROM_IP + 15).is_some());
    for beyond in [0x690, 0x6d0, 0xdd0, 0x1ca, 0x1d9] {
        assert_eq!(lbr.read(beyond), None, "{beyond:#x}");
        assert_eq!(lbr.write(beyond, 0), None, "{beyond:#x}");
    }
    assert_eq!(lbr.write(msr::MSR_LASTBRANCH_TOS, 16), Some(Err(Fault)));
}

#[test]
fn records_have_offsets_in_the_segments_and_ler_linear_addresses() {
    for format in [LbrFormat::EipFlags2, LbrFormat::Info] {
        let mut lbr = Legacy::new(16, format, 48);
        let far = Taken {
            from_ip: 0x10,
            to_ip: 0x20,
            ..taken(Kind::Far, 0x1_0010, 0x2_0020)
        };
        lbr.branch(&far, how(false, false, 0));
        let newest = lbr.newest_first().next().unwrap();
        assert_eq!((newest.from, newest.to), (0x10, 0x20));
        record(&mut lbr, Kind::Event, 0x30);
        assert_eq!(lbr.read(msr::MSR_LER_FROM_LIP), Some(Ok(0x1_0010)));
        assert_eq!(lbr.read(msr::MSR_LER_TO_LIP), Some(Ok(0x2_0020)));
    }
}

proptest! {
    /// Saving every register and writing it to another stack makes an equal one.
    #[test]
    fn registers_are_the_whole_state(steps in prop::collection::vec((0u8..8, any::<bool>(), 1u64..1000), 0..100), select in 0u64..0x400) {
        let mut original = lbr();
        original.write(msr::MSR_LBR_SELECT, select).unwrap().unwrap();
        for (number, user, from) in steps {
            let kind = Kind::from_number(number).unwrap();
            original.branch(&taken(kind, from, from + 9), how(user, from % 2 == 0, from));
        }
        let mut copy = lbr();
        let indices = [msr::MSR_LBR_SELECT, msr::MSR_LASTBRANCH_TOS].into_iter()
            .chain(0x680..0x6a0).chain(0x6c0..0x6e0).chain(0xdc0..0xde0);
        for index in indices {
            let value = original.read(index).unwrap().unwrap();
            copy.write(index, value).unwrap().unwrap();
        }
        prop_assert!(original.newest_first().eq(copy.newest_first()));
        prop_assert_eq!(original.tos, copy.tos);
    }

    /// In call-stack mode the stack is that of the program, up to its depth.
    #[test]
    fn the_call_stack_is_the_programs(calls in prop::collection::vec(any::<bool>(), 0..200)) {
        let mut lbr = lbr();
        lbr.write(msr::MSR_LBR_SELECT, CALLSTACK).unwrap().unwrap();
        let (mut stack, mut lost) = (Vec::new(), 0);
        for (n, call) in (1..).zip(calls) {
            if call {
                record(&mut lbr, Kind::RelativeCall, n);
                stack.push(n);
                if stack.len() > 32 {
                    stack.remove(0);
                    lost += 1;
                }
            } else if stack.pop().is_some() {
                record(&mut lbr, Kind::Return, n);
            } else {
                prop_assert!(lost >= 0);
                break;
            }
        }
        stack.reverse();
        prop_assert_eq!(froms(&lbr), stack);
    }
}
