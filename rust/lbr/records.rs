// SPDX-License-Identifier: GPL-2.0-only

//! The values of a guest's LBR MSRs, in memory.

use super::facility::{Register, MAX_DEPTH};

/// The values of all LBR MSRs of one vCPU.
///
/// The layout is that of the registers in `struct perf_guest_lbr`. Records beyond the
/// facility's depth are not used.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct Records {
    pub(crate) select: u64,
    pub(crate) tos: u64,
    pub(crate) from: [u64; MAX_DEPTH],
    pub(crate) to: [u64; MAX_DEPTH],
    pub(crate) info: [u64; MAX_DEPTH],
}

impl Records {
    /// All registers as after reset.
    pub const ZERO: Self = Self {
        select: 0,
        tos: 0,
        from: [0; MAX_DEPTH],
        to: [0; MAX_DEPTH],
        info: [0; MAX_DEPTH],
    };

    /// Returns the value of `register`; a record beyond the greatest depth reads as 0.
    pub fn get(&self, register: Register) -> u64 {
        let record = match register {
            Register::Select => return self.select,
            Register::Tos => return self.tos,
            Register::From(i) => self.from.get(i),
            Register::To(i) => self.to.get(i),
            Register::Info(i) => self.info.get(i),
        };
        record.copied().unwrap_or(0)
    }

    /// Sets `register` to `value`; a record beyond the greatest depth is left alone.
    pub fn set(&mut self, register: Register, value: u64) {
        let record = match register {
            Register::Select => Some(&mut self.select),
            Register::Tos => Some(&mut self.tos),
            Register::From(i) => self.from.get_mut(i),
            Register::To(i) => self.to.get_mut(i),
            Register::Info(i) => self.info.get_mut(i),
        };
        if let Some(record) = record {
            *record = value;
        }
    }

    /// Empties the records. `LBR_TOS` and `LBR_SELECT` stay.
    pub fn empty(&mut self) {
        self.from = [0; MAX_DEPTH];
        self.to = [0; MAX_DEPTH];
        self.info = [0; MAX_DEPTH];
    }
}
