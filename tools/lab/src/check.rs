// SPDX-License-Identifier: GPL-2.0-only
//! Runs every test level and adds up.

use std::collections::VecDeque;
use std::fs;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cargo;
use crate::conform;
use crate::emulator::COUNTERS;
use crate::junit;
use crate::ktap::{self, Report, Status, Sum, Test};
use crate::outcome::Outcome;
use crate::places::Places;
use crate::protocol::Transcript;
use crate::run::{self, Options};
use crate::suite::{self, Suite};
use crate::table;

/// Runs a program of the host level; `read` makes a report of its output.
fn host_level(
    places: &Places,
    title: &str,
    command: &mut Command,
    read: fn(&[u8]) -> Report,
) -> Result<Outcome> {
    eprintln!("==> {title}");
    let log = places.log(title)?;
    let start = Instant::now();
    let output = command
        .current_dir(&places.top)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not run", command.get_program().to_string_lossy()))?;
    fs::write(log.join("output"), &output.stdout)?;
    fs::write(log.join("messages"), &output.stderr)?;
    let mut report = read(&output.stdout);
    if !output.status.success() && !report.tests.iter().any(Test::failed) {
        report
            .problems
            .push(format!("{title} ended with {}", output.status));
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        report.trailing = messages.lines().map(str::to_owned).collect();
    }
    Ok(Outcome {
        title: format!("{title} (build machine)"),
        report,
        transcript: Transcript::default(),
        allowed: Vec::new(),
        time: start.elapsed(),
        log,
    })
}

/// An outcome for what could not be run at all.
fn broken(title: String, error: &anyhow::Error, places: &Places) -> Outcome {
    Outcome {
        title,
        report: Report {
            problems: vec![format!("{error:#}")],
            ..Report::default()
        },
        transcript: Transcript::default(),
        allowed: Vec::new(),
        time: Duration::ZERO,
        log: places.logs(),
    }
}

/// Compares the artifacts that a suite wants the same on all its kernels.
fn compare_kernels(suite: &Suite, machine: &str, outcomes: &mut [Outcome]) {
    let Some((first, rest)) = outcomes.split_first_mut() else {
        return;
    };
    for name in &suite.same {
        let expected = first.transcript.file(name);
        for other in &mut *rest {
            let found = other.transcript.file(name);
            let same = expected.is_some() && expected == found;
            let mut output = Vec::new();
            if !same {
                output.push(format!(
                    "{} and {} on {machine} differ; compare them with diff",
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
                broken(
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
        .unwrap_or_else(|error| broken(conform::title(machine), &error, places));
    options.print(&outcome.details());
    options.print(&outcome.summary());
    outcome
}

/// The emulated levels, as many at a time as there are CPUs.
fn boot_levels(places: &Places, options: &Options, full: bool) -> Result<Vec<Outcome>> {
    let suites = suite::all(&places.suites())?;
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
    // The longest first, so that no CPU is idle at the end.
    jobs.sort_by_key(|(suite, _)| {
        std::cmp::Reverse(suite.seconds.saturating_mul(suite.kernels.len() as u64))
    });
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
                while let Some((suite, machine)) = take() {
                    let outcomes = kernels(places, options, suite, machine);
                    for outcome in &outcomes {
                        options.print(&outcome.details());
                        options.print(&outcome.summary());
                    }
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(outcomes);
                }
            });
        }
    });
    let mut outcomes = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by(|a, b| a.title.cmp(&b.title));
    Ok(outcomes)
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

/// Programs of the build machine: lints, unit tests, what the lab says of machines that do not
/// work, and packages, which are built, installed in a Debian userland and taken away again.
fn host_levels(places: &Places, options: &Options) -> Vec<Outcome> {
    let mut lint = Command::new(places.top.join("scripts/lint"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(&cargo);
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    let mut machines = Command::new(cargo);
    machines.args([
        "test",
        "--package=lab",
        "--test=bad_input",
        "--",
        "--ignored",
    ]);
    let mut packages = Command::new(places.top.join("scripts/package/check-install"));
    packages.arg("suites");
    [
        ("lint", &mut lint, ktap::parse as fn(&[u8]) -> Report),
        ("unit tests", &mut tests, cargo::parse),
        ("broken machines", &mut machines, cargo::parse),
        ("packages", &mut packages, ktap::parse),
    ]
    .into_iter()
    .map(|(title, command, read)| {
        let outcome = host_level(places, title, command, read)
            .unwrap_or_else(|error| broken(title.to_owned(), &error, places));
        options.print(&outcome.details());
        options.print(&outcome.summary());
        outcome
    })
    .collect()
}

/// The programs of tools/testing/full, by name: each prints KTAP.
fn full_levels(places: &Places, options: &Options) -> Result<Vec<Outcome>> {
    let folder = places.top.join("tools/testing/full");
    let mut programs: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("{}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    programs.sort();
    let mut outcomes = Vec::new();
    for program in programs {
        let title = program.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new(&program);
        if std::io::stderr().is_terminal() {
            // To see how far it is.
            command.stderr(Stdio::inherit());
        }
        let outcome = host_level(places, &title, &mut command, ktap::parse)
            .unwrap_or_else(|error| broken(title.into_owned(), &error, places));
        options.print(&outcome.details());
        options.print(&outcome.summary());
        outcomes.push(outcome);
    }
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
    // Beside each other, as what runs on the build machine leaves CPUs idle at times.
    let mut outcomes = Vec::new();
    let emulated = std::thread::scope(|scope| {
        scope.spawn(|| outcomes = host_levels(places, options));
        emulated_levels(places, options, full)
    });
    outcomes.extend(emulated?);
    if full {
        // Alone, as they measure time.
        outcomes.extend(full_levels(places, options)?);
    }

    println!();
    let mut sum = Sum::default();
    for outcome in &outcomes {
        println!("{}", outcome.summary());
        sum += outcome.sum();
    }
    let all: Vec<_> = outcomes.iter().collect();
    let path = places.logs().join("junit.xml");
    fs::write(&path, junit::write(&all)?).with_context(|| format!("writing {}", path.display()))?;
    if full {
        let long = suite::all(&places.suites())?.into_iter();
        let names: Vec<_> = long.filter(|s| s.full).map(|suite| suite.name).collect();
        let path = places.logs().join("full.rst");
        let text = table::page(places, &names)? + &table::levels(&outcomes)?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("the table: {}", path.display());
    }
    println!("{sum}");
    Ok(sum.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
