// SPDX-License-Identifier: GPL-2.0-only

//! Long random lives, with all registers.

use lbr::Debugctl;
use proptest::prelude::*;

use super::hardware::{msrs, Hardware};
use super::perf::{CPUS, THREADS};
use super::world::{Action, Guest, World};

/// An MSR; often one of those that are no records.
fn msr<F: Hardware>() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => prop::sample::select(msrs::<F>().collect::<Vec<_>>()),
        1 => prop::sample::select(F::OTHERS),
    ]
}

/// A register and a value that it takes, most of the time.
fn write<F: Hardware>() -> impl Strategy<Value = (u32, u64)> {
    (msr::<F>(), any::<u64>(), 0..8).prop_map(|(msr, any, bad)| {
        let value = if bad == 0 { any } else { F::legal(msr, any) };
        (msr, value)
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

fn guest<F: Hardware>() -> impl Strategy<Value = Guest> {
    prop_oneof![
        3 => Just(Guest::Branch),
        3 => (msr::<F>(), any::<bool>()).prop_map(|(msr, emulated)| Guest::Read { msr, emulated }),
        3 => (write::<F>(), any::<bool>())
            .prop_map(|((msr, value), emulated)| Guest::Write { msr, value, emulated }),
        3 => debugctl().prop_map(|debugctl| Guest::WriteDebugctl { debugctl }),
        1 => debugctl().prop_map(|debugctl| Guest::EnterL2 { debugctl }),
        1 => debugctl().prop_map(|debugctl| Guest::ExitL2 { debugctl }),
        1 => (0..6u32).prop_map(|version| Guest::VirtualPmi { version }),
        1 => any::<bool>().prop_map(|frozen| Guest::SetFrozen { frozen }),
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

fn action<F: Hardware>() -> impl Strategy<Value = Action> {
    let (cpu, thread) = (0..CPUS, 0..THREADS);
    prop_oneof![
        8 => host(),
        5 => (thread.clone(), cpu).prop_map(|(thread, cpu)| Action::SchedIn { thread, cpu }),
        2 => thread.clone().prop_map(|thread| Action::SchedOut { thread }),
        1 => thread.clone().prop_map(|thread| Action::Exit { thread }),
        8 => thread.clone().prop_map(|thread| Action::Service { thread }),
        14 => (thread.clone(), guest::<F>()).prop_map(|(thread, guest)| Action::Run { thread, guest }),
        3 => (thread.clone(), msr::<F>()).prop_map(|(thread, msr)| Action::Get { thread, msr }),
        3 => (thread.clone(), write::<F>())
            .prop_map(|(thread, (msr, value))| Action::Set { thread, msr, value }),
        1 => (thread.clone(), debugctl())
            .prop_map(|(thread, debugctl)| Action::SetDebugctl { thread, debugctl }),
        1 => (thread.clone(), prop::option::of(0..F::GUESTS.len()))
            .prop_map(|(thread, guest)| Action::Refresh { thread, guest }),
        1 => thread.prop_map(|thread| Action::Reset { thread }),
        1 => any::<bool>().prop_map(|frozen| Action::SetFrozen { frozen }),
        1 => prop::option::of(msr::<F>()).prop_map(|denied| Action::Filter { denied }),
    ]
}

fn no_life_breaks_an_invariant<F: Hardware>() {
    let config = ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let guest = prop::option::weighted(0.75, 0..F::GUESTS.len());
    let actions = prop::collection::vec(action::<F>(), 0..400);
    proptest!(config, |(guest in guest, actions in actions)| {
        let mut world = World::<F>::new();
        world.step(Action::SchedIn { thread: 0, cpu: 0 });
        world.step(Action::Refresh { thread: 0, guest });
        for action in actions {
            world.step(action);
        }
        world.check_progress();
    });
}

for_each_facility! {
    no_life_breaks_an_invariant,
}
