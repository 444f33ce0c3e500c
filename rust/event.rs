// SPDX-License-Identifier: GPL-2.0-only

//! perf's side of a vCPU, as the vCPU's LBR life wants it.

use crate::ffi::{GuestLbrEvent, LentRegisters, VmEntry};
use crate::lbr::{Errno, Perf};

impl<R: LentRegisters> Perf for GuestLbrEvent<R> {
    type Entry = VmEntry;
    type Records = R;

    fn create(&mut self) -> Result<(), Errno> {
        GuestLbrEvent::create(self).map_err(|error| Errno(error.to_errno()))
    }

    fn release(&mut self) {
        GuestLbrEvent::release(self);
    }

    fn exists(&self) -> bool {
        GuestLbrEvent::exists(self)
    }

    fn is_ours(&self) -> bool {
        GuestLbrEvent::is_ours(self)
    }

    fn grant(&mut self, entry: &VmEntry) -> bool {
        GuestLbrEvent::grant(self, entry)
    }

    fn read(&mut self, msr: u32) -> Option<u64> {
        GuestLbrEvent::read(self, msr)
    }

    fn write(&mut self, msr: u32, value: u64) -> bool {
        GuestLbrEvent::write(self, msr, value)
    }

    fn park(&mut self) -> &mut R {
        GuestLbrEvent::park(self)
    }

    fn mark_dirty(&mut self) {
        GuestLbrEvent::mark_dirty(self);
    }
}
