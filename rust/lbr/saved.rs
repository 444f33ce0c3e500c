// SPDX-License-Identifier: GPL-2.0-only

//! Where one vCPU's records are: in the hardware of a CPU, in a copy, or both.

use super::facility::Register;
use super::records::Records;

/// The LBR MSRs of the CPU that runs this code.
///
/// The caller of every method that takes one runs with interrupts disabled.
pub trait Hardware {
    /// Returns the number of this CPU.
    fn cpu(&self) -> u32;
    /// Reads all registers into `records`.
    fn save(&mut self, records: &mut Records);
    /// Writes all registers from `records`.
    fn load(&mut self, records: &Records);
    /// Reads one register.
    fn read(&mut self, register: Register) -> u64;
    /// Writes one register; the value was accepted by the facility.
    fn write(&mut self, register: Register, value: u64);
}

/// One vCPU's records while they are not in the hardware, and the knowledge
/// of which CPU holds them while they are.
///
/// The truth is in the hardware of `holder` unless `dirty`; in all other cases
/// it is in `records`.
///
/// # Invariants
///
/// - `holder` is the CPU that the event has the facility of, from
///   [`Saved::gained`] to [`Saved::lost`].
/// - The hardware of `holder` holds nobody else's records, and after a VM-entry
///   with passthrough `dirty` is false.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Saved {
    records: Records,
    holder: Option<u32>,
    dirty: bool,
}

impl Saved {
    /// The records of a vCPU after reset.
    pub const RESET: Self = Self {
        records: Records::ZERO,
        holder: None,
        dirty: false,
    };

    /// Returns the copy; it is up to date unless [`Saved::is_stale`].
    pub fn copy(&self) -> &Records {
        &self.records
    }

    /// Returns whether the event has the facility of some CPU.
    pub fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Returns whether the truth may be in the hardware of a CPU other than
    /// `cpu`, so that [`Saved::sync`] must run there before the copy is used.
    pub fn is_stale(&self, cpu: u32) -> bool {
        !self.dirty && self.holder.is_some_and(|holder| holder != cpu)
    }

    /// The event has got this CPU's facility; `intact` if that still holds what
    /// it held when the event lost it.
    pub fn gained(&mut self, intact: bool, hardware: &mut impl Hardware) {
        if !intact || self.dirty {
            hardware.load(&self.records);
            self.dirty = false;
        }
        // INVARIANT: The hardware was overwritten, or perf says it is intact.
        self.holder = Some(hardware.cpu());
    }

    /// The event is about to lose this CPU's facility.
    pub fn lost(&mut self, hardware: &mut impl Hardware) {
        self.sync(hardware);
        self.holder = None;
    }

    /// Brings the copy up to date from this CPU's hardware.
    pub fn sync(&mut self, hardware: &mut impl Hardware) {
        if self.holder == Some(hardware.cpu()) && !self.dirty {
            hardware.save(&mut self.records);
        }
    }

    /// Prepares for a VM-entry on this CPU, and returns whether its hardware
    /// now holds this vCPU's records, and nothing else.
    pub fn settle(&mut self, hardware: &mut impl Hardware) -> bool {
        let here = self.holder == Some(hardware.cpu());
        if here && self.dirty {
            hardware.load(&self.records);
            self.dirty = false;
        }
        here
    }

    /// Returns the value of `register`, from this CPU's hardware or the copy.
    pub fn read(&mut self, register: Register, hardware: &mut impl Hardware) -> u64 {
        if self.settle(hardware) {
            hardware.read(register)
        } else {
            self.records.get(register)
        }
    }

    /// Sets `register` to `value`, in this CPU's hardware or the copy. The copy
    /// must not be stale.
    pub fn write(&mut self, register: Register, value: u64, hardware: &mut impl Hardware) {
        if self.settle(hardware) {
            hardware.write(register, value);
        } else {
            self.records.set(register, value);
            self.dirty = true;
        }
    }

    /// Forgets everything, as at reset.
    pub fn clear(&mut self) {
        self.records = Records::ZERO;
        self.dirty = true;
    }
}
