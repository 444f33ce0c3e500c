// SPDX-License-Identifier: GPL-2.0-only
//! The description of a suite: TOML in the comments at the head of its script.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use serde::Deserialize;

use crate::emulator;
use crate::initramfs::BUSYBOX;
use crate::splat::Allow;

/// What a suite needs in the emulated host beyond a kernel and a shell.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// guest_lbr.ko.
    Module,
    /// Our KVM selftests.
    Selftests,
    /// All KVM selftests of the unpatched kernel's source.
    KvmSelftests,
    /// perf and its workload.
    Perf,
    /// perf's own tests with the tools that they use.
    PerfTests,
    /// QEMU with all it needs to run a guest.
    Qemu,
}

/// What the lab itself does with the artifacts after the run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Compare the host's profiles with the guest's.
    Profile,
    /// Compare what guest_lbr costs with what it may.
    Costs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    about: String,
    #[serde(default)]
    parts: Vec<Part>,
    #[serde(default = "default_kernels")]
    kernels: Vec<String>,
    #[serde(default = "default_machines")]
    machines: Vec<String>,
    #[serde(default)]
    full_machines: Vec<String>,
    cpus: Option<u8>,
    #[serde(default = "default_seconds")]
    seconds: u64,
    #[serde(default = "default_silence")]
    silence: u64,
    #[serde(default)]
    same: Vec<String>,
    #[serde(default)]
    allow: Vec<Allow>,
    verdict: Option<Verdict>,
    #[serde(default = "default_check")]
    check: bool,
    #[serde(default)]
    full: bool,
    #[serde(default)]
    twice: bool,
}

fn default_kernels() -> Vec<String> {
    vec!["kernel".into()]
}

fn default_machines() -> Vec<String> {
    vec!["skylake".into()]
}

/// The limit of a suite that names none.
pub const SECONDS: u64 = 150;

fn default_seconds() -> u64 {
    SECONDS
}

fn default_silence() -> u64 {
    emulator::SILENCE.as_secs()
}

fn default_check() -> bool {
    true
}

/// One suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The name of its file without the suffix.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// What it needs.
    pub parts: Vec<Part>,
    /// Names of kernels under `build/`; it runs once on each.
    pub kernels: Vec<String>,
    /// Names of machines; it runs once on each.  `NAME:CPUS` is one with another number
    /// of CPUs, `NAME:CPUS:MIB` one with another size of memory, too.
    pub machines: Vec<String>,
    /// Names of further machines, on which only `lab check --full` runs it.
    pub full_machines: Vec<String>,
    /// Number of its machines' CPUs, if not that of their descriptions.
    pub cpus: Option<u8>,
    /// Limit in seconds of the emulator's CPU time.
    pub seconds: u64,
    /// How many of them may pass without output.
    pub silence: u64,
    /// Artifacts that must be the same on all its kernels.
    pub same: Vec<String>,
    /// Faults that it expects.
    pub allow: Vec<Allow>,
    /// What is done with its artifacts.
    pub verdict: Option<Verdict>,
    /// Whether `lab check` runs it.
    pub check: bool,
    /// Whether only `lab check --full` runs it.
    pub full: bool,
    /// Whether it runs twice, to compare all that comes out.
    pub twice: bool,
    /// The script.
    pub script: Vec<u8>,
}

impl Suite {
    /// Reads the suite `name` of the folder `suites`, or the script `name` if that
    /// ends in `.sh`.
    ///
    /// # Errors
    ///
    /// If there is no such suite, its head is wrong or a shell cannot read it.
    pub fn load(suites: &Path, name: &str) -> Result<Self> {
        let path = if name.ends_with(".sh") {
            PathBuf::from(name)
        } else {
            suites.join(format!("{name}.sh"))
        };
        let script = std::fs::read_to_string(&path)
            .with_context(|| format!("suite {}; `lab list` names them", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let suite = Self::parse(&name, &script).with_context(|| format!("{}", path.display()))?;
        // Before a machine boots, and before half of it is done.
        let shell = Command::new(BUSYBOX)
            .args(["sh", "-n"])
            .arg(&path)
            .output()
            .with_context(|| format!("{BUSYBOX} does not run; run `make setup`"))?;
        if !shell.status.success() {
            bail!("{}", String::from_utf8_lossy(&shell.stderr).trim());
        }
        Ok(suite)
    }

    pub(crate) fn parse(name: &str, script: &str) -> Result<Self> {
        let head: String = script
            .lines()
            .filter_map(|line| line.strip_prefix("#:"))
            .map(|line| format!("{}\n", line.trim_start()))
            .collect();
        let head: Head = toml::from_str(&head).map_err(|error| {
            anyhow::anyhow!(
                "the head (lines that start with \"#: \"): {}",
                error.message()
            )
        })?;
        for allow in &head.allow {
            if allow.line.len() < 8 || allow.reason.is_empty() {
                bail!("[[allow]] needs a line of 8 characters or more, and a reason");
            }
        }
        if head.seconds == 0
            || head.silence == 0
            || head.kernels.is_empty()
            || head.machines.is_empty()
        {
            bail!("seconds, silence, kernels and machines must not be zero or empty");
        }
        if !head.same.is_empty() && head.kernels.len() < 2 {
            bail!("what is the same on all kernels needs two of them");
        }
        if head.full && (head.twice || head.verdict.is_some()) {
            bail!("what is judged by more than its results cannot be full: its last run may stand for it");
        }
        Ok(Self {
            name: name.to_owned(),
            about: head.about,
            parts: head.parts,
            kernels: head.kernels,
            machines: head.machines,
            full_machines: head.full_machines,
            cpus: head.cpus,
            seconds: head.seconds,
            silence: head.silence,
            same: head.same,
            allow: head.allow,
            verdict: head.verdict,
            check: head.check && !head.full,
            full: head.full,
            twice: head.twice,
            script: script.into(),
        })
    }

    /// Whether it needs `part`.
    pub fn needs(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// All suites of the folder, by name.
///
/// # Errors
///
/// If the folder cannot be read or one of the suites is wrong.
pub fn all(suites: &Path) -> Result<Vec<Suite>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(suites)
        .with_context(|| format!("{}", suites.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "sh"))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| path.file_stem()?.to_str())
        .map(|name| Suite::load(suites, name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_head() {
        let suite = Suite::parse(
            "x",
            "# SPDX\n#: about = \"a\"\n#: parts = [\"module\", \"qemu\"]\n#: seconds = 9\n\
             #: cpus = 2\n#:\n#: [[allow]]\n#: line = \"WRMSR to 0x1c9\"\n#: reason = \"b\"\nok hello\n",
        )
        .unwrap();
        assert!(suite.needs(Part::Module) && suite.needs(Part::Qemu) && !suite.needs(Part::Perf));
        assert_eq!((suite.seconds, suite.cpus), (9, Some(2)));
        assert_eq!(suite.silence, 120);
        assert_eq!(suite.kernels, ["kernel"]);
        assert_eq!(suite.allow.len(), 1);
        assert!(suite.check);
    }

    #[test]
    fn wrong_heads_say_what_is_wrong() {
        for (head, message) in [
            ("", "missing field `about`"),
            ("#: about = 1", "invalid type"),
            ("#: about = \"a\"\n#: part = []", "unknown field `part`"),
            (
                "#: about = \"a\"\n#: parts = [\"kvm\"]",
                "unknown variant `kvm`",
            ),
            ("#: about = \"a\"\n#: seconds = 0", "must not be zero"),
            ("#: about = \"a\"\n#: silence = 0", "must not be zero"),
            ("#: about = \"a\"\n#: same = [\"x\"]", "needs two of them"),
            (
                "#: about = \"a\"\n#: full = true\n#: twice = true",
                "cannot be full",
            ),
            (
                "#: about = \"a\"\n#: full = true\n#: verdict = \"profile\"",
                "cannot be full",
            ),
            (
                "#: about = \"a\"\n#: [[allow]]\n#: line = \"BUG: xyz\"\n#: reason = \"\"",
                "and a reason",
            ),
        ] {
            let error = format!("{:#}", Suite::parse("x", head).unwrap_err());
            assert!(error.contains(message), "{head}: {error}");
        }
    }

    #[test]
    fn the_suites_of_the_tree_are_well_formed() {
        let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
        assert!(!all(&suites).unwrap().is_empty());
    }
}
