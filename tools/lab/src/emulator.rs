// SPDX-License-Identifier: GPL-2.0-only
//! Runs the emulator and stops it when it hangs.
//!
//! Limits count the emulator's CPU time: it does not pass more quickly when the
//! build machine is busy, and a machine that sleeps for ever still uses it.  An
//! emulator that uses none hangs itself.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::wait::{waitid, Id, WaitPidFlag, WaitStatus};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use emu_model::machine::{COUNTERS_VARIABLE, MACHINE_VARIABLE};

/// How long nothing may come out of either serial port, in CPU time, unless a suite says
/// otherwise.
pub const SILENCE: Duration = Duration::from_secs(120);
/// How long the emulator may use no CPU at all, in wall time.
const STANDSTILL: Duration = Duration::from_secs(60);
/// What the machine may still print after a kernel panic, in CPU time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What the machine did, in numbers, in the folder of a run.
pub const COUNTERS: &str = "counters.json";
const POLL: Duration = Duration::from_millis(50);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine switched itself off.
    PowerOff,
    /// It did not; why.
    Failed(String),
}

/// How much CPU time a run may take.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// All in all.
    pub all: Duration,
    /// Without output.
    pub silence: Duration,
}

impl From<Duration> for Limit {
    fn from(all: Duration) -> Self {
        Self {
            all,
            silence: SILENCE,
        }
    }
}

/// One run to be.
pub struct Emulator<'a> {
    /// The program.
    pub bochs: &'a Path,
    /// The machine description, for the emulator's own use.
    pub machine: &'a Path,
    /// Its configuration.
    pub bochsrc: &'a Path,
    /// Where it leaves files.
    pub folder: &'a Path,
    /// Limit of CPU time; none for an interactive run.
    pub limit: Option<Limit>,
}

/// Reads what is appended to a file.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    fn more(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        // Until the emulator makes the file there is nothing to read.
        if let Ok(mut file) = File::open(&self.path) {
            if file.seek(SeekFrom::Start(self.offset)).is_ok()
                && file.read_to_end(&mut data).is_ok()
            {
                self.offset += data.len() as u64;
            }
        }
        data
    }
}

/// A child that does not outlive us.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Guard {
    /// Whether it has ended; its CPU time can still be asked then.
    fn ended(&self) -> Result<bool> {
        let pid = Pid::from_raw(i32::try_from(self.0.id())?);
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(waitid(Id::Pid(pid), flags)? != WaitStatus::StillAlive)
    }

    fn cpu_time(&self) -> Option<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).ok()?);
        let clock = clock_getcpuclockid(pid).ok()?;
        Some(Duration::from(clock.now().ok()?))
    }
}

impl Emulator<'_> {
    /// Starts the emulator.
    fn spawn(&self) -> Result<Guard> {
        let out = File::create(self.folder.join("bochs.out"))?;
        // It would run on for ever if we were killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.bochs)
            .args(["-q", "-f"])
            .arg(self.bochsrc)
            .current_dir(self.folder)
            .env(MACHINE_VARIABLE, self.machine)
            .env(COUNTERS_VARIABLE, self.folder.join(COUNTERS))
            // Bochs starts the machine's clock in local time.
            .env("TZ", "UTC0")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("setpriv does not run; run `make setup` (package util-linux)")?;
        Ok(Guard(child))
    }

    /// Runs to the end, and hands over what appears in the files `console` and
    /// `results` while it appears.
    ///
    /// # Errors
    ///
    /// If the emulator cannot be started.
    pub fn run(
        &self,
        console: &Path,
        results: &Path,
        watch: &mut dyn FnMut(Output<'_>) -> Flow,
    ) -> Result<(End, Duration)> {
        let mut child = self.spawn()?;
        let mut last_move = (Duration::ZERO, Instant::now());
        let mut tails = [console, results].map(|path| Tail {
            path: path.to_owned(),
            offset: 0,
        });
        let mut used = Duration::ZERO;
        let mut last_output = Duration::ZERO;
        let mut panicked = None;
        let mut seen = Vec::new();
        loop {
            let ended = child.ended()?;
            used = child.cpu_time().unwrap_or(used).max(used);
            let status = if ended { child.0.try_wait()? } else { None };
            if used > last_move.0 + Duration::from_millis(100) {
                last_move = (used, Instant::now());
            }
            let [console, results] = &mut tails;
            let (console, results) = (console.more(), results.more());
            if !console.is_empty() || !results.is_empty() {
                last_output = used;
            }
            if self.limit.is_some() && panicked.is_none() {
                // A line may come in two pieces.
                seen.extend_from_slice(&console);
                if seen.windows(12).any(|w| w == b"Kernel panic") {
                    panicked = Some(used);
                }
                seen.drain(..seen.len().saturating_sub(11));
            }
            let flow = watch(Output {
                console: &console,
                results: &results,
            });
            if let Some(status) = status {
                return Ok((self.ended(&status.to_string()), used));
            }
            if let Flow::Stop = flow {
                return Ok((End::Failed("stopped".into()), used));
            }
            if let Some(why) = self.overdue(used, last_output, panicked, last_move.1.elapsed()) {
                return Ok((End::Failed(why), used));
            }
            std::thread::sleep(POLL);
        }
    }

    fn overdue(
        &self,
        used: Duration,
        last_output: Duration,
        panicked: Option<Duration>,
        still: Duration,
    ) -> Option<String> {
        let limit = self.limit?;
        if panicked.is_some_and(|at| used > at + LAST_WORDS) {
            return Some("the host's kernel panicked".into());
        }
        if used > limit.all {
            return Some(format!("not done in {} s of CPU time", limit.all.as_secs()));
        }
        if used > last_output + limit.silence {
            return Some(format!(
                "hangs: no output in {} s of CPU time",
                limit.silence.as_secs()
            ));
        }
        if still > STANDSTILL {
            return Some(format!(
                "hangs: the emulator stood still for {} s",
                still.as_secs()
            ));
        }
        None
    }

    /// Judges by the emulator's last words: it calls even a power-off a panic.
    fn ended(&self, status: &str) -> End {
        let text = std::fs::read(self.folder.join("bochs.log")).unwrap_or_default();
        let out = std::fs::read(self.folder.join("bochs.out")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned() + &String::from_utf8_lossy(&out);
        let panic = text.lines().rev().find(|line| {
            line.contains(">>PANIC<<")
                || line.contains("PANIC]")
                || line.trim_start().starts_with("error:")
                // What the glue between emulator and model does not like.
                || line.starts_with("bochs: ")
        });
        match panic {
            _ if text.contains("soft power off") => End::PowerOff,
            // The rest of the line comes from the description, checked.
            Some(line) if line.contains("cpu directive malformed") => End::Failed(
                "the emulator knows no such cpu.model; `build/emu/bochs -help cpu` lists them"
                    .to_owned(),
            ),
            Some(line) if line.contains("exception with no resolution") => {
                End::Failed("the host's CPU shut down, by a triple fault".to_owned())
            }
            Some(line) => End::Failed(format!("the emulator gave up: {}", line.trim())),
            None => End::Failed(format!("the emulator ended with {status}")),
        }
    }
}

/// New bytes from the serial ports.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// First port.
    pub console: &'a [u8],
    /// Second port.
    pub results: &'a [u8],
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop the emulator.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn script(path: &Path, text: &str) {
        let source = path.with_extension("sh");
        fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        // What another test forks meanwhile may have what we write open for a moment, and such a
        // file cannot be executed.
        let status = Command::new("install")
            .arg("-m755")
            .args([&source, path])
            .status();
        assert!(status.unwrap().success());
    }

    /// Runs a shell script in the emulator's place.
    fn run(text: &str, limit: u64) -> (End, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        script(&path("bochs"), text);
        let emulator = Emulator {
            bochs: &path("bochs"),
            machine: Path::new("m.toml"),
            bochsrc: Path::new("bochsrc"),
            folder: folder.path(),
            limit: Some(Duration::from_secs(limit).into()),
        };
        let mut results = Vec::new();
        let (end, _) = emulator
            .run(&path("console"), &path("results"), &mut |output| {
                results.extend_from_slice(output.results);
                Flow::Continue
            })
            .unwrap();
        (end, results)
    }

    fn failed(end: End) -> String {
        match end {
            End::Failed(why) => why,
            End::PowerOff => panic!("it went off by itself"),
        }
    }

    #[test]
    fn a_power_off_is_the_good_end_and_nothing_is_lost() {
        let (end, results) = run(
            "echo ok >results; echo soft power off >bochs.log; exit 1",
            9,
        );
        assert_eq!(end, End::PowerOff);
        assert_eq!(results, b"ok\n");
    }

    #[test]
    fn an_emulator_that_gives_up_is_quoted() {
        let why = failed(run("echo 'error: m.toml: line 3: bad' >&2; exit 1", 9).0);
        assert_eq!(why, "the emulator gave up: error: m.toml: line 3: bad");
        let why = failed(run("echo 'bochs: m.toml: no'; exit 1", 9).0);
        assert_eq!(why, "the emulator gave up: bochs: m.toml: no");
        let why = failed(run("exit 3", 9).0);
        assert_eq!(why, "the emulator ended with exit status: 3");
    }

    #[test]
    fn no_emulator_outlives_the_lab() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        script(&path("bochs"), ": >started; while :; do :; done");
        // The end of the thread that starts it is to the system our end.
        let child = std::thread::scope(|scope| {
            let start = || {
                let emulator = Emulator {
                    bochs: &path("bochs"),
                    machine: Path::new("m.toml"),
                    bochsrc: Path::new("bochsrc"),
                    folder: folder.path(),
                    limit: None,
                };
                let child = emulator.spawn().unwrap();
                while !path("started").exists() {
                    std::thread::sleep(POLL);
                }
                child
            };
            scope.spawn(start).join().unwrap()
        });
        let late = Instant::now() + Duration::from_secs(10);
        while !child.ended().unwrap() {
            assert!(Instant::now() < late, "it runs on");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn what_goes_on_for_ever_is_stopped() {
        let why = failed(run("while :; do :; done", 1).0);
        assert_eq!(why, "not done in 1 s of CPU time");
    }

    #[test]
    fn a_kernel_panic_ends_the_run_before_its_limit() {
        let why = failed(run("printf 'Kernel p' >console; sleep 0.2; printf 'anic' >>console; while :; do :; done", 60).0);
        assert_eq!(why, "the host's kernel panicked");
    }

    #[test]
    fn each_way_to_hang_has_its_limit() {
        let emulator = Emulator {
            bochs: Path::new(""),
            machine: Path::new(""),
            bochsrc: Path::new(""),
            folder: Path::new(""),
            limit: Some(Duration::from_secs(200).into()),
        };
        let said = |used, last_output, still| {
            let [used, last_output, still] = [used, last_output, still].map(Duration::from_secs);
            emulator.overdue(used, last_output, None, still)
        };
        assert_eq!(said(200, 200, 0), None);
        assert_eq!(said(120, 1, 60), None);
        assert!(said(201, 201, 0).unwrap().contains("not done in 200 s"));
        assert!(said(121, 0, 0).unwrap().contains("no output in 120 s"));
        assert!(said(1, 1, 61).unwrap().contains("stood still"));
    }
}
