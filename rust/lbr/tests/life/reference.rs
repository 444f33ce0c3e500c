// SPDX-License-Identifier: GPL-2.0-only

//! What the guest and userspace may see: what the guest recorded and what was written,
//! or nothing after a gap. Knows neither who has the LBRs nor where the registers are.

use lbr::Debugctl;

use super::registers::{takes, Registers, FROM};

/// What a branch of the guest leaves; nobody writes it.
pub(crate) const BRANCH: u64 = 3;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Reference {
    pub(crate) registers: Registers,
    pub(crate) debugctl: u64,
    gap: bool,
}

impl Reference {
    pub(crate) fn new() -> Self {
        Self {
            registers: Registers::ZERO,
            debugctl: 0,
            gap: false,
        }
    }

    pub(crate) fn lbr(&self) -> bool {
        self.debugctl & Debugctl::LBR.into_raw() != 0
    }

    /// The guest runs, and its branches are recorded or not.
    pub(crate) fn run(&mut self, recording: bool) {
        let gap = self.lbr() && !recording;
        if gap && !self.gap {
            self.registers.empty();
        }
        self.gap = gap;
    }

    pub(crate) fn branch(&mut self, recording: bool) {
        if self.lbr() && recording {
            self.registers.set(FROM, BRANCH);
        }
    }

    /// Returns whether the write succeeds.
    pub(crate) fn write(&mut self, msr: u32, value: u64) -> bool {
        let taken = takes(msr, value);
        if taken {
            self.registers.set(msr, value);
        }
        taken
    }

    /// A PMI with this version of architectural performance monitoring.
    pub(crate) fn freeze(&mut self, version: u32) {
        if matches!(version, 2 | 3) && self.debugctl & Debugctl::FREEZE_LBRS_ON_PMI.into_raw() != 0
        {
            self.debug();
        }
    }

    /// A debug exception.
    pub(crate) fn debug(&mut self) {
        self.debugctl &= !Debugctl::LBR.into_raw();
    }
}
