// SPDX-License-Identifier: GPL-2.0-only
//! The emulator's counters, as a boot leaves them in `counters.json`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// All sections of a boot.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Counts {
    sections: Vec<Section>,
}

#[derive(Clone, Debug, Deserialize)]
struct Section {
    name: String,
    cpus: Vec<Cpu>,
}

/// What a CPU did in a section.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Cpu {
    /// Instructions outside VMX non-root operation.
    pub root_instructions: u64,
    /// VM exits, by reason.
    pub exits: BTreeMap<String, Exit>,
    /// Accesses, by MSR.
    pub msrs: BTreeMap<String, Msr>,
}

/// VM exits for one reason.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Exit {
    /// How many.
    pub count: u64,
    /// Instructions from them to the next VM entry.
    pub instructions: u64,
}

/// Accesses to one MSR.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Msr {
    /// By RDMSR outside VMX non-root operation.
    pub root_read: u64,
    /// By WRMSR outside VMX non-root operation.
    pub root_write: u64,
    /// Changes of its bits in MSR bitmaps.
    pub bitmap_flips: u64,
}

impl Counts {
    /// Reads `counters.json`.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("these are no counters of the emulator")
    }

    /// Returns the first CPU of each section `OPERATION.ROUND`, in their order.
    pub fn rounds<'a>(&'a self, operation: &'a str) -> impl Iterator<Item = &'a Cpu> {
        let is_its = move |section: &&Section| {
            let name = section.name.rsplit_once('.');
            name.is_some_and(|(name, _)| name == operation)
        };
        let sections = self.sections.iter().filter(is_its);
        sections.filter_map(|section| section.cpus.first())
    }

    /// Returns the first CPU of one section.
    pub fn section(&self, name: &str) -> Option<&Cpu> {
        let mut sections = self.sections.iter();
        sections.find(|section| section.name == name)?.cpus.first()
    }

    /// Returns the names of all operations.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        let names = self.sections.iter().filter_map(|s| s.name.rsplit_once('.'));
        names.map(|(name, _)| name)
    }
}

impl Cpu {
    /// Returns how often the guest exited by what it did itself.
    pub fn own_exits(&self) -> u64 {
        let own = self
            .exits
            .iter()
            .filter(|(why, _)| *why != "EXTERNAL_INTERRUPT");
        own.map(|(_, exit)| exit.count).sum()
    }

    /// Returns how often the host accessed MSRs.
    pub fn msr_accesses(&self) -> u64 {
        self.msrs
            .values()
            .map(|msr| msr.root_read + msr.root_write)
            .sum()
    }

    /// Returns how many bits of MSR bitmaps changed.
    pub fn bitmap_flips(&self) -> u64 {
        self.msrs.values().map(|msr| msr.bitmap_flips).sum()
    }
}
