// SPDX-License-Identifier: GPL-2.0-only

//! The LBR facility of a CPU: which MSRs it has and what they accept.

use core::ops::Range;

/// The greatest depth of any legacy LBR facility, in records.
pub const MAX_DEPTH: usize = 32;

const MSR_LBR_SELECT: u32 = 0x1c8;
const MSR_LBR_TOS: u32 = 0x1c9;

/// All filter bits of `LBR_SELECT` and `EN_CALLSTACK`.
const LBR_SELECT_MASK: u64 = 0x3ff;

const LBR_INFO_MISPRED: u64 = 1 << 63;
const LBR_INFO_IN_TX: u64 = 1 << 62;
const LBR_INFO_ABORT: u64 = 1 << 61;
const LBR_INFO_CYCLES: u64 = 0xffff;

/// An access that is refused: #GP for the guest, an error for userspace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GeneralProtection;

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

    /// Returns the value of `IA32_PERF_CAPABILITIES.LBR_FMT`.
    pub fn lbr_fmt(self) -> u32 {
        match self {
            Self::EipFlags => 3,
            Self::EipFlags2 => 4,
            Self::Info => 5,
            Self::Time => 6,
            Self::Info2 => 7,
        }
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

/// What the host says about its facility.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// `IA32_PERF_CAPABILITIES.LBR_FMT`.
    pub format: u32,
    /// Number of records.
    pub depth: u32,
    /// First `LASTBRANCH_x_FROM_IP` MSR.
    pub from: u32,
    /// First `LASTBRANCH_x_TO_IP` MSR.
    pub to: u32,
    /// First `LBR_INFO_x` MSR; ignored if the format has none.
    pub info: u32,
    /// Whether the TSX flags are recorded.
    pub tsx: bool,
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
    /// Returns the facility that `host` describes, or `None` if it is not one
    /// that can be given to a guest.
    pub fn new(host: &Description) -> Option<Self> {
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

    /// Returns the format of the records.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the number of records.
    pub fn depth(&self) -> u32 {
        self.depth
    }

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
    pub fn written_back(&self, register: Register, value: u64) -> u64 {
        let bits = self.sign_bits_of_from();
        let lowest = bits & bits.wrapping_neg();
        match register {
            Register::From(_) if value & lowest >> 1 != 0 => value | bits,
            _ => value,
        }
    }

    /// Returns the register that has the number `msr`, if it is one of ours.
    pub fn register(&self, msr: u32) -> Option<Register> {
        match msr {
            MSR_LBR_SELECT => return Some(Register::Select),
            MSR_LBR_TOS => return Some(Register::Tos),
            _ => {}
        }
        let index = |first: u32| {
            let index = msr.checked_sub(first).filter(|i| *i < self.depth)?;
            usize::try_from(index).ok()
        };
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

    /// Returns the numbers of all LBR MSRs, in consecutive ranges.
    pub fn msr_ranges(&self) -> [Range<u32>; 4] {
        let records = |first: u32| first..first.wrapping_add(self.depth);
        let info = if self.info == 0 {
            0..0
        } else {
            records(self.info)
        };
        [
            MSR_LBR_SELECT..MSR_LBR_TOS + 1,
            records(self.from),
            records(self.to),
            info,
        ]
    }

    /// Checks that `register` takes `value`.
    ///
    /// `canonical` tells whether the guest's linear addresses can hold its argument.
    pub fn check(
        &self,
        register: Register,
        value: u64,
        canonical: impl FnOnce(u64) -> bool,
    ) -> Result<(), GeneralProtection> {
        let accepted = match register {
            Register::Select => value & !LBR_SELECT_MASK == 0,
            Register::Tos => value < u64::from(self.depth),
            Register::From(_) => canonical(address(value, self.format.flags_in_from(self.tsx))),
            Register::To(_) => canonical(address(value, self.format.flags_in_to())),
            Register::Info(_) => value & !self.format.info_mask(self.tsx) == 0,
        };
        if accepted {
            Ok(())
        } else {
            Err(GeneralProtection)
        }
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
