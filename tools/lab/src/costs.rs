// SPDX-License-Identifier: GPL-2.0-only
//! Measures what guest LBR costs, in executed instructions and VM exits, and guards it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};
use bench::counts::Counts;
use bench::figures::{self, Figure, Place};
use bench::guard::{self, Change};
use bench::{page, plot};
use emu_model::machine::Machine;

use crate::check;
use crate::emulator::COUNTERS;
use crate::ktap::{Status, Test};
use crate::level;
use crate::outcome::Outcome;
use crate::places::{Places, Products};
use crate::run::{self, Options};
use crate::suite::Suite;

const SUITE: &str = "bench";
const GUEST_LBR: &str = "guest_lbr";
/// The configuration of the host kernel.
const CONFIG: &str = "lab";
/// The machine whose pictures the documentation has.
const SHOWN: &str = "skylake";
/// What each picture shows.
const PICTURES: [(&str, &[&str]); 2] = [
    (
        "often",
        &[
            "exit_idle",
            "exit_granted",
            "debugctl_read_granted",
            "control_write_granted",
            "switch_same",
        ],
    ),
    (
        "seldom",
        &[
            "first_use_of_boot",
            "first_use",
            "first_access_after_release",
            "filter_granted",
            "get_msrs",
            "pmi",
            "sample_branches",
        ],
    ),
];

/// What is to be measured.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// The machines; all that the suite names if there are none.
    pub machines: Vec<String>,
    /// Single operations only.
    pub single: bool,
    /// Take what guest_lbr costs now as what it may cost.
    pub accept: bool,
    /// Another commit, to be measured as well.
    pub against: Option<String>,
}

/// The figures of a boot that ended.
fn read(log: &Path, samples: Option<&str>, machine: &str, provider: &str) -> Result<Vec<Figure>> {
    let path = log.join(COUNTERS);
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let counts = Counts::parse(&text)?;
    let place = Place {
        machine: machine.into(),
        config: CONFIG.into(),
        provider: provider.into(),
    };
    let mut all = figures::single(&counts, &place)?;
    if let Some(samples) = samples {
        all.extend(figures::samples(&counts, samples, "guest", &place)?);
        let host = Place {
            provider: "host".into(),
            ..place
        };
        all.extend(figures::samples(&counts, samples, "host", &host)?);
    }
    Ok(all)
}

fn accepted_path(places: &Places) -> PathBuf {
    places.top.join("tools/bench/accepted.json")
}

fn test(name: String, status: Status, output: Vec<String>) -> Test {
    Test {
        name,
        status,
        output,
        children: Vec::new(),
    }
}

/// Compares guest_lbr's costs on a machine, of which the boot's logs tell, with those that
/// were accepted.
pub(crate) fn verdicts(places: &Places, machine: &str, log: &Path) -> Vec<Test> {
    let compared = || -> Result<_> {
        let path = accepted_path(places);
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let now = guard::guarded(&read(log, None, machine, GUEST_LBR)?);
        Ok(guard::compare(&guard::parse(&text)?, &now))
    };
    match compared() {
        Ok(verdicts) => verdicts
            .into_iter()
            .map(|verdict| match verdict.change {
                Change::None => test(verdict.name, Status::Passed, Vec::new()),
                Change::Better(how) => test(
                    verdict.name,
                    Status::Passed,
                    vec![format!("cheaper: {how}; `lab bench --accept` keeps it so")],
                ),
                Change::Worse(how) => test(
                    verdict.name,
                    Status::Failed,
                    vec![format!("{how}; if it has to be, `lab bench --accept`")],
                ),
            })
            .collect(),
        Err(error) => vec![test(
            format!("{machine}: what guest_lbr costs"),
            Status::Failed,
            vec![format!("{error:#}")],
        )],
    }
}

/// Boots each provider on each machine; returns the figures, and what became of the boots.
fn measure(
    places: &Places,
    options: &Options,
    suite: &Suite,
    jobs: &[(String, &'static str)],
    single: bool,
) -> (Vec<Figure>, Vec<Outcome>) {
    let boots = check::side_by_side(options, (0..).zip(jobs).collect(), |(at, job)| {
        let (machine, provider) = job;
        // Logs of its own.
        let suite = Suite {
            name: format!("{SUITE}-{provider}"),
            verdict: None,
            ..suite.clone()
        };
        let mut options = options.clone();
        let mut set = |name: &str, value: &str| options.variables.push((name.into(), value.into()));
        set("PROVIDER", provider);
        set("FIXED_WORK", if single { "" } else { "yes" });
        let mut outcome =
            run::suite(places, &options, &suite, machine, "kernel").unwrap_or_else(|error| {
                level::broken(format!("{machine}, {provider}"), &error, places)
            });
        let samples = outcome.transcript.file("samples");
        let figures = read(&outcome.log, samples.as_deref(), machine, provider);
        let figures = figures.unwrap_or_else(|error| {
            outcome.report.problems.push(format!("{error:#}"));
            Vec::new()
        });
        options.print_outcome(&outcome);
        (at, figures, outcome)
    });
    let mut boots: Vec<(usize, _, _)> = boots;
    boots.sort_by_key(|(at, ..)| *at);
    let mut all = Vec::new();
    let mut outcomes = Vec::new();
    for (_, figures, outcome) in boots {
        all.extend(figures);
        outcomes.push(outcome);
    }
    // The host's are the same with each provider.
    let mut seen: Vec<(String, Place)> = Vec::new();
    all.retain(|figure: &Figure| {
        let key = (figure.operation.clone(), figure.place.clone());
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    (all, outcomes)
}

/// Who is measured on a machine: the kernel's own has no architectural LBR.
fn providers(places: &Places, machine: &str) -> Result<[&'static str; 2]> {
    let description = Machine::load(places.machine(machine)?)?;
    Ok(match description.lbr.is_architectural() {
        true => ["none", GUEST_LBR],
        false => ["builtin", GUEST_LBR],
    })
}

/// Kernel and module of another commit, built in a tree of its own.
fn other(places: &Places, revision: &str) -> Result<Places> {
    let tree = places.top.join("build/against");
    let git = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new("git");
        let status = command.current_dir(&places.top).args(arguments).status();
        ensure!(
            status.context("git does not run")?.success(),
            "git {} failed",
            arguments.join(" ")
        );
        Ok(())
    };
    let path = tree.to_str().context("a path that is not UTF-8")?;
    if tree.exists() {
        git(&["worktree", "remove", "--force", path])?;
    }
    git(&["worktree", "add", "--detach", path, revision])?;
    let mut make = Command::new("make");
    let built = make.current_dir(&tree).args(["kernel", "modules"]).status();
    ensure!(
        built.context("make does not run")?.success(),
        "{revision} does not build"
    );
    Places::new(Products {
        kernel: Some(tree.join("build/kernel")),
        module: Some(tree.join("build/module/guest_lbr.ko")),
        ..places.products()
    })
}

/// Prints what another commit's guest_lbr costs beside what this tree's does.
fn print_against(revision: &str, then: &[Figure], now: &[Figure]) {
    println!("\n{:<58}{revision:>16}{:>16}", "", "this tree");
    for figure in now.iter().filter(|f| f.place.provider == GUEST_LBR) {
        let same =
            |other: &&Figure| other.operation == figure.operation && other.place == figure.place;
        let name = format!("{}, {}", figure.place.machine, figure.operation);
        let Some(before) = then.iter().find(same) else {
            continue;
        };
        let percent = 100.0 * (figure.instructions / before.instructions - 1.0);
        let change = if before.instructions == 0.0 {
            0.0
        } else {
            percent
        };
        println!(
            "{name:<58}{:>16}{:>16} {change:>+7.1} %",
            before.instructions, figure.instructions
        );
    }
}

/// Writes tables and pictures, for the documentation if they are complete.
fn save(places: &Places, figures: &[Figure], complete: bool) -> Result<()> {
    let folder = places.top.join("build").join(SUITE);
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let tables = page::tables(figures);
    let markdown: Vec<_> = tables.iter().map(page::Table::markdown).collect();
    let rst: Vec<_> = tables.iter().map(page::Table::rst).collect();
    println!("{}", markdown.join("\n"));
    write("results.json", &guard::text(figures)?)?;
    write("results.md", &markdown.join("\n"))?;
    write("results.rst", &rst.join("\n"))?;
    let mut machines: Vec<&str> = figures.iter().map(|f| &*f.place.machine).collect();
    machines.dedup();
    for machine in machines {
        for (name, operations) in PICTURES {
            let picture = plot::bars(figures, machine, CONFIG, operations)?;
            write(&format!("{machine}-{name}.svg"), &picture)?;
        }
    }
    println!("all figures: {}", folder.display());
    if complete {
        let documentation = places.top.join("Documentation");
        let head = ".. SPDX-License-Identifier: GPL-2.0-only\n\n";
        fs::write(
            documentation.join("costs-figures.inc"),
            head.to_owned() + &rst.join("\n"),
        )?;
        for (name, _) in PICTURES {
            let from = folder.join(format!("{SHOWN}-{name}.svg"));
            let to = format!("_static/costs-{SHOWN}-{name}.svg");
            let licence = "<!-- SPDX-License-Identifier: GPL-2.0-only -->\n";
            let picture = licence.to_owned() + &fs::read_to_string(from)?;
            fs::write(documentation.join(to), picture)?;
        }
        println!("the documentation says so now");
    }
    Ok(())
}

fn accept(places: &Places, figures: &[Figure]) -> Result<()> {
    let own: Vec<_> = figures
        .iter()
        .filter(|f| f.place.provider == GUEST_LBR)
        .cloned()
        .collect();
    let mut guarded = guard::guarded(&own);
    let path = accepted_path(places);
    if let Ok(text) = fs::read_to_string(&path) {
        // Of machines that were not measured.
        let mut others = guard::parse(&text)?;
        others.retain(|other| !guarded.iter().any(|f| f.place == other.place));
        guarded.extend(others);
    }
    guarded.sort_by(|a, b| a.place.machine.cmp(&b.place.machine));
    fs::write(&path, guard::text(&guarded)?)?;
    println!("accepted: {}", path.display());
    Ok(())
}

/// Measures, prints tables, and writes all figures below `build/bench`. Returns whether all
/// boots went well.
///
/// # Errors
///
/// If nothing can be run or written.
pub fn bench(places: &Places, options: &Options, what: &What) -> Result<bool> {
    let suite = Suite::load(&places.suites(), SUITE)?;
    let mut machines = what.machines.clone();
    if machines.is_empty() {
        machines.extend(suite.machines.iter().chain(&suite.full_machines).cloned());
    }
    let mut jobs = Vec::new();
    for machine in &machines {
        jobs.extend(providers(places, machine)?.map(|provider| (machine.clone(), provider)));
    }
    let (figures, mut outcomes) = measure(places, options, &suite, &jobs, what.single);
    if figures.is_empty() {
        bail!("nothing was measured");
    }
    let complete = what.machines.is_empty();
    save(places, &figures, complete)?;
    if let Some(revision) = &what.against {
        let theirs = other(places, revision)?;
        jobs.retain(|(_, provider)| *provider == GUEST_LBR);
        let (then, more) = measure(&theirs, options, &suite, &jobs, what.single);
        outcomes.extend(more);
        print_against(revision, &then, &figures);
    }
    let good = outcomes.iter().all(|outcome| outcome.sum().is_success());
    if what.accept {
        ensure!(good, "nothing is accepted of boots that failed");
        accept(places, &figures)?;
    }
    Ok(good)
}
