// SPDX-License-Identifier: GPL-2.0-only
//! Boots an installed system from the image of its disk, and judges what it says on
//! its second serial port in the form of a suite.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::bochsrc::{self, Console};
use crate::emulator::{Emulator, Flow};
use crate::iso;
use crate::outcome::{self, Outcome};
use crate::places::Places;
use crate::run::{self, Files, Options};

/// What the firmware would find on the disk's boot partition, and the disk.
#[derive(Args, Clone, Debug)]
pub struct System {
    /// Image of the disk, /dev/sda in the machine, which writes to it
    image: PathBuf,
    /// The kernel
    #[arg(long, value_name = "FILE")]
    vmlinuz: PathBuf,
    /// Its initramfs
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// The kernel command line
    #[arg(long, default_value = "console=ttyS0,115200 root=/dev/sda rw")]
    append: String,
    /// The machine
    #[arg(long, default_value = "skylake")]
    machine: String,
    /// Limit of the emulator's CPU time, in seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Sectors of a track times heads: a disk of this many sectors' multiple has no rest.
const CYLINDER: u64 = 16 * 63 * 512;

/// Boots `system` until it is off.
///
/// # Errors
///
/// If it cannot be started.  A system that fails is an [`Outcome`].
pub fn run(places: &Places, options: &Options, system: &System) -> Result<Outcome> {
    let existing = |path: &PathBuf| {
        path.canonicalize()
            .with_context(|| format!("{} does not exist", path.display()))
    };
    let image = existing(&system.image)?;
    let size = fs::metadata(&image)?.len();
    anyhow::ensure!(
        size != 0 && size % CYLINDER == 0,
        "{} has {size} bytes, and a disk has a multiple of {CYLINDER}; use `truncate --size=%{CYLINDER}`",
        image.display()
    );
    // Bochs has a lock of its own, which it leaves behind when it is killed.
    let disk = fs::File::open(&image)?;
    let _held = match Flock::lock(disk, FlockArg::LockExclusiveNonblock) {
        Ok(held) => held,
        Err((_, Errno::EWOULDBLOCK)) => {
            anyhow::bail!(
                "{} is the disk of a machine that runs; stop it",
                image.display()
            )
        }
        Err((_, error)) => {
            return Err(error).with_context(|| format!("locking {}", image.display()))
        }
    };
    let mut lock = image.clone().into_os_string();
    lock.push(".lock");
    match fs::remove_file(&lock) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", lock.display()));
        }
        _ => (),
    }
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let title = format!("{stem} ({})", system.machine);
    let files = Files::new(places, &format!("system/{stem}"))?;
    let path = places.machine(&system.machine)?;
    let (path, machine) = options.size.machine(path, &files.log)?;
    iso::build(
        &files.iso,
        &existing(&system.vmlinuz)?,
        &[existing(&system.initrd)?],
        &system.append,
    )?;
    let log = files.log.join("bochs.log");
    let console = Console::File(&files.console);
    let config = bochsrc::generate(
        &machine,
        &files.iso,
        Some(&image),
        console,
        &files.results,
        &log,
    );
    fs::write(&files.bochsrc, config)?;
    let emulator = Emulator {
        bochs: &places.bochs()?,
        machine: &path,
        bochsrc: &files.bochsrc,
        folder: &files.log,
        limit: Some(Duration::from_secs(system.seconds).into()),
    };
    let bar = run::progress(&options.bars, &title);
    let (mut stream, mut said) = (Vec::new(), Vec::new());
    let (end, time) = emulator.run(&files.console, &files.results, &mut |output| {
        stream.extend_from_slice(output.results);
        said.extend_from_slice(output.console);
        if options.verbose {
            run::show(output.console);
            run::show(output.results);
        } else {
            bar.set_message(outcome::latest(if stream.is_empty() {
                &said
            } else {
                &stream
            }));
        }
        bar.tick();
        Flow::Continue
    })?;
    bar.finish_and_clear();
    drop(fs::remove_file(&files.iso));
    let outcome = outcome::judge(title, &[], &stream, &said, end, time, files.log);
    outcome::save(&outcome)?;
    Ok(outcome)
}
