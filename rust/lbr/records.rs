// SPDX-License-Identifier: GPL-2.0-only

//! The contents of a facility, as plain memory.

use super::facility::{Register, MAX_DEPTH};

/// The values of all LBR MSRs of one vCPU.
///
/// The layout is shared with C, which saves and loads all of it in one go.
/// Records beyond the facility's depth are not used.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct Records {
    select: u64,
    tos: u64,
    from: [u64; MAX_DEPTH],
    to: [u64; MAX_DEPTH],
    info: [u64; MAX_DEPTH],
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

    /// Returns the value of `register`; a record beyond the depth reads as 0.
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

    /// Sets `register` to `value`; a record beyond the depth is left alone.
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
}
