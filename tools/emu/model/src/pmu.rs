// SPDX-License-Identifier: GPL-2.0-only
//! Architectural performance monitoring, versions 3 to 5 (SDM, "Performance
//! Monitoring": "Architectural Performance Monitoring").

use crate::events::{self, Pulses, Source};
use crate::machine::Machine;
use crate::msr::{self, offset, Fault, Result};
use crate::time::Now;

/// IA32_PERFEVTSELx: count outside of ring 0.
pub const USR: u64 = 1 << 16;
/// IA32_PERFEVTSELx: count in ring 0.
pub const OS: u64 = 1 << 17;
/// IA32_PERFEVTSELx: interrupt on overflow.
pub const INT: u64 = 1 << 20;
/// IA32_PERFEVTSELx: enable.
pub const EN: u64 = 1 << 22;
const ANY_THREAD: u64 = 1 << 21;
// IN_TX and IN_TXCP need TSX.
const EVTSEL_VALID: u64 = 0xffff_ffff;
/// AnyThread of every fixed counter.
const FIXED_ANY_THREAD: u64 = 0x4444;

/// IA32_PERF_GLOBAL_STATUS: recording of branches is frozen.
pub const LBR_FRZ: u64 = 1 << 58;
/// IA32_PERF_GLOBAL_STATUS: the counters are frozen.
pub const CTR_FRZ: u64 = 1 << 59;
const OVF_UNCORE: u64 = 1 << 61;
const OVF_DS: u64 = 1 << 62;
const COND_CHGD: u64 = 1 << 63;
// Bits 55 (trace ToPA) and 60 (ASCI) need Processor Trace and SGX.
const STATUS_SETTABLE: u64 = OVF_UNCORE | OVF_DS;

/// First fixed counter in the global registers.
const FIXED_SHIFT: u32 = 32;
/// IA32_PERF_GLOBAL_INUSE: some counter may interrupt.
const INUSE_PMI: u64 = 1 << 63;

/// Registers that say more of an event than IA32_PERFEVTSELx does, with their bits that are
/// not reserved, and the version from which on CPUs have them.  Software writes them with
/// the event, PEBS or not; none of these events is among those that are counted.
const FILTERS: [(u32, u64, u8); 4] = [
    (msr::MSR_OFFCORE_RSP_0, (1 << 38) - 1, 3),
    (msr::MSR_OFFCORE_RSP_1, (1 << 38) - 1, 3),
    (msr::MSR_PEBS_LD_LAT, 0xffff, 3),
    (msr::MSR_PEBS_FRONTEND, 0x7f_ff17, 4),
];
/// MSR_PEBS_FRONTEND of Golden Cove, the first core with the architectural LBR: branches
/// that the predictor did not know.
const FRONTEND_UNKNOWN_BRANCH: u64 = 1 << 3;

/// What an overflow asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Overflow {
    /// Some counter overflowed whose overflow interrupts.
    pub interrupt: bool,
}

/// A register of the facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// IA32_FIXED_CTR_CTRL
    FixedControl,
    /// IA32_PERF_GLOBAL_CTRL
    GlobalControl,
    /// IA32_PERF_GLOBAL_STATUS
    Status,
    /// IA32_PERF_GLOBAL_STATUS_RESET, before version 4 IA32_PERF_GLOBAL_OVF_CTRL
    StatusReset,
    /// IA32_PERF_GLOBAL_STATUS_SET
    StatusSet,
    /// IA32_PERF_GLOBAL_INUSE
    InUse,
    /// IA32_PERFEVTSELx
    Select(usize),
    /// IA32_PMCx: writes reach the low half only.
    LowHalf(usize),
    /// IA32_A_PMCx and IA32_FIXED_CTRx
    Counter(usize),
    /// MSR_OFFCORE_RSP_x, MSR_PEBS_LD_LAT and MSR_PEBS_FRONTEND
    Filter(usize),
}

#[derive(Clone, Debug)]
struct Counter {
    value: u64,
    /// IA32_PERFEVTSELx; of a fixed counter its enable and interrupt bits only.
    control: u64,
    source: Source,
    /// Its bit in the global registers.
    global: u64,
    /// Counts now: enabled, not frozen, in a ring that it wants.
    runs: bool,
}

/// The counters of one logical CPU.
#[derive(Clone, Debug)]
pub struct Pmu {
    version: u8,
    slots_per_cycle: u8,
    general: usize,
    /// Largest value of a counter.
    mask: u64,
    /// General counters, then the fixed ones.
    counters: Vec<Counter>,
    fixed_control: u64,
    global_control: u64,
    global_valid: u64,
    status: u64,
    filters: [u64; FILTERS.len()],
    /// Bits of MSR_PEBS_FRONTEND beyond those of all cores.
    frontend: u64,
    user: bool,
    /// Until when everything is counted.
    counted: Now,
    /// What the running counters want to hear of at once.
    wanted: Pulses,
    /// Whether a running counter counts cycles or instructions.
    level: bool,
}

impl Pmu {
    /// Counters as after power-up.
    pub fn new(machine: &Machine) -> Self {
        let description = &machine.pmu;
        let general = usize::from(description.general_counters);
        let mut pmu = Self {
            version: description.version,
            slots_per_cycle: description.slots_per_cycle,
            general,
            mask: (1 << description.counter_bits) - 1,
            counters: Vec::new(),
            fixed_control: 0,
            global_control: 0,
            global_valid: 0,
            status: 0,
            filters: [0; FILTERS.len()],
            frontend: if machine.lbr.is_architectural() {
                FRONTEND_UNKNOWN_BRANCH
            } else {
                0
            },
            user: false,
            counted: Now::default(),
            wanted: 0,
            level: false,
        };
        let fixed = events::FIXED
            .iter()
            .take(usize::from(description.fixed_counters));
        let general = (0..general).map(|n| (1 << n, Source::Nothing));
        let fixed = fixed
            .enumerate()
            .map(|(n, &source)| (1 << n << FIXED_SHIFT, source));
        for (global, source) in general.chain(fixed) {
            pmu.global_valid |= global;
            pmu.counters.push(Counter {
                value: 0,
                control: 0,
                source,
                global,
                runs: false,
            });
        }
        pmu.reset(Now::default());
        pmu
    }

    /// Power-up or reset: every general counter is enabled globally.
    pub fn reset(&mut self, now: Now) {
        self.counted = now;
        for (n, counter) in self.counters.iter_mut().enumerate() {
            counter.value = 0;
            counter.control = 0;
            if n < self.general {
                counter.source = Source::Nothing;
            }
        }
        self.fixed_control = 0;
        self.global_control = (1 << self.general) - 1;
        self.status = 0;
        self.filters = [0; FILTERS.len()];
        self.update();
    }

    /// Whether an overflow freezes through IA32_PERF_GLOBAL_STATUS.
    pub fn streamlined(&self) -> bool {
        self.version >= 4
    }

    /// Whether recording of branches is frozen.
    pub fn lbr_frozen(&self) -> bool {
        self.status & LBR_FRZ != 0
    }

    /// Sets LBR_FRZ, CTR_FRZ or both.
    pub fn freeze(&mut self, bits: u64) {
        self.status |= bits & (LBR_FRZ | CTR_FRZ);
        self.update();
    }

    /// Whether any of `pulses` is counted now.
    pub fn wants(&self, pulses: Pulses) -> bool {
        self.wanted & pulses != 0
    }

    /// The core cycle at which a counter can overflow at the earliest, if none
    /// changes until then.
    pub fn deadline(&self) -> u64 {
        if !self.level {
            return u64::MAX;
        }
        self.counters
            .iter()
            .filter(|counter| {
                counter.runs && !matches!(counter.source, Source::Nothing | Source::Pulses(_))
            })
            .map(|counter| {
                let left = (self.mask - counter.value).saturating_add(1);
                let per_cycle = match counter.source {
                    Source::Slots => u64::from(self.slots_per_cycle).max(1),
                    _ => 1,
                };
                self.counted.cycles.saturating_add(left.div_ceil(per_cycle))
            })
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Counts what passed until `now`.
    pub fn advance(&mut self, now: Now) -> Overflow {
        let passed = now.since(self.counted);
        self.counted = self.counted.max(now);
        if !self.level || passed == Now::default() {
            return Overflow::default();
        }
        let slots = passed
            .cycles
            .saturating_mul(u64::from(self.slots_per_cycle));
        self.count(|source| match source {
            Source::Cycles => passed.cycles,
            Source::Slots => slots,
            Source::Instructions => passed.instructions,
            Source::IdleCycles => passed.cycles.saturating_sub(passed.instructions),
            Source::Nothing | Source::Pulses(_) => 0,
        })
    }

    /// Counts something that happened now.
    pub fn pulse(&mut self, pulses: Pulses) -> Overflow {
        if !self.wants(pulses) {
            return Overflow::default();
        }
        self.count(|source| match source {
            Source::Pulses(set) => u64::from(set & pulses != 0),
            _ => 0,
        })
    }

    fn count(&mut self, of: impl Fn(Source) -> u64) -> Overflow {
        let mut overflow = Overflow::default();
        for counter in self.counters.iter_mut().filter(|counter| counter.runs) {
            let value = counter.value.saturating_add(of(counter.source));
            if value > self.mask {
                self.status |= counter.global;
                overflow.interrupt |= counter.control & INT != 0;
            }
            counter.value = value & self.mask;
        }
        overflow
    }

    /// The privilege level changed; everything before is counted.
    pub fn set_user(&mut self, user: bool) {
        if self.user != user {
            self.user = user;
            self.update();
        }
    }

    /// Everything that follows from the registers.
    fn update(&mut self) {
        let ring = if self.user { USR } else { OS };
        let stopped = self.status & CTR_FRZ != 0;
        self.wanted = 0;
        self.level = false;
        for counter in &mut self.counters {
            counter.runs = !stopped
                && self.global_control & counter.global != 0
                && counter.control & (EN | ring) == EN | ring
                && counter.source != Source::Nothing;
            match counter.source {
                _ if !counter.runs => {}
                Source::Pulses(pulses) => self.wanted |= pulses,
                _ => self.level = true,
            }
        }
    }

    fn general(&self, index: u32, first: u32) -> Option<usize> {
        offset(index, first, self.general)
    }

    fn fixed(&self, index: u32) -> Option<usize> {
        let fixed = self.counters.len() - self.general;
        Some(self.general + offset(index, msr::IA32_FIXED_CTR0, fixed)?)
    }

    fn filter(&self, index: u32) -> Option<Register> {
        FILTERS
            .iter()
            .position(|&(number, _, since)| number == index && self.version >= since)
            .map(Register::Filter)
    }

    /// The register with this number, if it is this facility's.
    pub fn locate(&self, index: u32) -> Option<Register> {
        Some(match index {
            msr::IA32_FIXED_CTR_CTRL => Register::FixedControl,
            msr::IA32_PERF_GLOBAL_CTRL => Register::GlobalControl,
            msr::IA32_PERF_GLOBAL_STATUS => Register::Status,
            msr::IA32_PERF_GLOBAL_STATUS_RESET => Register::StatusReset,
            msr::IA32_PERF_GLOBAL_STATUS_SET if self.version >= 4 => Register::StatusSet,
            msr::IA32_PERF_GLOBAL_INUSE if self.version >= 4 => Register::InUse,
            _ => {
                if let Some(at) = self.general(index, msr::IA32_PERFEVTSEL0) {
                    Register::Select(at)
                } else if let Some(at) = self.general(index, msr::IA32_PMC0) {
                    Register::LowHalf(at)
                } else if let Some(at) = self.general(index, msr::IA32_A_PMC0) {
                    Register::Counter(at)
                } else if let Some(at) = self.fixed(index) {
                    Register::Counter(at)
                } else {
                    self.filter(index)?
                }
            }
        })
    }

    /// Reads a register; everything until now is counted.
    pub fn read(&self, register: Register) -> u64 {
        match register {
            Register::FixedControl => self.fixed_control,
            Register::GlobalControl => self.global_control,
            Register::Status => self.status,
            Register::StatusReset | Register::StatusSet => 0,
            Register::InUse => self.in_use(),
            Register::Select(at) => self.counters.get(at).map_or(0, |c| c.control),
            Register::LowHalf(at) | Register::Counter(at) => {
                self.counters.get(at).map_or(0, |c| c.value)
            }
            Register::Filter(at) => self.filters.get(at).copied().unwrap_or(0),
        }
    }

    /// Whether a register takes this value.
    ///
    /// # Errors
    ///
    /// [`Fault`] if it has reserved bits set or is read-only.
    pub fn check(&self, register: Register, value: u64) -> Result<()> {
        let fixed = self.counters.len() - self.general;
        let frozen = if self.streamlined() {
            LBR_FRZ | CTR_FRZ
        } else {
            0
        };
        let any_thread = if self.version >= 5 { 0 } else { u64::MAX };
        let valid = match register {
            Register::FixedControl => ((1 << (4 * fixed)) - 1) & (!FIXED_ANY_THREAD | any_thread),
            Register::GlobalControl => self.global_valid,
            Register::Status | Register::InUse => return Err(Fault),
            Register::StatusReset => self.global_valid | STATUS_SETTABLE | COND_CHGD | frozen,
            Register::StatusSet => self.global_valid | STATUS_SETTABLE | frozen,
            Register::Select(_) => EVTSEL_VALID & (!ANY_THREAD | any_thread),
            Register::LowHalf(_) => u64::MAX,
            Register::Counter(_) => self.mask,
            Register::Filter(at) => match FILTERS.get(at) {
                Some((msr::MSR_PEBS_FRONTEND, valid, _)) => valid | self.frontend,
                Some((_, valid, _)) => *valid,
                None => 0,
            },
        };
        if value & !valid == 0 {
            Ok(())
        } else {
            Err(Fault)
        }
    }

    /// Writes a value that the register takes; everything until now is counted.
    pub fn write(&mut self, register: Register, value: u64) {
        match register {
            Register::FixedControl => self.set_fixed_control(value),
            Register::GlobalControl => self.global_control = value,
            Register::Status | Register::InUse => {}
            Register::StatusReset => self.status &= !value,
            Register::StatusSet => self.status |= value,
            Register::Select(at) => {
                if let Some(counter) = self.counters.get_mut(at) {
                    counter.control = value;
                    counter.source = events::selected(value, self.version, self.slots_per_cycle);
                }
            }
            // The low half, sign-extended.
            Register::LowHalf(at) => self.set_value(at, i64::from(value as u32 as i32) as u64),
            Register::Counter(at) => self.set_value(at, value),
            Register::Filter(at) => {
                if let Some(filter) = self.filters.get_mut(at) {
                    *filter = value;
                }
            }
        }
        self.update();
    }

    fn set_value(&mut self, at: usize, value: u64) {
        if let Some(counter) = self.counters.get_mut(at) {
            counter.value = value & self.mask;
        }
    }

    fn set_fixed_control(&mut self, value: u64) {
        self.fixed_control = value;
        let fixed = self.counters.get_mut(self.general..).unwrap_or_default();
        for (n, counter) in fixed.iter_mut().enumerate() {
            let field = value >> (4 * n);
            counter.control = match field & 3 {
                0 => 0,
                1 => EN | OS,
                2 => EN | USR,
                _ => EN | OS | USR,
            };
            counter.control |= if field & 8 != 0 { INT } else { 0 };
        }
    }

    fn in_use(&self) -> u64 {
        self.counters
            .iter()
            .enumerate()
            .fold(0, |bits, (n, counter)| {
                let used = if n < self.general {
                    counter.control & 0xff != 0
                } else {
                    counter.control & EN != 0
                };
                bits | if used { counter.global } else { 0 }
                    | if counter.control & INT != 0 {
                        INUSE_PMI
                    } else {
                        0
                    }
            })
    }

    /// RDPMC with this ECX; everything until now is counted.
    ///
    /// # Errors
    ///
    /// [`Fault`] if there is no such counter.
    pub fn rdpmc(&self, ecx: u32) -> Result<u64> {
        const FIXED: u32 = 1 << 30;
        let at = if ecx & FIXED != 0 {
            self.fixed((ecx & !FIXED).saturating_add(msr::IA32_FIXED_CTR0))
        } else {
            self.general(ecx, 0)
        };
        at.and_then(|at| self.counters.get(at))
            .map(|counter| counter.value)
            .ok_or(Fault)
    }
}

#[cfg(test)]
mod tests;
