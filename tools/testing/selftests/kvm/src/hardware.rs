// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The MSRs of the host's CPUs, read and written behind perf's back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::msr::{Control, Geometry};

/// Whether the msr driver writes what it was not made for.
const ALLOW_WRITES: &str = "/sys/module/msr/parameters/allow_writes";

/// The MSRs of one CPU, through the msr driver.
#[derive(Debug)]
pub struct HostMsrs {
    file: File,
    cpu: usize,
}

impl HostMsrs {
    /// Opens the MSRs for reading.
    pub fn of(cpu: usize) -> Result<Self> {
        Self::open(cpu, false)
    }

    /// Opens the MSRs for reading and writing.
    pub fn writable(cpu: usize) -> Result<Self> {
        fs::write(ALLOW_WRITES, "on")
            .with_context(|| format!("{ALLOW_WRITES} cannot be written"))?;
        Self::open(cpu, true)
    }

    fn open(cpu: usize, write: bool) -> Result<Self> {
        let path = format!("/dev/cpu/{cpu}/msr");
        let file = File::options().read(true).write(write).open(&path);
        Ok(Self {
            file: file.with_context(|| format!("{path} cannot be opened; load msr, be root"))?,
            cpu,
        })
    }

    /// Reads an MSR.
    pub fn read(&self, msr: u32) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, u64::from(msr))
            .with_context(|| format!("MSR {msr:#x} of CPU {} cannot be read", self.cpu))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Writes an MSR.
    pub fn write(&self, msr: u32, value: u64) -> Result<()> {
        self.file
            .write_all_at(&value.to_ne_bytes(), u64::from(msr))
            .with_context(|| format!("MSR {msr:#x} of CPU {} cannot be written", self.cpu))
    }
}

/// DEBUGCTL.LBR or LBR_CTL of a CPU, set for as long as this lives: the host records,
/// and perf knows nothing of it.
#[derive(Debug)]
pub struct HostRecords(HostMsrs, Control);

impl HostRecords {
    /// Starts recording.
    pub fn start(cpu: usize, lbr: Geometry) -> Result<Self> {
        let records = Self(HostMsrs::writable(cpu)?, lbr.control(0));
        records.switch(records.1.on)?;
        Ok(records)
    }

    fn switch(&self, on: u64) -> Result<()> {
        let Self(msrs, control) = self;
        let before = msrs.read(control.msr)?;
        msrs.write(control.msr, before & !control.on | on)
    }
}

impl Drop for HostRecords {
    fn drop(&mut self) {
        if let Err(error) = self.switch(0) {
            eprintln!("# the host goes on recording: {error:#}");
        }
    }
}
