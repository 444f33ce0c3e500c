// SPDX-License-Identifier: GPL-2.0-only
//! Random software on the model and on a plain reference of it, step by step.
//!
//! Prints KTAP, one row per machine.  `FUZZ_STEPS` is the number of steps on each
//! machine, `FUZZ_SEED` the seed, which repeats a run.  Of a divergence the steps
//! are printed that suffice for it.

mod cache;
mod cpuid;
mod generate;
mod lbr;
mod machine;
mod pmu;
mod reference;
mod run;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use emu_model::machine::Machine;

const MACHINES: [&str; 4] = ["haswell", "skylake", "icelake", "sapphire-rapids"];
/// Steps of one life of a CPU.
const LIFE: u64 = 2000;

/// The life that runs, for the message of a panic, which ends the process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    match text.parse() {
        Ok(value) => value,
        Err(_) => {
            eprintln!("{name}={text} is no number; give a decimal one");
            std::process::exit(2);
        }
    }
}

fn main() -> ExitCode {
    let steps = number("FUZZ_STEPS", 100_000);
    let seed = number("FUZZ_SEED", 1);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let life = NUMBER.load(Ordering::Relaxed);
        eprintln!("# panic with FUZZ_SEED={seed} in life {life}");
        report(panic);
    }));
    println!("KTAP version 1\n1..{}", MACHINES.len());
    let mut failed = false;
    for (row, name) in MACHINES.iter().enumerate() {
        let path = format!("{}/../machines/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let description = match Machine::load(&path) {
            Ok(description) => description,
            Err(error) => {
                println!("not ok {} {name}: {error}", row + 1);
                failed = true;
                continue;
            }
        };
        let machine = machine::Loaded::new(&path);
        let facts = reference::Facts::new(&description);
        let mut found = None;
        for life in 0..steps.div_ceil(LIFE) {
            NUMBER.store(life, Ordering::Relaxed);
            let length = LIFE.min(steps - life * LIFE);
            let program = generate::program(&facts, seed, life, length);
            if let Err(first) = run::run(&machine, &facts, &program) {
                found = Some((life, first, program));
                break;
            }
        }
        match found {
            None => println!("ok {} {name}: {steps} steps, seed {seed}", row + 1),
            Some((life, first, program)) => {
                failed = true;
                println!(
                    "# {name}, seed {seed}, life {life}, step {}: {}",
                    first.step, first.what
                );
                let (program, last) = run::shrink(&machine, &facts, program, first);
                for step in &program {
                    println!("#   {step:x?}");
                }
                println!("# there: {}", last.what);
                println!("not ok {} {name}: FUZZ_SEED={seed} repeats it", row + 1);
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
