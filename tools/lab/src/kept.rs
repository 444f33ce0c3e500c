// SPDX-License-Identifier: GPL-2.0-only
//! Tells whether a run would be the same as the last.
//!
//! Equal machines that boot from equal bytes do the same to the last byte (the suite
//! `repeat` shows it), so a long run that succeeded need not be repeated while all that
//! it was given is what it was.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::emulator::End;
use crate::outcome::{self, Outcome};
use crate::splat::Allow;

const FILE: &str = "run.json";

/// A run that came to its end, in its log folder.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// A hash of all that it was given, of a long one.
    inputs: Option<String>,
    /// What it was made of, as [`commit`] names it.
    commit: String,
    /// The day on which it ended.
    date: String,
    /// The emulator's CPU time.
    seconds: u64,
}

impl Run {
    /// One of `commit` that ended now.
    ///
    /// # Errors
    ///
    /// If there is no date.
    pub fn new(inputs: Option<String>, commit: String, time: Duration) -> Result<Self> {
        Ok(Self {
            inputs,
            commit,
            date: today()?,
            seconds: time.as_secs(),
        })
    }

    /// The last one of this log folder, if that came to its end.
    pub fn load(log: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(log.join(FILE)).ok()?).ok()
    }

    /// Day and commit.
    pub fn made(&self) -> String {
        format!("{}, {}", self.date, self.commit)
    }

    /// Leaves it in the log folder.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn save(&self, log: &Path) -> Result<()> {
        let path = log.join(FILE);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("writing {}", path.display()))
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The day, as in 2023-11-14, in universal time.
pub(crate) fn today() -> Result<String> {
    output(Command::new("date").args(["-u", "+%F"]))
}

/// The commit of the source tree `top`, with a `+` if files differ from it.
pub(crate) fn commit(top: &Path) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--exclude=*", "--dirty=+"]);
    // A tree without history can run suites too.
    output(git.current_dir(top)).unwrap_or_else(|_| "no commit".into())
}

/// A hash of the contents of `files` and of `text`.
///
/// # Errors
///
/// If one cannot be read.
pub fn hash(files: &[&Path], text: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    for path in files {
        // With its length, so that no byte can move from one file to the next.
        fs::read(path)
            .with_context(|| format!("reading {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// What became of the last run, whose log folder is `log`, if it was given the same as one
/// with `inputs` and succeeded.
pub(crate) fn outcome(title: &str, allow: &[Allow], inputs: &str, log: &Path) -> Option<Outcome> {
    let run = Run::load(log).filter(|run| run.inputs.as_deref() == Some(inputs))?;
    let read = |name| fs::read(log.join(name)).ok();
    let outcome = outcome::judge(
        format!("{title}, of {}", run.made()),
        allow,
        &read("results")?,
        &read("console")?,
        End::PowerOff,
        Duration::from_secs(run.seconds),
        log.to_owned(),
    );
    outcome.sum().is_success().then_some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn only_a_success_with_the_same_input_is_kept() {
        let folder = tempdir().unwrap();
        let log = folder.path();
        let found = |inputs| outcome("t", &[], inputs, log).map(|outcome| outcome.title);
        let write = |name: &str, text: &str| fs::write(log.join(name), text).unwrap();
        write("console", "");
        write("results", "ok 1 a\n1..1\n@exit 0\n");
        assert_eq!(found("1"), None, "one that broke off");
        let run = Run {
            inputs: Some("1".into()),
            commit: "c0ffee0".into(),
            date: "2023-11-14".into(),
            seconds: 7,
        };
        run.save(log).unwrap();
        assert_eq!(Run::load(log).as_ref(), Some(&run));
        assert_eq!(found("1").as_deref(), Some("t, of 2023-11-14, c0ffee0"));
        assert_eq!(found("2"), None, "other input");
        Run {
            inputs: None,
            ..Run::load(log).unwrap()
        }
        .save(log)
        .unwrap();
        assert_eq!(found("1"), None, "unknown input");
        run.save(log).unwrap();
        write("console", "[1.0] BUG: bad page\n");
        assert_eq!(found("1"), None, "a fault of the kernel");
        write("console", "");
        write("results", "not ok 1 a\n1..1\n@exit 0\n");
        assert_eq!(found("1"), None, "a failure");
        write("results", "ok 1 a\n1..1\n");
        assert_eq!(found("1"), None, "no end");
    }

    #[test]
    fn a_commit_has_its_name_and_a_mark_if_files_changed() {
        let folder = tempdir().unwrap();
        let top = folder.path();
        let git = |arguments: &str| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=b"]);
            output(git.args(arguments.split(' ')).current_dir(top)).unwrap()
        };
        // Wherever the tests run, this folder has a history of its own, or none.
        fs::write(top.join(".git"), "none").unwrap();
        assert_eq!(commit(top), "no commit");
        fs::remove_file(top.join(".git")).unwrap();
        git("init --quiet");
        fs::write(top.join("file"), "a").unwrap();
        git("add file");
        git("commit --quiet --message=a");
        git("tag --message=b release");
        let name = git("rev-parse --short HEAD");
        assert_eq!(commit(top), name);
        fs::write(top.join("file"), "ab").unwrap();
        assert_eq!(commit(top), format!("{name}+"));
    }

    #[test]
    fn every_byte_of_the_input_counts() {
        let folder = tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let both = |a: &[u8], b: &[u8], text: &str| {
            fs::write(&one, a).unwrap();
            fs::write(&other, b).unwrap();
            hash(&[&one, &other], text).unwrap()
        };
        let first = both(b"ab", b"c", "d");
        assert_eq!(both(b"ab", b"c", "d"), first);
        assert_ne!(both(b"a", b"bc", "d"), first);
        assert_ne!(both(b"ab", b"d", "d"), first);
        assert_ne!(both(b"ab", b"c", "e"), first);
        let large = both(&[0; 100_000], b"", "");
        let mut changed = [0; 100_000];
        changed[99_999] = 1;
        assert_ne!(both(&changed, b"", ""), large);
        assert!(hash(&[&folder.path().join("none")], "").is_err());
    }
}
