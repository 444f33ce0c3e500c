// SPDX-License-Identifier: GPL-2.0-only
use super::*;
use crate::lbr::legacy;
use crate::machine::tests::{haswell, sapphire_rapids, skylake};
use crate::msr::*;
use crate::pmu::{EN, INT, OS, USR};
use proptest::prelude::*;

mod kinds;
mod registers;

const MAX: u64 = (1 << 48) - 1;

fn at(time: u64) -> Now {
    Now {
        cycles: time,
        instructions: time,
    }
}

fn cpu() -> LogicalCpu {
    LogicalCpu::new(&skylake())
}

fn set(cpu: &mut LogicalCpu, index: u32, value: u64) {
    let now = Now::default();
    assert_eq!(
        cpu.write(index, value, now),
        Some(Ok(())),
        "{index:#x} {value:#x}"
    );
}

fn get(cpu: &mut LogicalCpu, index: u32) -> u64 {
    cpu.read(index, Now::default()).unwrap().unwrap()
}

fn jump(cpu: &mut LogicalCpu, from: u64) {
    let branch = Taken::flat(Kind::RelativeJump, from, from + 9, 2);
    cpu.taken(&branch, 0);
}

fn newest(cpu: &LogicalCpu) -> u64 {
    match &cpu.lbr {
        Lbr::Legacy(lbr) => lbr.newest_first().next().unwrap().from,
        Lbr::Architectural(lbr) => lbr.newest_first().next().unwrap().from,
    }
}

/// A counter of cycles in ring 0 that overflows at time 10.
fn armed(debugctl: u64) -> LogicalCpu {
    let mut cpu = cpu();
    set(&mut cpu, IA32_DEBUGCTL, debugctl);
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | INT | 0x3c);
    set(&mut cpu, IA32_A_PMC0, MAX - 9);
    cpu
}

#[test]
fn a_debug_exception_stops_recording_and_stepping() {
    let mut cpu = cpu();
    set(
        &mut cpu,
        IA32_DEBUGCTL,
        debugctl::LBR | debugctl::BTF | debugctl::FREEZE_LBRS_ON_PMI,
    );
    assert!(cpu.steps_branches());
    cpu.debug_exception();
    assert!(!cpu.steps_branches());
    assert!(!cpu.wants_branches());
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), debugctl::FREEZE_LBRS_ON_PMI);
}

fn access(load: bool, store: bool, address: u64) -> Memory {
    Memory {
        load,
        store,
        address,
        length: 8,
    }
}

#[test]
fn caches_see_data_and_code_while_somebody_counts() {
    let mut cpu = cpu();
    let load = access(true, false, 0x1000);
    assert!(!cpu.memory(&load, 1));
    assert!(!cpu.wants_fetches());
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x4f2e);
    set(&mut cpu, IA32_PERFEVTSEL0 + 1, EN | OS | 0x412e);
    assert!(cpu.wants_memory() && cpu.wants_fetches() && !cpu.wants_branches());
    let counted = |cpu: &mut LogicalCpu| [0, 1].map(|n| get(cpu, IA32_A_PMC0 + n));
    cpu.memory(&load, 2);
    assert_eq!(counted(&mut cpu), [1, 1], "nobody counted the first");
    cpu.memory(&load, 3);
    cpu.fetch(0x103f, 1);
    assert_eq!(counted(&mut cpu), [1, 1]);
    cpu.fetch(0x103f, 2);
    assert_eq!(counted(&mut cpu), [2, 2], "two lines, one of them new");
    cpu.memory(&access(false, true, 0x107c), 4);
    assert_eq!(counted(&mut cpu), [3, 3]);
    cpu.flush(Some(0x1020));
    cpu.memory(&load, 5);
    assert_eq!(counted(&mut cpu), [4, 4]);
    cpu.flush(None);
    cpu.memory(&load, 6);
    assert_eq!(counted(&mut cpu), [5, 5]);
    cpu.reset(Reset::Init, at(6));
    cpu.memory(&load, 7);
    assert_eq!(counted(&mut cpu), [5, 5], "INIT leaves the caches");
    cpu.reset(Reset::PowerUp, at(8));
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x412e);
    cpu.memory(&load, 9);
    assert_eq!(get(&mut cpu, IA32_A_PMC0), 1, "a reset does not");
}

#[test]
fn a_miss_interrupts() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | INT | 0x412e);
    set(&mut cpu, IA32_A_PMC0, (1 << 48) - 2);
    assert!(!cpu.fetch(0, 1));
    assert!(!cpu.fetch(0, 1));
    assert!(cpu.memory(&access(true, false, 0x40), 1));
    assert!(cpu.take_interrupt());
}

#[test]
fn an_instruction_counts_its_accesses_to_memory_once() {
    let mut cpu = cpu();
    for (n, event) in [(0, 0x81d0), (1, 0x82d0), (2, 0x83d0)] {
        assert_eq!(cpu.wants_memory(), n > 0);
        set(&mut cpu, IA32_PERFEVTSEL0 + n, EN | OS | event);
    }
    assert!(!cpu.wants_branches());
    let mut counted = |accesses: &[(bool, bool)], cycles| {
        for (load, store) in accesses {
            assert!(!cpu.memory(&access(*load, *store, 0), cycles));
        }
        [0, 1, 2].map(|n| get(&mut cpu, IA32_A_PMC0 + n))
    };
    assert_eq!(counted(&[(true, false)], 1), [1, 0, 1]);
    assert_eq!(counted(&[(true, false), (true, false)], 2), [2, 0, 2]);
    assert_eq!(counted(&[(true, false), (false, true)], 3), [3, 1, 3]);
    assert_eq!(counted(&[(true, true)], 4), [4, 2, 4]);
    assert_eq!(counted(&[(false, true)], 5), [4, 3, 5]);
}

#[test]
fn stepping_by_branches_wants_branches() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_DEBUGCTL, debugctl::BTF);
    assert!(cpu.wants_branches());
    jump(&mut cpu, 0x1000);
    assert_eq!(get(&mut cpu, MSR_LASTBRANCH_TOS), 0, "BTF records nothing");
}

#[test]
fn recording_follows_debugctl() {
    let mut cpu = cpu();
    jump(&mut cpu, 1);
    assert!(!cpu.wants_branches());
    assert_eq!(newest(&cpu), 0);
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR);
    assert!(cpu.wants_branches());
    jump(&mut cpu, 2);
    assert_eq!(newest(&cpu), 2);
    set(&mut cpu, IA32_DEBUGCTL, 0);
    jump(&mut cpu, 3);
    assert_eq!(newest(&cpu), 2);
}

#[test]
fn an_overflow_interrupts_once_and_in_time() {
    let mut cpu = armed(0);
    assert_eq!(cpu.deadline(), 10);
    cpu.advance(at(9));
    assert!(!cpu.take_interrupt());
    cpu.advance(at(10));
    assert!(cpu.take_interrupt());
    assert!(!cpu.take_interrupt());
}

#[test]
fn freezing_is_streamlined() {
    // Each row: IA32_DEBUGCTL, what IA32_PERF_GLOBAL_STATUS is after the overflow.
    #[rustfmt::skip]
    let rows = [
        (debugctl::LBR, 1),
        (debugctl::LBR | debugctl::FREEZE_LBRS_ON_PMI, 1 | LBR_FRZ),
        (debugctl::LBR | debugctl::FREEZE_PERFMON_ON_PMI, 1 | CTR_FRZ),
        (debugctl::LBR | debugctl::FREEZE_LBRS_ON_PMI | debugctl::FREEZE_PERFMON_ON_PMI, 1 | LBR_FRZ | CTR_FRZ),
    ];
    for (debugctl, status) in rows {
        let mut cpu = armed(debugctl);
        jump(&mut cpu, 1);
        cpu.advance(at(10));
        assert_eq!(
            get(&mut cpu, IA32_PERF_GLOBAL_STATUS),
            status,
            "{debugctl:#x}"
        );
        assert_eq!(get(&mut cpu, IA32_DEBUGCTL), debugctl, "DEBUGCTL stays");
        jump(&mut cpu, 2);
        assert_eq!(newest(&cpu), if status & LBR_FRZ == 0 { 2 } else { 1 });
        cpu.advance(at(15));
        assert_eq!(
            get(&mut cpu, IA32_PMC0),
            if status & CTR_FRZ == 0 { 5 } else { 0 }
        );
        set(&mut cpu, IA32_PERF_GLOBAL_STATUS_RESET, status);
        jump(&mut cpu, 3);
        assert_eq!(newest(&cpu), 3, "recording goes on");
    }
}

#[test]
fn a_branch_that_overflows_freezes_after_what_passed() {
    for mut cpu in [cpu(), LogicalCpu::new(&haswell())] {
        set(&mut cpu, IA32_DEBUGCTL, debugctl::FREEZE_PERFMON_ON_PMI);
        set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | INT | 0xc4);
        set(&mut cpu, IA32_A_PMC0, MAX);
        set(&mut cpu, IA32_FIXED_CTR_CTRL, 1);
        set(&mut cpu, IA32_PERF_GLOBAL_CTRL, 1 | 1 << 32);
        jump(&mut cpu, 0x1000);
        assert!(cpu.take_interrupt());
        assert_eq!(cpu.deadline(), 0);
        cpu.advance(at(7));
        cpu.advance(at(9));
        assert_eq!(get(&mut cpu, IA32_FIXED_CTR0), 7);
    }
}

#[test]
fn freeze_while_smm_stops_stepping() {
    let mut cpu = cpu();
    set(
        &mut cpu,
        IA32_DEBUGCTL,
        debugctl::BTF | debugctl::FREEZE_WHILE_SMM,
    );
    cpu.smm(true, at(1));
    assert!(!cpu.steps_branches());
    cpu.smm(false, at(2));
    assert!(cpu.steps_branches());
}

#[test]
fn an_overflow_freezes_as_configured_before_the_write() {
    let mut cpu = armed(0);
    let freeze = debugctl::FREEZE_PERFMON_ON_PMI;
    assert_eq!(cpu.write(IA32_DEBUGCTL, freeze, at(10)), Some(Ok(())));
    assert_eq!(cpu.read(IA32_PERF_GLOBAL_STATUS, at(10)), Some(Ok(1)));
}

#[test]
fn a_level_changes_with_one_branch() {
    let mut cpu = LogicalCpu::new(&sapphire_rapids());
    set(&mut cpu, IA32_LBR_CTL, 0x7f_0003);
    let branch = |kind, from| Taken::flat(kind, from, 0x9000, 0);
    cpu.set_user(true, at(1));
    cpu.set_user(false, at(2));
    cpu.taken(&branch(Kind::Event, 0x1000), 3);
    assert_eq!(newest(&cpu), u64::MAX);
    cpu.taken(&branch(Kind::Far, 0x2000), 3);
    assert_eq!(newest(&cpu), 0x2000);
}

#[test]
fn an_overflow_without_interrupt_does_not_freeze() {
    let mut cpu = armed(debugctl::LBR | debugctl::FREEZE_LBRS_ON_PMI);
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x3c);
    cpu.advance(at(10));
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_STATUS), 1);
    assert!(!cpu.take_interrupt());
}

#[test]
fn a_branch_that_overflows_is_itself_recorded() {
    let mut cpu = cpu();
    set(
        &mut cpu,
        IA32_DEBUGCTL,
        debugctl::LBR | debugctl::FREEZE_LBRS_ON_PMI,
    );
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | INT | 0xc4);
    set(&mut cpu, IA32_A_PMC0, MAX);
    jump(&mut cpu, 7);
    assert!(cpu.take_interrupt());
    assert_eq!(newest(&cpu), 7);
    jump(&mut cpu, 8);
    assert_eq!(newest(&cpu), 7);
}

#[test]
fn insertions_are_counted_if_not_filtered() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR);
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x20cc);
    jump(&mut cpu, 1);
    set(&mut cpu, MSR_LBR_SELECT, legacy::NEAR_REL_JMP);
    jump(&mut cpu, 2);
    assert_eq!(get(&mut cpu, IA32_PMC0), 1);
}

#[test]
fn events_retire_no_branch_but_int_n_does() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x40c4);
    let event = Taken::flat(Kind::Event, 1, 2, 0);
    cpu.taken(&event, 0);
    assert_eq!(get(&mut cpu, IA32_PMC0), 0);
    cpu.retired(Kind::Far);
    assert_eq!(get(&mut cpu, IA32_PMC0), 1);
}

#[test]
fn privilege_levels_are_counted_apart() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0xc0);
    set(&mut cpu, IA32_PERFEVTSEL0 + 1, EN | USR | 0xc0);
    cpu.set_user(true, at(3));
    cpu.set_user(false, at(10));
    cpu.advance(at(14));
    assert_eq!(
        [get(&mut cpu, IA32_PMC0), get(&mut cpu, IA32_PMC0 + 1)],
        [7, 7]
    );
}

#[test]
fn a_write_takes_effect_at_its_end() {
    let mut cpu = cpu();
    let control = EN | OS | 0xc0;
    cpu.write(IA32_PERFEVTSEL0, control, at(5))
        .unwrap()
        .unwrap();
    cpu.write(IA32_PERFEVTSEL0, 0, at(9)).unwrap().unwrap();
    cpu.advance(at(20));
    assert_eq!(
        get(&mut cpu, IA32_PMC0),
        4,
        "the disabling write counts itself"
    );
}

#[test]
fn a_faulting_write_leaves_time_alone() {
    let mut cpu = cpu();
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0xc0);
    assert_eq!(
        cpu.write(IA32_PERF_GLOBAL_CTRL, u64::MAX, at(8)),
        Some(Err(Fault))
    );
    cpu.advance(at(7));
    assert_eq!(get(&mut cpu, IA32_PMC0), 7);
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_CTRL), 0xf);
}

#[test]
fn smm_stops_what_freeze_while_smm_names() {
    for freeze in [false, true] {
        let mut cpu = cpu();
        let bit = if freeze {
            debugctl::FREEZE_WHILE_SMM
        } else {
            0
        };
        set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR | bit);
        set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x3c);
        cpu.smm(true, at(5));
        jump(&mut cpu, 1);
        cpu.smm(false, at(8));
        jump(&mut cpu, 2);
        cpu.advance(at(10));
        assert_eq!(get(&mut cpu, IA32_PMC0), if freeze { 7 } else { 10 });
        let recorded = (0..32)
            .filter(|n| get(&mut cpu, MSR_LASTBRANCH_0_FROM_IP + n) != 0)
            .count();
        assert_eq!(recorded, if freeze { 1 } else { 2 });
    }
}

#[test]
fn an_smi_clears_switches_and_rsm_restores_them() {
    let mut cpu = cpu();
    let freeze = debugctl::FREEZE_WHILE_SMM;
    let before = debugctl::LBR | debugctl::BTF | debugctl::FREEZE_PERFMON_ON_PMI | freeze;
    set(&mut cpu, IA32_DEBUGCTL, before);
    set(&mut cpu, IA32_PERF_GLOBAL_CTRL, 3);
    cpu.smm(true, at(1));
    assert_eq!(
        get(&mut cpu, IA32_DEBUGCTL),
        debugctl::FREEZE_PERFMON_ON_PMI | freeze
    );
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_CTRL), 0);
    // What the handler does with them is lost.
    set(&mut cpu, IA32_DEBUGCTL, 0);
    set(&mut cpu, IA32_PERF_GLOBAL_CTRL, 1);
    cpu.smm(false, at(2));
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), before);
    assert_eq!(get(&mut cpu, IA32_PERF_GLOBAL_CTRL), 3);
    // Without the bit nothing is saved.
    set(&mut cpu, IA32_DEBUGCTL, debugctl::LBR);
    cpu.smm(true, at(3));
    set(&mut cpu, IA32_DEBUGCTL, debugctl::BTF);
    cpu.smm(false, at(4));
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), debugctl::BTF);
    // A reset forgets.
    set(&mut cpu, IA32_DEBUGCTL, before);
    cpu.smm(true, at(5));
    cpu.reset(Reset::Warm, at(6));
    cpu.smm(false, at(7));
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), 0);
}

#[test]
fn init_keeps_registers_and_power_up_clears_them() {
    let mut cpu = armed(debugctl::LBR);
    jump(&mut cpu, 1);
    cpu.reset(Reset::Init, at(5));
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), debugctl::LBR);
    assert_eq!(get(&mut cpu, IA32_PMC0), MAX - 4);
    assert_eq!(newest(&cpu), 1);
    cpu.reset(Reset::PowerUp, at(0));
    assert_eq!(get(&mut cpu, IA32_DEBUGCTL), 0);
    assert_eq!(get(&mut cpu, IA32_PMC0), 0);
    assert_eq!(newest(&cpu), 0);
    set(&mut cpu, IA32_PERFEVTSEL0, EN | OS | 0x3c);
    cpu.advance(at(3));
    assert_eq!(get(&mut cpu, IA32_PMC0), 3, "time starts anew");
}

proptest! {
    /// Nothing that software does makes the CPU fail, a WRMSR that faults changes
    /// nothing, and no overflow is due before what was counted.
    #[test]
    fn any_access_is_survived(steps in prop::collection::vec((0u8..6, any::<u16>(), any::<u64>()), 0..300)) {
        let mut cpu = armed(debugctl::FREEZE_PERFMON_ON_PMI);
        let mut time = 0;
        for (what, number, value) in steps {
            time += value % 4;
            let (index, value) = match number % 16 {
                // Close to an overflow.
                0..=3 => (IA32_PMC0, value | !7),
                4 | 5 => (IA32_PERF_GLOBAL_STATUS_RESET, value & CTR_FRZ),
                6 => (IA32_DEBUGCTL, value),
                7 => (IA32_FIXED_CTR_CTRL, value),
                8 => (IA32_PERF_GLOBAL_CTRL, value),
                9 => (MSR_LBR_SELECT, value),
                10 => (MSR_LASTBRANCH_0_FROM_IP, value),
                _ => (u32::from(number) % 0x1700, value),
            };
            match what {
                0 => { cpu.read(index, at(time)); }
                1 => {
                    let before = cpu.read(index, at(time));
                    if let Some(Err(Fault)) = cpu.write(index, value, at(time)) {
                        prop_assert_eq!(cpu.read(index, at(time)), before);
                    }
                }
                2 => {
                    let kind = Kind::from_number(number as u8 % 8).unwrap();
                    cpu.taken(&Taken::flat(kind, value, value.wrapping_mul(3), 5), time);
                }
                3 => cpu.set_user(value % 2 == 0, at(time)),
                4 => cpu.smm(value % 2 == 0, at(time)),
                _ => { cpu.not_taken(value); }
            }
            cpu.advance(at(time));
            prop_assert!(cpu.deadline() > time);
            cpu.take_interrupt();
        }
    }
}
