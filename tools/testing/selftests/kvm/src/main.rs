// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! All tests in one program, so that a boot medium holds their common code once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::Parser;
use kvm_selftests::host::{Provider, Random};
use kvm_selftests::ktap::Options;

mod bench;
mod tests;

use tests::{Action, ALL};

/// KVM selftests for guest LBR. A test prints KTAP and exits with 0 (passed),
/// 1 (failed) or 4 (skipped).
#[derive(Parser)]
struct Args {
    /// The test.
    #[arg(value_parser = PossibleValuesParser::new(ALL.iter().map(|(name, _)| *name)))]
    test: String,
    /// Run only the cases whose name contains this.
    filter: Option<String>,
    /// Who provides guest LBR; found out from /sys if not given.
    #[arg(long)]
    provider: Option<Provider>,
    /// The module's file, for the test that loads it.
    #[arg(long, value_name = "FILE", default_value = "/lib/modules/guest_lbr.ko")]
    module: PathBuf,
    /// How many random steps a test takes that takes such.
    #[arg(long, default_value_t = 2000)]
    steps: u64,
    /// What they follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print with each case the rule that it holds the provider to, and expect no failure of
    /// the built-in one.
    #[arg(long)]
    rules: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        filter: args.filter,
        provider: args.provider,
        module: args.module,
        random: Random {
            seed: args.seed,
            steps: args.steps,
        },
        rules: args.rules,
    };
    match ALL.iter().find(|(name, _)| *name == args.test) {
        Some((_, Action::Test(suite))) => suite().run(&options),
        Some((_, Action::Print(print))) => match print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        None => unreachable!("clap accepts no other names"),
    }
}
