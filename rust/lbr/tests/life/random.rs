// SPDX-License-Identifier: GPL-2.0-only

//! Long random lives, with all registers.

use super::world::{Action, Guest, World, CPUS, THREADS};
use lbr::{Register, DEBUGCTL_FREEZE_LBRS_ON_PMI, DEBUGCTL_LBR, MAX_DEPTH};
use proptest::prelude::*;

fn register() -> impl Strategy<Value = Register> {
    prop_oneof![
        Just(Register::Select),
        Just(Register::Tos),
        (0..MAX_DEPTH).prop_map(Register::From),
        (0..MAX_DEPTH).prop_map(Register::To),
        (0..MAX_DEPTH).prop_map(Register::Info),
    ]
}

fn debugctl() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![
        0,
        DEBUGCTL_LBR,
        DEBUGCTL_FREEZE_LBRS_ON_PMI,
        DEBUGCTL_LBR | DEBUGCTL_FREEZE_LBRS_ON_PMI,
    ])
}

fn guest() -> impl Strategy<Value = Guest> {
    prop_oneof![
        3 => Just(Guest::Branch),
        3 => register().prop_map(|register| Guest::Read { register }),
        2 => (register(), any::<u64>())
            .prop_map(|(register, value)| Guest::Write { register, value }),
        2 => debugctl().prop_map(|debugctl| Guest::WriteDebugctl { debugctl }),
        1 => Just(Guest::VirtualPmi),
        1 => Just(Guest::HostPmi),
        1 => Just(Guest::Nothing),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let (cpu, thread) = (0..CPUS, 0..THREADS);
    prop_oneof![
        4 => (thread.clone(), cpu.clone())
            .prop_map(|(thread, cpu)| Action::SchedIn { thread, cpu }),
        2 => thread.clone().prop_map(|thread| Action::SchedOut { thread }),
        1 => cpu.clone().prop_map(|cpu| Action::Pin { cpu }),
        2 => cpu.clone().prop_map(|cpu| Action::Unpin { cpu }),
        1 => cpu.prop_map(|cpu| Action::Overwrite { cpu }),
        2 => Just(Action::Tick),
        1 => any::<bool>().prop_map(|refuse| Action::Refuse { refuse }),
        6 => thread.clone().prop_map(|thread| Action::Service { thread }),
        12 => (thread.clone(), guest()).prop_map(|(thread, guest)| Action::Run { thread, guest }),
        2 => (thread.clone(), register())
            .prop_map(|(thread, register)| Action::Get { thread, register }),
        2 => (thread, register(), any::<u64>())
            .prop_map(|(thread, register, value)| Action::Set { thread, register, value }),
        1 => debugctl().prop_map(|debugctl| Action::SetDebugctl { debugctl }),
        1 => Just(Action::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_life_breaks_an_invariant(actions in prop::collection::vec(action(), 0..400)) {
        let mut world = World::new();
        for action in actions {
            world.step(action);
        }
        world.check_progress();
    }
}
