// SPDX-License-Identifier: GPL-2.0-only

//! The seam between a vCPU's life and the LBR facility of its CPU.

pub mod architectural;
pub mod legacy;

use core::fmt::Debug;
use core::ops::Range;

use super::debugctl::Debugctl;
use super::platform::{Kvm, Perf};

/// The greatest depth of any LBR facility, in records.
pub const MAX_DEPTH: usize = 32;

/// An access that is refused: #GP for the guest, an error for userspace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GeneralProtection;

/// Who accesses an MSR.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Accessor {
    /// The guest.
    Guest,
    /// Userspace, on whatever thread.
    Userspace,
}

/// What KVM says about the facility of the host or of a vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// `IA32_PERF_CAPABILITIES.LBR_FMT`.
    pub format: u32,
    /// Number of records, the greatest if there are several.
    pub depth: u32,
    /// First `LASTBRANCH_x_FROM_IP` MSR.
    pub from: u32,
    /// First `LASTBRANCH_x_TO_IP` MSR.
    pub to: u32,
    /// First `LBR_INFO_x` MSR; ignored if the format has none.
    pub info: u32,
    /// Whether the TSX flags are recorded.
    pub tsx: bool,
    /// What `CPUID.1CH` says of an architectural facility.
    pub leaf: architectural::Leaf,
}

/// The LBR facility of a vCPU, on a host that has it as well: which MSRs it has, what they
/// accept, and which of them makes it record branches.
pub trait Facility: Clone + Debug {
    /// One of its MSRs.
    type Register: Copy;
    /// The values of its MSRs in memory.
    type Records;

    /// Returns the facility of the host that `host` describes, or `None` if it is not one
    /// that can be given to a guest.
    fn new(host: &Description) -> Option<Self>;

    /// Returns the facility of a vCPU of a host with the facility `self`, or `None` if the
    /// host cannot give it.
    fn for_guest(&self, guest: &Description) -> Option<Self>;

    /// Returns the registers as after reset.
    fn initial(&self) -> Self::Records;

    /// Empties the records.
    fn empty(records: &mut Self::Records);

    /// Puts the MSR that is KVM's into its state after reset, if it is the facility's alone.
    fn reset_control(kvm: &mut impl Kvm);

    /// Returns whether the guest wants branches recorded.
    fn is_recording(kvm: &impl Kvm) -> bool;

    /// Returns whether this `IA32_DEBUGCTL` says so.
    fn records_by(debugctl: Debugctl) -> bool;

    /// Freezes the LBRs if a PMI does so for a guest of this `CPUID.0AH` version.
    fn freeze(kvm: &mut impl Kvm, version: u32);

    /// Returns the register that has the number `msr`, if it is one of ours.
    fn register(&self, msr: u32) -> Option<Self::Register>;

    /// Returns the numbers of the MSRs that are passed through while the LBRs are granted, in
    /// ranges, which may be empty.
    fn passed_through(&self) -> impl Iterator<Item = Range<u32>>;

    /// Returns the number of the one that is passed through as well, unless the LBRs are
    /// frozen.
    fn control(&self) -> Option<u32>;

    /// Returns what `register` has after a write of `value`.
    ///
    /// `canonical` tells whether the host's linear addresses can hold its argument.
    fn accept(
        &self,
        register: Self::Register,
        value: u64,
        accessor: Accessor,
        canonical: impl FnOnce(u64) -> bool,
    ) -> Result<u64, GeneralProtection>;

    /// Reads the register with the number `msr`.
    fn read(
        &self,
        kvm: &impl Kvm,
        perf: &mut impl Perf<Records = Self::Records>,
        msr: u32,
        register: Self::Register,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection>;

    /// Writes a value that was accepted to the register with the number `msr`.
    fn write(
        &self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = Self::Records>,
        msr: u32,
        register: Self::Register,
        value: u64,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection>;
}

/// The numbers of consecutive MSRs, of which there may be none.
fn records(first: u32, depth: u32) -> Range<u32> {
    first..first.wrapping_add(depth)
}

/// Returns which of `depth` MSRs from `first` on has the number `msr`.
fn index(msr: u32, first: u32, depth: u32) -> Option<usize> {
    let index = msr.checked_sub(first).filter(|i| *i < depth)?;
    usize::try_from(index).ok()
}

/// Reads an LBR MSR of this CPU, if its LBRs are granted. Userspace mostly reads all of them,
/// which is cheaper from a copy.
fn read<R>(perf: &mut impl Perf<Records = R>, msr: u32, accessor: Accessor) -> Option<u64> {
    match accessor {
        Accessor::Guest => perf.read(msr),
        Accessor::Userspace => None,
    }
}
