// SPDX-License-Identifier: GPL-2.0-only
//! Describes a machine to the emulator.

use std::path::Path;

use emu_model::machine::Machine;

/// The machine's real-time clock at power-on, in seconds since 1970: a number, so
/// that every run sees the same.
const START: u32 = 1_700_000_000;

/// The machine's BIOS.
pub const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
/// The one of its display.
pub const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// Below 4 GiB memory ends here, and the rest of it lies from 4 GiB on.
const LOW: u32 = 3072;
/// What the emulator takes for memory that is not there: the rest of these 4 GiB.
const HOLE: u32 = 4096 - LOW;

/// Where the first serial port, the console, goes.
#[derive(Clone, Copy, Debug)]
pub enum Console<'a> {
    /// Into a file.
    File(&'a Path),
    /// To and from a terminal device.
    Terminal(&'a Path),
}

/// The configuration for `machine` booting from `iso`, with `disk` as its first disk;
/// the second serial port goes into the file `results`, the emulator's own messages
/// into `log`.
///
/// To start at once, the BIOS waits for no key, and memory comes in large blocks:
/// the emulator compares the names of all blocks, two by two.  A triple fault ends the run, as
/// a host that begins anew would go on for ever.  The unpatched emulator lacks
/// registers that the kernel takes for granted, and must ignore that.
pub fn generate(
    machine: &Machine,
    iso: &Path,
    disk: Option<&Path>,
    console: Console<'_>,
    results: &Path,
    log: &Path,
) -> String {
    let (mode, device) = match console {
        Console::File(path) => ("file", path),
        Console::Terminal(path) => ("term", path),
    };
    let disk = disk.map_or_else(String::new, |path| {
        format!(
            "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
             ata1-master: type=disk, mode=flat, path={}\n",
            path.display()
        )
    });
    let mib = machine.memory.mib;
    let mib = if mib > LOW { mib + HOLE } else { mib };
    format!(
        "display_library: nogui\n\
         cpu: model={}, count={}, ips={}, ignore_bad_msrs=1, reset_on_triple_fault=0\n\
         memory: guest={mib}, host={mib}, block_size=8192\n\
         clock: sync=none, time0={START}\n\
         romimage: file={BIOS}, options=fastboot\n\
         vgaromimage: file={VGA_BIOS}\n\
         boot: cdrom\n\
         ata0-master: type=cdrom, path={}, status=inserted\n\
         {disk}\
         com1: enabled=1, mode={mode}, dev={}\n\
         com2: enabled=1, mode=file, dev={}\n\
         log: {}\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report, nogui=ignore\n\
         debug: action=ignore\n",
        machine.cpu.model,
        machine.cpu.count,
        machine.cpu.ips,
        iso.display(),
        device.display(),
        results.display(),
        log.display(),
    )
}
