// SPDX-License-Identifier: GPL-2.0-only

//! Every state that the world can get into, with one register to look at.

use std::collections::hash_map::DefaultHasher;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::world::{Action, Guest, World, CPUS, THREADS};
use lbr::{Register, DEBUGCTL_FREEZE_LBRS_ON_PMI, DEBUGCTL_LBR};

const REGISTER: Register = Register::From(0);

/// Everything that can happen on `cpus` to a vCPU that `threads` take turns to run.
fn actions(cpus: usize, threads: usize) -> Vec<Action> {
    let mut actions = vec![
        Action::Tick,
        Action::SetDebugctl { debugctl: 0 },
        Action::SetDebugctl {
            debugctl: DEBUGCTL_LBR,
        },
        Action::Reset,
        Action::Refuse { refuse: true },
        Action::Refuse { refuse: false },
    ];
    for cpu in 0..cpus {
        actions.extend([
            Action::Pin { cpu },
            Action::Unpin { cpu },
            Action::Overwrite { cpu },
        ]);
        actions.extend((0..threads).map(|thread| Action::SchedIn { thread, cpu }));
    }
    for thread in 0..threads {
        actions.extend([
            Action::SchedOut { thread },
            Action::Service { thread },
            Action::Get {
                thread,
                register: REGISTER,
            },
            Action::Set {
                thread,
                register: REGISTER,
                value: 1,
            },
        ]);
        let guest = [
            Guest::Nothing,
            Guest::Branch,
            Guest::Read { register: REGISTER },
            Guest::Write {
                register: REGISTER,
                value: 2,
            },
            Guest::WriteDebugctl { debugctl: 0 },
            Guest::WriteDebugctl {
                debugctl: DEBUGCTL_LBR,
            },
            Guest::WriteDebugctl {
                debugctl: DEBUGCTL_LBR | DEBUGCTL_FREEZE_LBRS_ON_PMI,
            },
            Guest::VirtualPmi,
            Guest::HostPmi,
        ];
        actions.extend(guest.map(|guest| Action::Run { thread, guest }));
    }
    actions
}

fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Walks all states that `actions` lead to, at least `expected` many.
fn explore(actions: &[Action], expected: usize) {
    let start = World::new();
    let mut seen = HashSet::from([key(&start)]);
    let mut todo = vec![start];
    while let Some(world) = todo.pop() {
        world.check_progress();
        for action in actions {
            let mut next = world.clone();
            if next.step(*action) && seen.insert(key(&next)) {
                todo.push(next);
            }
        }
    }
    println!("{} states", seen.len());
    assert!(seen.len() >= expected, "only {} states", seen.len());
}

#[test]
fn one_cpu() {
    explore(&actions(1, 1), 10_000);
}

#[test]
#[ignore = "takes minutes"]
fn two_cpus_and_two_threads() {
    explore(&actions(CPUS, THREADS), 1_000_000);
}
