// SPDX-License-Identifier: GPL-2.0-only

//! Every state that the world can get into, with one register to look at.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::hardware::Hardware;
use super::perf::{CPUS, THREADS};
use super::world::{Action, Guest, World};

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

/// What userspace does on a thread, and the guest while the thread runs it, but for
/// changes of the depth.
fn wishes<F: Hardware>(thread: usize) -> Vec<Action> {
    let mut actions = vec![
        Action::Get {
            thread,
            msr: F::FROM,
        },
        Action::Set {
            thread,
            msr: F::FROM,
            value: 1,
        },
        Action::Reset { thread },
    ];
    actions.extend([None, Some(0)].map(|guest| Action::Refresh { thread, guest }));
    let mut guest = vec![
        Guest::Nothing,
        Guest::Branch,
        Guest::VirtualPmi { version: 2 },
        Guest::VirtualPmi { version: 4 },
        Guest::SetFrozen { frozen: false },
        Guest::Debug,
    ];
    for debugctl in F::DEBUGCTLS.iter().copied() {
        actions.push(Action::SetDebugctl { thread, debugctl });
        guest.extend([
            Guest::WriteDebugctl { debugctl },
            Guest::EnterL2 { debugctl },
            Guest::ExitL2 { debugctl },
        ]);
    }
    for emulated in [false, true] {
        guest.push(Guest::Read {
            msr: F::FROM,
            emulated,
        });
        guest.push(Guest::Write {
            msr: F::FROM,
            value: 2,
            emulated,
        });
    }
    actions.extend(guest.into_iter().map(|guest| Action::Run { thread, guest }));
    if let Some(msr) = F::CTL {
        actions.extend(accesses(thread, msr, &[0, 1]));
    }
    actions
}

/// Changes of the depth, and reads of a record that not every depth has.
fn depths<F: Hardware>(thread: usize) -> Vec<Action> {
    let Some(msr) = F::DEPTH else {
        return Vec::new();
    };
    let mut actions = accesses(thread, msr, &[8, 32]);
    actions.extend(accesses(thread, F::FROM + 8, &[]));
    actions
}

/// Each way to read the MSR, and to write the values to it.
fn accesses(thread: usize, msr: u32, values: &[u64]) -> Vec<Action> {
    let mut actions = vec![Action::Get { thread, msr }];
    let mut guest = [false, true]
        .map(|emulated| Guest::Read { msr, emulated })
        .to_vec();
    for value in values.iter().copied() {
        actions.push(Action::Set { thread, msr, value });
        guest.extend([false, true].map(|emulated| Guest::Write {
            msr,
            value,
            emulated,
        }));
    }
    actions.extend(guest.into_iter().map(|guest| Action::Run { thread, guest }));
    actions
}

/// Fast, and good enough to tell states apart.
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn key<F: Hardware>(world: &World<F>) -> u64 {
    let mut hasher = Mix(1);
    world.hash(&mut hasher);
    hasher.finish()
}

/// Walks all states that the actions lead to, at least `expected` many.
fn explore<F: Hardware>(actions: &[Action], expected: usize) {
    let mut start = World::<F>::new();
    for action in [
        Action::SchedIn { thread: 0, cpu: 0 },
        Action::SetDebugctl {
            thread: 0,
            debugctl: F::DEBUGCTLS[0],
        },
    ] {
        start.step(action);
    }
    start.forget();
    let mut seen = HashSet::from([key(&start)]);
    let mut todo = vec![start];
    while let Some(world) = todo.pop() {
        world.check_progress();
        let mut next = world.clone();
        for action in actions {
            // What is not possible changes nothing.
            if next.step(*action) {
                next.forget();
                let found = std::mem::replace(&mut next, world.clone());
                if seen.insert(key(&found)) {
                    todo.push(found);
                }
            }
        }
    }
    println!("{} states", seen.len());
    assert!(seen.len() >= expected, "only {} states", seen.len());
}

fn one_cpu<F: Hardware>() {
    let mut actions = scheduling(1, 1);
    actions.extend(wishes::<F>(0));
    actions.extend(depths::<F>(0));
    actions.extend([None, Some(F::FROM)].map(|denied| Action::Filter { denied }));
    explore::<F>(&actions, 10_000);
}

fn two_cpus_and_two_threads<F: Hardware>() {
    let mut actions = scheduling(CPUS, THREADS);
    for thread in 0..THREADS {
        actions.extend(wishes::<F>(thread));
    }
    explore::<F>(&actions, 500_000);
}

for_each_facility! {
    one_cpu,
    #[ignore = "takes minutes"]
    two_cpus_and_two_threads,
}
