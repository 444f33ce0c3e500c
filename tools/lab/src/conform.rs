// SPDX-License-Identifier: GPL-2.0-only
//! Runs the conformance program (tools/emu/conform) on a bare machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use emu_model::machine::{Lbr, Machine};

use crate::bochsrc::{self, Console};
use crate::emulator::{Emulator, End, Flow};
use crate::iso;
use crate::ktap;
use crate::outcome::{self, Outcome};
use crate::places::Places;
use crate::protocol::Transcript;
use crate::run::{self, Files, Options};

/// Limit of the emulator's CPU time; a run takes a second or two.
const LIMIT: Duration = Duration::from_secs(20);

/// The name of a run.
pub fn title(machine: &str) -> String {
    format!("conform ({machine})")
}

/// The machines to be held to the rules: one of each kind of CPU.
///
/// # Errors
///
/// If a description cannot be read.
pub fn machines(places: &Places) -> Result<Vec<String>> {
    let mut machines = Vec::new();
    for name in places.machine_names()? {
        let machine = Machine::load(places.machine(&name)?)?;
        if machine.cpu.count == 1 {
            machines.push(name);
        }
    }
    Ok(machines)
}

/// What the program must know of the machine: its command line.
fn facts(machine: &Machine) -> String {
    let lbr = &machine.lbr;
    let pmu = &machine.pmu;
    format!(
        "depth={} depths={} format={} version={} general={} fixed={} slots={} bits={} mhz={} linear={} microcode={}",
        lbr.depth(),
        depths(lbr),
        lbr.format_encoding(),
        pmu.version,
        pmu.general_counters,
        pmu.fixed_counters,
        pmu.slots_per_cycle,
        pmu.counter_bits,
        machine.cpu.ips / 1_000_000,
        machine.cpu.linear_address_bits,
        machine.cpu.microcode,
    )
}

/// The numbers of records to choose from as CPUID.1CH:EAX[7:0] has them: bit n is
/// 8 * (n + 1).
fn depths(lbr: &Lbr) -> u32 {
    match lbr {
        Lbr::Legacy { .. } => 0,
        Lbr::Architectural { depths } => depths
            .iter()
            .fold(0, |bits, depth| bits | 1 << (depth / 8).saturating_sub(1)),
    }
}

/// Runs all rows on `machine`.
///
/// # Errors
///
/// If it cannot be started.  A row that fails is in the [`Outcome`].
pub fn conform(places: &Places, options: &Options, machine: &str) -> Result<Outcome> {
    let path = places.machine(machine)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let bochs = places.bochs()?;
    let files = Files::new(places, &format!("conform/{stem}"))?;
    let (path, description) = options.size.machine(path, &files.log)?;
    iso::multiboot(&files.iso, &places.conform()?, &facts(&description))?;
    let config = bochsrc::generate(
        &description,
        &files.iso,
        None,
        Console::File(&files.console),
        &files.results,
        &files.log.join("bochs.log"),
    );
    fs::write(&files.bochsrc, config)?;
    let emulator = Emulator {
        bochs: &bochs,
        machine: &path,
        bochsrc: &files.bochsrc,
        folder: &files.log,
        limit: Some(LIMIT.into()),
    };
    let bar = run::progress(&options.bars, &title(machine));
    let mut stream = Vec::new();
    let (end, time) = emulator.run(&files.console, &files.results, &mut |output| {
        stream.extend_from_slice(output.results);
        if options.verbose {
            run::show(output.results);
        }
        bar.set_message(outcome::latest(&stream));
        bar.tick();
        Flow::Continue
    })?;
    bar.finish_and_clear();
    remove(&files.iso);
    let mut report = ktap::parse(&stream);
    if let End::Failed(why) = end {
        report.problems.insert(0, why);
    }
    let outcome = Outcome {
        title: title(machine),
        report,
        transcript: Transcript {
            text: stream,
            ..Transcript::default()
        },
        allowed: Vec::new(),
        time,
        log: files.log,
    };
    outcome::save(&outcome)?;
    Ok(outcome)
}

/// The boot medium is quickly made again.
fn remove(iso: &Path) {
    drop(fs::remove_file(iso));
}
