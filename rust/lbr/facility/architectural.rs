// SPDX-License-Identifier: GPL-2.0-only

//! Architectural LBR, see the manual's chapter *Last Branch Records*.

use core::ops::Range;

use super::{index, records, Accessor, Description, GeneralProtection, MAX_DEPTH};
use crate::lbr::debugctl::Debugctl;
use crate::lbr::platform::{Kvm, Perf};

/// `IA32_PERF_CAPABILITIES.LBR_FMT` of architectural LBR.
pub const LBR_FMT: u32 = 0x3f;

const IA32_LBR_CTL: u32 = 0x14ce;
const IA32_LBR_DEPTH: u32 = 0x14cf;
const IA32_LER_FROM_IP: u32 = 0x1dd;
const IA32_LER_TO_IP: u32 = 0x1de;
const IA32_LER_INFO: u32 = 0x1e0;

/// The bits of `IA32_LBR_x_INFO` that are defined. Others may be written, and are lost.
const INFO_MASK: u64 = 0xff00_0000_0000_ffff;

/// `CPUID.1CH`: what an architectural facility can do.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Leaf {
    /// EAX: bit n of 7:0 stands for a depth of 8 * (n + 1).
    pub eax: u32,
    /// EBX: filters and call-stack mode.
    pub ebx: u32,
    /// ECX: what INFO has.
    pub ecx: u32,
}

impl Leaf {
    fn has_depth(self, depth: u64) -> bool {
        (0..8).any(|n| self.eax & 1 << n != 0 && depth == 8 * (n + 1))
    }

    fn greatest_depth(self) -> u32 {
        let depths = self.eax & 0xff;
        (u32::BITS - depths.leading_zeros()) * 8
    }

    /// Returns the bits of `IA32_LBR_CTL` that exist.
    fn ctl_mask(self) -> u64 {
        const CPL: u64 = 3 << 1;
        const CALL_STACK: u64 = 1 << 3;
        const FILTERS: u64 = 0x7f << 16;
        [CPL, FILTERS, CALL_STACK]
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| self.ebx & 1 << bit != 0)
            .fold(Ctl::LBREN, |mask, (_, bits)| mask | bits)
    }
}

/// `IA32_LBR_CTL`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ctl(u64);

impl Ctl {
    const LBREN: u64 = 1 << 0;

    /// Creates the register from its value.
    pub const fn from_raw(value: u64) -> Self {
        Self(value)
    }

    /// Returns the register's value.
    pub const fn into_raw(self) -> u64 {
        self.0
    }

    /// Returns whether the guest wants branches recorded.
    pub const fn lbren(self) -> bool {
        self.0 & Self::LBREN != 0
    }
}

/// One of the LBR MSRs; records are counted from 0, the newest.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Register {
    /// `IA32_LBR_CTL`.
    Ctl,
    /// `IA32_LBR_DEPTH`.
    Depth,
    /// `IA32_LER_FROM_IP`.
    LerFrom,
    /// `IA32_LER_TO_IP`.
    LerTo,
    /// `IA32_LER_INFO`.
    LerInfo,
    /// `IA32_LBR_x_FROM_IP`.
    From(usize),
    /// `IA32_LBR_x_TO_IP`.
    To(usize),
    /// `IA32_LBR_x_INFO`.
    Info(usize),
}

impl Register {
    fn record(self) -> Option<usize> {
        match self {
            Self::From(i) | Self::To(i) | Self::Info(i) => Some(i),
            _ => None,
        }
    }
}

/// A record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct Entry {
    from: u64,
    to: u64,
    info: u64,
}

impl Entry {
    const ZERO: Self = Self {
        from: 0,
        to: 0,
        info: 0,
    };
}

/// The values of all LBR MSRs of one vCPU, but for `IA32_LBR_CTL`, which is KVM's.
///
/// The layout is that of `struct perf_guest_lbr_arch`. What is beyond the depth was written
/// by userspace.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct Records {
    ctl: u64,
    depth: u64,
    ler: Entry,
    entries: [Entry; MAX_DEPTH],
}

impl Records {
    /// Returns the records as after reset.
    pub const fn new(depth: u32) -> Self {
        Self {
            ctl: 0,
            depth: depth as u64,
            ler: Entry::ZERO,
            entries: [Entry::ZERO; MAX_DEPTH],
        }
    }

    /// Returns the value of `register`; a record beyond the greatest depth reads as 0.
    pub fn get(&self, register: Register) -> u64 {
        let entry = |i: usize| self.entries.get(i).copied().unwrap_or(Entry::ZERO);
        match register {
            Register::Ctl => self.ctl,
            Register::Depth => self.depth,
            Register::LerFrom => self.ler.from,
            Register::LerTo => self.ler.to,
            Register::LerInfo => self.ler.info,
            Register::From(i) => entry(i).from,
            Register::To(i) => entry(i).to,
            Register::Info(i) => entry(i).info,
        }
    }

    /// Sets `register` to `value`; a record beyond the greatest depth is left alone.
    pub fn set(&mut self, register: Register, value: u64) {
        let entry = match register {
            // Not here.
            Register::Ctl => return,
            Register::Depth => {
                self.depth = value;
                return;
            }
            Register::LerFrom | Register::LerTo | Register::LerInfo => Some(&mut self.ler),
            Register::From(i) | Register::To(i) | Register::Info(i) => self.entries.get_mut(i),
        };
        let Some(entry) = entry else {
            return;
        };
        match register {
            Register::LerFrom | Register::From(_) => entry.from = value,
            Register::LerTo | Register::To(_) => entry.to = value,
            _ => entry.info = value,
        }
    }

    /// Empties the records. `IA32_LBR_DEPTH` and the LER MSRs stay.
    fn empty(&mut self) {
        self.entries = [Entry::ZERO; MAX_DEPTH];
    }
}

/// The architectural LBR of a vCPU.
///
/// # Invariants
///
/// - `guest` has a depth, and nothing that `host` lacks.
/// - The greatest depth of `host` is at most [`MAX_DEPTH`].
/// - The MSR ranges do not wrap.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Facility {
    host: Leaf,
    guest: Leaf,
    from: u32,
    to: u32,
    info: u32,
}

impl Facility {
    /// Returns the depth in use.
    fn depth(&self, perf: &mut impl Perf<Records = Records>) -> u64 {
        match perf.read(IA32_LBR_DEPTH) {
            Some(depth) => depth,
            None => perf.park().depth,
        }
    }

    /// Returns whether the guest may write to `IA32_LBR_CTL` and `IA32_LBR_DEPTH` what the
    /// hardware takes.
    fn is_like_host(&self) -> bool {
        self.guest.eax == self.host.eax && self.guest.ebx == self.host.ebx
    }

    /// Checks that the guest has the register now. Userspace has all, in any order.
    fn check_depth(
        &self,
        perf: &mut impl Perf<Records = Records>,
        register: Register,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection> {
        let Some(record) = register.record() else {
            return Ok(());
        };
        if (record as u64) < self.depth(perf) {
            return Ok(());
        }
        match accessor {
            Accessor::Guest => Err(GeneralProtection),
            Accessor::Userspace => {
                // The hardware would refuse it.
                perf.park();
                Ok(())
            }
        }
    }
}

impl super::Facility for Facility {
    type Register = Register;
    type Records = Records;

    fn new(host: &Description) -> Option<Self> {
        let depth = host.leaf.greatest_depth();
        if host.format != LBR_FMT || depth == 0 || usize::try_from(depth).ok()? > MAX_DEPTH {
            return None;
        }
        for first in [host.from, host.to, host.info] {
            first.checked_add(depth)?;
        }
        // INVARIANT: All three were checked just above.
        Some(Self {
            host: host.leaf,
            guest: host.leaf,
            from: host.from,
            to: host.to,
            info: host.info,
        })
    }

    fn for_guest(&self, guest: &Description) -> Option<Self> {
        let Leaf { eax, ebx, ecx } = guest.leaf;
        let lacks = eax & !self.host.eax | ebx & !self.host.ebx | ecx & !self.host.ecx;
        if lacks != 0 || guest.leaf.greatest_depth() == 0 {
            return None;
        }
        // INVARIANT: Just checked.
        Some(Self {
            guest: guest.leaf,
            ..*self
        })
    }

    fn initial(&self) -> Records {
        Records::new(self.guest.greatest_depth())
    }

    fn empty(records: &mut Records) {
        records.empty();
    }

    fn reset_control(kvm: &mut impl Kvm) {
        kvm.set_ctl(Ctl(0));
    }

    fn is_recording(kvm: &impl Kvm) -> bool {
        kvm.ctl().lbren()
    }

    /// `IA32_LBR_CTL` does.
    fn records_by(_: Debugctl) -> bool {
        false
    }

    fn freeze(kvm: &mut impl Kvm, version: u32) {
        let ctl = kvm.ctl();
        if ctl.lbren() && kvm.debugctl().freezes(version) {
            kvm.set_ctl(Ctl(ctl.0 & !Ctl::LBREN));
        }
    }

    fn register(&self, msr: u32) -> Option<Register> {
        let depth = self.guest.greatest_depth();
        Some(match msr {
            IA32_LBR_CTL => Register::Ctl,
            IA32_LBR_DEPTH => Register::Depth,
            IA32_LER_FROM_IP => Register::LerFrom,
            IA32_LER_TO_IP => Register::LerTo,
            IA32_LER_INFO => Register::LerInfo,
            _ => {
                let from = index(msr, self.from, depth).map(Register::From);
                let to = || index(msr, self.to, depth).map(Register::To);
                let info = || index(msr, self.info, depth).map(Register::Info);
                from.or_else(to).or_else(info)?
            }
        })
    }

    fn passed_through(&self) -> impl Iterator<Item = Range<u32>> {
        let depth_register = u32::from(self.is_like_host());
        // The hardware refuses what is beyond the depth.
        let depth = self.host.greatest_depth();
        [
            records(self.from, depth),
            records(self.to, depth),
            records(self.info, depth),
            records(IA32_LBR_DEPTH, depth_register),
            IA32_LER_FROM_IP..IA32_LER_TO_IP + 1,
            records(IA32_LER_INFO, 1),
        ]
        .into_iter()
    }

    fn control(&self) -> Option<u32> {
        self.is_like_host().then_some(IA32_LBR_CTL)
    }

    fn accept(
        &self,
        register: Register,
        value: u64,
        _: Accessor,
        canonical: impl FnOnce(u64) -> bool,
    ) -> Result<u64, GeneralProtection> {
        let accepted = match register {
            Register::Ctl => value & !self.guest.ctl_mask() == 0,
            Register::Depth => self.guest.has_depth(value),
            Register::LerFrom | Register::LerTo | Register::From(_) | Register::To(_) => {
                canonical(value)
            }
            Register::LerInfo | Register::Info(_) => return Ok(value & INFO_MASK),
        };
        accepted.then_some(value).ok_or(GeneralProtection)
    }

    fn read(
        &self,
        kvm: &impl Kvm,
        perf: &mut impl Perf<Records = Records>,
        msr: u32,
        register: Register,
        accessor: Accessor,
    ) -> Result<u64, GeneralProtection> {
        if register == Register::Ctl {
            return Ok(kvm.ctl().0);
        }
        self.check_depth(perf, register, accessor)?;
        Ok(super::read(perf, msr, accessor).unwrap_or_else(|| perf.park().get(register)))
    }

    /// A guest's write of `IA32_LBR_DEPTH` empties the records. Userspace's does not, since
    /// it may come after those of records.
    fn write(
        &self,
        kvm: &mut impl Kvm,
        perf: &mut impl Perf<Records = Records>,
        msr: u32,
        register: Register,
        value: u64,
        accessor: Accessor,
    ) -> Result<(), GeneralProtection> {
        if register == Register::Ctl {
            kvm.set_ctl(Ctl(value));
            return Ok(());
        }
        self.check_depth(perf, register, accessor)?;
        let is_depth = register == Register::Depth;
        if is_depth && accessor == Accessor::Userspace {
            perf.park();
        }
        if !perf.write(msr, value) {
            let records = perf.park();
            if is_depth && accessor == Accessor::Guest {
                records.empty();
            }
            records.set(register, value);
            perf.mark_dirty();
        }
        Ok(())
    }
}
