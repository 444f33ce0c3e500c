// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Guests that do anything while the host does anything: two VMs of two vCPUs execute
//! random programs, and userspace, perf and the CPUs disturb them. A reference says
//! what each may find.
//!
//! All that happens follows from a seed, as far as nobody else decides: which of two
//! threads comes first is the scheduler's. The steps are taken in lives of at most
//! [`LIFE`]. Each life begins with new VMs; its seed is that of the life before, plus one.

use std::sync::Arc;

use anyhow::{bail, Context, Error, Result};
use kvm_selftests::host::{Host, Provider};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::rules::OWNERSHIP;

mod facility;
mod faults;
mod machine;
mod program;
mod reference;
mod stats;
mod step;
mod vmm;
mod world;

use facility::Facility;
use stats::Stats;
use step::{Step, Steps};
use world::World;

pub(crate) use vmm::run as vmm;

/// The most steps of one life.
const LIFE: u64 = 500;
/// In so many steps everything happens.
const EVERYTHING: u64 = 2 * LIFE;
/// How often a life that failed is tried again to fail.
const TRIES: usize = 3;
/// How many steps before the last are shown.
const SHOWN: usize = 12;

/// How a life failed.
struct Failure {
    /// How many steps there were.
    steps: u64,
    error: Error,
}

/// Lives for so many steps.
fn live(host: &Host, facility: &Arc<Facility>, seed: u64, steps: u64) -> Result<Stats, Failure> {
    let failed = |steps| move |error| Failure { steps, error };
    let mut world = World::new(host, facility).map_err(failed(0))?;
    for (number, step) in (1..=steps).zip(Steps::new(facility, seed)) {
        world
            .step(&step)
            .with_context(|| format!("step {number}, {}", brief(&step)))
            .map_err(failed(number))?;
    }
    world.end().context("at the end").map_err(failed(steps))
}

fn brief(step: &Step) -> String {
    const LONG: usize = 300;
    let all = format!("{step:x?}");
    match all.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}...", &all[..end]),
        None => all,
    }
}

/// Looks for the smallest number of steps with which the seed's life fails; `None` if
/// it does not fail again.
fn shortest(
    host: &Host,
    facility: &Arc<Facility>,
    seed: u64,
    failure: &Failure,
) -> Option<Failure> {
    let again = |steps| {
        println!("# seed {seed}: {steps} steps again");
        live(host, facility, seed, steps).err()
    };
    let mut shortest = (0..TRIES).find_map(|_| again(failure.steps))?;
    let mut passes = 0;
    while passes + 1 < shortest.steps {
        let middle = passes + (shortest.steps - passes) / 2;
        match again(middle) {
            Some(shorter) => shortest = shorter,
            None => passes = middle,
        }
    }
    Some(shortest)
}

/// Says all that is needed to see it again.
fn report(host: &Host, facility: &Arc<Facility>, seed: u64, failure: Failure) -> Result<Verdict> {
    println!(
        "# seed {seed}, {} steps: {:#}",
        failure.steps, failure.error
    );
    let Some(shortest) = shortest(host, facility, seed, &failure) else {
        bail!(
            "seed {seed}: {} steps failed once, and not in {TRIES} more tries: {:#}",
            failure.steps,
            failure.error
        );
    };
    let steps: Vec<_> = Steps::new(facility, seed)
        .take(shortest.steps as usize)
        .collect();
    let first = steps.len().saturating_sub(SHOWN);
    for (number, step) in steps.iter().enumerate().skip(first) {
        println!("# step {}: {}", number + 1, brief(step));
    }
    bail!(
        "seed {seed}: the shortest prefix that fails has {} steps (--seed {seed} --steps {}): {:#}",
        shortest.steps,
        shortest.steps,
        shortest.error
    )
}

fn lives(host: &Host) -> Result<Verdict> {
    if host.provider != Provider::GuestLbr {
        return skip("needs guest_lbr");
    }
    if host.two_cpus().is_none() {
        return skip("needs two CPUs");
    }
    let facility = Arc::new(Facility::of(host)?);
    let all = host.random.steps;
    let mut stats = Stats::default();
    let mut done = 0;
    for seed in host.random.seed.. {
        if done == all {
            break;
        }
        let steps = LIFE.min(all - done);
        match live(host, &facility, seed, steps) {
            Ok(life) => stats.merge(&life),
            Err(failure) => return report(host, &facility, seed, failure),
        }
        done += steps;
        println!("# seed {seed}: {steps} steps, {done} of {all}");
    }
    println!("# {stats}");
    if all >= EVERYTHING {
        stats.expect_all(facility.happens)?;
    }
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(OWNERSHIP);
    suite.case(
        "disturbances",
        "Whatever guests, userspace and host do, each guest reads what it wrote, its own branches \
         or 0, and the host its own branches.",
        lives,
    );
    suite
}
