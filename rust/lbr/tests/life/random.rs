// SPDX-License-Identifier: GPL-2.0-only

//! Long random lives, with all registers.

use lbr::Debugctl;
use proptest::prelude::*;

use super::perf::{CPUS, THREADS};
use super::registers::{facility, msrs, INFO, SELECT, TOS};
use super::world::{Action, Guest, World};

fn msr() -> impl Strategy<Value = u32> {
    prop::sample::select(msrs().collect::<Vec<_>>())
}

/// A register and a value that it takes, most of the time.
fn write() -> impl Strategy<Value = (u32, u64)> {
    (msr(), any::<u64>(), 0..8).prop_map(|(msr, value, bad)| {
        let good = match msr {
            SELECT => value & 0x3ff,
            TOS => value & 0x1f,
            INFO.. => value & 0xe000_0000_0000_ffff,
            _ => (value << 16) as i64 as u64 >> 16,
        };
        (msr, if bad == 0 { value } else { good })
    })
}

fn debugctl() -> impl Strategy<Value = Debugctl> {
    prop::sample::select(vec![
        Debugctl::from_raw(0),
        Debugctl::LBR,
        Debugctl::FREEZE_LBRS_ON_PMI,
        Debugctl::LBR | Debugctl::FREEZE_LBRS_ON_PMI,
    ])
}

fn guest() -> impl Strategy<Value = Guest> {
    prop_oneof![
        3 => Just(Guest::Branch),
        3 => (msr(), any::<bool>()).prop_map(|(msr, emulated)| Guest::Read { msr, emulated }),
        3 => (write(), any::<bool>())
            .prop_map(|((msr, value), emulated)| Guest::Write { msr, value, emulated }),
        3 => debugctl().prop_map(|debugctl| Guest::WriteDebugctl { debugctl }),
        1 => debugctl().prop_map(|debugctl| Guest::EnterL2 { debugctl }),
        1 => debugctl().prop_map(|debugctl| Guest::ExitL2 { debugctl }),
        1 => (0..6u32).prop_map(|version| Guest::VirtualPmi { version }),
        1 => Just(Guest::Debug),
        1 => Just(Guest::Nothing),
    ]
}

fn host() -> impl Strategy<Value = Action> {
    let cpu = 0..CPUS;
    prop_oneof![
        1 => cpu.clone().prop_map(|cpu| Action::HostComes { cpu }),
        2 => cpu.clone().prop_map(|cpu| Action::HostGoes { cpu }),
        1 => cpu.clone().prop_map(|cpu| Action::OtherGuest { cpu }),
        1 => cpu.clone().prop_map(|cpu| Action::DeepCState { cpu }),
        1 => cpu.prop_map(|cpu| Action::Offline { cpu }),
        1 => any::<bool>().prop_map(|refuse| Action::Refuse { refuse }),
        3 => Just(Action::Tick),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let (cpu, thread) = (0..CPUS, 0..THREADS);
    prop_oneof![
        8 => host(),
        5 => (thread.clone(), cpu).prop_map(|(thread, cpu)| Action::SchedIn { thread, cpu }),
        2 => thread.clone().prop_map(|thread| Action::SchedOut { thread }),
        1 => thread.clone().prop_map(|thread| Action::Exit { thread }),
        8 => thread.clone().prop_map(|thread| Action::Service { thread }),
        14 => (thread.clone(), guest()).prop_map(|(thread, guest)| Action::Run { thread, guest }),
        3 => (thread.clone(), msr()).prop_map(|(thread, msr)| Action::Get { thread, msr }),
        3 => (thread.clone(), write())
            .prop_map(|(thread, (msr, value))| Action::Set { thread, msr, value }),
        1 => (thread.clone(), debugctl())
            .prop_map(|(thread, debugctl)| Action::SetDebugctl { thread, debugctl }),
        1 => (thread.clone(), any::<bool>())
            .prop_map(|(thread, enabled)| Action::Refresh { thread, enabled }),
        1 => thread.prop_map(|thread| Action::Reset { thread }),
        1 => prop::option::of(msr()).prop_map(|denied| Action::Filter { denied }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_life_breaks_an_invariant(enabled in any::<bool>(), actions in prop::collection::vec(action(), 0..400)) {
        let mut world = World::new(facility());
        world.step(Action::SchedIn { thread: 0, cpu: 0 });
        if enabled {
            world.step(Action::Refresh { thread: 0, enabled });
        }
        for action in actions {
            world.step(action);
        }
        world.check_progress();
    }
}
