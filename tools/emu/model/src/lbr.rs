// SPDX-License-Identifier: GPL-2.0-only
//! Last branch records: model-specific ones (SDM, "Debug, Branch Profile, TSC, and
//! Intel Resource Director Technology Features") or architectural ones (SDM, "Last
//! Branch Records").

use crate::branch::Taken;
use crate::debugctl;
use crate::machine::{self, Machine};
use crate::msr::Result;

pub mod architectural;
pub mod legacy;

use architectural::Architectural;
use legacy::Legacy;

/// INFO: the branch was mispredicted.
pub const INFO_MISPREDICTED: u64 = 1 << 63;
/// INFO: cycles since the previous record, saturating.
pub const INFO_CYCLES: u64 = 0xffff;

/// One entry of the LBR stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// MSR_LASTBRANCH_x_FROM_IP, IA32_LBR_x_FROM_IP
    pub from: u64,
    /// MSR_LASTBRANCH_x_TO_IP, IA32_LBR_x_TO_IP
    pub to: u64,
    /// MSR_LBR_INFO_x, IA32_LBR_x_INFO
    pub info: u64,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    From,
    To,
    Info,
}

impl Record {
    fn get(&self, field: Field) -> u64 {
        match field {
            Field::From => self.from,
            Field::To => self.to,
            Field::Info => self.info,
        }
    }

    fn set(&mut self, field: Field, value: u64) {
        match field {
            Field::From => self.from = value,
            Field::To => self.to = value,
            Field::Info => self.info = value,
        }
    }
}

/// What is known of a branch when it is recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// It ended with CPL above 0.
    pub user: bool,
    /// It began with CPL above 0.
    pub from_user: bool,
    /// Its prediction was wrong.
    pub mispredicted: bool,
    /// When it retires, in core cycles.
    pub cycles: u64,
}

/// The LBR facility of one logical CPU.
#[derive(Clone, Debug)]
pub enum Lbr {
    /// LBR_SELECT, LBR_TOS
    Legacy(Legacy),
    /// IA32_LBR_CTL, IA32_LBR_DEPTH
    Architectural(Architectural),
}

impl Lbr {
    /// Empty records, as after power-up.
    pub fn new(machine: &Machine) -> Self {
        let bits = machine.cpu.linear_address_bits;
        match &machine.lbr {
            machine::Lbr::Legacy { depth, format } => {
                Self::Legacy(Legacy::new(*depth, *format, bits))
            }
            machine::Lbr::Architectural { depths } => {
                Self::Architectural(Architectural::new(depths, bits))
            }
        }
    }

    /// Power-up.
    pub fn reset(&mut self) {
        match self {
            Self::Legacy(lbr) => lbr.reset(),
            Self::Architectural(lbr) => lbr.reset(),
        }
    }

    /// RESET#, which architectural records survive.
    pub fn warm_reset(&mut self) {
        match self {
            Self::Legacy(lbr) => lbr.reset(),
            Self::Architectural(lbr) => lbr.warm_reset(),
        }
    }

    /// Stops architectural recording: RESET#, SMI, a debug exception.  Of the
    /// model-specific records IA32_DEBUGCTL.LBR is the switch.
    pub fn stop(&mut self) {
        if let Self::Architectural(lbr) = self {
            lbr.set_enabled(false);
        }
    }

    /// SMM is entered or left.
    pub fn smm(&mut self, inside: bool) {
        if let Self::Architectural(lbr) = self {
            lbr.smm(inside);
        }
    }

    /// Whether branches are recorded, unless something freezes recording.
    pub fn is_enabled(&self, debugctl: u64) -> bool {
        match self {
            Self::Legacy(_) => debugctl & debugctl::LBR != 0,
            Self::Architectural(lbr) => lbr.is_enabled(),
        }
    }

    /// A branch was taken while recording is on.  Returns whether a record was made.
    pub fn branch(&mut self, branch: &Taken, how: Circumstances) -> bool {
        match self {
            Self::Legacy(lbr) => lbr.branch(branch, how),
            Self::Architectural(lbr) => lbr.branch(branch, how),
        }
    }

    /// Reads a register; `None` if `index` is none of this facility's.
    pub fn read(&self, index: u32) -> Option<Result<u64>> {
        match self {
            Self::Legacy(lbr) => lbr.read(index),
            Self::Architectural(lbr) => lbr.read(index),
        }
    }

    /// Writes a register; `None` if `index` is none of this facility's.
    pub fn write(&mut self, index: u32, value: u64) -> Option<Result<()>> {
        match self {
            Self::Legacy(lbr) => lbr.write(index, value),
            Self::Architectural(lbr) => lbr.write(index, value),
        }
    }

    /// The architectural records, if the machine has those.
    pub fn architectural(&self) -> Option<&Architectural> {
        match self {
            Self::Legacy(_) => None,
            Self::Architectural(lbr) => Some(lbr),
        }
    }

    /// The architectural records, if the machine has those.
    pub fn architectural_mut(&mut self) -> Option<&mut Architectural> {
        match self {
            Self::Legacy(_) => None,
            Self::Architectural(lbr) => Some(lbr),
        }
    }
}
