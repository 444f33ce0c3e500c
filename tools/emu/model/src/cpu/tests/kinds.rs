// SPDX-License-Identifier: GPL-2.0-only
//! What differs between the machines.
use super::*;
use crate::lbr::architectural::{
    JCC, LBREN, NEAR_REL_JMP, OS as LBR_OS, OTHER_BRANCH, USR as LBR_USR,
};
use crate::lbr::legacy::FROM_MISPREDICTED;
use crate::machine::tests::{haswell, icelake, sapphire_rapids};

const EVERYTHING: u64 = LBREN | LBR_OS | LBR_USR | JCC | NEAR_REL_JMP | OTHER_BRANCH;

/// A counter of cycles in ring 0 that overflows at time 10.
fn armed_of(machine: &Machine, debugctl: u64) -> LogicalCpu {
    let mut cpu = LogicalCpu::new(machine);
    set(&mut cpu, IA32_DEBUGCTL, debugctl);
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | INT | 0x3c);
    set(&mut cpu, IA32_A_PMC0, MAX - 9);
    cpu
}

fn recording() -> LogicalCpu {
    let mut cpu = LogicalCpu::new(&sapphire_rapids());
    set(&mut cpu, IA32_LBR_CTL, EVERYTHING);
    cpu
}

#[test]
fn version_3_freezes_by_taking_the_switches_back() {
    let all = debugctl::LBR | debugctl::FREEZE_LBRS_ON_PMI | debugctl::FREEZE_PERFMON_ON_PMI;
    for (debugctl, debugctl_after, global_after) in [
        (debugctl::LBR, debugctl::LBR, 0xff),
        (
            all & !debugctl::FREEZE_PERFMON_ON_PMI,
            debugctl::FREEZE_LBRS_ON_PMI,
            0xff,
        ),
        (
            all & !debugctl::FREEZE_LBRS_ON_PMI,
            debugctl::LBR | debugctl::FREEZE_PERFMON_ON_PMI,
            0,
        ),
        (all, all & !debugctl::LBR, 0),
    ] {
        let mut cpu = armed_of(&haswell(), debugctl);
        cpu.advance(at(10));
        assert!(cpu.take_interrupt());
        assert_eq!(
            get(&mut cpu, IA32_DEBUGCTL),
            debugctl_after,
            "{debugctl:#x}"
        );
        assert_eq!(
            get(&mut cpu, IA32_PERF_GLOBAL_CTRL),
            global_after,
            "{debugctl:#x}"
        );
        assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_STATUS), 1, "{debugctl:#x}");
    }
}

#[test]
fn version_3_has_no_status_to_freeze_by() {
    let mut cpu = LogicalCpu::new(&haswell());
    let now = Now::default();
    for (index, value, result) in [
        (IA32_PERF_GLOBAL_STATUS_RESET, LBR_FRZ, Err(Fault)),
        (IA32_PERF_GLOBAL_STATUS_RESET, CTR_FRZ, Err(Fault)),
        (
            IA32_PERF_GLOBAL_STATUS_RESET,
            7 << 61 | 7 << 32 | 0xff,
            Ok(()),
        ),
    ] {
        assert_eq!(
            cpu.write(index, value, now),
            Some(result),
            "{index:#x} {value:#x}"
        );
    }
    for index in [IA32_PERF_GLOBAL_STATUS_SET, IA32_PERF_GLOBAL_INUSE] {
        assert_eq!(cpu.read(index, now), None);
        assert_eq!(cpu.write(index, 0, now), None);
    }
}

#[test]
fn any_thread_is_gone_in_version_5() {
    let now = Now::default();
    for (machine, gone) in [(haswell(), false), (skylake(), false), (icelake(), true)] {
        let mut cpu = LogicalCpu::new(&machine);
        let result = Some(if gone { Err(Fault) } else { Ok(()) });
        assert_eq!(cpu.write(IA32_PERFEVTSEL0, 1 << 21, now), result);
        assert_eq!(cpu.write(IA32_FIXED_CTR_CTRL, 4, now), result);
        assert_eq!(cpu.write(IA32_FIXED_CTR_CTRL, 0x444, now), result);
        set(&mut cpu, IA32_FIXED_CTR_CTRL, 0xbbb);
    }
}

#[test]
fn the_fourth_fixed_counter_counts_slots() {
    let mut cpu = LogicalCpu::new(&icelake());
    set(&mut cpu, IA32_FIXED_CTR_CTRL, 0x9000);
    set(&mut cpu, IA32_PERF_GLOBAL_CTRL, 1 << 35);
    set(&mut cpu, IA32_FIXED_CTR0 + 3, MAX - 12);
    assert_eq!(cpu.deadline(), 3, "13 slots, 5 per cycle");
    cpu.advance(at(2));
    assert_eq!(get(&mut cpu, IA32_FIXED_CTR0 + 3), MAX - 2);
    assert!(!cpu.take_interrupt());
    cpu.advance(at(3));
    assert!(cpu.take_interrupt());
    assert_eq!(get(&mut cpu, IA32_FIXED_CTR0 + 3), 2);
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_STATUS), 1 << 35);
    assert_eq!(cpu.rdpmc(1 << 30 | 3, at(3)), Ok(2));
    assert_eq!(
        LogicalCpu::new(&skylake()).rdpmc(1 << 30 | 3, at(3)),
        Err(Fault)
    );
}

#[test]
fn haswell_has_flags_in_from_and_no_info() {
    let mut cpu = LogicalCpu::new(&haswell());
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR);
    let branch = |from| Taken::flat(Kind::IndirectJump, from, 0x99, 2);
    cpu.taken(&branch(0xffff_8000_0000_1000), 5);
    cpu.taken(&branch(0xffff_8000_0000_1000), 9);
    let newest = MSR_LASTBRANCH_0_FROM_IP + 2;
    assert_eq!(
        get(&mut cpu, newest - 1),
        FROM_MISPREDICTED | 0x1fff_8000_0000_1000,
        "the first time is a surprise"
    );
    assert_eq!(
        get(&mut cpu, newest),
        0x1fff_8000_0000_1000,
        "flags of TSX are clear"
    );
    assert_eq!(get(&mut cpu, MSR_LASTBRANCH_0_TO_IP + 2), 0x99);
    let now = Now::default();
    assert_eq!(cpu.read(MSR_LBR_INFO_0, now), None);
    assert_eq!(cpu.read(MSR_LASTBRANCH_0_FROM_IP + 16, now), None);
    for (value, fine) in [
        (0xffff_8000_0000_1000, true),
        (0x7fff_8000_0000_1000, true),
        (0x1fff_8000_0000_1000, false),
        (0x9fff_8000_0000_1000, false),
        (FROM_MISPREDICTED | 0x1000, true),
        (1 << 61 | 0x1000, false),
        (1 << 62 | 0x1000, false),
    ] {
        let result = if fine { Ok(()) } else { Err(Fault) };
        assert_eq!(cpu.write(newest, value, now), Some(result), "{value:#x}");
        if fine {
            assert_eq!(get(&mut cpu, newest), value);
        }
    }
}

#[test]
fn each_machine_names_its_format() {
    for (machine, format) in [
        (haswell(), 4),
        (skylake(), 5),
        (icelake(), 5),
        (sapphire_rapids(), 0x3f),
    ] {
        let mut cpu = LogicalCpu::new(&machine);
        assert_eq!(get(&mut cpu, IA32_PERF_CAPABILITIES), 0x3000 | format);
    }
}

#[test]
fn no_machine_has_the_others_registers() {
    let now = Now::default();
    let legacy = [
        MSR_LBR_SELECT,
        MSR_LASTBRANCH_TOS,
        MSR_LASTBRANCH_0_FROM_IP,
        MSR_LASTBRANCH_0_TO_IP,
        MSR_LBR_INFO_0,
    ];
    let architectural = [
        IA32_LBR_CTL,
        IA32_LBR_DEPTH,
        IA32_LBR_0_FROM_IP,
        IA32_LBR_0_TO_IP,
        IA32_LBR_0_INFO,
        IA32_LER_INFO,
    ];
    for (machine, present, absent) in [
        (skylake(), &legacy[..], &architectural[..]),
        (sapphire_rapids(), &architectural[..], &legacy[..]),
    ] {
        let mut cpu = LogicalCpu::new(&machine);
        for &index in present {
            assert!(matches!(cpu.read(index, now), Some(Ok(_))), "{index:#x}");
        }
        for &index in absent {
            assert_eq!(cpu.read(index, now), None, "{index:#x}");
            assert_eq!(cpu.write(index, 0, now), None, "{index:#x}");
        }
    }
}

#[test]
fn debugctl_lbr_means_nothing_to_the_architectural_lbr() {
    let mut cpu = LogicalCpu::new(&sapphire_rapids());
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR | debugctl::BTF);
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), debugctl::BTF);
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR);
    assert!(!cpu.wants_branches());
    jump(&mut cpu, 1);
    assert_eq!(newest(&cpu), 0);
    set(&mut cpu, IA32_LBR_CTL, EVERYTHING);
    assert!(cpu.wants_branches());
    jump(&mut cpu, 1);
    assert_eq!(newest(&cpu), 1);
}

#[test]
fn the_architectural_lbr_freezes_by_status() {
    let mut cpu = armed_of(&sapphire_rapids(), debugctl::FREEZE_LBRS_ON_PMI);
    set(&mut cpu, IA32_LBR_CTL, EVERYTHING);
    jump(&mut cpu, 1);
    cpu.advance(at(10));
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_STATUS), 1 | LBR_FRZ);
    assert_eq!(get(&mut cpu, IA32_LBR_CTL), EVERYTHING);
    jump(&mut cpu, 2);
    assert_eq!(newest(&cpu), 1);
    set(&mut cpu, IA32_PERF_GLOBAL_STATUS_RESET, LBR_FRZ);
    jump(&mut cpu, 3);
    assert_eq!(newest(&cpu), 3);
}

#[test]
fn a_debug_exception_clears_lbren_and_init_does_not() {
    let stops: [fn(&mut LogicalCpu); 2] = [
        |cpu| cpu.reset(Reset::Init, at(5)),
        LogicalCpu::debug_exception,
    ];
    for (stop, left) in stops.into_iter().zip([LBREN, 0]) {
        let mut cpu = recording();
        set(&mut cpu, IA32_LBR_DEPTH, 16);
        jump(&mut cpu, 1);
        stop(&mut cpu);
        assert_eq!(get(&mut cpu, IA32_LBR_CTL), EVERYTHING & !LBREN | left);
        assert_eq!(get(&mut cpu, IA32_LBR_DEPTH), 16);
        assert_eq!(newest(&cpu), 1);
        jump(&mut cpu, 2);
        assert_eq!(newest(&cpu), 1 + left);
    }
    let mut cpu = recording();
    set(&mut cpu, IA32_LBR_DEPTH, 16);
    cpu.reset(Reset::PowerUp, at(0));
    assert_eq!(get(&mut cpu, IA32_LBR_CTL), 0);
    assert_eq!(get(&mut cpu, IA32_LBR_DEPTH), 32);
}

#[test]
fn a_warm_reset_keeps_the_registers_and_stops_recording() {
    let mut cpu = recording();
    set(&mut cpu, IA32_LBR_DEPTH, 16);
    jump(&mut cpu, 7);
    cpu.smm(true, at(5));
    cpu.reset(Reset::Warm, at(0));
    cpu.smm(false, at(1));
    assert_eq!(get(&mut cpu, IA32_LBR_CTL), EVERYTHING & !LBREN);
    assert_eq!(get(&mut cpu, IA32_LBR_DEPTH), 16);
    assert_eq!(newest(&cpu), 7);
}

#[test]
fn smm_is_not_recorded() {
    let mut cpu = recording();
    cpu.smm(true, at(1));
    assert_eq!(get(&mut cpu, IA32_LBR_CTL), EVERYTHING & !LBREN);
    jump(&mut cpu, 1);
    cpu.smm(false, at(5));
    assert_eq!(newest(&cpu), 0);
    jump(&mut cpu, 2);
    assert_eq!(newest(&cpu), 2);
}

#[test]
fn only_the_branch_that_changes_the_level_comes_from_the_other() {
    let branch = |kind, from| Taken::flat(kind, from, 0x900, 2);
    let mut cpu = recording();
    set(&mut cpu, IA32_LBR_CTL, EVERYTHING & !LBR_OS);
    // A return to user mode, at time 8.
    cpu.set_user(true, at(7));
    cpu.taken(&branch(Kind::Far, 0x100), 8);
    assert_eq!(newest(&cpu), u64::MAX);
    cpu.taken(&branch(Kind::RelativeJump, 0x200), 9);
    assert_eq!(newest(&cpu), 0x200);
    cpu.taken(&branch(Kind::Far, 0x300), 10);
    assert_eq!(newest(&cpu), 0x300, "a far branch within user mode");
    // A VM exit and entry, and then a branch right away.
    cpu.set_user(false, at(11));
    cpu.set_user(true, at(12));
    cpu.taken(&branch(Kind::RelativeJump, 0x400), 13);
    assert_eq!(newest(&cpu), 0x400);
    // The same, and with the entry an event for user mode.
    cpu.set_user(false, at(14));
    cpu.set_user(true, at(15));
    cpu.entered();
    cpu.taken(&branch(Kind::Event, 0x500), 16);
    assert_eq!(newest(&cpu), 0x500);
    // RSM to user mode.
    cpu.set_user(false, at(17));
    cpu.set_user(true, at(18));
    cpu.taken(&branch(Kind::Resume, 0x600), 19);
    assert_eq!(newest(&cpu), u64::MAX);
    // RSM to where the level is the same, right behind what changed it unseen.
    cpu.set_user(false, at(19));
    cpu.set_user(true, at(20));
    cpu.smm(false, at(21));
    cpu.taken(&branch(Kind::Resume, 0x700), 21);
    assert_eq!(newest(&cpu), 0x700);
}

#[test]
fn state_component_15_is_the_architectural_ones() {
    assert_eq!(LogicalCpu::new(&skylake()).xsave(), None);
    assert_eq!(LogicalCpu::new(&skylake()).xrstor(None), Err(Fault));
    let mut cpu = recording();
    jump(&mut cpu, 1);
    let (area, length) = cpu.xsave().unwrap();
    assert_eq!(length, AREA);
    assert!(cpu.is_xinuse());
    assert_eq!(cpu.xrstor(None), Ok(()));
    assert!(!cpu.is_xinuse() && !cpu.wants_branches());
    assert_eq!(cpu.xrstor(Some(&area)), Ok(()));
    assert_eq!(cpu.xsave(), Some((area, AREA)));
    assert!(cpu.wants_branches());
}
