// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The emulated host's counters, through their I/O ports (`Documentation/counters.rst`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

/// The first of the ports.
const PORT: u64 = 0x5000;

/// The counters.
#[derive(Debug)]
pub(super) struct Port(File);

impl Port {
    /// Opens the ports. No section runs.
    pub(super) fn open() -> Result<Self> {
        let path = "/dev/port";
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.with_context(|| {
            format!("{path} cannot be opened; the kernel needs CONFIG_DEVPORT")
        })?))
    }

    /// Says a line, which must be understood.
    fn say(&self, word: &str, name: &str) -> Result<()> {
        let line = format!("{word} {name}\n");
        self.0.write_all_at(line.as_bytes(), PORT)?;
        // Zeros follow the answer.
        let mut answer = [0; 80];
        self.0.read_exact_at(&mut answer, PORT)?;
        let answer = String::from_utf8_lossy(&answer);
        let answer = answer.trim_end_matches(['\0', '\n']);
        ensure!(
            answer == "ok",
            "the emulator's counters do not {word} {name}: {answer}"
        );
        Ok(())
    }

    /// Runs something in a section of its own.
    pub(super) fn section<T>(&self, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.say("start", name)?;
        let result = run();
        self.say("stop", name)?;
        result
    }
}
