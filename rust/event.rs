// SPDX-License-Identifier: GPL-2.0-only

//! The guest LBR event and the records that it owns.

use crate::ffi::{self, EventOwner, Msrs, PerfEvent, RawSpinLock, ThisCpu};
use crate::lbr::{Facility, Register, Saved};
use kernel::prelude::*;
use kernel::sync::Arc;

/// One vCPU's records, for whoever needs them: KVM on behalf of the vCPU, and
/// perf on the CPU that has or had them.
#[pin_data]
pub(crate) struct Records {
    facility: Facility,
    #[pin]
    saved: RawSpinLock<Saved>,
}

impl Records {
    /// Creates the records of a vCPU after reset.
    pub(crate) fn new(facility: Facility) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                facility,
                saved <- ffi::new_raw_spinlock(Saved::RESET),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Calls `f` with the lock held, on a CPU that cannot change meanwhile.
    fn with<R>(&self, f: impl FnOnce(&mut Saved, &mut Msrs<'_>) -> R) -> R {
        ffi::with_locked(&self.saved, |saved, cpu: ThisCpu<'_>| {
            f(saved, &mut Msrs::new(&self.facility, cpu))
        })
    }

    /// Returns the value of `register`; `event` is the one that owns the records.
    pub(crate) fn read(&self, register: Register, event: Option<&Event>) -> u64 {
        self.unless_stale(event, |saved, msrs| saved.read(register, msrs))
    }

    /// Sets `register` to a `value` that the facility accepts.
    pub(crate) fn write(&self, register: Register, value: u64, event: Option<&Event>) {
        self.unless_stale(event, |saved, msrs| saved.write(register, value, msrs));
    }

    /// Calls `f`, after a detour to the CPU that holds the records if that is
    /// another one. They stay what they are until the vCPU's next VM-entry.
    fn unless_stale<R>(
        &self,
        event: Option<&Event>,
        f: impl Fn(&mut Saved, &mut Msrs<'_>) -> R,
    ) -> R {
        let done = self.with(|saved, msrs| {
            if saved.is_stale(crate::lbr::Hardware::cpu(msrs)) {
                None
            } else {
                Some(f(saved, msrs))
            }
        });
        match done {
            Some(result) => result,
            None => {
                if let Some(event) = event {
                    event.perf.sync();
                }
                self.with(f)
            }
        }
    }

    /// Makes the hardware of this CPU ready for a VM-entry with passthrough, and
    /// returns whether it holds the records.
    pub(crate) fn settle(&self) -> bool {
        self.with(|saved, msrs| saved.settle(msrs))
    }

    /// Returns whether some CPU's hardware holds the records.
    pub(crate) fn are_held(&self) -> bool {
        self.with(|saved, _| saved.is_held())
    }

    /// Makes all records and registers zero. The event was released.
    pub(crate) fn clear(&self) {
        self.with(|saved, _| saved.clear());
    }
}

impl EventOwner for Records {
    fn gained(&self, intact: bool) {
        self.with(|saved, msrs| saved.gained(intact, msrs));
    }

    fn lost(&self) {
        self.with(|saved, msrs| saved.lost(msrs));
    }

    fn sync(&self) {
        self.with(|saved, msrs| saved.sync(msrs));
    }
}

/// A guest LBR event. Dropping it releases it; the records stay.
pub(crate) struct Event {
    perf: PerfEvent<Records>,
}

impl Event {
    /// Creates the event of the current thread, which becomes the owner of
    /// `records`. It is ACTIVE on return unless the host has the facility.
    pub(crate) fn new(records: Arc<Records>) -> Result<Self> {
        Ok(Self {
            perf: PerfEvent::new(records)?,
        })
    }

    /// Returns whether the event belongs to the current thread.
    pub(crate) fn is_ours(&self) -> bool {
        self.perf.is_ours()
    }

    /// Has perf try to schedule an event in ERROR state again.
    pub(crate) fn enable(&self) {
        self.perf.enable();
    }

    /// Returns what KVM is told about the event.
    pub(crate) fn perf(&self) -> &PerfEvent<Records> {
        &self.perf
    }
}
