// SPDX-License-Identifier: GPL-2.0-only
//! Runs one suite on one machine with one kernel, and judges it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use emu_model::machine::Machine;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::bochsrc::{self, Console};
use crate::checked::{self, OURS};
use crate::costs;
use crate::demo;
use crate::emulator::{Emulator, End, Flow, Limit, Output};
use crate::initramfs::{self, Job};
use crate::iso;
use crate::kept;
use crate::outcome::{self, Outcome};
use crate::places::Places;
use crate::profile::compare;
use crate::splat::Splats;
use crate::suite::{Part, Suite, Verdict};

/// The host's kernel command line.  Warnings and worse appear on the console;
/// the rest is in the log that a suite saves, as each line costs much time.
pub const APPEND: &str = "console=ttyS0,115200 loglevel=5 tsc=reliable nokaslr panic=0 oops=panic";

/// Choices that are the same for all runs of a command.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Show the console and the results as they come.
    pub verbose: bool,
    /// Added to the host's kernel command line.
    pub append: String,
    /// Shell variables for the suite.
    pub variables: Vec<(String, String)>,
    /// What the machine has other than its description says.
    pub size: Size,
    /// Whether a long suite's last run stands for another that would be the same.
    pub keep: bool,
    /// The progress lines of everything that runs.
    pub bars: MultiProgress,
}

/// Another size for a machine.
#[derive(Args, Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    /// Number of the machine's CPUs, 1 to 4, instead of its description's
    #[arg(long, global = true)]
    cpus: Option<u8>,
    /// Size of the machine's memory in MiB, instead of its description's
    #[arg(long, global = true)]
    memory: Option<u32>,
    /// Instructions in a second of the machine's clock, instead of its description's
    #[arg(long, global = true)]
    ips: Option<u32>,
}

impl Size {
    /// With another's where this says nothing.
    #[must_use]
    fn or(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.or(other.cpus),
            memory: self.memory.or(other.memory),
            ips: self.ips.or(other.ips),
        }
    }

    /// The description to use: that in `path`, or one of this size in `folder`.
    pub(crate) fn machine(self, path: PathBuf, folder: &Path) -> Result<(PathBuf, Machine)> {
        let mut machine = Machine::load(&path)?;
        if self.cpus.is_none() && self.memory.is_none() && self.ips.is_none() {
            return Ok((path, machine));
        }
        machine.cpu.count = self.cpus.unwrap_or(machine.cpu.count);
        machine.cpu.ips = self.ips.unwrap_or(machine.cpu.ips);
        machine.memory.mib = self.memory.unwrap_or(machine.memory.mib);
        let path = folder.join("machine.toml");
        fs::write(&path, toml::to_string(&machine)?)?;
        // Checked anew.
        Ok((path.clone(), Machine::load(&path)?))
    }
}

/// The name of a machine and what follows it in `NAME:CPUS` or `NAME:CPUS:MIB`, as suites
/// ask for it.
fn sized(machine: &str) -> (&str, Size) {
    let mut name = machine;
    let mut numbers = Vec::new();
    while let Some((rest, number)) = name.rsplit_once(':') {
        match number.parse() {
            Ok(number) if numbers.len() < 2 => numbers.insert(0, number),
            _ => break,
        }
        name = rest;
    }
    let size = Size {
        // A number that is none of CPUs is refused with the machine's description.
        cpus: numbers
            .first()
            .map(|&n: &u32| u8::try_from(n).unwrap_or(u8::MAX)),
        memory: numbers.get(1).copied(),
        ips: None,
    };
    (name, size)
}

impl Options {
    /// Prints `text` above the progress lines; nothing if it is empty.
    pub fn print(&self, text: &str) {
        if !text.is_empty() {
            self.bars.suspend(|| println!("{}", text.trim_end()));
        }
    }

    /// Prints what came of a level: what is wrong with it, and the numbers.
    pub fn print_outcome(&self, outcome: &Outcome) {
        self.print(&outcome.details());
        self.print(&outcome.summary());
    }
}

/// Boots `machine` with nothing loaded, shows its kernel log and switches it off.
/// Gives whether it went off by itself and without a kernel fault.
///
/// # Errors
///
/// If it cannot be started.
pub fn boot(places: &Places, options: &Options, machine: &str, limit: Duration) -> Result<bool> {
    let files = Files::new(places, "boot")?;
    let boot = Boot {
        machine,
        kernel: OURS,
        parts: &[],
        job: Job {
            mode: "boot",
            script: None,
            variables: &[],
        },
        limit: Some(limit.into()),
    };
    let mut console = Vec::new();
    let console_file = Console::File(&files.console);
    let options = Options {
        // All messages, as nothing else is to be seen.
        append: format!("loglevel=7 {}", options.append),
        ..options.clone()
    };
    let (end, _) = boot.run(places, &options, &files, console_file, &mut |output| {
        console.extend_from_slice(output.console);
        show(output.console);
        Flow::Continue
    })?;
    let mut splats = Splats::default();
    splats.scan("host", &String::from_utf8_lossy(&console), &[]);
    for line in &splats.found {
        println!("FAILED  kernel fault: {line}");
    }
    if let End::Failed(why) = &end {
        println!("FAILED  {why}; logs: {}", files.log.display());
    }
    Ok(end == End::PowerOff && splats.found.is_empty())
}

/// What is to be booted.
pub struct Boot<'a> {
    /// Name or path of the machine.
    pub machine: &'a str,
    /// Name of the kernel: `kernel`, `kernel-vanilla`, or one that checks itself.
    pub kernel: &'a str,
    /// Parts of the initramfs.
    pub parts: &'a [Part],
    /// What runs inside.
    pub job: Job<'a>,
    /// Limit of the emulator's CPU time.
    pub limit: Option<Limit>,
}

/// Files of one boot, all in its log folder.
pub struct Files {
    /// The log folder.
    pub log: PathBuf,
    /// First serial port.
    pub console: PathBuf,
    /// Second serial port.
    pub results: PathBuf,
    /// Boot medium.
    pub iso: PathBuf,
    /// The emulator's configuration.
    pub bochsrc: PathBuf,
}

impl Files {
    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn new(places: &Places, name: &str) -> Result<Self> {
        let log = places.log(name)?;
        Ok(Self {
            console: log.join("console"),
            results: log.join("results"),
            iso: log.join("boot.iso"),
            bochsrc: log.join("bochsrc"),
            log,
        })
    }
}

/// A machine that is ready to be switched on.
pub struct Ready {
    bochs: PathBuf,
    machine: PathBuf,
    limit: Option<Limit>,
}

impl Boot<'_> {
    /// Makes the boot medium and describes the machine to the emulator.
    ///
    /// # Errors
    ///
    /// If something that is needed is missing.
    pub fn prepare(
        &self,
        places: &Places,
        options: &Options,
        files: &Files,
        console: Console<'_>,
    ) -> Result<Ready> {
        let path = places.machine(self.machine)?;
        let (path, machine) = options.size.machine(path, &files.log)?;
        let bochs = places.bochs()?;
        let kernel = places.kernel(self.kernel)?;
        let archives = initramfs::build(places, self.kernel, self.parts, &self.job, &files.log)?;
        let append = format!("{APPEND} {}", options.append);
        iso::build(&files.iso, &kernel.image, &archives, &append)?;
        let log = files.log.join("bochs.log");
        let config = bochsrc::generate(&machine, &files.iso, None, console, &files.results, &log);
        fs::write(&files.bochsrc, config)?;
        Ok(Ready {
            bochs,
            machine: path,
            limit: self.limit,
        })
    }

    /// Makes ready and boots until the machine is off.
    ///
    /// # Errors
    ///
    /// If something that is needed is missing.
    pub fn run(
        &self,
        places: &Places,
        options: &Options,
        files: &Files,
        console: Console<'_>,
        watch: &mut dyn FnMut(Output<'_>) -> Flow,
    ) -> Result<(End, Duration)> {
        self.prepare(places, options, files, console)?
            .run(files, watch)
    }
}

impl Ready {
    /// A hash of all that the machine is and boots from.
    ///
    /// # Errors
    ///
    /// If something of it cannot be read.
    pub fn inputs(&self, files: &Files) -> Result<String> {
        let config = fs::read_to_string(&files.bochsrc)?;
        // Where the files are changes nothing.
        let config = config.replace(&*files.log.to_string_lossy(), "");
        let roms = [bochsrc::BIOS, bochsrc::VGA_BIOS].map(Path::new);
        let machine = [&self.bochs, &self.machine, &files.iso].map(PathBuf::as_path);
        kept::hash(&[&machine[..], &roms].concat(), &config)
    }

    /// Boots until the machine is off.
    ///
    /// # Errors
    ///
    /// If the emulator cannot be started.
    pub fn run(
        &self,
        files: &Files,
        watch: &mut dyn FnMut(Output<'_>) -> Flow,
    ) -> Result<(End, Duration)> {
        let emulator = Emulator {
            bochs: &self.bochs,
            machine: &self.machine,
            bochsrc: &files.bochsrc,
            folder: &files.log,
            limit: self.limit,
        };
        let ended = emulator.run(&files.console, &files.results, watch)?;
        // Large, and quickly made again.
        drop(fs::remove_file(&files.iso));
        drop(fs::remove_file(files.log.join("job.cpio")));
        Ok(ended)
    }
}

/// A progress line; where there is no terminal, a line that says what begins.
pub fn progress(bars: &MultiProgress, title: &str) -> ProgressBar {
    if bars.is_hidden() {
        eprintln!("==> {title}");
    }
    let bar = bars.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(title.to_owned());
    bar
}

/// Runs `suite` on `machine` with the kernel named `kernel`.
///
/// # Errors
///
/// If it cannot be started.  A suite that fails is an [`Outcome`].
pub fn suite(
    places: &Places,
    options: &Options,
    suite: &Suite,
    machine: &str,
    kernel: &str,
) -> Result<Outcome> {
    let title = format!("{} ({machine}, {kernel})", suite.name);
    let (machine, size) = sized(machine);
    let mut stem = Path::new(machine)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for number in [size.cpus.map(u32::from), size.memory]
        .into_iter()
        .flatten()
    {
        stem += &format!("-{number}");
    }
    let name = format!("{}/{stem}-{kernel}", suite.name);
    let slowness = checked::slowness(places.resolve(kernel));
    let mut variables = options.variables.clone();
    variables.push(("LAB_KERNEL".into(), kernel.into()));
    variables.push(("LAB_MACHINE".into(), stem));
    variables.push(("LAB_SUITE".into(), suite.name.clone()));
    let boot = Boot {
        machine,
        kernel,
        parts: &suite.parts,
        job: Job {
            mode: "suite",
            script: Some(&suite.script),
            variables: &variables,
        },
        limit: Some(Limit {
            all: Duration::from_secs(suite.seconds) * slowness,
            silence: Duration::from_secs(suite.silence) * slowness,
        }),
    };
    let of_suite = Size {
        cpus: suite.cpus,
        ..Size::default()
    };
    let options = &Options {
        size: options.size.or(size).or(of_suite),
        ..options.clone()
    };
    let prepare = |name: &str| -> Result<_> {
        let files = Files::new(places, name)?;
        let ready = boot.prepare(places, options, &files, Console::File(&files.console))?;
        let inputs = if suite.full {
            Some(ready.inputs(&files)?)
        } else {
            None
        };
        Ok((files, ready, inputs))
    };
    if suite.full && options.keep {
        let next = format!("{name}.next");
        // If it fails, so it does below, with the last run out of the way.
        let inputs = prepare(&next).ok().and_then(|(.., inputs)| inputs);
        fs::remove_dir_all(places.logs().join(next))?;
        let log = places.logs().join(&name);
        let kept = inputs.and_then(|inputs| kept::outcome(&title, &suite.allow, &inputs, &log));
        if let Some(outcome) = kept {
            return Ok(outcome);
        }
    }
    // Before the run: a long one may outlive the commit.
    let commit = kept::commit(&places.top);
    let (files, ready, inputs) = prepare(&name)?;
    let bar = progress(&options.bars, &title);
    bar.set_message("booting");
    let mut stream = Vec::new();
    let mut told = 0;
    let mut console = Vec::new();
    let (end, time) = ready.run(&files, &mut |output| {
        stream.extend_from_slice(output.results);
        console.extend_from_slice(output.console);
        if options.verbose {
            show(output.console);
            show(output.results);
        } else if !output.results.is_empty() {
            bar.set_message(outcome::latest(&stream));
            if options.bars.is_hidden() {
                steps(&stream, &mut told, &title);
            }
        }
        bar.tick();
        Flow::Continue
    })?;
    bar.finish_and_clear();
    let run = match end {
        End::PowerOff => Some(kept::Run::new(inputs, commit, time)?),
        End::Failed(_) => None,
    };
    let mut outcome = outcome::judge(title, &suite.allow, &stream, &console, end, time, files.log);
    let verdicts = match suite.verdict {
        Some(Verdict::Profile) => {
            let depth = Machine::load(places.machine(machine)?)?.lbr.depth();
            demo::verdicts(&outcome.transcript, depth, compare::bound(machine))
        }
        Some(Verdict::Costs) => costs::verdicts(places, machine, &outcome.log),
        None => Vec::new(),
    };
    outcome.report.tests.extend(verdicts);
    outcome::save(&outcome)?;
    if let Some(run) = run {
        run.save(&outcome.log)?;
    }
    Ok(outcome)
}

/// Passes on what a serial port says.
pub fn show(bytes: &[u8]) {
    use std::io::Write;
    // A closed standard output is the reader's choice.
    drop(std::io::stdout().write_all(bytes));
    drop(std::io::stdout().flush());
}

/// Where there is no progress line: says the steps that a suite announces
/// (`note "step: ..."`) in whole lines beyond `told`.
fn steps(stream: &[u8], told: &mut usize, title: &str) {
    while let Some(end) = stream[*told..].iter().position(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(&stream[*told..*told + end]);
        if let Some(step) = line.trim_end().strip_prefix("# step: ") {
            eprintln!("==> {title}: {step}");
        }
        *told += end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_may_be_named_with_its_size() {
        for (machine, name, cpus, memory) in [
            ("skylake", "skylake", None, None),
            ("skylake-smp:3", "skylake-smp", Some(3), None),
            ("skylake:3:5000", "skylake", Some(3), Some(5000)),
            ("skylake:999", "skylake", Some(255), None),
            ("./a:b.toml", "./a:b.toml", None, None),
            ("./a:b.toml:4", "./a:b.toml", Some(4), None),
            ("a:7:1:64", "a:7", Some(1), Some(64)),
        ] {
            let size = Size {
                cpus,
                memory,
                ips: None,
            };
            assert_eq!(sized(machine), (name, size));
        }
    }

    #[test]
    fn the_first_has_the_last_word_on_size() {
        let size = |cpus, memory, ips| Size { cpus, memory, ips };
        for (one, other, both) in [
            (
                size(None, None, None),
                size(Some(2), Some(100), Some(9)),
                size(Some(2), Some(100), Some(9)),
            ),
            (
                size(Some(1), Some(99), Some(8)),
                size(Some(2), Some(100), Some(9)),
                size(Some(1), Some(99), Some(8)),
            ),
            (
                size(Some(1), None, None),
                size(Some(2), Some(100), None),
                size(Some(1), Some(100), None),
            ),
        ] {
            assert_eq!(one.or(other), both);
        }
    }
}
