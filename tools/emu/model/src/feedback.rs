// SPDX-License-Identifier: GPL-2.0-only
//! IA32_MPERF and IA32_APERF (SDM vol. 3, "Power and Thermal Management": "P-State
//! Hardware Coordination").

use crate::msr;
use crate::time::Now;

/// A register of the facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// IA32_MPERF: unhalted cycles of the time-stamp counter.
    Reference,
    /// IA32_APERF: unhalted cycles of the core.
    Actual,
}

/// The two counters of one logical CPU, whose core runs at the speed of the time-stamp
/// counter.
#[derive(Clone, Debug, Default)]
pub struct Feedback {
    reference: u64,
    actual: u64,
    /// Core cycle until when they are counted.
    counted: u64,
}

impl Feedback {
    /// The register with this number, if it is this facility's.
    pub fn locate(index: u32) -> Option<Register> {
        match index {
            msr::IA32_MPERF => Some(Register::Reference),
            msr::IA32_APERF => Some(Register::Actual),
            _ => None,
        }
    }

    /// Power-up or reset, which may set time back to `now`.
    pub fn reset(&mut self, now: Now) {
        *self = Self {
            counted: now.cycles,
            ..Self::default()
        };
    }

    /// Counts what passed until `now`.
    fn advance(&mut self, now: Now) {
        let passed = now.cycles.saturating_sub(self.counted);
        self.counted = self.counted.max(now.cycles);
        // When one overflows both start anew.
        let left = u64::MAX - self.reference.max(self.actual);
        match passed
            .checked_sub(left)
            .and_then(|more| more.checked_sub(1))
        {
            Some(since) => (self.reference, self.actual) = (since, since),
            None => {
                self.reference += passed;
                self.actual += passed;
            }
        }
    }

    /// Reads a register at `now`.
    pub fn read(&mut self, register: Register, now: Now) -> u64 {
        self.advance(now);
        match register {
            Register::Reference => self.reference,
            Register::Actual => self.actual,
        }
    }

    /// Writes a register, which leaves the other alone.
    pub fn write(&mut self, register: Register, value: u64, now: Now) {
        self.advance(now);
        match register {
            Register::Reference => self.reference = value,
            Register::Actual => self.actual = value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cycles: u64) -> Now {
        Now {
            cycles,
            instructions: 0,
        }
    }

    fn both(feedback: &mut Feedback, cycles: u64) -> [u64; 2] {
        [Register::Reference, Register::Actual].map(|r| feedback.read(r, at(cycles)))
    }

    #[test]
    fn both_count_unhalted_cycles() {
        let mut feedback = Feedback::default();
        assert_eq!(both(&mut feedback, 7), [7, 7]);
        assert_eq!(both(&mut feedback, 7), [7, 7]);
        feedback.write(Register::Reference, 100, at(9));
        assert_eq!(both(&mut feedback, 10), [101, 10]);
        feedback.write(Register::Actual, 0, at(10));
        assert_eq!(both(&mut feedback, 10), [101, 0]);
        feedback.reset(at(2));
        assert_eq!(both(&mut feedback, 5), [3, 3]);
    }

    #[test]
    fn an_overflow_starts_both_anew() {
        for register in [Register::Reference, Register::Actual] {
            let mut feedback = Feedback::default();
            feedback.write(register, u64::MAX - 4, at(0));
            assert_eq!(feedback.read(register, at(4)), u64::MAX);
            assert_eq!(both(&mut feedback, 5), [0, 0]);
            assert_eq!(both(&mut feedback, 8), [3, 3]);
        }
    }
}
