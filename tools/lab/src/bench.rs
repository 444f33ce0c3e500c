// SPDX-License-Identifier: GPL-2.0-only
//! Compares the speed of our emulator with that of the unpatched one.

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use nix::sched::{sched_getcpu, sched_setaffinity, CpuSet};
use nix::unistd::Pid;

use crate::bochsrc::Console;
use crate::emulator::{End, Flow};
use crate::initramfs::Job;
use crate::places::Places;
use crate::run::{Boot, Files, Options, Size};
use crate::suite::Part;

/// The unpatched emulator's CPUID names another frequency than its clock has.  With
/// these and the clock's the kernel takes as many timer interrupts on both.
const APPEND: &str = "lapic=notscdeadline tsc_early_khz=";

/// The unpatched emulator has no PMU, says in IA32_MISC_ENABLE that string instructions
/// are slow, and in CPUID that it has a thermal monitor.  With this the kernel executes the
/// same on ours.
const AS_STOCK: &str = "clearcpuid=arch_perfmon,erms,rep_good,acpi,tm,tm2,dtherm,pts,pln";

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

/// One thing to run.
struct Row {
    name: &'static str,
    stock: bool,
    workload: &'static str,
}

/// A row, what it is measured against, and how much slower it may be, in percent.
const BOUNDS: [(Row, Row, f64); 3] = [
    (
        Row {
            name: "boot, ours",
            stock: false,
            workload: "boot",
        },
        Row {
            name: "boot, unpatched emulator",
            stock: true,
            workload: "boot",
        },
        3.0,
    ),
    (
        Row {
            name: "workload, ours, PMU hidden",
            stock: false,
            workload: "off",
        },
        Row {
            name: "workload, unpatched emulator",
            stock: true,
            workload: "off",
        },
        3.0,
    ),
    (
        Row {
            name: "workload, ours, LBR recording",
            stock: false,
            workload: "lbr",
        },
        Row {
            name: "workload, ours, PMU and LBR off",
            stock: false,
            workload: "off",
        },
        60.0,
    ),
];

/// What one run took.
struct Time {
    /// Of CPU time.
    seconds: f64,
    /// By the machine's own clock, in millions of instructions.
    emulated: f64,
}

/// The middle one, and how far the others are apart.
fn median(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2);
    match (sorted.first(), middle, sorted.last()) {
        (Some(least), Some(middle), Some(most)) => (*middle, most - least),
        _ => (f64::NAN, f64::NAN),
    }
}

/// From now on keeps this thread, and all that it starts, on the CPU that it is on.
fn stay_on_one_cpu() -> Result<()> {
    let here = sched_getcpu().context("asking for the CPU")?;
    let mut set = CpuSet::new();
    set.set(here)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("staying on one CPU")
}

/// Measures `runs` times, alternating; prints a table and a verdict for each bound,
/// as KTAP.  Gives whether all are kept.
///
/// A run and what it is measured against take turns on one CPU, some milliseconds
/// each: what else the build machine and its neighbours do makes a CPU slower by a
/// third for seconds, and slows both alike.  Only the end of the slower one runs alone.
///
/// # Errors
///
/// If an emulator is missing or a run fails.
pub fn bench(places: &Places, size: Size, machine: &str, runs: u32, steps: u32) -> Result<bool> {
    let files = Files::new(places, "bench-emu")?;
    let (_, description) = size.machine(places.machine(machine)?, &files.log)?;
    let clock = format!("{APPEND}{}", description.cpu.ips / 1000);
    let kernels = places.kernels(&["kernel-vanilla".into()]);
    let bench = Bench {
        kernel: kernels.first().context("no kernel")?,
        ours: places.with_bochs(places.bochs()?),
        stock: places.with_bochs(places.stock()?),
        machine,
        size,
        steps,
    };
    stay_on_one_cpu()?;
    let mut times: [Vec<[Time; 2]>; 3] = BOUNDS.map(|_| Vec::new());
    for run in 1..=runs {
        for ((row, base, _), times) in BOUNDS.iter().zip(&mut times) {
            eprintln!("==> run {run} of {runs}: {}", row.name);
            let append = if base.stock {
                format!("{clock} {AS_STOCK}")
            } else {
                clock.clone()
            };
            let (base, row) = thread::scope(|scope| {
                let base = scope.spawn(|| bench.measure(base, &append, "bench-emu-base"));
                let row = bench.measure(row, &append, "bench-emu");
                (
                    base.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    row,
                )
            });
            times.push([base?, row?]);
        }
    }
    println!("TAP version 13\n1..{}", BOUNDS.len());
    println!(
        "# {:<34} {:>10} {:>9} {:>13}",
        "CPU time of the emulator", "median, s", "range, s", "emulated, M"
    );
    let mut success = true;
    for (number, ((row, base, bound), times)) in (1..).zip(BOUNDS.iter().zip(&times)) {
        for (n, row) in [base, row].into_iter().enumerate() {
            let (middle, range) = median(times.iter().map(|pair| pair[n].seconds));
            let emulated = times.last().map_or(f64::NAN, |pair| pair[n].emulated);
            println!(
                "# {:<34} {middle:>10.2} {range:>9.2} {emulated:>13.1}",
                row.name
            );
        }
        let slower = |[base, row]: &[Time; 2]| (row.seconds / base.seconds - 1.0) * 100.0;
        let (slower, range) = median(times.iter().map(slower));
        let kept = slower <= *bound;
        success &= kept;
        println!("# {slower:+.1} %, runs differ by {range:.1} % points, bound {bound:+.0} %");
        let verdict = if kept { "ok" } else { "not ok" };
        println!("{verdict} {number} {}", row.name);
    }
    Ok(success)
}

/// What is the same for all runs.
struct Bench<'a> {
    ours: Places,
    stock: Places,
    machine: &'a str,
    kernel: &'a str,
    size: Size,
    steps: u32,
}

impl Bench<'_> {
    /// What one boot of `row` takes, with `append` on the kernel's command line and the
    /// logs in `folder`.
    fn measure(&self, row: &Row, append: &str, folder: &str) -> Result<Time> {
        let places = if row.stock { &self.stock } else { &self.ours };
        let files = Files::new(places, folder)?;
        let variables = [
            ("BENCH".to_owned(), row.workload.to_owned()),
            ("STEPS".to_owned(), self.steps.to_string()),
        ];
        let boot = Boot {
            machine: self.machine,
            kernel: self.kernel,
            parts: &[Part::Perf],
            job: Job {
                mode: "suite",
                script: Some(WORKLOAD.as_bytes()),
                variables: &variables,
            },
            limit: Some(Duration::from_secs(300).into()),
        };
        let mut results = Vec::new();
        let console = Console::File(&files.console);
        let options = Options {
            append: append.to_owned(),
            size: self.size,
            ..Options::default()
        };
        let (end, time) = boot.run(places, &options, &files, console, &mut |output| {
            results.extend_from_slice(output.results);
            Flow::Continue
        })?;
        let passed = format!("ok 1 {}", row.workload);
        if end != End::PowerOff
            || !String::from_utf8_lossy(&results)
                .lines()
                .any(|line| line.trim_end() == passed)
        {
            bail!(
                "{} did not end well ({end:?}); logs: {}",
                row.name,
                files.log.display()
            );
        }
        let log = std::fs::read_to_string(files.log.join("bochs.log"))?;
        Ok(Time {
            seconds: time.as_secs_f64(),
            emulated: clock(&log),
        })
    }
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
        assert_eq!(median([3.0, 1.0, 2.0, 2.5, 1.5].into_iter()), (2.0, 2.0));
        assert!(median(std::iter::empty()).0.is_nan());
    }

    #[test]
    fn the_clock_is_in_the_log() {
        let log = "00000000000i[      ] a\n01234000000p[ACPI  ] off\nbye\n";
        assert_eq!(clock(log), 1234.0);
        assert!(clock("").is_nan());
    }
}
