// SPDX-License-Identifier: GPL-2.0-only
//! A console in the emulated host for a person.
//!
//! The emulator opens one end of a pseudo-terminal as its first serial port; this
//! terminal, in raw mode, is joined to the other end.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::{bail, Context, Result};
use nix::fcntl::{open, OFlag};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt, PtyMaster};
use nix::sys::stat::Mode;
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

use crate::bochsrc::Console;
use crate::checked::OURS;
use crate::emulator::{End, Flow};
use crate::initramfs::Job;
use crate::places::Places;
use crate::run::{Boot, Files, Options};
use crate::suite::Part;

/// Ctrl-], as in telnet.
const ESCAPE: u8 = 0x1d;

const BANNER: &str = "
An emulated Intel host.  In reach: perf, br_instr, profile, QEMU, KVM modules,
guest_lbr.ko (those that were built), and the functions of a suite:

  load_kvm lbr=off; load_guest_lbr       load the modules
  perf record -b br_instr; perf report   profile here
  guest_start -- -cpu host,migratable=no start a guest with LBR
  guest_run perf record -b br_instr      run a command in it
  guest_stop                             switch it off

exit switches the machine off; Ctrl-] stops the emulator at once.
";

/// This terminal, put back as it was in the end.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn new() -> Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// A pseudo-terminal, raw, whose far end stays open so that ours is never hung up.
fn pseudo_terminal() -> Result<(PtyMaster, PathBuf, OwnedFd)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(ptsname_r(&master)?);
    let far = open(&path, OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())?;
    let mut raw = tcgetattr(far.as_fd())?;
    cfmakeraw(&mut raw);
    tcsetattr(far.as_fd(), SetArg::TCSANOW, &raw)?;
    Ok((master, path, far))
}

/// Copies what comes until `stop` or the end; `stop` gets each byte first.
fn copy(mut from: impl Read, mut to: impl Write, stop: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        let data = &buffer[..count];
        if count == 0 || stop(data) || to.write_all(data).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// The parts that were built; says which were not.
fn parts(places: &Places) -> Vec<Part> {
    let mut parts = vec![Part::Qemu];
    for (part, found) in [
        (Part::Module, places.module(OURS).map(drop)),
        (Part::Selftests, places.selftests(OURS).map(drop)),
        (Part::Perf, places.perf().map(drop)),
    ] {
        match found {
            Ok(()) => parts.push(part),
            Err(error) => eprintln!("note: {error:#}"),
        }
    }
    parts
}

/// Boots `machine` and joins its console to this terminal until it is off.  Gives whether
/// that is what whoever sits there wanted.
///
/// # Errors
///
/// If there is no terminal, or the machine cannot be started.
pub fn shell(places: &Places, options: &Options, machine: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("a shell needs a terminal; for scripts there is `lab run --suite`");
    }
    let files = Files::new(places, "shell")?;
    let (master, path, _far) = pseudo_terminal().context("making a pseudo-terminal")?;
    let master: OwnedFd = master.into();
    let (reader, writer) = (File::from(master.try_clone()?), File::from(master));
    let boot = Boot {
        machine,
        kernel: OURS,
        parts: &parts(places),
        job: Job {
            mode: "shell",
            script: Some(BANNER.as_bytes()),
            variables: &[(
                "LAB_TERM".into(),
                std::env::var("TERM").unwrap_or_else(|_| "vt100".into()),
            )],
        },
        limit: None,
    };
    eprintln!("booting {machine}; Ctrl-] stops it");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let terminal = RawTerminal::new()?;
    std::thread::spawn(move || copy(reader, std::io::stdout(), |_| false));
    std::thread::spawn(move || {
        copy(std::io::stdin(), writer, |data| data.contains(&ESCAPE));
        stopped.store(true, Ordering::Relaxed);
    });
    let ended = boot.run(
        places,
        options,
        &files,
        Console::Terminal(&path),
        &mut |_| match stop.load(Ordering::Relaxed) {
            true => Flow::Stop,
            false => Flow::Continue,
        },
    );
    drop(terminal);
    Ok(match ended?.0 {
        End::PowerOff => {
            eprintln!("the machine is off");
            true
        }
        End::Failed(why) => {
            eprintln!("the machine has gone: {why}");
            stop.load(Ordering::Relaxed)
        }
    })
}
