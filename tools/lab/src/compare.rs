// SPDX-License-Identifier: GPL-2.0-only
//! Holds three providers of guest LBR to the rules of all behaviour cases: the built-in one
//! of the unpatched kernel, that of the patched one, and guest_lbr.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::check;
use crate::ktap::{Report, Status, Test};
use crate::level;
use crate::outcome::Outcome;
use crate::places::Places;
use crate::protocol::Transcript;
use crate::run::{self, Options};
use crate::suite::Suite;

pub mod answer;
mod page;

use answer::{Answer, Answers, Case};

/// Who gives guests their LBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    /// The unpatched kernel.
    Unpatched,
    /// The patched kernel without the module.
    Builtin,
    /// The module.
    GuestLbr,
}

const PROVIDERS: [Provider; 3] = [Provider::Unpatched, Provider::Builtin, Provider::GuestLbr];

impl Provider {
    fn kernel(self) -> &'static str {
        match self {
            Self::Unpatched => "kernel-vanilla",
            Self::Builtin | Self::GuestLbr => "kernel",
        }
    }

    /// As the tests name it.
    fn name(self) -> &'static str {
        match self {
            Self::Unpatched | Self::Builtin => "builtin",
            Self::GuestLbr => "guest_lbr",
        }
    }

    /// As people are told.
    fn title(self) -> &'static str {
        match self {
            Self::Unpatched => "unpatched kernel",
            Self::Builtin => "patched kernel, built-in",
            Self::GuestLbr => "guest_lbr",
        }
    }
}

/// A case of one machine, and what each provider did.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compared {
    case: Case,
    answers: [Answer; 3],
}

/// What one machine was asked.
#[derive(Debug, Default)]
struct Machine {
    name: String,
    /// By provider.
    answers: [Answers; 3],
}

impl Machine {
    /// All cases that any provider has, in the order of the one that has most.
    fn compared(&self) -> Vec<Compared> {
        let mut all: Vec<&Case> = Vec::new();
        let [unpatched, builtin, guest_lbr] = &self.answers;
        for answers in [guest_lbr, builtin, unpatched] {
            for case in &answers.cases {
                if !all.iter().any(|known| known.name == case.name) {
                    all.push(case);
                }
            }
        }
        all.into_iter()
            .map(|case| Compared {
                case: case.clone(),
                answers: PROVIDERS.map(|provider| self.answer(provider, case)),
            })
            .collect()
    }

    /// What a provider did; if it is known to be a matter of chance, that.
    fn answer(&self, provider: Provider, case: &Case) -> Answer {
        let answer = self.answers[provider as usize].answer(&case.name);
        let chance = match provider {
            Provider::Unpatched if case.known.is_some() => None,
            Provider::Unpatched | Provider::Builtin => case.at_times.as_ref(),
            Provider::GuestLbr => None,
        };
        match (answer, chance) {
            (Answer::Right | Answer::Wrong(_), Some(why)) => Answer::AtTimes(why.clone()),
            (answer, _) => answer,
        }
    }
}

/// How many cases a provider does right, and to how many it has an answer.
fn sum(compared: &[Compared], provider: Provider) -> (usize, usize) {
    let answers = || compared.iter().map(|row| &row.answers[provider as usize]);
    (
        answers().filter(|a| **a == Answer::Right).count(),
        answers()
            .filter(|a| !matches!(a, Answer::Neither(_)))
            .count(),
    )
}

/// The same in words.
fn sum_text(machine: &Machine, compared: &[Compared], provider: Provider) -> String {
    match machine.answers[provider as usize].nothing() {
        Some(why) => format!("none: {why}"),
        None => {
            let (right, all) = sum(compared, provider);
            format!("{right} of {all}")
        }
    }
}

/// A boot with each provider on each machine; gives also what became of the boots.
fn ask(
    places: &Places,
    options: &Options,
    suite: &Suite,
    names: &[String],
) -> (Vec<Machine>, Vec<Test>) {
    let mut jobs = Vec::new();
    for (number, name) in names.iter().enumerate() {
        for provider in PROVIDERS {
            jobs.push((number, name, provider));
        }
    }
    let boots = check::side_by_side(options, jobs, |(number, name, provider)| {
        // Logs of its own.
        let suite = Suite {
            name: format!("{}-{}", suite.name, provider.name()),
            ..suite.clone()
        };
        let mut options = options.clone();
        let variable = ("PROVIDER".to_owned(), provider.name().to_owned());
        options.variables.push(variable);
        let outcome = run::suite(places, &options, &suite, name, provider.kernel());
        let outcome = outcome.unwrap_or_else(|error| {
            level::broken(format!("{} ({name})", suite.name), &error, places)
        });
        let said = format!("{}: {}", provider.title(), outcome.summary());
        options.print(&said);
        (number, provider, outcome)
    });
    let mut machines: Vec<_> = names
        .iter()
        .map(|name| Machine {
            name: name.clone(),
            ..Machine::default()
        })
        .collect();
    let mut tests = Vec::new();
    for (number, provider, outcome) in boots {
        let machine = &mut machines[number];
        tests.push(boot_test(&machine.name, provider, &outcome));
        machine.answers[provider as usize] = answer::read(&outcome.report);
    }
    tests.sort_by(|one, other| one.name.cmp(&other.name));
    (machines, tests)
}

/// What a boot must do for its answers to mean something.
fn boot_test(machine: &str, provider: Provider, outcome: &Outcome) -> Test {
    let others = outcome.report.tests.iter().filter(|t| !answer::is_asked(t));
    let ready = outcome.transcript.exit == Some(0) && !others.into_iter().any(Test::failed);
    // What upstream's provider does to its kernel is an answer, too.
    let good = ready && (provider != Provider::GuestLbr || outcome.report.problems.is_empty());
    test(
        format!("{machine}, {}: the boot is in order", provider.title()),
        good,
        || outcome.details().lines().map(str::to_owned).collect(),
    )
}

fn test(name: String, good: bool, output: impl FnOnce() -> Vec<String>) -> Test {
    Test {
        name,
        status: if good { Status::Passed } else { Status::Failed },
        output: if good { Vec::new() } else { output() },
        children: Vec::new(),
    }
}

/// What must hold of the answers of a machine.
fn judge(machine: &Machine) -> Vec<Test> {
    let compared = machine.compared();
    let failures: Vec<_> = compared
        .iter()
        .filter_map(|row| match &row.answers[Provider::GuestLbr as usize] {
            Answer::Wrong(how) => {
                let (test, case) = &row.case.name;
                Some(format!("{test}, {case}: {how}"))
            }
            _ => None,
        })
        .collect();
    let (right, _) = sum(&compared, Provider::GuestLbr);
    let unmarked: Vec<_> = compared
        .iter()
        .filter(|row| row.case.known.is_none())
        .filter_map(|row| match &row.answers[..2] {
            [Answer::Wrong(how), _] | [_, Answer::Wrong(how)] => {
                let (test, case) = &row.case.name;
                Some(format!("{test}, {case} is no known failure: {how}"))
            }
            _ => None,
        })
        .collect();
    let name = &machine.name;
    vec![
        test(
            format!("{name}: guest_lbr does what all rules say"),
            right > 0 && failures.is_empty(),
            || failures,
        ),
        test(
            format!("{name}: what the built-in provider does wrong is known to its tests"),
            unmarked.is_empty(),
            || unmarked,
        ),
    ]
}

/// Cases that the tests expect the built-in provider to fail, and that it passes on all
/// machines, with and without the series.
fn wrong_marks(machines: &[Machine]) -> Vec<String> {
    let all: Vec<_> = machines.iter().flat_map(Machine::compared).collect();
    let fails = |name| {
        all.iter().any(|row| {
            let [unpatched, builtin, _] = &row.answers;
            row.case.name == name
                && (matches!(unpatched, Answer::Wrong(_)) || matches!(builtin, Answer::Wrong(_)))
        })
    };
    let runs =
        |row: &Compared| !matches!(row.answers[..2], [Answer::Neither(_), Answer::Neither(_)]);
    let mut names: Vec<_> = all
        .iter()
        .filter(|row| row.case.known.is_some() && runs(row) && !fails(row.case.name.clone()))
        .map(|row| format!("{}, {}", row.case.name.0, row.case.name.1))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn page_path(places: &Places) -> PathBuf {
    places.top.join("Documentation/compare.rst")
}

/// The numbers and, by test, what each provider does.
fn print(options: &Options, machines: &[Machine]) {
    let [unpatched, builtin, guest_lbr] = PROVIDERS.map(Provider::title);
    for machine in machines {
        let compared = machine.compared();
        let mut text = format!(
            "\n{:<22}{unpatched:>18}{builtin:>26}{guest_lbr:>12}\n",
            machine.name
        );
        let mut line = |name: &str, rows: &[Compared]| {
            let [unpatched, builtin, guest_lbr] = PROVIDERS.map(|provider| {
                let (right, all) = sum(rows, provider);
                format!("{right} of {all}")
            });
            text += &format!("{name:<22}{unpatched:>18}{builtin:>26}{guest_lbr:>12}\n");
        };
        for rows in compared.chunk_by(|a, b| a.case.name.0 == b.case.name.0) {
            line(&rows[0].case.name.0, rows);
        }
        line("all", &compared);
        for provider in PROVIDERS {
            if let Some(why) = machine.answers[provider as usize].nothing() {
                text += &format!("{}: {why}\n", provider.title());
            }
        }
        options.print(&text);
    }
}

/// Compares on `names`, by default the suite's machines; gives the page and the judgement.
fn run(places: &Places, options: &Options, names: &[String]) -> Result<(String, Vec<Test>)> {
    let suite = Suite::load(&places.suites(), "compare")?;
    let names = if names.is_empty() {
        &suite.machines
    } else {
        names
    };
    let (machines, mut tests) = ask(places, options, &suite, names);
    print(options, &machines);
    tests.extend(machines.iter().flat_map(judge));
    if *names == suite.machines {
        let wrong = wrong_marks(&machines);
        let name = "what is known of the built-in provider is so somewhere".to_owned();
        tests.push(test(name, wrong.is_empty(), || wrong));
    }
    let page = page::page(&machines)?;
    let path = places.logs().join("compare.rst");
    fs::write(&path, &page).with_context(|| format!("writing {}", path.display()))?;
    Ok((page, tests))
}

fn outcome(places: &Places, tests: Vec<Test>) -> Outcome {
    Outcome {
        title: "providers compared".into(),
        report: Report {
            tests,
            ..Report::default()
        },
        transcript: Transcript::default(),
        allowed: Vec::new(),
        time: Duration::ZERO,
        log: places.logs(),
    }
}

/// Compares on the machines of the documentation, and prints what is wrong with it, also if
/// the page would be another.
pub fn check(places: &Places, options: &Options) -> Outcome {
    let outcome = run(places, options, &[])
        .map(|(page, mut tests)| {
            let path = page_path(places);
            let now = fs::read_to_string(&path).unwrap_or_default();
            let name = "Documentation/compare.rst is what the machines say".to_owned();
            tests.push(test(name, page::same(&page, &now), || {
                let log = places.logs().join("compare.rst");
                vec![format!(
                    "{} and {} have other rules or answers; `make compare` writes it",
                    path.display(),
                    log.display()
                )]
            }));
            outcome(places, tests)
        })
        .unwrap_or_else(|error| level::broken("providers compared".into(), &error, places));
    options.print_outcome(&outcome);
    outcome
}

/// Compares on `machines`, or on those of the documentation, whose page is written then.
/// Gives whether guest_lbr does all that the rules say.
///
/// # Errors
///
/// If nothing can be run or written.
pub fn compare(places: &Places, options: &Options, machines: &[String]) -> Result<bool> {
    let (page, tests) = run(places, options, machines)?;
    let outcome = outcome(places, tests);
    options.print_outcome(&outcome);
    let path = page_path(places);
    let now = fs::read_to_string(&path).unwrap_or_default();
    if !machines.is_empty() {
        let log = places.logs().join("compare.rst");
        println!("the page: {}", log.display());
    } else if !outcome.sum().is_success() {
        println!("{} stays as it is", path.display());
    } else if page::same(&page, &now) {
        println!("{} says so already", path.display());
    } else {
        fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
        println!("{} is written", path.display());
    }
    Ok(outcome.sum().is_success())
}

#[cfg(test)]
mod tests;
