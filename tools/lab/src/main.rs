// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use emu_model::machine::Machine;

use lab::bench;
use lab::check;
use lab::compare;
use lab::conform;
use lab::costs::{self, What};
use lab::demo::{self, Provider};
use lab::level;
use lab::mutants;
use lab::places::{Places, Products};
use lab::run::{self, Options, Size};
use lab::shell;
use lab::suite::{self, Suite};
use lab::system::{self, System};
use lab::table;

/// Emulated Intel hosts to try KVM and perf on.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    products: Products,
    #[command(flatten)]
    size: Size,
    /// Show the console and the results as they come
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Name the machines and the suites
    List,
    /// Measure what guest LBR costs, in executed instructions and VM exits
    Bench {
        /// Machines; without any, all that have figures
        machines: Vec<String>,
        /// Measure single operations only, no profiles of fixed work
        #[arg(long)]
        single: bool,
        /// Take what guest_lbr costs now as what `lab check` holds it to
        #[arg(long)]
        accept: bool,
        /// Measure guest_lbr of another commit as well
        #[arg(long, value_name = "REV")]
        against: Option<String>,
    },
    /// Boot a machine, show its kernel log and switch it off
    Boot {
        /// A machine, as `lab list` names it, or the path of a description
        #[arg(default_value = "skylake")]
        machine: String,
        /// Add this to the host's kernel command line
        #[arg(long, default_value = "")]
        append: String,
        /// Limit of the emulator's CPU time, in seconds
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Open a console in an emulated host
    Shell {
        /// The machine
        #[arg(default_value = "skylake")]
        machine: String,
        /// Add this to the host's kernel command line
        #[arg(long, default_value = "")]
        append: String,
    },
    /// Profile a workload on the emulated host and in its guest, and compare
    Demo {
        /// The machine
        #[arg(default_value = "skylake")]
        machine: String,
        /// Seed of the workload
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        seed: u32,
    },
    /// Measure how far chance makes the two profiles of the demo differ
    Spread {
        /// The machine
        #[arg(default_value = "skylake")]
        machine: String,
        /// Who gives the guest its LBR
        #[arg(long, default_value = "guest_lbr")]
        provider: Provider,
        /// Number of seeds
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=100))]
        seeds: u32,
    },
    /// Hold bare emulated CPUs to the rules of Intel's manual
    Conform {
        /// Machines, as `lab list` names them, or paths of descriptions [default: all
        /// with one CPU]
        machines: Vec<String>,
    },
    /// Hold the kernel's built-in guest LBR, unpatched and patched, and guest_lbr to the
    /// rules of all behaviour cases, and write what they did into the documentation
    Compare {
        /// Machines, as `lab list` names them, with their number of CPUs if they are not to
        /// have their own, as in haswell:2 [default: those of the documentation]
        machines: Vec<String>,
        /// Fail if the documentation would be another, and leave it as it is
        #[arg(long, conflicts_with = "machines")]
        check: bool,
    },
    /// Break the hardware model in every way that cargo-mutants knows, and see rows or
    /// tests fail; goes on where an earlier run of the same sources ended
    Mutants {
        /// Only those whose name has one of these in it
        filters: Vec<String>,
    },
    /// Run all test levels; the last line is the sum
    Check {
        /// Also run what takes long: the suites with `full = true`, unless their last run
        /// succeeded and another would be the same, and the programs in tools/testing/full
        #[arg(long)]
        full: bool,
    },
    /// Run programs that print KTAP, one after another; the last line is the sum
    Levels {
        /// Name of the table that is written, build/log/NAME.rst
        #[arg(value_parser = table_name)]
        name: String,
        /// The programs, each as its path in the tree and its arguments
        #[arg(required = true)]
        programs: Vec<String>,
    },
    /// Compare the emulator's speed with that of the unpatched one
    BenchEmu {
        /// The machine
        #[arg(default_value = "skylake")]
        machine: String,
        /// Runs of each pair
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        /// Length of the workload
        #[arg(long, default_value_t = 20_000_000)]
        steps: u32,
    },
    /// Boot an installed system from the image of its disk; it speaks as a suite does
    System(System),
    /// Print the results of suites on all machines as a page of the documentation
    Table {
        /// The suites, which have been run
        #[arg(required = true)]
        suites: Vec<String>,
    },
    /// Run one suite
    Run {
        /// A machine, as `lab list` names it, or the path of a description
        machine: String,
        /// The suite, or the path of one (NAME.sh)
        #[arg(long)]
        suite: String,
        /// Add this to the host's kernel command line
        #[arg(long, default_value = "")]
        append: String,
        /// Set a shell variable of the suite
        #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
        set: Vec<(String, String)>,
        /// Limit of the emulator's CPU time, in seconds, instead of the suite's own
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
    },
}

fn table_name(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        Ok(text.into())
    } else {
        Err("it has letters, digits and dashes".into())
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value))
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            Ok((name.into(), value.into()))
        }
        _ => Err("it has the form NAME=VALUE".into()),
    }
}

fn list(places: &Places) -> Result<ExitCode> {
    println!("machines:");
    for name in places.machine_names()? {
        let machine = Machine::load(places.machine(&name)?)?;
        println!("  {name:<16} {}", machine.description);
    }
    println!("suites:");
    for suite in suite::all(&places.suites())? {
        println!("  {:<16} {}", suite.name, suite.about);
    }
    Ok(ExitCode::SUCCESS)
}

fn verdict(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_suite(
    places: &Places,
    options: &Options,
    machine: &str,
    mut suite: Suite,
) -> Result<ExitCode> {
    suite.kernels = places.kernels(&suite.kernels);
    let outcomes = check::kernels(places, options, &suite, machine);
    for outcome in &outcomes {
        options.print_outcome(outcome);
    }
    let success = outcomes.iter().all(|outcome| outcome.sum().is_success());
    Ok(verdict(success))
}

fn command(arguments: Arguments) -> Result<ExitCode> {
    let places = Places::new(arguments.products)?;
    let mut options = Options {
        verbose: arguments.verbose,
        size: arguments.size,
        ..Options::default()
    };
    match arguments.command {
        Command::List => list(&places),
        Command::Boot {
            machine,
            append,
            seconds,
        } => {
            options.append = append;
            let limit = Duration::from_secs(seconds);
            Ok(verdict(run::boot(&places, &options, &machine, limit)?))
        }
        Command::Shell { machine, append } => {
            options.append = append;
            Ok(verdict(shell::shell(&places, &options, &machine)?))
        }
        Command::Demo { machine, seed } => {
            Ok(verdict(demo::demo(&places, &options, &machine, seed)?))
        }
        Command::Spread {
            machine,
            provider,
            seeds,
        } => Ok(verdict(demo::spread(
            &places, &options, &machine, provider, seeds,
        )?)),
        Command::Conform { machines } => {
            let machines = if machines.is_empty() {
                conform::machines(&places)?
            } else {
                machines
            };
            let outcomes: Vec<_> = machines
                .iter()
                .map(|machine| check::conform(&places, &options, machine))
                .collect();
            Ok(verdict(
                outcomes.iter().all(|outcome| outcome.sum().is_success()),
            ))
        }
        Command::Compare { check: true, .. } => Ok(verdict(
            compare::check(&places, &options).sum().is_success(),
        )),
        Command::Compare { machines, .. } => {
            Ok(verdict(compare::compare(&places, &options, &machines)?))
        }
        Command::Bench {
            machines,
            single,
            accept,
            against,
        } => {
            let what = What {
                machines,
                single,
                accept,
                against,
            };
            Ok(verdict(costs::bench(&places, &options, &what)?))
        }
        Command::Mutants { filters } => Ok(verdict(mutants::mutants(&places, &options, &filters)?)),
        Command::Check { full } => Ok(verdict(check::check(&places, &options, full)?)),
        Command::Levels { name, programs } => {
            Ok(verdict(level::levels(&places, &options, &name, &programs)?))
        }
        Command::BenchEmu {
            machine,
            runs,
            steps,
        } => Ok(verdict(bench::bench(
            &places,
            options.size,
            &machine,
            runs,
            steps,
        )?)),
        Command::Table { suites } => {
            print!(
                "{}{}",
                table::title(&places)?,
                table::page(&places, &suites)?
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::System(system) => {
            let outcome = system::run(&places, &options, &system)?;
            options.print_outcome(&outcome);
            Ok(verdict(outcome.sum().is_success()))
        }
        Command::Run {
            machine,
            suite,
            append,
            set,
            seconds,
        } => {
            options.variables = set;
            options.append = append;
            let mut suite = Suite::load(&places.suites(), &suite)?;
            suite.seconds = seconds.unwrap_or(suite.seconds);
            run_suite(&places, &options, &machine, suite)
        }
    }
}

fn main() -> ExitCode {
    match command(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
