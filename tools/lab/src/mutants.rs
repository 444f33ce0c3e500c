// SPDX-License-Identifier: GPL-2.0-only
//! Shows that tests of the hardware model can fail: breaks the model in every way
//! that cargo-mutants knows, and the emulator around it in some, and runs the conformance
//! rows on it, machine by machine until one notices, and where none of them does the
//! model's own tests.

mod changes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use self::changes::{Change, Mutant};
use crate::conform;
use crate::ktap::{Report, Test};
use crate::places::Places;
use crate::run::{self, Options};

/// Who noticed a mutant.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    /// It does not compile.
    NoProgram,
    /// Rows of the conformance program, by name.
    Rows(BTreeSet<String>),
    /// The model's own tests.
    Tests,
    /// Nobody.
    Survives,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Verdict {
    name: String,
    fate: Fate,
}

/// What is known of a mutant or a row that nobody noticed, and changes beyond those of
/// cargo-mutants, `tools/emu/mutants.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    #[serde(default)]
    change: Vec<Change>,
    #[serde(default)]
    survivor: Vec<Explained>,
    #[serde(default)]
    row: Vec<Explained>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    names: Vec<String>,
    reason: String,
}

fn reason<'a>(known: &'a [Explained], name: &str) -> Option<&'a str> {
    known
        .iter()
        .find(|explained| explained.names.iter().any(|known| known == name))
        .map(|explained| explained.reason.as_str())
}

/// Copies of the tree and of the emulator's source, in which the model and the emulator are
/// changed.
struct Workshop<'a> {
    places: &'a Places,
    options: &'a Options,
    tree: PathBuf,
    source: PathBuf,
    target: PathBuf,
    log: PathBuf,
    /// The emulator without a change.
    unchanged: Vec<u8>,
}

impl<'a> Workshop<'a> {
    fn new(places: &'a Places, options: &'a Options, folder: &Path, n: usize) -> Result<Self> {
        let tree = folder.join(format!("tree-{n}"));
        let source = folder.join(format!("source-{n}"));
        for copy in [&tree, &source] {
            if copy.exists() {
                fs::remove_dir_all(copy)?;
            }
            fs::create_dir_all(copy)?;
        }
        let copied = Command::new("sh")
            .args([
                "-ec",
                "git ls-files -z | tar --null -T - -cf - | tar -C \"$1\" -xf -
                cp -a \"$2/.\" \"$3\"",
                "sh",
            ])
            .args([&tree, Path::new(EMULATOR_SOURCE), &source])
            .current_dir(&places.top)
            .status()?;
        if !copied.success() {
            bail!("the tree cannot be copied to {}", tree.display());
        }
        let mut workshop = Self {
            places,
            options,
            tree,
            source,
            target: folder.join(format!("target-{n}")),
            log: folder.join(format!("log-{n}")),
            unchanged: Vec::new(),
        };
        if !workshop.build()? {
            bail!(
                "the emulator does not build; see {}",
                workshop.log.display()
            );
        }
        workshop.unchanged = fs::read(workshop.bochs())?;
        Ok(workshop)
    }

    fn build(&self) -> Result<bool> {
        self.run(
            Command::new("tools/emu/build")
                .arg("--in")
                .arg(&self.source),
            "build",
        )
    }

    fn bochs(&self) -> PathBuf {
        self.source.join("bochs")
    }

    /// Where a file of ours is in the copies.
    fn place(&self, file: &Path) -> PathBuf {
        if let Ok(within) = file.strip_prefix(EMULATOR_SOURCE) {
            self.source.join(within)
        } else if let Ok(within) = file.strip_prefix(GLUE) {
            self.source.join("instrument/pmu").join(within)
        } else {
            self.tree.join(file)
        }
    }

    /// Runs a program of the copy, and gives whether it succeeded.
    fn run(&self, command: &mut Command, log: &str) -> Result<bool> {
        fs::create_dir_all(&self.log)?;
        let log = File::create(self.log.join(log))?;
        let status = command
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            // Each is built once and runs for seconds.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("a build step does not run")?;
        Ok(status.success())
    }

    /// What becomes of the mutant; the machine of this number is asked first.
    fn fate(&self, mutant: &Mutant, first: usize) -> Result<Fate> {
        let original = fs::read_to_string(self.places.top.join(&mutant.file))?;
        let changed = mutant.apply(&original)?;
        let place = self.place(&mutant.file);
        fs::write(&place, changed)?;
        let fate = self.judge(first, mutant.everywhere);
        fs::write(&place, original)?;
        fate
    }

    fn judge(&self, first: usize, everywhere: bool) -> Result<Fate> {
        if !self.build()? {
            // The changes of our own must; their log says why they do not.
            if everywhere {
                bail!("does not compile; see {}", self.log.join("build").display());
            }
            return Ok(Fate::NoProgram);
        }
        let bochs = self.bochs();
        if fs::read(&bochs)? == self.unchanged {
            // The compiler sees no difference, and nobody else can.
            return Ok(Fate::Survives);
        }
        let places = self.places.with_bochs(bochs).with_logs(self.log.clone());
        let mut failed = BTreeSet::new();
        let mut machines = conform::machines(self.places)?;
        let count = machines.len().max(1);
        machines.rotate_left(first % count);
        for machine in machines {
            let outcome = conform::conform(&places, self.options, &machine)?;
            rows(&outcome.report, |name, test| {
                if test.failed() {
                    failed.insert(name.to_owned());
                }
            });
            failed.extend(outcome.report.problems.first().map(|_| END.to_owned()));
            if !failed.is_empty() && !everywhere {
                break;
            }
        }
        if !failed.is_empty() {
            return Ok(Fate::Rows(failed));
        }
        let mut tests = Command::new("timeout");
        tests.args([
            "300",
            "cargo",
            "test",
            "--release",
            "--package",
            "emu-model",
        ]);
        Ok(if self.run(&mut tests, "tests")? {
            Fate::Survives
        } else {
            Fate::Tests
        })
    }
}

/// Where the patched source of the emulator is.
const EMULATOR_SOURCE: &str = "build/emu-source";

/// What is copied into it.
const GLUE: &str = "tools/emu/bochs/pmu";

/// The name of what fails if the program comes to no end.
const END: &str = "the program comes to its end";

/// Each row with its name.
fn rows(report: &Report, mut visit: impl FnMut(&str, &Test)) {
    for test in &report.tests {
        test.leaves("", &mut |path, leaf| visit(path, leaf));
    }
}

/// The mutants whose name has one of `filters` in it.
fn list(places: &Places, known: &Known, filters: &[String]) -> Result<Vec<Mutant>> {
    let output = Command::new("cargo")
        .args(["mutants", "--list", "--json", "--package", "emu-model"])
        .current_dir(&places.top)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo-mutants lists nothing; run `make mutants`, which installs it");
    }
    let mut mutants = Vec::new();
    for change in &known.change {
        let path = places.top.join(&change.file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        mutants.push(change.mutant(&text)?);
    }
    let listed: Vec<Mutant> =
        serde_json::from_slice(&output.stdout).context("the list of cargo-mutants")?;
    mutants.extend(listed);
    mutants.retain(|mutant| {
        filters.is_empty() || filters.iter().any(|filter| mutant.name.contains(filter))
    });
    Ok(mutants)
}

/// The rows of the unchanged model, all of which must pass.
fn all_rows(places: &Places, options: &Options) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for machine in conform::machines(places)? {
        let outcome = conform::conform(places, options, &machine)?;
        if !outcome.sum().is_success() {
            bail!("rows fail on the model as it is; run `make conform`");
        }
        rows(&outcome.report, |name, _| {
            all.insert(name.to_owned());
        });
    }
    Ok(all)
}

/// The verdicts of an earlier run, which this one continues.
fn earlier(path: &Path) -> BTreeMap<String, Fate> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may be cut off.
    text.lines()
        .filter_map(|line| serde_json::from_str::<Verdict>(line).ok())
        .map(|verdict| (verdict.name, verdict.fate))
        .collect()
}

/// What the verdicts depend on.
fn sources(places: &Places) -> Result<String> {
    let output = Command::new("sh")
        .args([
            "-c",
            "git ls-files build bochs conform machines model | LC_ALL=C sort | \
             xargs sha256sum | sha256sum | cut -c 1-16",
        ])
        .current_dir(places.top.join("tools/emu"))
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Judges all mutants, or those whose name has one of `filters` in it; prints as KTAP what
/// nobody noticed, and numbers.  Gives whether all of that is explained.
///
/// # Errors
///
/// If something that is needed is missing.
pub fn mutants(places: &Places, options: &Options, filters: &[String]) -> Result<bool> {
    let folder = places.top.join("build/mutants");
    fs::create_dir_all(&folder)?;
    let path = places.top.join("tools/emu/mutants.toml");
    let known: Known =
        toml::from_str(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
    let mut mutants = list(places, &known, filters)?;
    if mutants.is_empty() {
        bail!("no change has any of {filters:?} in its name");
    }
    let all = all_rows(places, options)?;
    // Where bits are disjoint nobody can notice, and to find that out takes longest.
    mutants.sort_by_key(|mutant| mutant.name.contains("replace | with ^"));
    let results = places.cache.join("mutants").join(sources(places)?);
    let done = earlier(&results);
    fs::create_dir_all(places.cache.join("mutants"))?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&results)?;
    let file = Mutex::new(file);
    let fates = Mutex::new(done);
    let queue: VecDeque<_> = {
        let fates = fates.lock().unwrap_or_else(PoisonError::into_inner);
        mutants
            .iter()
            .enumerate()
            .filter(|(_, mutant)| !fates.contains_key(&mutant.name))
            .collect()
    };
    let bar = run::progress(&options.bars, "mutants");
    bar.set_length(queue.len() as u64);
    let queue = Mutex::new(queue);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = |n| -> Result<()> {
        let workshop = Workshop::new(places, options, &folder, n)?;
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some((n, mutant)) = next else {
                return Ok(());
            };
            let fate = workshop
                .fate(mutant, n)
                .with_context(|| mutant.name.clone())?;
            let verdict = Verdict {
                name: mutant.name.clone(),
                fate: fate.clone(),
            };
            let line = serde_json::to_string(&verdict)?;
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(file, "{line}")?;
            fates
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(mutant.name.clone(), fate);
            bar.inc(1);
            bar.set_message(mutant.title());
        }
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|n| scope.spawn(move || work(n))).collect();
        handles.into_iter().try_for_each(|handle| {
            handle
                .join()
                .unwrap_or_else(|_| bail!("a worker ended early"))
        })
    })?;
    bar.finish_and_clear();
    let fates = fates.into_inner().unwrap_or_else(PoisonError::into_inner);
    let found: Vec<_> = mutants
        .iter()
        .filter_map(|mutant| Some((mutant.title(), fates.get(&mutant.name)?)))
        .collect();
    let (text, fine) = summarise(&found, &all, &known, filters.is_empty());
    print!("{text}");
    Ok(fine)
}

/// What came of the mutants as KTAP, and whether nothing is left to explain.
fn summarise(
    found: &[(String, &Fate)],
    all: &BTreeSet<String>,
    known: &Known,
    complete: bool,
) -> (String, bool) {
    let count = |wanted: fn(&Fate) -> bool| found.iter().filter(|(_, fate)| wanted(fate)).count();
    let mut text = String::from("TAP version 13\n");
    let (mut tests, mut fine) = (0, true);
    let mut tell = |good: bool, name: &str, skip: Option<&str>| {
        tests += 1;
        fine &= good;
        let not = if good { "" } else { "not " };
        // A change may have several lines.
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        text += &format!("{not}ok {tests} {name}");
        text += &skip.map_or_else(|| "\n".into(), |reason| format!(" # SKIP {reason}\n"));
    };
    for (name, _) in found.iter().filter(|(_, fate)| **fate == Fate::Survives) {
        let reason = reason(&known.survivor, name);
        tell(reason.is_some(), &format!("survives: {name}"), reason);
    }
    let noticed = count(|fate| !matches!(fate, Fate::Survives | Fate::NoProgram));
    let numbers = format!(
        "{noticed} of {} mutants are noticed: {} by rows, {} by the model's own tests; \
         {} survive, {} do not compile",
        found.len(),
        count(|fate| matches!(fate, Fate::Rows(_))),
        count(|fate| *fate == Fate::Tests),
        count(|fate| *fate == Fate::Survives),
        count(|fate| *fate == Fate::NoProgram),
    );
    tell(!found.is_empty(), &numbers, None);
    if complete {
        let failed: BTreeSet<&String> = found
            .iter()
            .filter_map(|(_, fate)| match fate {
                Fate::Rows(rows) => Some(rows),
                _ => None,
            })
            .flatten()
            .collect();
        let never: Vec<_> = all.iter().filter(|row| !failed.contains(row)).collect();
        for row in &never {
            let reason = reason(&known.row, row);
            tell(reason.is_some(), &format!("never failed: {row}"), reason);
        }
        let seen = all.len() - never.len();
        let numbers = format!("{seen} of {} rows were seen failing", all.len());
        tell(seen > 0, &numbers, None);
    }
    text += &format!("1..{tests}\n");
    (text, fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap;

    #[test]
    fn what_nobody_noticed_must_be_explained() {
        let rows = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let caught = Fate::Rows(rows(&["one"]));
        let found = [
            ("m\n m".to_owned(), &Fate::Survives),
            ("n".to_owned(), &caught),
        ];
        let explain = |name: &str| Explained {
            names: vec![name.into()],
            reason: "why".into(),
        };
        let mut known = Known::default();
        let all = rows(&["one", "two"]);
        // Passed, failed and skipped, as the lab reads them.
        let sum = |known: &Known, complete| {
            let (text, fine) = summarise(&found, &all, known, complete);
            let report = ktap::parse(text.as_bytes());
            assert!(report.problems.is_empty(), "{text}");
            let sum = report.sum();
            assert_eq!(fine, sum.is_success(), "{text}");
            (sum.passed, sum.failed, sum.skipped)
        };
        assert_eq!(sum(&known, true), (2, 2, 0));
        assert_eq!(sum(&known, false), (1, 1, 0));
        known.survivor.push(explain("m\n m"));
        assert_eq!(sum(&known, false), (1, 0, 1));
        assert_eq!(sum(&known, true), (2, 1, 1));
        known.row.push(explain("two"));
        assert_eq!(sum(&known, true), (2, 0, 2));
        let (text, fine) = summarise(&[], &all, &known, false);
        assert!(!fine && text.contains("not ok 1 0 of 0 mutants"), "{text}");
    }
}
