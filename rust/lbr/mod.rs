// SPDX-License-Identifier: GPL-2.0-only

//! Guest LBR, without the kernel: registers, formats, records and decisions.
//!
//! Nothing here touches hardware or KVM. Two state machines decide, as plain
//! data: [`Machine`] about one vCPU's event, intercepts and `IA32_DEBUGCTL`,
//! [`Saved`] about where one vCPU's records are. Whoever calls them carries out
//! what they answer.
//!
//! # Definitions
//!
//! - *Facility*: the LBR MSRs of a logical CPU, see [`Facility`].
//! - *Event*: the guest LBR event, by which perf lends the facility to a vCPU.
//! - *ACTIVE*: perf's word for an event that is scheduled in on a CPU.
//! - *Passthrough*: the guest accesses the LBR MSRs without VM-exits.
//! - *Shadow*: `IA32_DEBUGCTL` as the guest wrote it.
//! - *Slice*: the time between two times that the vCPU's thread is scheduled in.

mod debugctl;
mod facility;
mod machine;
mod records;
mod saved;

pub use debugctl::{DEBUGCTL_FREEZE_LBRS_ON_PMI, DEBUGCTL_LBR};
pub use facility::{Description, Facility, Format, Register, MAX_DEPTH};
pub use machine::{Creation, Entry, Machine, Service, State, Transition};
pub use records::Records;
pub use saved::{Hardware, Saved};
