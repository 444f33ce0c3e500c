// SPDX-License-Identifier: GPL-2.0-only
//! The costs of a boot.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::counts::{Counts, Cpu, Exit};
use crate::operations::{Cost, BASES, FIRST, OPERATIONS, PROFILES};

/// What was measured: where, and of whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The machine.
    pub machine: String,
    /// The host kernel's configuration.
    pub config: String,
    /// Who gives guests LBR, or `host` for what happens without a guest.
    pub provider: String,
}

/// What an operation costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The operation.
    pub operation: String,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Instructions of the host: the median of all rounds.
    pub instructions: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// VM exits that the guest caused, the median as well.
    pub exits: f64,
    /// RDMSR and WRMSR of the host.
    pub msr_accesses: f64,
    /// Bits of the MSR bitmap that changed.
    pub bitmap_flips: f64,
}

/// The exits that end a KVM_RUN of `kvm-selftests bench`.
const END: &str = "IO_INSTRUCTION";

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// What one kind of count comes to over all rounds.
struct Over<'a>(&'a [&'a Cpu]);

impl Over<'_> {
    fn all(&self, count: impl Fn(&Cpu) -> u64) -> Vec<f64> {
        self.0.iter().map(|cpu| count(cpu) as f64).collect()
    }

    fn median(&self, count: impl Fn(&Cpu) -> u64) -> f64 {
        median(&self.all(count))
    }
}

fn cost_of(cost: Cost, cpu: &Cpu) -> u64 {
    match cost {
        Cost::Exits(reasons) => {
            let of = |reason: &&str| cpu.exits.get(*reason).map_or(0, |exit| exit.instructions);
            reasons.iter().map(of).sum()
        }
        Cost::Run => {
            let others = cpu.exits.iter().filter(|(reason, _)| *reason != END);
            others.map(|(_, exit)| exit.instructions).sum()
        }
        Cost::All | Cost::Beyond(_) => cpu.root_instructions,
    }
}

fn figure(
    name: &str,
    cost: Cost,
    counts: &Counts,
    rounds: &[&Cpu],
    place: &Place,
) -> Result<Figure> {
    let base = match cost {
        Cost::Exits(_) | Cost::Run => None,
        Cost::All => Some("empty"),
        Cost::Beyond(base) => Some(base),
    };
    let base: Vec<_> = base.map_or_else(Vec::new, |base| counts.rounds(base).collect());
    ensure!(
        base.is_empty() == matches!(cost, Cost::Exits(_) | Cost::Run),
        "{name} was measured, and not what is to be taken off it"
    );
    let base = Over(&base);
    let beyond = |count: fn(&Cpu) -> u64| match base.0 {
        [] => 0.0,
        _ => base.median(count),
    };
    let over = Over(rounds);
    let off = beyond(|cpu| cpu.root_instructions);
    let instructions: Vec<_> = over
        .all(|cpu| cost_of(cost, cpu))
        .iter()
        .map(|all| all - off)
        .collect();
    // One more exit tells userspace.
    let exits = match cost {
        Cost::Beyond(_) => over.median(Cpu::own_exits) - beyond(Cpu::own_exits),
        Cost::Exits(reasons) => over.median(|cpu| {
            let of = |reason: &&str| cpu.exits.get(*reason).map_or(0, |exit| exit.count);
            reasons.iter().map(of).sum()
        }),
        Cost::Run => over.median(|cpu| {
            let end = cpu.exits.get(END).map_or(0, |exit| exit.count);
            cpu.own_exits() - end
        }),
        Cost::All => over.median(Cpu::own_exits),
    };
    Ok(Figure {
        operation: name.into(),
        place: place.clone(),
        instructions: median(&instructions),
        min: instructions.iter().copied().fold(f64::INFINITY, f64::min),
        max: instructions
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max),
        exits,
        msr_accesses: over.median(Cpu::msr_accesses) - beyond(Cpu::msr_accesses),
        bitmap_flips: over.median(Cpu::bitmap_flips) - beyond(Cpu::bitmap_flips),
    })
}

/// Returns what all single operations of a boot cost.
///
/// # Errors
///
/// If something was measured that nobody knows, or only half.
pub fn single(counts: &Counts, place: &Place) -> Result<Vec<Figure>> {
    for name in counts.operations() {
        let known = OPERATIONS.iter().any(|operation| operation.name == name)
            || BASES.contains(&name)
            || name.contains('-');
        ensure!(known, "{name} is no operation");
    }
    let mut figures = Vec::new();
    for operation in OPERATIONS {
        let rounds: Vec<_> = counts.rounds(operation.name).collect();
        let (first, rest) = match rounds.split_first() {
            None => continue,
            Some((first, rest)) if operation.name == FIRST.0 => (Some(*first), rest),
            Some(_) => (None, &rounds[..]),
        };
        if let Some(first) = first {
            figures.push(figure(FIRST.1, operation.cost, counts, &[first], place)?);
        }
        figures.push(figure(operation.name, operation.cost, counts, rest, place)?);
    }
    if figures.is_empty() {
        bail!("no operation was measured");
    }
    Ok(figures)
}

/// How much work a profile's sections do: once, and twice.
const STEPS: [&str; 2] = ["100000", "200000"];

/// What the second half of the work costs: what only the start of perf costs is not in it.
fn second_half<'a>(counts: &'a Counts, what: &str) -> Option<[&'a Cpu; 2]> {
    let [once, twice] = STEPS.map(|steps| counts.section(&format!("{what}.{steps}")));
    Some([once?, twice?])
}

/// What is of the devices, of a guest that waits, and of whoever shares the CPU.
const AROUND: [&str; 3] = ["EXTERNAL_INTERRUPT", "HLT", "IO_INSTRUCTION"];

fn of_work(cpu: &Cpu) -> impl Iterator<Item = &Exit> {
    let work = cpu
        .exits
        .iter()
        .filter(|(why, _)| !AROUND.contains(&&***why));
    work.map(|(_, exit)| exit)
}

/// Returns what a sample costs, end to end, by the suite's file of samples.
///
/// # Errors
///
/// If that file has another form, or a profile is not complete.
pub fn samples(counts: &Counts, samples: &str, side: &str, place: &Place) -> Result<Vec<Figure>> {
    let taken: BTreeMap<&str, f64> = samples
        .lines()
        .map(|line| {
            let (section, count) = line.split_once(' ').context("a line is SECTION COUNT")?;
            Ok((section, count.parse::<f64>()?))
        })
        .collect::<Result<_>>()?;
    let Some(plain) = second_half(counts, &format!("{side}-plain")) else {
        return Ok(Vec::new());
    };
    let mut figures = Vec::new();
    for (how, _) in PROFILES {
        let what = format!("{side}-{how}");
        let Some(profiled) = second_half(counts, &what) else {
            continue;
        };
        let [once, twice] = STEPS.map(|steps| taken.get(&*format!("{what}.{steps}")));
        let count = twice.zip(once).map(|(twice, once)| twice - once);
        let count = count.with_context(|| format!("how many samples had {what}?"))?;
        ensure!(count > 0.0, "{what}: twice the work, and no more samples");
        let each = |of: &dyn Fn(&Cpu) -> u64| {
            let half = |[once, twice]: [&Cpu; 2]| of(twice) as f64 - of(once) as f64;
            rounded((half(profiled) - half(plain)) / count)
        };
        let instructions = match side {
            "guest" => each(&|cpu| of_work(cpu).map(|exit| exit.instructions).sum()),
            _ => each(&|cpu| cpu.root_instructions),
        };
        figures.push(Figure {
            operation: format!("sample_{how}"),
            place: place.clone(),
            instructions,
            min: instructions,
            max: instructions,
            exits: each(&|cpu| of_work(cpu).map(|exit| exit.count).sum()),
            msr_accesses: each(&Cpu::msr_accesses),
            bitmap_flips: each(&Cpu::bitmap_flips),
        });
    }
    Ok(figures)
}
