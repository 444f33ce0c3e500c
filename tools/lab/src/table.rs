// SPDX-License-Identifier: GPL-2.0-only
//! Writes what became of a suite on its machines as a page of the documentation.
//!
//! Every test that did the same everywhere, and passed or was skipped for one
//! reason, is named in a line; the others have a row each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::kept;
use crate::ktap::{self, Status};
use crate::outcome::Outcome;
use crate::places::Places;

/// The results of one suite, by test, then by machine.
#[derive(Debug, Default)]
struct Results {
    /// The machines, and day and commit of their runs; nothing if a run broke off.
    machines: BTreeMap<String, Option<String>>,
    tests: BTreeMap<String, BTreeMap<String, Status>>,
    /// What is wrong with a run as a whole.
    problems: Vec<String>,
}

impl Results {
    /// Adds what a run on `machine` printed that was `made` then and there.
    fn add(&mut self, machine: &str, made: Option<String>, stream: &[u8]) {
        let report = ktap::parse(stream);
        self.machines.insert(machine.to_owned(), made);
        for problem in report.problems {
            self.problems.push(format!("{machine}: {problem}"));
        }
        for test in report.tests {
            self.tests
                .entry(test.name)
                .or_default()
                .insert(machine.to_owned(), test.status);
        }
    }

    /// What a test did, if it is the same on all machines.
    fn everywhere(&self, by_machine: &BTreeMap<String, Status>) -> Option<Status> {
        let first = by_machine.values().next()?;
        let same = by_machine.len() == self.machines.len()
            && by_machine.values().all(|status| status == first);
        same.then(|| first.clone())
    }

    fn numbers(&self, machine: &str) -> (usize, usize, usize) {
        let mut sum = (0, 0, 0);
        for status in self.tests.values().filter_map(|test| test.get(machine)) {
            match status {
                Status::Passed => sum.0 += 1,
                Status::Failed => sum.1 += 1,
                Status::Skipped(_) => sum.2 += 1,
            }
        }
        sum
    }

    fn write(&self, suite: &str, page: &mut String) -> std::fmt::Result {
        writeln!(page, "{suite}\n{}\n", "-".repeat(suite.len()))?;
        writeln!(page, ".. list-table::\n   :header-rows: 1\n")?;
        row(
            page,
            [
                "machine",
                "ran on",
                "passed",
                "failed",
                "skipped or known to fail",
            ],
        )?;
        for (machine, made) in &self.machines {
            let made = made.as_deref().unwrap_or("broke off");
            let (passed, failed, skipped) = self.numbers(machine);
            let numbers = [passed, failed, skipped].map(|n| n.to_string());
            let [passed, failed, skipped] = &numbers;
            row(page, [machine.as_str(), made, passed, failed, skipped])?;
        }
        for problem in &self.problems {
            writeln!(page, "\n{}", escape(problem))?;
        }
        let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut rows = Vec::new();
        for (name, by_machine) in &self.tests {
            match self.everywhere(by_machine) {
                Some(Status::Passed) => alike.entry("passed".into()).or_default().push(name),
                Some(Status::Skipped(why)) => alike.entry(why).or_default().push(name),
                _ => rows.push((name, by_machine)),
            }
        }
        if !rows.is_empty() {
            writeln!(page, "\nNot the same everywhere, or failed:\n")?;
            writeln!(page, ".. list-table::\n   :header-rows: 1\n")?;
            row(
                page,
                std::iter::once("test").chain(self.machines.keys().map(String::as_str)),
            )?;
        }
        for (name, by_machine) in rows {
            let verdicts = self.machines.keys().map(|machine| {
                by_machine
                    .get(machine)
                    .map_or_else(|| "no result".into(), verdict)
            });
            let cells: Vec<_> = std::iter::once(name.clone()).chain(verdicts).collect();
            row(page, cells.iter().map(String::as_str))?;
        }
        if !alike.is_empty() {
            writeln!(page, "\nThe same on all machines:\n")?;
        }
        for (what, names) in alike {
            let names: Vec<_> = names.into_iter().map(escape).collect();
            writeln!(page, "{}\n   {}\n", escape(&what), names.join(", "))?;
        }
        Ok(())
    }
}

fn verdict(status: &Status) -> String {
    match status {
        Status::Passed => "passed".into(),
        Status::Failed => "FAILED".into(),
        Status::Skipped(why) => why.clone(),
    }
}

pub(crate) fn row<'a>(
    page: &mut String,
    cells: impl IntoIterator<Item = &'a str>,
) -> std::fmt::Result {
    let escaped: Vec<_> = cells.into_iter().map(escape).collect();
    row_of(page, escaped.iter().map(String::as_str))
}

/// A row of cells that are reStructuredText.
pub(crate) fn row_of<'a>(
    page: &mut String,
    cells: impl IntoIterator<Item = &'a str>,
) -> std::fmt::Result {
    for (n, cell) in cells.into_iter().enumerate() {
        let bullet = if n == 0 { "   * -" } else { "     -" };
        writeln!(page, "{bullet} {cell}")?;
    }
    Ok(())
}

/// Text that reStructuredText leaves as it is.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if "\\`*_|".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// A table of whole levels: what a line of `lab check` says of each.
///
/// # Errors
///
/// None that a text in memory can have.
pub fn levels(outcomes: &[Outcome]) -> Result<String> {
    let mut page = String::from(
        "Levels\n------\n\nSeconds are of an emulator's CPU time; on the build machine, of its \
         clock.\n\n.. list-table::\n   :header-rows: 1\n\n",
    );
    row(
        &mut page,
        ["level", "seconds", "passed", "failed", "skipped"],
    )?;
    for outcome in outcomes {
        let sum = outcome.sum();
        let seconds = outcome.time.as_secs();
        let numbers = [sum.passed, sum.failed, sum.skipped].map(|n| n.to_string());
        let [passed, failed, skipped] = &numbers;
        let seconds = seconds.to_string();
        row(
            &mut page,
            [&outcome.title, &seconds, passed, failed, skipped].map(String::as_str),
        )?;
    }
    page.push('\n');
    Ok(page)
}

/// The day and the commit as a heading.
///
/// # Errors
///
/// If there is no date.
pub fn title(places: &Places) -> Result<String> {
    let title = format!("{}, commit {}", kept::today()?, kept::commit(&places.top));
    Ok(format!("{title}\n{}\n\n", "=".repeat(title.len())))
}

/// Machine and kernel of a run by the name of its log folder; nothing if it is no run's.
fn machine_and_kernel(folder: &str) -> Option<(&str, &str)> {
    let (machine, _) = folder.rsplit_once("-kernel")?;
    let kernel = folder.get(machine.len() + 1..)?;
    // The first of two runs, or one that is about to begin, has a suffix.
    (!kernel.contains('.')).then_some((machine, kernel))
}

/// The results of `suites` as the last run on each machine with each kernel left them.
///
/// # Errors
///
/// If a suite has no results.
pub fn page(places: &Places, suites: &[String]) -> Result<String> {
    let mut page = String::new();
    for suite in suites {
        let folder = places.logs().join(suite);
        let mut kernels: BTreeMap<String, Results> = BTreeMap::new();
        let runs = fs::read_dir(&folder)
            .with_context(|| format!("suite {suite} has no results; run it with `lab run`"))?;
        for run in runs.filter_map(Result::ok) {
            let name = run.file_name().to_string_lossy().into_owned();
            let Some((machine, kernel)) = machine_and_kernel(&name) else {
                continue;
            };
            if let Ok(stream) = fs::read(run.path().join("results.ktap")) {
                let made = kept::Run::load(&run.path()).map(|run| run.made());
                let results = kernels.entry(kernel.to_owned()).or_default();
                results.add(machine, made, &stream);
            }
        }
        for (kernel, results) in kernels {
            results.write(&format!("{suite}, {kernel}"), &mut page)?;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page() {
        let mut results = Results::default();
        results.add(
            "a",
            Some("2023-11-14, c0ffee0".into()),
            b"ok 1 one\nok 2 two # SKIP no such thing\nnot ok 3 three_\n1..3\n",
        );
        results.add(
            "b",
            Some("2023-11-15, c0ffee0+".into()),
            b"ok 1 one\nok 2 two # SKIP no such thing\nok 3 three_\n1..3\n",
        );
        let mut page = String::new();
        results.write("suite", &mut page).unwrap();
        let expected = "\
suite
-----

.. list-table::
   :header-rows: 1

   * - machine
     - ran on
     - passed
     - failed
     - skipped or known to fail
   * - a
     - 2023-11-14, c0ffee0
     - 1
     - 1
     - 1
   * - b
     - 2023-11-15, c0ffee0+
     - 2
     - 0
     - 1

Not the same everywhere, or failed:

.. list-table::
   :header-rows: 1

   * - test
     - a
     - b
   * - three\\_
     - FAILED
     - passed

The same on all machines:

no such thing
   two

passed
   one

";
        assert_eq!(page, expected);
    }

    #[test]
    fn a_folder_tells_machine_and_kernel() {
        for (folder, what) in [
            ("skylake-kernel", Some(("skylake", "kernel"))),
            (
                "skylake-smp-2-kernel-vanilla",
                Some(("skylake-smp-2", "kernel-vanilla")),
            ),
            ("my-kernel-box-kernel", Some(("my-kernel-box", "kernel"))),
            ("skylake-kernel.first", None),
            ("skylake-kernel-vanilla.next", None),
            ("skylake", None),
        ] {
            assert_eq!(machine_and_kernel(folder), what, "{folder}");
        }
    }

    #[test]
    fn a_run_that_broke_off_is_named() {
        let mut results = Results::default();
        results.add(
            "a",
            Some("2023-11-14, c0ffee0".into()),
            b"ok 1 one\nok 2 two\n1..2\n",
        );
        results.add("b", None, b"ok 1 one\n1..2\n");
        let mut page = String::new();
        results.write("suite", &mut page).unwrap();
        assert!(page.contains("     - no result\n"), "{page}");
        assert!(page.contains("\nb: "), "{page}");
        assert!(page.contains("   * - b\n     - broke off\n"), "{page}");
    }
}
