// SPDX-License-Identifier: GPL-2.0-only

//! The LBR facility of CPUs without architectural LBR, see the manual's chapter *Debug,
//! Branch Profile, TSC, and Intel Resource Director Technology Features*.

use core::ops::Range;

use super::{index, records, Accessor, Description, GeneralProtection, MAX_DEPTH};
use crate::lbr::debugctl::Debugctl;
use crate::lbr::platform::{Kvm, Perf};

const MSR_LBR_SELECT: u32 = 0x1c8;
const MSR_LBR_TOS: u32 = 0x1c9;

/// All filter bits of `LBR_SELECT` and `EN_CALLSTACK`.
const LBR_SELECT_MASK: u64 = 0x3ff;

const LBR_INFO_MISPRED: u64 = 1 << 63;
const LBR_INFO_IN_TX: u64 = 1 << 62;
const LBR_INFO_ABORT: u64 = 1 << 61;
const LBR_INFO_CYCLES: u64 = 0xffff;

/// `IA32_PERF_CAPABILITIES.LBR_FMT`: the layout of a record.
///
/// Formats 0 to 2, which have no misprediction flag, belong to CPUs without
/// call-stack mode, where KVM has no guest LBR.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Format {
    /// Format 3: misprediction flag in FROM.
    EipFlags,
    /// Format 4: misprediction and TSX flags in FROM.
    EipFlags2,
    /// Format 5: misprediction, TSX flags and cycles in INFO.
    Info,
    /// Format 6: misprediction flag in FROM, cycles in TO.
    Time,
    /// Format 7: misprediction flag and cycles in INFO.
    Info2,
}

impl Format {
    fn new(lbr_fmt: u32) -> Option<Self> {
        Some(match lbr_fmt {
            3 => Self::EipFlags,
            4 => Self::EipFlags2,
            5 => Self::Info,
            6 => Self::Time,
            7 => Self::Info2,
            _ => return None,
        })
    }

    fn has_info(self) -> bool {
        matches!(self, Self::Info | Self::Info2)
    }

    /// Returns the number of flag bits above the address in a FROM MSR. Without
    /// TSX the bits 62:61 of format 4 are part of the address.
    fn flags_in_from(self, tsx: bool) -> u32 {
        match self {
            Self::Info | Self::Info2 => 0,
            Self::EipFlags | Self::Time => 1,
            Self::EipFlags2 if tsx => 3,
            Self::EipFlags2 => 1,
        }
    }

    /// Returns the number of bits above the address in a TO MSR.
    fn flags_in_to(self) -> u32 {
        match self {
            Self::Time => 16,
            _ => 0,
        }
    }

    fn info_mask(self, tsx: bool) -> u64 {
        let mask = LBR_INFO_MISPRED | LBR_INFO_CYCLES;
        match self {
            Self::Info if tsx => mask | LBR_INFO_IN_TX | LBR_INFO_ABORT,
            _ => mask,
        }
    }
}

/// One of the LBR MSRs of a facility; records are counted from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Register {
    /// `LBR_SELECT`: the branch filter.
    Select,
    /// `LBR_TOS`: the number of the latest record.
    Tos,
    /// `LASTBRANCH_x_FROM_IP`.
    From(usize),
    /// `LASTBRANCH_x_TO_IP`.
    To(usize),
    /// `LBR_INFO_x`.
    Info(usize),
}

/// The values of all LBR MSRs of one vCPU.
///
/// The layout is that of the registers in `struct perf_guest_lbr_legacy`. Records beyond the
/// facility's depth are not used.
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
    fn empty(&mut self) {
        self.from = [0; MAX_DEPTH];
        self.to = [0; MAX_DEPTH];
        self.info = [0; MAX_DEPTH];
    }
}

/// The LBR facility of the host's CPUs.
///
/// # Invariants
///
/// - `depth` is a power of two and at most [`MAX_DEPTH`].
/// - `info` is not zero if and only if the format has INFO MSRs.
/// - The MSR ranges do not wrap.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Facility {
    format: Format,
    depth: u32,
    from: u32,
    to: u32,
    info: u32,
    tsx: bool,
}

impl Facility {
    /// Returns the bits of FROM that the CPU records as zero but takes only as
    /// sign extension of the address: bits 62:61 of format 4 without TSX. A
    /// recorded value must be extended before it can be written back.
    fn sign_bits_of_from(&self) -> u64 {
        match self.format {
            Format::EipFlags2 if !self.tsx => LBR_INFO_IN_TX | LBR_INFO_ABORT,
            _ => 0,
        }
    }

    /// Returns what to write to `register` so that it has the `value` that was
    /// read from it.
    fn written_back(&self, register: Register, value: u64) -> u64 {
        let bits = self.sign_bits_of_from();
        let lowest = bits & bits.wrapping_neg();
        match register {
            Register::From(_) if value & lowest >> 1 != 0 => value | bits,
            _ => value,
        }
    }
}

impl super::Facility for Facility {
    type Register = Register;
    type Records = Records;

    fn new(host: &Description) -> Option<Self> {
        let format = Format::new(host.format)?;
        if !host.depth.is_power_of_two() || usize::try_from(host.depth).ok()? > MAX_DEPTH {
            return None;
        }
        let info = if format.has_info() { host.info } else { 0 };
        for first in [host.from, host.to] {
            first.checked_add(host.depth)?;
        }
        info.checked_add(host.depth)?;
        if format.has_info() && info == 0 {
            return None;
        }
        // INVARIANT: All three were checked just above.
        Some(Self {
            format,
            depth: host.depth,
            from: host.from,
            to: host.to,
            info,
            tsx: host.tsx,
        })
    }

    /// A vCPU has the host's facility or none.
    fn for_guest(&self, _: &Description) -> Option<Self> {
        Some(*self)
    }

    fn initial(&self) -> Records {
        Records::ZERO
    }

    fn empty(records: &mut Records) {
        records.empty();
    }

    /// `IA32_DEBUGCTL` has other bits, and is there without LBR.
    fn reset_control(_: &mut impl Kvm) {}

    fn is_recording(kvm: &impl Kvm) -> bool {
        Self::records_by(kvm.debugctl())
    }

    fn records_by(debugctl: Debugctl) -> bool {
        debugctl.lbr()
    }

    fn freeze(kvm: &mut impl Kvm, version: u32) {
        let debugctl = kvm.debugctl();
        if debugctl.lbr() && debugctl.freezes(version) {
            kvm.set_debugctl(debugctl.without_lbr());
        }
    }

    fn register(&self, msr: u32) -> Option<Register> {
        match msr {
            MSR_LBR_SELECT => return Some(Register::Select),
            MSR_LBR_TOS => return Some(Register::Tos),
            _ => {}
        }
        let index = |first| index(msr, first, self.depth);
        if let Some(i) = index(self.from) {
            return Some(Register::From(i));
        }
        if let Some(i) = index(self.to) {
            return Some(Register::To(i));
        }
        if self.info == 0 {
            return None;
        }
        index(self.info).map(Register::Info)
    }

    fn passed_through(&self) -> impl Iterator<Item = Range<u32>> {
        let info = if self.info == 0 { 0 } else { self.depth };
        [
            MSR_LBR_SELECT..MSR_LBR_TOS + 1,
            records(self.from, self.depth),
            records(self.to, self.depth),
            records(self.info, info),
        ]
        .into_iter()
    }

    /// KVM itself passes reads of `IA32_DEBUGCTL` through.
    fn control(&self) -> Option<u32> {
        None
    }

    fn accept(
        &self,
        register: Register,
        value: u64,
        accessor: Accessor,
        canonical: impl FnOnce(u64) -> bool,
    ) -> Result<u64, GeneralProtection> {
        let value = match accessor {
            Accessor::Guest => value,
            Accessor::Userspace => self.written_back(register, value),
        };
        let accepted = match register {
            Register::Select => value & !LBR_SELECT_MASK == 0,
            Register::Tos => value < u64::from(self.depth),
            Register::From(_) => canonical(address(value, self.format.flags_in_from(self.tsx))),
            Register::To(_) => canonical(address(value, self.format.flags_in_to())),
            Register::Info(_) => value & !self.format.info_mask(self.tsx) == 0,
        };
        accepted.then_some(value).ok_or(GeneralProtection)
    }

    fn read(
        &self,
        _: &impl Kvm,
        perf: &mut impl Perf<Records = Records>,
        msr: u32,
        register: Register,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection> {
        Ok(super::read(perf, msr, accessor).unwrap_or_else(|| perf.park().get(register)))
    }

    fn write(
        &self,
        _: &mut impl Kvm,
        perf: &mut impl Perf<Records = Records>,
        msr: u32,
        register: Register,
        value: u64,
        _: Accessor,
    ) -> Result<(), GeneralProtection> {
        if !perf.write(msr, value) {
            perf.park().set(register, value);
            perf.mark_dirty();
        }
        Ok(())
    }
}

/// Replaces the upper `flags` bits by copies of the address's upper bit.
fn address(value: u64, flags: u32) -> u64 {
    let mask = u64::MAX.wrapping_shr(flags);
    let sign = mask & !(mask >> 1);
    if value & sign != 0 {
        value | !mask
    } else {
        value & mask
    }
}
