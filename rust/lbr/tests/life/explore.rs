// SPDX-License-Identifier: GPL-2.0-only

//! Every state that the world can get into, with one register to look at.

use std::collections::hash_map::DefaultHasher;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use lbr::Debugctl;

use super::perf::{CPUS, THREADS};
use super::registers::{facility, FROM};
use super::world::{Action, Guest, World};

const OFF: Debugctl = Debugctl::from_raw(0);

/// What threads do on CPUs, and what the host does with them.
fn scheduling(cpus: usize, threads: usize) -> Vec<Action> {
    let mut actions = vec![Action::Tick];
    for cpu in 0..cpus {
        actions.extend([
            Action::HostComes { cpu },
            Action::HostGoes { cpu },
            Action::OtherGuest { cpu },
            Action::DeepCState { cpu },
            Action::Offline { cpu },
        ]);
        actions.extend((0..threads).map(|thread| Action::SchedIn { thread, cpu }));
    }
    for thread in 0..threads {
        actions.extend([
            Action::SchedOut { thread },
            Action::Exit { thread },
            Action::Service { thread },
        ]);
    }
    for refuse in [false, true] {
        actions.push(Action::Refuse { refuse });
    }
    actions
}

/// What userspace does on a thread, and the guest while the thread runs it.
fn wishes(thread: usize) -> Vec<Action> {
    let mut actions = vec![
        Action::Get { thread, msr: FROM },
        Action::Set {
            thread,
            msr: FROM,
            value: 1,
        },
        Action::Reset { thread },
    ];
    let mut guest = vec![
        Guest::Nothing,
        Guest::Branch,
        Guest::VirtualPmi { version: 2 },
        Guest::Debug,
    ];
    for debugctl in [OFF, Debugctl::LBR] {
        actions.push(Action::SetDebugctl { thread, debugctl });
        guest.push(Guest::EnterL2 { debugctl });
        guest.push(Guest::ExitL2 { debugctl });
    }
    for debugctl in [
        OFF,
        Debugctl::LBR,
        Debugctl::LBR | Debugctl::FREEZE_LBRS_ON_PMI,
    ] {
        guest.push(Guest::WriteDebugctl { debugctl });
    }
    for emulated in [false, true] {
        guest.push(Guest::Read {
            msr: FROM,
            emulated,
        });
        guest.push(Guest::Write {
            msr: FROM,
            value: 2,
            emulated,
        });
    }
    for enabled in [false, true] {
        actions.push(Action::Refresh { thread, enabled });
    }
    actions.extend(guest.into_iter().map(|guest| Action::Run { thread, guest }));
    actions
}

fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Walks all states that the actions lead to, at least `expected` many.
fn explore(actions: &[Action], expected: usize) {
    let start = World::new(facility());
    let mut seen = HashSet::from([key(&start)]);
    let mut todo = vec![start];
    while let Some(world) = todo.pop() {
        world.check_progress();
        for action in actions {
            let mut next = world.clone();
            if next.step(*action) {
                next.forget();
                if seen.insert(key(&next)) {
                    todo.push(next);
                }
            }
        }
    }
    println!("{} states", seen.len());
    assert!(seen.len() >= expected, "only {} states", seen.len());
}

#[test]
fn one_cpu() {
    let mut actions = scheduling(1, 1);
    actions.extend(wishes(0));
    actions.extend([None, Some(FROM)].map(|denied| Action::Filter { denied }));
    explore(&actions, 10_000);
}

#[test]
#[ignore = "takes minutes"]
fn two_cpus_and_two_threads() {
    let mut actions = scheduling(CPUS, THREADS);
    for thread in 0..THREADS {
        actions.extend(wishes(thread));
    }
    explore(&actions, 1_000_000);
}
