// SPDX-License-Identifier: GPL-2.0-only
//! Test levels that are programs of the build machine.

use std::fs;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cargo;
use crate::ktap::{self, Report, Sum, Test};
use crate::outcome::Outcome;
use crate::places::Places;
use crate::protocol::Transcript;
use crate::run::Options;
use crate::table;

/// Runs a program of the host level; `read` makes a report of its output.
fn run(
    places: &Places,
    title: &str,
    command: &mut Command,
    read: fn(&[u8]) -> Report,
) -> Result<Outcome> {
    eprintln!("==> {title}");
    let log = places.log(&folder(title))?;
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

/// Where a level's logs are, below that of all.
fn folder(title: &str) -> String {
    let name = title.replace('/', "-");
    name.trim_start_matches(['.', '-']).to_owned()
}

/// An outcome for what could not be run at all.
pub(crate) fn broken(title: String, error: &anyhow::Error, places: &Places) -> Outcome {
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

/// Runs a program as [`run`] does, and prints what came of it, or why it does not run.
fn run_and_print(
    places: &Places,
    options: &Options,
    title: &str,
    command: &mut Command,
    read: fn(&[u8]) -> Report,
) -> Outcome {
    let outcome = run(places, title, command, read)
        .unwrap_or_else(|error| broken(title.to_owned(), &error, places));
    options.print_outcome(&outcome);
    outcome
}

/// Programs of the build machine: lints, unit tests, what the lab says of machines that do not
/// work and of faults that are planted in kernels that check themselves, and packages, which
/// are built, installed in a Debian userland and taken away again.
pub(crate) fn host(places: &Places, options: &Options, full: bool) -> Vec<Outcome> {
    let mut lint = Command::new(places.top.join("scripts/lint"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(&cargo);
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    let mut machines = Command::new(cargo);
    machines.args([
        "test",
        "--no-fail-fast",
        "--package=lab",
        "--test=bad_input",
        "--test=planted",
        "--",
        "--ignored",
        "--skip=kcsan",
    ]);
    if !full {
        machines.arg("--skip=kasan");
    }
    let mut packages = Command::new(places.top.join("scripts/package/check-install"));
    packages.arg("suites");
    [
        ("lint", &mut lint, ktap::parse as fn(&[u8]) -> Report),
        ("unit tests", &mut tests, cargo::parse),
        ("broken machines", &mut machines, cargo::parse),
        ("packages", &mut packages, ktap::parse),
    ]
    .into_iter()
    .map(|(title, command, read)| run_and_print(places, options, title, command, read))
    .collect()
}

/// The programs of tools/testing/full, by name: each prints KTAP.
pub(crate) fn full(places: &Places, options: &Options) -> Result<Vec<Outcome>> {
    let folder = places.top.join("tools/testing/full");
    let mut programs: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("{}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    programs.sort();
    let programs: Vec<_> = programs
        .iter()
        .map(|program| {
            let title = program.file_name().unwrap_or_default().to_string_lossy();
            (title.into_owned(), Command::new(program))
        })
        .collect();
    Ok(one_by_one(places, options, programs))
}

/// Runs programs that print KTAP, and shows how far they are.
fn one_by_one(
    places: &Places,
    options: &Options,
    programs: Vec<(String, Command)>,
) -> Vec<Outcome> {
    programs
        .into_iter()
        .map(|(title, mut command)| {
            if std::io::stderr().is_terminal() {
                command.stderr(Stdio::inherit());
            }
            run_and_print(places, options, &title, &mut command, ktap::parse)
        })
        .collect()
}

/// Prints a row for each level, and gives the sum.
pub(crate) fn sum(outcomes: &[Outcome]) -> Sum {
    println!();
    let mut sum = Sum::default();
    for outcome in outcomes {
        println!("{}", outcome.summary());
        sum += outcome.sum();
    }
    sum
}

/// Writes NAME.rst among the logs, and says where it is.
pub(crate) fn write_table(places: &Places, name: &str, text: &str) -> Result<()> {
    let path = places.logs().join(format!("{name}.rst"));
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("the table: {}", path.display());
    Ok(())
}

/// Runs programs, each given as its path in the tree and its arguments, with blanks between them;
/// prints a row for each and, as the last line, the sum, and writes a table of them for the
/// documentation, NAME.rst.  Gives whether all went well.
///
/// # Errors
///
/// If the table cannot be written.
pub fn levels(places: &Places, options: &Options, name: &str, programs: &[String]) -> Result<bool> {
    let programs = programs
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let mut command = Command::new(places.top.join(words.next()?));
            command.args(words);
            let title = line.strip_prefix("scripts/").unwrap_or(line);
            Some((title.to_owned(), command))
        })
        .collect();
    // Before the runs, which may outlive the commit.
    let title = table::title(places)?;
    let outcomes = one_by_one(places, options, programs);
    let sum = sum(&outcomes);
    let text = title + &table::levels(&outcomes)?;
    write_table(places, name, &text)?;
    if sum.passed + sum.failed == 0 {
        println!("FAILED  nothing passed");
    }
    println!("{sum}");
    Ok(sum.is_success())
}

#[cfg(test)]
mod tests {
    use super::folder;

    #[test]
    fn a_folder_is_below_that_of_all_logs() {
        assert_eq!(folder("unit tests"), "unit tests");
        assert_eq!(folder("package/rpm/check lab"), "package-rpm-check lab");
        assert_eq!(folder("/bin/sh ../a"), "bin-sh ..-a");
        assert_eq!(folder("../../a"), "a");
    }
}
