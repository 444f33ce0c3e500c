// SPDX-License-Identifier: GPL-2.0-only
//! What the emulator counts for whoever measures software on it.
//!
//! Nothing here is part of the emulated CPU: the software sees none of it but
//! through the [`door`], and runs the same whether or not somebody counts.
//! Counting never stops.  A [`Section`] is what passed between two moments.

pub mod door;
pub mod exits;
pub mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use report::{Cpu as CpuReport, Exit, Msr, Report, Section as SectionReport};

/// An MSR bitmap is a page.
pub const PAGE: usize = 4096;
/// How many MSR bitmaps are known at a time; a virtual CPU has one or two.
const BITMAPS: usize = 64;
/// The section that begins with the machine.
pub const TOTAL: &str = "total";
/// How many sections there may be.
const SECTIONS: usize = 1000;

const RDMSR: u16 = 31;
const WRMSR: u16 = 32;

/// How a register was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// RDMSR that did not fault or exit.
    Read,
    /// WRMSR that did not fault or exit.
    Write,
    /// A VM exit stored it in its MSR-store area.
    Store,
    /// A VM entry or a VM exit loaded it from an MSR-load area.
    Load,
}

impl MsrAccess {
    /// The one with this number in `emu_model.h`.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Read, Self::Write, Self::Store, Self::Load]
            .get(usize::from(number))
            .copied()
    }
}

/// A logical CPU as it executes.
#[derive(Clone, Debug, Default)]
struct Cpu {
    counts: CpuReport,
    /// Instructions up to which [`Cpu::counts`] is true.
    seen: u64,
    /// Whether it is in VMX non-root operation.
    guest: bool,
    /// Basic reason of the last VM exit, and the instructions since.
    exit: Option<(u16, u64)>,
}

impl Cpu {
    fn advance(&mut self, instructions: u64) {
        let passed = instructions.saturating_sub(self.seen);
        self.seen = self.seen.max(instructions);
        if self.guest {
            self.counts.guest_instructions += passed;
        } else {
            self.counts.root_instructions += passed;
        }
        if let Some((_, since)) = &mut self.exit {
            *since += passed;
        }
    }

    fn exit_counts(&mut self, reason: u16) -> &mut Exit {
        self.counts.exits.entry(reason).or_default()
    }

    fn msr(&mut self, index: u32) -> &mut Msr {
        self.counts.msrs.entry(index).or_default()
    }
}

/// What passed between two moments, on each CPU.
#[derive(Clone, Debug)]
struct Section {
    name: String,
    start: Vec<CpuReport>,
    end: Option<Vec<CpuReport>>,
}

/// Why a section cannot be started, stopped or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// Its name is taken.
    #[error("there is a section {0} already; choose another name")]
    Taken(String),
    /// There is none of this name.
    #[error("there is no section {0}; start it first")]
    Unknown(String),
    /// It was stopped before, or never stops.
    #[error("section {0} does not run or is the machine's own")]
    NotRunning(String),
    /// There are too many.
    #[error("there are {SECTIONS} sections already")]
    TooMany,
}

/// The counters of a machine.
#[derive(Clone, Debug)]
pub struct Counters {
    cpus: Vec<Cpu>,
    sections: Vec<Section>,
    /// Address and content at the last VM entry; the latest first.
    bitmaps: VecDeque<(u64, Box<[u8; PAGE]>)>,
}

impl Counters {
    /// Counters of a machine with so many CPUs.
    pub fn new(cpus: usize) -> Self {
        Self {
            cpus: vec![Cpu::default(); cpus],
            sections: vec![Section {
                name: TOTAL.into(),
                start: vec![CpuReport::default(); cpus],
                end: None,
            }],
            bitmaps: VecDeque::new(),
        }
    }

    /// CPU `cpu` is about to be reset and then starts to count anew.
    pub fn reset(&mut self, cpu: usize, instructions: u64) {
        if let Some(cpu) = self.cpus.get_mut(cpu) {
            cpu.advance(instructions);
            cpu.seen = 0;
            cpu.guest = false;
            cpu.exit = None;
        }
    }

    /// A VM entry, which has loaded the guest's state.
    pub fn entry(&mut self, cpu: usize, instructions: u64) {
        let Some(cpu) = self.cpus.get_mut(cpu) else {
            return;
        };
        cpu.advance(instructions);
        cpu.guest = true;
        cpu.counts.entries += 1;
        if let Some((reason, since)) = cpu.exit.take() {
            let exit = cpu.exit_counts(reason);
            exit.returns += 1;
            exit.instructions += since;
        }
    }

    /// A VM exit for a basic reason; ECX at that moment names the register of
    /// RDMSR and WRMSR.
    pub fn exit(&mut self, cpu: usize, reason: u16, ecx: u32, instructions: u64) {
        let Some(cpu) = self.cpus.get_mut(cpu) else {
            return;
        };
        cpu.advance(instructions);
        cpu.guest = false;
        cpu.exit = Some((reason, 0));
        cpu.exit_counts(reason).count += 1;
        match reason {
            RDMSR => cpu.msr(ecx).exit_read += 1,
            WRMSR => cpu.msr(ecx).exit_write += 1,
            _ => {}
        }
    }

    /// A register was accessed.
    pub fn msr(&mut self, cpu: usize, index: u32, access: MsrAccess) {
        let Some(cpu) = self.cpus.get_mut(cpu) else {
            return;
        };
        let guest = cpu.guest;
        let msr = cpu.msr(index);
        let count = match (access, guest) {
            (MsrAccess::Read, false) => &mut msr.root_read,
            (MsrAccess::Write, false) => &mut msr.root_write,
            (MsrAccess::Read, true) => &mut msr.guest_read,
            (MsrAccess::Write, true) => &mut msr.guest_write,
            (MsrAccess::Store, _) => &mut msr.store,
            (MsrAccess::Load, _) => &mut msr.load,
        };
        *count += 1;
    }

    /// A VM entry uses the MSR bitmap at `address`.
    pub fn bitmap(&mut self, cpu: usize, address: u64, page: &[u8; PAGE]) {
        let Some(cpu) = self.cpus.get_mut(cpu) else {
            return;
        };
        match self.bitmaps.iter().position(|(known, _)| *known == address) {
            None => {
                self.bitmaps.truncate(BITMAPS - 1);
                self.bitmaps.push_front((address, Box::new(*page)));
            }
            Some(place) => {
                let Some((_, mut known)) = self.bitmaps.remove(place) else {
                    return;
                };
                if *known != *page {
                    cpu.counts.bitmap_changes += 1;
                    for (index, flips) in flips(&known, page) {
                        cpu.msr(index).bitmap_flips += flips;
                    }
                    *known = *page;
                }
                self.bitmaps.push_front((address, known));
            }
        }
    }

    /// CPU `n` has retired `instructions[n]`.
    pub fn advance(&mut self, instructions: &[u64]) {
        for (cpu, instructions) in self.cpus.iter_mut().zip(instructions) {
            cpu.advance(*instructions);
        }
    }

    fn now(&self) -> Vec<CpuReport> {
        self.cpus.iter().map(|cpu| cpu.counts.clone()).collect()
    }

    /// Starts a section.
    ///
    /// # Errors
    ///
    /// If there is one of this name, or there are too many.
    pub fn start(&mut self, name: &str) -> Result<(), SectionError> {
        if self.sections.iter().any(|section| section.name == name) {
            return Err(SectionError::Taken(name.into()));
        }
        if self.sections.len() >= SECTIONS {
            return Err(SectionError::TooMany);
        }
        self.sections.push(Section {
            name: name.into(),
            start: self.now(),
            end: None,
        });
        Ok(())
    }

    /// Stops a section.
    ///
    /// # Errors
    ///
    /// If none of this name runs.
    pub fn stop(&mut self, name: &str) -> Result<(), SectionError> {
        let now = self.now();
        let section = self
            .sections
            .iter_mut()
            .find(|section| section.name == name)
            .ok_or_else(|| SectionError::Unknown(name.into()))?;
        if section.end.is_some() || name == TOTAL {
            return Err(SectionError::NotRunning(name.into()));
        }
        section.end = Some(now);
        Ok(())
    }

    /// What a section, or without a name what all of them have counted; one that
    /// runs, up to now.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn report(&self, name: Option<&str>) -> Result<Report, SectionError> {
        let now = self.now();
        let sections: Vec<_> = self
            .sections
            .iter()
            .filter(|section| name.is_none_or(|name| section.name == name))
            .map(|section| {
                let ends = section.end.as_ref().unwrap_or(&now);
                SectionReport {
                    name: section.name.clone(),
                    running: section.end.is_none(),
                    cpus: ends
                        .iter()
                        .zip(&section.start)
                        .map(|(end, start)| end.since(start))
                        .collect(),
                }
            })
            .collect();
        match name {
            Some(name) if sections.is_empty() => Err(SectionError::Unknown(name.into())),
            _ => Ok(Report { sections }),
        }
    }
}

/// The registers whose bits differ, and how many do: of each of them one for reads
/// and one for writes.  SDM, "MSR-Bitmap Address".
fn flips(before: &[u8; PAGE], after: &[u8; PAGE]) -> BTreeMap<u32, u64> {
    let mut flips = BTreeMap::new();
    for (place, (before, after)) in (0u32..).zip(before.iter().zip(after)) {
        let changed = before ^ after;
        for bit in (0..8).filter(|bit| changed >> bit & 1 != 0) {
            // Reads of low and of high registers, then writes of both.
            let high = place / 1024 % 2 != 0;
            let base = if high { 0xc000_0000 } else { 0 };
            *flips.entry(base + place % 1024 * 8 + bit).or_insert(0) += 1;
        }
    }
    flips
}
