// SPDX-License-Identifier: GPL-2.0-only

//! What [`Lifecycle`](super::Lifecycle) needs of KVM and of perf.
//!
//! Implementations do what they are asked for and decide nothing. The rules are those of
//! [`include/linux/kvm_vmx_lbr.h`] and [`include/linux/perf_guest_lbr.h`].
//!
//! [`include/linux/kvm_vmx_lbr.h`]: srctree/include/linux/kvm_vmx_lbr.h
//! [`include/linux/perf_guest_lbr.h`]: srctree/include/linux/perf_guest_lbr.h

use core::ops::Range;

use super::debugctl::Debugctl;
use super::facility::architectural::Ctl;

/// A negative error number of the kernel's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Errno(pub i32);

/// What can be traced about a vCPU.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Trace {
    /// It got the LBRs.
    Owned,
    /// The host took the LBRs away, or had them when the guest wanted them.
    Lost,
    /// It got the LBRs back.
    Regained,
    /// It does not use the LBRs any more.
    Released,
    /// perf refused an event.
    CreateFailed(Errno),
}

/// What KVM tests before each VM-Entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Published {
    /// There is an event. KVM then has [`Lifecycle::service`] called when a slice begins.
    ///
    /// [`Lifecycle::service`]: super::Lifecycle::service
    pub has_event: bool,
    /// The LBR MSRs are not intercepted. KVM then has the guest record branches if its
    /// `IA32_DEBUGCTL` or `IA32_LBR_CTL` says so, and they are not frozen.
    pub passthrough: bool,
    /// Have [`Lifecycle::enter`] called before the next VM-Entry, although the grant may
    /// agree with `passthrough`.
    ///
    /// [`Lifecycle::enter`]: super::Lifecycle::enter
    pub attention: bool,
}

/// KVM's side of one vCPU.
pub trait Kvm {
    /// Returns `IA32_DEBUGCTL`, L1's or L2's, whichever runs. The vCPU is loaded.
    fn debugctl(&self) -> Debugctl;
    /// Sets `IA32_DEBUGCTL`; nobody is told. The vCPU is loaded.
    fn set_debugctl(&mut self, debugctl: Debugctl);
    /// Returns `IA32_LBR_CTL`, which L1 and L2 share. The vCPU is loaded.
    fn ctl(&self) -> Ctl;
    /// Sets `IA32_LBR_CTL`; nobody is told. The vCPU is loaded.
    fn set_ctl(&mut self, ctl: Ctl);
    /// Returns whether `IA32_PERF_GLOBAL_STATUS.LBR_FRZ` is set: whatever these say, no
    /// branch is recorded, and the hardware does not have `IA32_LBR_CTL`.
    fn is_frozen(&self) -> bool;
    /// Tells KVM what it tests before each VM-Entry.
    fn publish(&mut self, published: Published);
    /// Has [`Lifecycle::service`](super::Lifecycle::service) called before the next
    /// VM-Entry; the one after, if a VM-Entry is imminent.
    fn request_service(&mut self);
    /// Intercepts all accesses of these MSRs, or none but those that the VM's MSR filter
    /// denies.
    fn set_intercept(&mut self, msrs: Range<u32>, intercept: bool);
    /// Returns whether the vCPU's linear addresses can hold `address`.
    fn is_canonical(&self, address: u64) -> bool;
    /// Returns the time in jiffies.
    fn now(&self) -> u64;
    /// Fires a tracepoint about the vCPU.
    fn trace(&mut self, trace: Trace);
}

/// perf's side of one vCPU: the event, the grant, and the guest's registers.
pub trait Perf {
    /// Proof that a VM-Entry is imminent and interrupts are disabled.
    type Entry;
    /// The values of the LBR MSRs, as perf moves them.
    type Records;

    /// Creates the event, which there is not yet, for the current thread.
    fn create(&mut self) -> Result<(), Errno>;
    /// Releases the event, if there is one. May sleep.
    fn release(&mut self);
    /// Returns whether there is an event.
    fn exists(&self) -> bool;
    /// Returns whether there is an event, and it belongs to the current thread.
    fn is_ours(&self) -> bool;
    /// Asks for this CPU's LBRs, if there is an event, and returns whether they are
    /// granted.
    fn grant(&mut self, entry: &Self::Entry) -> bool;
    /// Reads an LBR MSR of this CPU, which is there, or returns `None` if its LBRs are not
    /// granted.
    fn read(&mut self, msr: u32) -> Option<u64>;
    /// Writes an LBR MSR of this CPU, or returns `false` if its LBRs are not granted.
    /// The MSR is there, and accepts the value.
    fn write(&mut self, msr: u32, value: u64) -> bool;
    /// Ends the grant, on whatever CPU, if there is one, and returns the copy. May sleep.
    fn park(&mut self) -> &mut Self::Records;
    /// Has perf load the copy at the next grant, since it was changed.
    fn mark_dirty(&mut self);
}
