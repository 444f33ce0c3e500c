// SPDX-License-Identifier: GPL-2.0-only
//! One logical CPU: counters, records, predictor and caches together.

use crate::branch::{Kind, Taken};
use crate::cache::{self, Caches};
use crate::debugctl;
use crate::events;
use crate::feedback::Feedback;
use crate::lbr::architectural::{self, Architectural, AREA};
use crate::lbr::{Circumstances, Lbr};
use crate::machine::Machine;
use crate::msr::{self, checked, Fault, Result};
use crate::pmu::{Overflow, Pmu, Register, CTR_FRZ, LBR_FRZ};
use crate::predict::Predictor;
use crate::time::Now;

// IA32_MISC_ENABLE: fast strings, performance monitoring available, branch
// trace storage and PEBS unavailable, MONITOR.
const MISC_ENABLE: u64 = 1 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 18;
const MISC_READ_ONLY: u64 = 1 << 7 | 1 << 11 | 1 << 12;
// Also automatic thermal control, CPUID limit, xTPR disable and XD disable.
const MISC_VALID: u64 = MISC_ENABLE | 1 << 3 | 1 << 22 | 1 << 23 | 1 << 34;

// IA32_PERF_CAPABILITIES
const PERF_CAP_FREEZE_WHILE_SMM: u64 = 1 << 12;
const PERF_CAP_FULL_WIDTH_WRITE: u64 = 1 << 13;

// IA32_MCG_STATUS: RIPV, EIPV, MCIP.
const MCG_STATUS_VALID: u64 = 7;

// MSR_POWER_CTL: bidirectional PROCHOT#, C1E.
const POWER_CTL_VALID: u64 = 3;

// MSR_MISC_PWR_MGMT: no hardware coordination of SpeedStep, energy and performance bias.
const MISC_PWR_MGMT_VALID: u64 = 3;

// MSR_PKG_CST_CONFIG_CONTROL: the firmware allowed no package C-state, and locked that.
const CFG_LOCK: u64 = 1 << 15;

/// How a reset happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-up: everything starts anew.
    PowerUp,
    /// RESET# while the power stays on: so it does, but for architectural records.
    Warm,
    /// INIT: model-specific registers stay as they are.
    Init,
}

impl Reset {
    /// The reset of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::PowerUp, Self::Warm, Self::Init]
            .get(usize::from(number))
            .copied()
    }
}

/// An access to memory, by its physical address.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// It loads.
    pub load: bool,
    /// It stores.
    pub store: bool,
    /// Where.
    pub address: u64,
    /// How much, in bytes.
    pub length: u64,
}

/// Registers as they were at an SMI.
#[derive(Clone, Copy, Debug)]
struct Frozen {
    debugctl: u64,
    global_control: u64,
}

/// The performance monitoring and LBR facilities of one logical CPU.
#[derive(Clone, Debug)]
pub struct LogicalCpu {
    pmu: Pmu,
    lbr: Lbr,
    predictor: Predictor,
    caches: Caches,
    feedback: Feedback,
    perf_capabilities: u64,
    /// IA32_DEBUGCTL.LBR is the switch of the records, not a bit that reads 0.
    legacy_lbr: bool,
    microcode: u32,
    /// Frequency in units of 100 MHz.
    ratio: u8,
    mcg_status: u64,
    power_ctl: u64,
    misc_pwr_mgmt: u64,
    misc_enable: u64,
    debugctl: u64,
    user: bool,
    /// Core cycle at which the privilege level changed, until a branch tells.
    level_changed: u64,
    /// The last instruction that accessed memory, by the core cycle at which it
    /// retires, and what of it is counted.
    accessed: (u64, events::Pulses),
    /// What an SMI froze by FREEZE_WHILE_SMM, until RSM.
    frozen_by_smi: Option<Frozen>,
    interrupt: bool,
    /// An overflow freezes the counters as soon as what passed is counted.
    freezing: bool,
}

impl LogicalCpu {
    /// A CPU of this machine, as after power-up.
    pub fn new(machine: &Machine) -> Self {
        Self {
            pmu: Pmu::new(machine),
            lbr: Lbr::new(machine),
            predictor: Predictor::default(),
            caches: Caches::default(),
            feedback: Feedback::default(),
            perf_capabilities: u64::from(machine.lbr.format_encoding())
                | PERF_CAP_FREEZE_WHILE_SMM
                | PERF_CAP_FULL_WIDTH_WRITE,
            legacy_lbr: !machine.lbr.is_architectural(),
            microcode: machine.cpu.microcode,
            // Of 4 GHz at most.
            ratio: (machine.cpu.ips / 100_000_000) as u8,
            mcg_status: 0,
            power_ctl: 0,
            misc_pwr_mgmt: 0,
            misc_enable: MISC_ENABLE,
            debugctl: 0,
            user: false,
            level_changed: u64::MAX,
            accessed: (u64::MAX, 0),
            frozen_by_smi: None,
            interrupt: false,
            freezing: false,
        }
    }

    /// The CPU was reset.  All but INIT may set time back to `now`.
    pub fn reset(&mut self, kind: Reset, now: Now) {
        self.advance(now);
        if kind != Reset::Init {
            self.pmu.reset(now);
            if kind == Reset::PowerUp {
                self.lbr.reset();
            } else {
                self.lbr.warm_reset();
            }
            self.caches.flush_all();
            self.feedback.reset(now);
            self.misc_enable = MISC_ENABLE;
            self.mcg_status = 0;
            self.power_ctl = 0;
            self.misc_pwr_mgmt = 0;
            self.lbr.stop();
            self.debugctl = 0;
        }
        self.accessed = (u64::MAX, 0);
        self.level_changed = u64::MAX;
        self.interrupt = false;
        self.frozen_by_smi = None;
    }

    /// Whether branches must be reported.
    pub fn wants_branches(&self) -> bool {
        self.records() || self.pmu.wants(events::WITH_BRANCHES) || self.steps_branches()
    }

    /// Whether loads and stores must be reported.
    pub fn wants_memory(&self) -> bool {
        self.pmu.wants(events::WITH_MEMORY)
    }

    /// Whether fetches of code must be reported.
    pub fn wants_fetches(&self) -> bool {
        self.pmu.wants(events::WITH_CACHES)
    }

    /// Whether RFLAGS.TF means a step to the next taken branch.
    pub fn steps_branches(&self) -> bool {
        self.debugctl & debugctl::BTF != 0
    }

    /// A debug exception is delivered: the processor clears LBR and BTF before it
    /// executes the handler, and does not record the exception.
    pub fn debug_exception(&mut self) {
        self.debugctl &= !(debugctl::LBR | debugctl::BTF);
        self.lbr.stop();
    }

    /// Core cycle at which [`LogicalCpu::advance`] must be called at the latest.
    pub fn deadline(&self) -> u64 {
        if self.freezing {
            return 0;
        }
        self.pmu.deadline()
    }

    /// Whether a performance monitoring interrupt was asked for since the last
    /// call.
    pub fn take_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.interrupt)
    }

    fn records(&self) -> bool {
        self.lbr.is_enabled(self.debugctl) && !self.pmu.lbr_frozen()
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Now) {
        let overflow = self.pmu.advance(now);
        self.overflowed(overflow);
        if std::mem::take(&mut self.freezing) {
            if self.pmu.streamlined() {
                self.pmu.freeze(CTR_FRZ);
            } else {
                self.pmu.write(Register::GlobalControl, 0);
            }
        }
    }

    /// Interrupts and freezes, but for the counters: what passed is counted first.
    fn overflowed(&mut self, overflow: Overflow) {
        if !overflow.interrupt {
            return;
        }
        self.interrupt = true;
        self.freezing |= self.debugctl & debugctl::FREEZE_PERFMON_ON_PMI != 0;
        if self.debugctl & debugctl::FREEZE_LBRS_ON_PMI != 0 {
            if self.pmu.streamlined() {
                self.pmu.freeze(LBR_FRZ);
            } else {
                // Legacy freezing takes the switches back.
                self.debugctl &= !debugctl::LBR;
            }
        }
    }

    /// The privilege level changes at `now`.
    pub fn set_user(&mut self, user: bool, now: Now) {
        self.advance(now);
        if user != self.user {
            self.level_changed = now.cycles;
        }
        self.user = user;
        self.pmu.set_user(user);
    }

    /// A VM entry is about to inject an event, which comes from the guest's level.
    pub fn entered(&mut self) {
        self.level_changed = u64::MAX;
    }

    /// SMM is entered or left at `now`.
    pub fn smm(&mut self, inside: bool, now: Now) {
        self.advance(now);
        // What RSM restores may be another level; what came before is over.
        self.level_changed = u64::MAX;
        self.lbr.smm(inside);
        if !inside {
            if let Some(frozen) = self.frozen_by_smi.take() {
                self.debugctl = frozen.debugctl;
                self.pmu
                    .write(Register::GlobalControl, frozen.global_control);
            }
        } else if self.debugctl & debugctl::FREEZE_WHILE_SMM != 0 {
            self.frozen_by_smi = Some(Frozen {
                debugctl: self.debugctl,
                global_control: self.pmu.read(Register::GlobalControl),
            });
            self.debugctl &= !(debugctl::LBR | debugctl::BTF);
            self.pmu.write(Register::GlobalControl, 0);
        }
    }

    /// A branch was taken; `cycles` is the time at which it retires.  Whether a
    /// counter overflowed.
    #[inline(always)]
    pub fn taken(&mut self, branch: &Taken, cycles: u64) -> bool {
        let mispredicted = self.predictor.taken(branch);
        let mut recorded = false;
        if self.records() {
            // The level changed with this branch, or with none.
            let crossed = self.level_changed.saturating_add(1) == cycles
                && matches!(branch.kind, Kind::Far | Kind::Event | Kind::Resume);
            let how = Circumstances {
                user: self.user,
                from_user: self.user != crossed,
                mispredicted,
                cycles,
            };
            if crossed {
                // Another branch may follow before time passes.
                self.level_changed = u64::MAX;
            }
            recorded = self.lbr.branch(branch, how);
        }
        // A profile of branch records counts none.
        if !self.pmu.wants(events::WITH_BRANCHES) {
            return false;
        }
        let pulses = events::taken(branch.kind, mispredicted);
        self.pulse(pulses | if recorded { events::LBR_INSERT } else { 0 })
    }

    /// The conditional branch at `from` was not taken.  Whether a counter
    /// overflowed.
    pub fn not_taken(&mut self, from: u64) -> bool {
        let mispredicted = self.predictor.not_taken(from);
        self.pulse(events::not_taken(mispredicted))
    }

    /// A branch instruction retired that was recorded already, as an event.
    /// Whether a counter overflowed.
    pub fn retired(&mut self, kind: Kind) -> bool {
        self.pulse(events::taken(kind, false))
    }

    /// The instruction that retires at `cycles` accesses memory; it may do so again.
    /// Whether a counter overflowed.
    pub fn memory(&mut self, access: &Memory, cycles: u64) -> bool {
        if self.accessed.0 != cycles {
            self.accessed = (cycles, 0);
        }
        let mut pulses = events::MEMORY;
        pulses |= if access.load { events::LOAD } else { 0 };
        pulses |= if access.store { events::STORE } else { 0 };
        // An instruction counts once, however much it accesses.
        let new = pulses & !self.accessed.1;
        self.accessed.1 |= pulses;
        let overflow = self.pulse(new);
        overflow | self.through_caches(access.address, access.length)
    }

    /// Code was fetched.  Whether a counter overflowed.
    pub fn fetch(&mut self, address: u64, length: u64) -> bool {
        self.through_caches(address, length)
    }

    /// The caches see accesses only while somebody counts how they fare.
    fn through_caches(&mut self, address: u64, length: u64) -> bool {
        let mut overflow = false;
        if self.pmu.wants(events::WITH_CACHES) {
            for line in cache::lines(address, length) {
                let pulses = self.caches.access(line);
                overflow |= self.pulse(pulses);
            }
        }
        overflow
    }

    /// CLFLUSH of the line that `address` is in; `None`: WBINVD or INVD.
    pub fn flush(&mut self, address: Option<u64>) {
        match address {
            Some(address) => self.caches.flush(address),
            None => self.caches.flush_all(),
        }
    }

    fn pulse(&mut self, pulses: events::Pulses) -> bool {
        let overflow = self.pmu.pulse(pulses);
        self.overflowed(overflow);
        overflow.interrupt
    }

    /// RDMSR at `now`; `None` if the register is not the model's.
    pub fn read(&mut self, index: u32, now: Now) -> Option<Result<u64>> {
        self.advance(now);
        if let Some(register) = Feedback::locate(index) {
            return Some(Ok(self.feedback.read(register, now)));
        }
        Some(match index {
            // The first of the platforms that a microcode update can be for.
            msr::IA32_PLATFORM_ID => Ok(0),
            // The largest without Turbo Boost; there is no lower one to go to.
            msr::MSR_PLATFORM_INFO => Ok(u64::from(self.ratio) << 8),
            msr::MSR_PKG_CST_CONFIG_CONTROL => Ok(CFG_LOCK),
            // No bank reports errors.
            msr::IA32_MCG_CAP => Ok(0),
            msr::IA32_MCG_STATUS => Ok(self.mcg_status),
            msr::MSR_POWER_CTL => Ok(self.power_ctl),
            msr::MSR_MISC_PWR_MGMT => Ok(self.misc_pwr_mgmt),
            msr::IA32_BIOS_SIGN_ID => Ok(u64::from(self.microcode) << 32),
            msr::IA32_MISC_ENABLE => Ok(self.misc_enable),
            msr::IA32_DEBUGCTL => Ok(self.debugctl),
            msr::IA32_PERF_CAPABILITIES => Ok(self.perf_capabilities),
            _ => match (self.lbr.read(index), self.pmu.locate(index)) {
                (Some(result), _) => result,
                (None, Some(register)) => Ok(self.pmu.read(register)),
                (None, None) => return None,
            },
        })
    }

    /// WRMSR that completes at `now`; `None` if the register is not the model's.
    ///
    /// What passes until `now` is counted as configured before, unless the access
    /// faults: the instruction does not retire then.
    pub fn write(&mut self, index: u32, value: u64, now: Now) -> Option<Result<()>> {
        if let Some(register) = Feedback::locate(index) {
            self.feedback.write(register, value, now);
            return Some(Ok(()));
        }
        Some(match index {
            // Software writes 0 before it asks for the revision.
            msr::IA32_BIOS_SIGN_ID => Ok(()),
            msr::IA32_MISC_ENABLE => checked(value, MISC_VALID).map(|value| {
                self.misc_enable = value & !MISC_READ_ONLY | MISC_ENABLE & MISC_READ_ONLY;
            }),
            msr::IA32_MCG_STATUS => {
                checked(value, MCG_STATUS_VALID).map(|value| self.mcg_status = value)
            }
            msr::MSR_POWER_CTL => {
                checked(value, POWER_CTL_VALID).map(|value| self.power_ctl = value)
            }
            msr::MSR_MISC_PWR_MGMT => {
                checked(value, MISC_PWR_MGMT_VALID).map(|value| self.misc_pwr_mgmt = value)
            }
            msr::IA32_DEBUGCTL => self.set_debugctl(value, now),
            msr::IA32_PLATFORM_ID
            | msr::MSR_PLATFORM_INFO
            | msr::MSR_PKG_CST_CONFIG_CONTROL
            | msr::IA32_MCG_CAP
            | msr::IA32_PERF_CAPABILITIES => Err(Fault),
            _ => match (self.lbr.write(index, value), self.pmu.locate(index)) {
                (Some(result), _) => result,
                (None, Some(register)) => self.pmu.check(register, value).map(|()| {
                    self.advance(now);
                    self.pmu.write(register, value);
                }),
                (None, None) => return None,
            },
        })
    }

    fn set_debugctl(&mut self, value: u64, now: Now) -> Result<()> {
        let value = checked(value, debugctl::VALID)?;
        // An overflow until now freezes as it was configured.
        self.advance(now);
        self.debugctl = value;
        if !self.legacy_lbr {
            self.debugctl &= !debugctl::LBR;
        }
        Ok(())
    }

    /// RDPMC at `now`.
    ///
    /// # Errors
    ///
    /// [`Fault`] if ECX names no counter.
    pub fn rdpmc(&mut self, ecx: u32, now: Now) -> Result<u64> {
        self.advance(now);
        self.pmu.rdpmc(ecx)
    }

    /// Whether a VM entry or exit may load `value` into this register: of
    /// IA32_DEBUGCTL, IA32_LBR_CTL and IA32_PERF_GLOBAL_CTRL no reserved bit.
    pub fn is_loadable(&self, index: u32, value: u64) -> bool {
        match index {
            msr::IA32_DEBUGCTL => value & !debugctl::VALID == 0,
            msr::IA32_LBR_CTL => value & !architectural::CTL_VALID == 0,
            msr::IA32_PERF_GLOBAL_CTRL => self.pmu.check(Register::GlobalControl, value).is_ok(),
            _ => false,
        }
    }
}

impl LogicalCpu {
    /// XSAVES of state component 15; `None` if the machine has none.
    pub fn xsave(&self) -> Option<([u64; AREA], usize)> {
        let lbr = self.lbr.architectural()?;
        Some((lbr.save(), lbr.saved()))
    }

    /// XRSTORS of state component 15, or of its initial configuration.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the machine has none, or the area a value that does not exist.
    pub fn xrstor(&mut self, area: Option<&[u64; AREA]>) -> Result<()> {
        let lbr = self.lbr.architectural_mut().ok_or(Fault)?;
        match area {
            Some(area) => lbr.restore(area),
            None => {
                lbr.initialise();
                Ok(())
            }
        }
    }

    /// Whether state component 15 is in another than its initial configuration.
    pub fn is_xinuse(&self) -> bool {
        self.lbr
            .architectural()
            .is_some_and(Architectural::is_in_use)
    }
}

#[cfg(test)]
mod tests;
