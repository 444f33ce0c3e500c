// SPDX-License-Identifier: GPL-2.0-only
//! Runs every test level and adds up.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::checked;
use crate::compare;
use crate::conform;
use crate::emulator::COUNTERS;
use crate::junit;
use crate::ktap::{Status, Test};
use crate::level;
use crate::outcome::Outcome;
use crate::places::Places;
use crate::run::{self, Options};
use crate::suite::{self, Suite};
use crate::table;

/// Compares the artifacts that a suite wants the same on all its kernels.
fn compare_kernels(suite: &Suite, machine: &str, outcomes: &mut [Outcome]) {
    let Some((first, rest)) = outcomes.split_first_mut() else {
        return;
    };
    for name in &suite.same {
        let expected = first.transcript.file(name);
        if rest.is_empty() {
            first.report.tests.push(Test {
                name: format!("{name} is the same on another kernel"),
                status: Status::Skipped("there is but one kernel".into()),
                output: Vec::new(),
                children: Vec::new(),
            });
        }
        for other in &mut *rest {
            let found = other.transcript.file(name);
            let same = expected.as_ref().is_some_and(|text| !text.is_empty()) && expected == found;
            let mut output = Vec::new();
            if !same {
                output.push(format!(
                    "{} and {} on {machine} differ or are empty; compare them with diff",
                    first.log.join(name).display(),
                    other.log.join(name).display()
                ));
            }
            other.report.tests.push(Test {
                name: format!("{name} is the same on {}", suite.kernels.join(" and ")),
                status: if same { Status::Passed } else { Status::Failed },
                output,
                children: Vec::new(),
            });
        }
    }
}

/// What a machine writes, in the log folder of a run.
const WRITTEN: [&str; 4] = ["console", "results", "bochs.log", COUNTERS];

/// Runs a suite a second time, and compares what the machine wrote with the first.
fn again(
    places: &Places,
    options: &Options,
    suite: &Suite,
    machine: &str,
    kernel: &str,
) -> Result<Outcome> {
    let first = run::suite(places, options, suite, machine, kernel)?;
    if !first.sum().is_success() {
        return Ok(first);
    }
    // The second run is to have the same folder, as its name is in the logs.
    let kept = first.log.with_extension("first");
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(&first.log, &kept).with_context(|| format!("renaming {}", first.log.display()))?;
    let mut second = run::suite(places, options, suite, machine, kernel)?;
    for name in WRITTEN {
        let (one, other) = (kept.join(name), second.log.join(name));
        let same = fs::read(&one).with_context(|| format!("{}", one.display()))?
            == fs::read(&other).with_context(|| format!("{}", other.display()))?;
        let mut output = Vec::new();
        if !same {
            output.push(format!(
                "{} and {} differ; compare them with cmp",
                one.display(),
                other.display()
            ));
        }
        second.report.tests.push(Test {
            name: format!("{name} is the same in a second run"),
            status: if same { Status::Passed } else { Status::Failed },
            output,
            children: Vec::new(),
        });
    }
    Ok(second)
}

/// Runs a suite on one machine with each of its kernels.
pub fn kernels(places: &Places, options: &Options, suite: &Suite, machine: &str) -> Vec<Outcome> {
    let mut outcomes: Vec<_> = suite
        .kernels
        .iter()
        .map(|kernel| {
            let run = if suite.twice { again } else { run::suite };
            run(places, options, suite, machine, kernel).unwrap_or_else(|error| {
                level::broken(
                    format!("{} ({machine}, {kernel})", suite.name),
                    &error,
                    places,
                )
            })
        })
        .collect();
    compare_kernels(suite, machine, &mut outcomes);
    outcomes
}

/// Runs the conformance rows on one machine, and prints what came of them.
pub fn conform(places: &Places, options: &Options, machine: &str) -> Outcome {
    let outcome = conform::conform(places, options, machine)
        .unwrap_or_else(|error| level::broken(conform::title(machine), &error, places));
    options.print_outcome(&outcome);
    outcome
}

/// The emulated levels, as many at a time as there are CPUs.
fn boot_levels(places: &Places, options: &Options, full: bool) -> Result<Vec<Outcome>> {
    let suites = suite::all(&places.suites())?;
    let checked = checked::suites(&suites, full);
    let mut jobs: Vec<(&Suite, &str)> = suites
        .iter()
        .filter(|suite| suite.check || (full && suite.full))
        .flat_map(|suite| {
            let more = suite.full_machines.iter().filter(|_| full);
            suite
                .machines
                .iter()
                .chain(more)
                .map(move |machine| (suite, machine.as_str()))
        })
        .collect();
    for (suite, machines) in &checked {
        jobs.extend(machines.iter().map(|machine| (suite, machine.as_str())));
    }
    // The longest first, so that no CPU is idle at the end.
    jobs.sort_by_key(|(suite, _)| {
        let kernels = suite.kernels.iter();
        let slowness: u32 = kernels.map(|kernel| checked::slowness(kernel)).sum();
        std::cmp::Reverse(suite.seconds.saturating_mul(u64::from(slowness)))
    });
    let outcomes = side_by_side(options, jobs, |(suite, machine)| {
        let outcomes = kernels(places, options, suite, machine);
        for outcome in &outcomes {
            options.print_outcome(outcome);
        }
        outcomes
    });
    let mut outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
    outcomes.sort_by(|a, b| a.title.cmp(&b.title));
    Ok(outcomes)
}

/// Does jobs, as many at a time as there are CPUs; gives what came of them as they ended.
pub(crate) fn side_by_side<J: Send, R: Send>(
    options: &Options,
    jobs: Vec<J>,
    run: impl Fn(J) -> R + Sync,
) -> Vec<R> {
    let workers = if options.verbose {
        1
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    };
    let queue = Mutex::new(VecDeque::from(jobs));
    let done = Mutex::new(Vec::new());
    // A worker that panics takes the whole command down with it anyway.
    let take = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = take() {
                    let result = run(job);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// All that runs on emulated CPUs.
fn emulated_levels(places: &Places, options: &Options, full: bool) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for machine in conform::machines(places)? {
        outcomes.push(conform(places, options, &machine));
    }
    outcomes.extend(boot_levels(places, options, full)?);
    Ok(outcomes)
}

/// Runs all levels, with `full` also the long ones; prints one row for each suite and, as the last line, the sum.
/// Gives whether all went well.
///
/// # Errors
///
/// If the levels cannot be listed or the results not be written.
pub fn check(places: &Places, options: &Options, full: bool) -> Result<bool> {
    let options = &Options {
        keep: full,
        ..options.clone()
    };
    // Before the runs, which may outlive the commit.
    let title = table::title(places)?;
    // Beside each other, as what runs on the build machine leaves CPUs idle at times.
    let mut outcomes = Vec::new();
    let emulated = std::thread::scope(|scope| {
        scope.spawn(|| outcomes = level::host(places, options, full));
        emulated_levels(places, options, full)
    });
    outcomes.extend(emulated?);
    if full {
        outcomes.push(compare::check(places, options));
        // Alone, as they measure time.
        outcomes.extend(level::full(places, options)?);
    }

    let sum = level::sum(&outcomes);
    let all: Vec<_> = outcomes.iter().collect();
    let path = places.logs().join("junit.xml");
    fs::write(&path, junit::write(&all)?).with_context(|| format!("writing {}", path.display()))?;
    if full {
        let long = suite::all(&places.suites())?.into_iter();
        let names: Vec<_> = long.filter(|s| s.full).map(|suite| suite.name).collect();
        let text = title + &table::page(places, &names)? + &table::levels(&outcomes)?;
        level::write_table(places, "full", &text)?;
    }
    println!("{sum}");
    Ok(sum.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap::{Report, Sum};
    use crate::protocol::Transcript;
    use std::time::Duration;

    fn outcome(file: Option<&str>) -> Outcome {
        let files = file.map(|data| ("list".to_owned(), data.as_bytes().to_vec()));
        Outcome {
            title: "t".into(),
            report: Report::default(),
            transcript: Transcript {
                files: files.into_iter().collect(),
                ..Transcript::default()
            },
            allowed: Vec::new(),
            time: Duration::ZERO,
            log: "log".into(),
        }
    }

    #[test]
    fn what_must_be_the_same_is_compared() {
        let suites = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
        let mut suite = Suite::load(&suites, "lab").unwrap();
        suite.same = vec!["list".into()];
        for (first, second, passed) in [
            (Some("a"), Some("a"), 1),
            (Some("a"), Some("b"), 0),
            (Some("a"), None, 0),
            (None, Some("a"), 0),
            (None, None, 0),
            (Some(""), Some(""), 0),
        ] {
            let mut outcomes = [outcome(first), outcome(second)];
            compare_kernels(&suite, "m", &mut outcomes);
            assert_eq!(outcomes[0].sum(), Sum::default());
            let expected = Sum {
                passed,
                failed: 1 - passed,
                skipped: 0,
            };
            assert_eq!(outcomes[1].sum(), expected, "{first:?} {second:?}");
        }
        let mut alone = [outcome(Some("a"))];
        compare_kernels(&suite, "m", &mut alone);
        assert_eq!(alone[0].sum().skipped, 1);
    }
}
