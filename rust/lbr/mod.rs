// SPDX-License-Identifier: GPL-2.0-only

//! Guest LBR, without the kernel: registers, formats, records and decisions.
//!
//! Nothing here touches hardware, KVM or perf. [`Lifecycle`] decides about one vCPU, and
//! does it all through [`Kvm`] and [`Perf`], which the kernel implements and so does the
//! world that the tests explore.
//!
//! # Definitions
//!
//! - *LBRs*: the LBR MSRs of a logical CPU, see [`Facility`].
//! - *Event*: the guest LBR event, a perf event of the vCPU's thread.
//! - *Grant*: perf's word that this CPU's LBRs hold this guest's registers.
//! - *Copy*: the guest's registers in memory, which are the truth without the grant.
//! - *Passthrough*: the guest accesses the LBR MSRs without VM-Exits.
//! - *Slice*: the time between two times that the vCPU's thread is scheduled in.
//! - *Gap*: the time in which the guest should record branches and has no grant.

mod debugctl;
mod facility;
mod platform;
mod vcpu;

pub use debugctl::Debugctl;
pub use facility::{
    architectural, legacy, Accessor, Description, Facility, GeneralProtection, MAX_DEPTH,
};
pub use platform::{Errno, Kvm, Perf, Published, Trace};
pub use vcpu::{Lifecycle, State};
