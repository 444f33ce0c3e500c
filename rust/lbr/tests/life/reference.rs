// SPDX-License-Identifier: GPL-2.0-only

//! What the guest and userspace may see: what the guest recorded and what was written,
//! or nothing after a gap. Knows neither who has the LBRs nor where the registers are.

use lbr::{Accessor, Debugctl, Description};

use super::hardware::{Controls, Hardware};
use super::registers::Registers;

/// What a branch of the guest leaves; nobody writes it.
pub(crate) const BRANCH: u64 = 3;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Reference<F: Hardware> {
    pub(crate) registers: Registers<F>,
    pub(crate) controls: Controls,
    /// No branch is recorded, and the records stay.
    pub(crate) frozen: bool,
    /// Which of [`Hardware::GUESTS`] it is, if it has LBR.
    pub(crate) guest: Option<usize>,
    gap: bool,
}

impl<F: Hardware> Reference<F> {
    pub(crate) fn new() -> Self {
        Self {
            registers: Registers::reset(&F::HOST),
            controls: Controls::default(),
            frozen: false,
            guest: None,
            gap: false,
        }
    }

    /// What LBR the guest has.
    pub(crate) fn described(&self) -> Option<&'static Description> {
        self.guest.map(|guest| &F::GUESTS[guest])
    }

    pub(crate) fn has(&self, msr: u32) -> bool {
        self.described().is_some_and(|has| F::has(has, msr))
    }

    /// The guest is given LBR, or loses it.
    pub(crate) fn refresh(&mut self, guest: Option<usize>) {
        self.guest = guest;
        self.registers = Registers::reset(self.described().unwrap_or(&F::HOST));
        self.controls.ctl = 0;
    }

    pub(crate) fn is_on(&self) -> bool {
        F::is_on(self.controls)
    }

    /// The guest runs, with all registers in hardware or none, and its branches are recorded
    /// or not.
    pub(crate) fn run(&mut self, in_hardware: bool, recording: bool) {
        if in_hardware {
            // Where there is nothing beyond the depth.
            self.registers.empty_hidden();
        }
        let gap = self.is_on() && !self.frozen && !recording;
        if gap && !self.gap {
            self.registers.empty();
        }
        self.gap = gap;
    }

    pub(crate) fn branch(&mut self, recording: bool) {
        if self.is_on() && !self.frozen && recording {
            self.registers.set(F::FROM, BRANCH);
        }
    }

    /// Returns `None` if the read fails.
    pub(crate) fn read(&self, msr: u32, accessor: Accessor) -> Option<u64> {
        if !self.has(msr) {
            return None;
        }
        if Some(msr) == F::CTL {
            return Some(self.controls.ctl);
        }
        match accessor {
            Accessor::Guest => self.registers.read(msr),
            Accessor::Userspace => Some(self.registers.get(msr)),
        }
    }

    /// Returns `None` if the write fails. Userspace writes in any order: it reaches all
    /// records, and IA32_LBR_DEPTH leaves them alone.
    pub(crate) fn write(&mut self, msr: u32, value: u64, accessor: Accessor) -> Option<()> {
        let has = self.described().filter(|has| F::has(has, msr))?;
        if Some(msr) == F::CTL {
            self.controls.ctl = F::takes(has, msr, value)?;
            return Some(());
        }
        match accessor {
            Accessor::Guest => self.registers.write(has, msr, value),
            Accessor::Userspace => {
                self.registers.set(msr, F::takes(has, msr, value)?);
                Some(())
            }
        }
    }

    /// A PMI with this version of architectural performance monitoring.
    pub(crate) fn freeze(&mut self, version: u32) {
        if self.controls.debugctl & Debugctl::FREEZE_LBRS_ON_PMI.into_raw() == 0 {
            return;
        }
        match version {
            0 | 1 => {}
            2 | 3 => self.debug(),
            _ => self.frozen = true,
        }
    }

    /// A debug exception.
    pub(crate) fn debug(&mut self) {
        *F::switch(&mut self.controls) &= !1;
    }
}
