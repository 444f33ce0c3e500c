// SPDX-License-Identifier: GPL-2.0-only
//! Compares the speed of our emulator with that of the unpatched one.

use anyhow::{bail, Result};
use indicatif::ProgressBar;

use crate::bochsrc::Console;
use crate::emulator::{End, Flow};
use crate::initramfs::Job;
use crate::places::Places;
use crate::run::{Boot, Files, Options};
use crate::suite::Part;

/// The unpatched emulator's CPUID names another frequency than its clock has; told
/// the truth, the kernel takes as many timer interrupts on both.
const APPEND: &str = "tsc_early_khz=100000 lapic=notscdeadline";

/// perf starts in each, so that only what it asks of the CPU differs.  The sampling
/// periods are never reached.
const WORKLOAD: &str = "\
status=1
case $BENCH in
boot) status=0 ;;
off) set -- -e cpu-clock -c 1000000000000 ;;
lbr) set -- -e cycles -c 1000000000000 -b ;;
esac
if [ $status = 1 ]; then
	perf record -o /tmp/data -N \"$@\" -- br_instr 1 \"$STEPS\" >/tmp/out 2>&1
	status=$?
	cat /tmp/out
fi
[ $status = 0 ] && ok \"$BENCH\" || not_ok \"$BENCH\"
";

/// One thing to measure.
struct Row {
    name: &'static str,
    stock: bool,
    workload: &'static str,
    seconds: Vec<f64>,
    /// How long the machine was on by its own clock, in millions of instructions.
    emulated: f64,
}

impl Row {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// What disturbs a run only makes it longer.
    fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn range(&self) -> f64 {
        let most = self.seconds.iter().copied().fold(0.0, f64::max);
        (most - self.least()) / self.median() * 100.0
    }
}

/// One row against another, and how much slower it may be, in percent.
const BOUNDS: &[(usize, usize, f64)] = &[(1, 0, 3.0), (3, 2, 3.0), (4, 3, 60.0)];

/// Measures `runs` times, alternating; prints a table and a verdict for each bound,
/// as KTAP.  Gives whether all are kept.
///
/// # Errors
///
/// If an emulator is missing or a run fails.
pub fn bench(places: &Places, machine: &str, runs: u32, steps: u32) -> Result<bool> {
    let ours = places.bochs()?;
    let stock = places.stock()?;
    let mut rows = [
        ("boot, unpatched emulator", true, "boot"),
        ("boot, ours", false, "boot"),
        ("workload, unpatched emulator", true, "off"),
        ("workload, ours, PMU and LBR off", false, "off"),
        ("workload, ours, LBR recording", false, "lbr"),
    ]
    .map(|(name, stock, workload)| Row {
        name,
        stock,
        workload,
        seconds: Vec::new(),
        emulated: 0.0,
    });
    for run in 1..=runs {
        for row in &mut rows {
            eprintln!("==> run {run} of {runs}: {}", row.name);
            let bochs = if row.stock { &stock } else { &ours };
            let places = places.with_bochs(bochs.clone());
            let (seconds, emulated) = measure(&places, machine, row.workload, steps)?;
            row.seconds.push(seconds);
            row.emulated = emulated;
        }
    }
    println!("TAP version 13\n1..{}", BOUNDS.len());
    println!(
        "# {:<34} {:>10} {:>10} {:>10} {:>8} {:>12}",
        "CPU time of the emulator", "median, s", "least, s", "range, %", "runs", "emulated, M"
    );
    for row in &rows {
        println!(
            "# {:<34} {:>10.2} {:>10.2} {:>10.1} {:>8} {:>12.1}",
            row.name,
            row.median(),
            row.least(),
            row.range(),
            row.seconds.len(),
            row.emulated
        );
    }
    let mut success = true;
    for (number, (row, base, bound)) in (1..).zip(BOUNDS) {
        let (Some(row), Some(base)) = (rows.get(*row), rows.get(*base)) else {
            bail!("no such row");
        };
        let slower = (row.median() / base.median() - 1.0) * 100.0;
        let kept = slower <= *bound;
        success &= kept;
        println!(
            "# {slower:+.1} % against \"{}\", bound {bound:+.0} %",
            base.name
        );
        let verdict = if kept { "ok" } else { "not ok" };
        println!("{verdict} {number} {}", row.name);
    }
    Ok(success)
}

/// CPU seconds of one boot with `workload`, and millions of emulated instructions.
fn measure(places: &Places, machine: &str, workload: &str, steps: u32) -> Result<(f64, f64)> {
    let files = Files::new(places, "bench-emu")?;
    let variables = [
        ("BENCH".to_owned(), workload.to_owned()),
        ("STEPS".to_owned(), steps.to_string()),
    ];
    let boot = Boot {
        machine,
        kernel: "kernel-vanilla",
        parts: &[Part::Perf],
        job: Job {
            mode: "suite",
            script: Some(WORKLOAD.as_bytes()),
            variables: &variables,
        },
        limit: Some(std::time::Duration::from_secs(300)),
    };
    let bar = ProgressBar::new_spinner();
    let mut results = Vec::new();
    let console = Console::File(&files.console);
    let options = Options {
        append: APPEND.to_owned(),
        ..Options::default()
    };
    let (end, time) = boot.run(places, &options, &files, console, &mut |output| {
        results.extend_from_slice(output.results);
        bar.tick();
        Flow::Continue
    })?;
    bar.finish_and_clear();
    let passed = format!("ok 1 {workload}");
    if end != End::PowerOff
        || !String::from_utf8_lossy(&results)
            .lines()
            .any(|line| line.trim_end() == passed)
    {
        bail!(
            "the workload {workload} did not end well ({end:?}); logs: {}",
            files.log.display()
        );
    }
    let log = std::fs::read_to_string(files.log.join("bochs.log"))?;
    Ok((time.as_secs_f64(), clock(&log)))
}

/// The last time in the emulator's log; each line begins with eleven digits.
fn clock(log: &str) -> f64 {
    log.lines()
        .rev()
        .find_map(|line| line.get(..11)?.parse::<f64>().ok())
        .map_or(f64::NAN, |time| time / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_and_its_range() {
        let row = Row {
            name: "",
            stock: false,
            workload: "",
            seconds: vec![3.0, 1.0, 2.0, 2.5, 1.5],
            emulated: 0.0,
        };
        assert_eq!(row.median(), 2.0);
        assert_eq!(row.least(), 1.0);
        assert_eq!(row.range(), 100.0);
    }

    #[test]
    fn the_clock_is_in_the_log() {
        let log = "00000000000i[      ] a\n01234000000p[ACPI  ] off\nbye\n";
        assert_eq!(clock(log), 1234.0);
        assert!(clock("").is_nan());
    }
}
