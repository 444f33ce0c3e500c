// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The registers of the two LBR facilities and of perfmon, as the manual (SDM
//! vol. 3, chapters on debug, last branch and performance monitoring, and vol. 4)
//! names them.

mod snapshot;

pub use snapshot::{Branch, Snapshot};

/// IA32_PERF_CAPABILITIES.
pub const PERF_CAPABILITIES: u32 = 0x345;
/// Its LBR_FMT field: the format of the records, 0 if there are none.
pub const LBR_FMT: u64 = 0x3f;
/// LBR_FMT of architectural LBR.
pub const LBR_FMT_ARCHITECTURAL: u64 = 0x3f;

/// IA32_PERF_CAPABILITIES.FW_WRITES: counters can be written in full width.
pub const PERF_CAP_FW_WRITES: u64 = 1 << 13;

/// IA32_DEBUGCTL.
pub const DEBUGCTL: u32 = 0x1d9;
/// DEBUGCTL: record branches.
pub const DEBUGCTL_LBR: u64 = 1 << 0;
/// DEBUGCTL: stop recording when a PMI is requested.
pub const DEBUGCTL_FREEZE_LBRS_ON_PMI: u64 = 1 << 11;
/// DEBUGCTL: stop counting when a PMI is requested.
pub const DEBUGCTL_FREEZE_PERFMON_ON_PMI: u64 = 1 << 12;

/// MSR_LBR_SELECT: what is not recorded.
pub const LBR_SELECT: u32 = 0x1c8;
/// MSR_LASTBRANCH_TOS: the index of the newest record.
pub const LBR_TOS: u32 = 0x1c9;
/// MSR_LASTBRANCH_0_FROM_IP.
pub const LBR_FROM: u32 = 0x680;
/// MSR_LASTBRANCH_0_TO_IP.
pub const LBR_TO: u32 = 0x6c0;
/// MSR_LBR_INFO_0.
pub const LBR_INFO: u32 = 0xdc0;

/// IA32_LBR_CTL.
pub const LBR_CTL: u32 = 0x14ce;
/// LBR_CTL: record branches.
pub const LBR_CTL_LBREN: u64 = 1 << 0;
/// LBR_CTL: record branches that end in ring 0.
pub const LBR_CTL_OS: u64 = 1 << 1;
/// LBR_CTL: record branches that end outside of ring 0.
pub const LBR_CTL_USR: u64 = 1 << 2;
/// LBR_CTL: keep a call stack.
pub const LBR_CTL_CALL_STACK: u64 = 1 << 3;
/// LBR_CTL: record all branches.
pub const LBR_CTL_ON: u64 = LBR_CTL_LBREN | LBR_CTL_OS | LBR_CTL_USR | 0x7f << 16;
/// IA32_LBR_DEPTH.
pub const LBR_DEPTH: u32 = 0x14cf;
/// IA32_LER_FROM_IP.
pub const LER_FROM: u32 = 0x1dd;
/// IA32_LER_TO_IP.
pub const LER_TO: u32 = 0x1de;
/// IA32_LER_INFO.
pub const LER_INFO: u32 = 0x1e0;
/// IA32_LBR_0_FROM_IP.
pub const LBR_0_FROM: u32 = 0x1500;
/// IA32_LBR_0_TO_IP.
pub const LBR_0_TO: u32 = 0x1600;
/// IA32_LBR_0_INFO.
pub const LBR_0_INFO: u32 = 0x1200;

/// IA32_STAR: the selectors of SYSCALL in bits 47:32, of SYSRET in bits 63:48.
pub const STAR: u32 = 0xc000_0081;
/// IA32_LSTAR: where SYSCALL leads.
pub const LSTAR: u32 = 0xc000_0082;

/// IA32_XSS.
pub const XSS: u32 = 0xda0;
/// XSS: the registers of architectural LBR.
pub const XSS_LBR: u64 = 1 << 15;

/// IA32_PMC0.
pub const PMC0: u32 = 0xc1;
/// IA32_PERFEVTSEL0.
pub const PERFEVTSEL0: u32 = 0x186;
/// IA32_FIXED_CTR_CTRL.
pub const FIXED_CTR_CTRL: u32 = 0x38d;
/// IA32_PERF_GLOBAL_STATUS.
pub const GLOBAL_STATUS: u32 = 0x38e;
/// GLOBAL_STATUS: PMC0 overflowed.
pub const STATUS_PMC0: u64 = 1 << 0;
/// GLOBAL_STATUS: recording of branches is frozen.
pub const STATUS_LBR_FRZ: u64 = 1 << 58;
/// GLOBAL_STATUS: the counters are frozen.
pub const STATUS_CTR_FRZ: u64 = 1 << 59;
/// GLOBAL_STATUS: something changed.
pub const STATUS_COND_CHGD: u64 = 1 << 63;
/// IA32_PERF_GLOBAL_CTRL.
pub const GLOBAL_CTRL: u32 = 0x38f;
/// IA32_PERF_GLOBAL_STATUS_RESET.
pub const GLOBAL_STATUS_RESET: u32 = 0x390;
/// IA32_PERF_GLOBAL_STATUS_SET.
pub const GLOBAL_STATUS_SET: u32 = 0x391;
/// IA32_PERF_GLOBAL_INUSE.
pub const GLOBAL_INUSE: u32 = 0x392;
/// GLOBAL_INUSE: some counter may interrupt.
pub const INUSE_PMI: u64 = 1 << 63;
/// PERFEVTSEL: "branch instructions retired", counted at every privilege level
/// (OS, USR), with an interrupt on overflow (INT) and enabled (EN).
pub const BRANCHES_RETIRED_WITH_PMI: u64 = 0xc4 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 22;

/// PERFEVTSEL: "instructions retired", counted at every privilege level (OS, USR)
/// and enabled (EN).
pub const INSTRUCTIONS_RETIRED: u64 = 0xc0 | 1 << 16 | 1 << 17 | 1 << 22;

/// PERFEVTSEL: the code that perf gives to the event by which a guest has the LBR,
/// at every privilege level (OS, USR) and enabled (EN). It means nothing to the
/// hardware.
pub const PERF_VIRTUAL_LBR: u64 = 0x1b00 | 1 << 16 | 1 << 17 | 1 << 22;

/// x2APIC: spurious interrupt vector register.
pub const X2APIC_SVR: u32 = 0x80f;
/// x2APIC: local vector table entry of the performance counters.
pub const X2APIC_LVTPC: u32 = 0x834;
/// LVT: deliver as NMI.
pub const LVT_NMI: u64 = 4 << 8;

/// The bit of [`Control`] by which recording is on.
pub const RECORD: u64 = 1 << 0;

/// The register by which recording is switched, and its value for on. 0 is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// DEBUGCTL or LBR_CTL.
    pub msr: u32,
    /// All that is to be recorded, with [`RECORD`].
    pub on: u64,
}

impl Control {
    /// What a legacy facility has, and what does nothing where there is none.
    pub const LEGACY: Self = Self {
        msr: DEBUGCTL,
        on: DEBUGCTL_LBR,
    };

    /// Returns the value for on as it is when recording has stopped.
    pub fn stopped(self) -> u64 {
        self.on & !RECORD
    }
}

/// The geometry of a host's LBR facility.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// PERF_CAPABILITIES.LBR_FMT.
    pub format: u64,
    /// Number of records, the greatest if there are several; of a legacy facility a
    /// power of two.
    pub depth: u32,
}

impl Geometry {
    /// Returns whether the facility is the architectural one.
    pub fn is_architectural(self) -> bool {
        self.format == LBR_FMT_ARCHITECTURAL
    }

    /// Returns whether the format has INFO registers.
    pub fn has_info(self) -> bool {
        matches!(self.format, 5 | 7 | LBR_FMT_ARCHITECTURAL)
    }

    /// Returns the first FROM register.
    pub fn from(self) -> u32 {
        match self.is_architectural() {
            true => LBR_0_FROM,
            false => LBR_FROM,
        }
    }

    /// Returns the first TO register.
    pub fn to(self) -> u32 {
        match self.is_architectural() {
            true => LBR_0_TO,
            false => LBR_TO,
        }
    }

    /// Returns the first INFO register, if there are such.
    pub fn info(self) -> u32 {
        match self.is_architectural() {
            true => LBR_0_INFO,
            false => LBR_INFO,
        }
    }

    /// Returns how recording is switched if the branches that LBR_SELECT would
    /// suppress with this value are not to be recorded. Of a legacy facility LBR_SELECT
    /// itself has the filters.
    pub fn control(self, select: u64) -> Control {
        // For each bit of LBR_SELECT from 0 on, the bit of LBR_CTL that does not suppress.
        const ENABLES: [u32; 9] = [1, 2, 16, 19, 20, 21, 18, 17, 22];
        const EN_CALLSTACK: u64 = 1 << 9;
        if !self.is_architectural() {
            return Control::LEGACY;
        }
        let mut on = LBR_CTL_ON;
        for (bit, enables) in ENABLES.into_iter().enumerate() {
            on &= !((select >> bit & 1) << enables);
        }
        if select & EN_CALLSTACK != 0 {
            on |= LBR_CTL_CALL_STACK;
        }
        Control { msr: LBR_CTL, on }
    }

    /// Returns whether a branch-stack event of the host's records guests' branches too.
    /// VMX switches DEBUGCTL with each VM-entry and VM-exit; LBR_CTL it leaves to the
    /// host if a guest does not have the LBR, as if there were no guest LBR.
    pub fn host_records_guests(self) -> bool {
        self.is_architectural()
    }

    /// Returns the registers beside the records and what switches recording: SELECT and
    /// TOS, or DEPTH and LER.
    fn head_registers(self) -> &'static [u32] {
        match self.is_architectural() {
            true => &[LBR_DEPTH, LER_FROM, LER_TO, LER_INFO],
            false => &[LBR_SELECT, LBR_TOS],
        }
    }

    /// Returns all LBR registers but the one that switches recording.
    pub fn registers(self) -> Vec<u32> {
        let mut all = self.head_registers().to_vec();
        all.extend(self.record_registers());
        all
    }

    /// Returns the registers whose accesses cause no exit while the guest has the LBR.
    pub fn passed_through(self) -> Vec<u32> {
        let mut all = self.registers();
        if self.is_architectural() {
            all.push(LBR_CTL);
        }
        all
    }

    /// Returns the registers of the records: all FROM, all TO, all INFO.
    pub fn record_registers(self) -> Vec<u32> {
        let mut bases = vec![self.from(), self.to()];
        if self.has_info() {
            bases.push(self.info());
        }
        bases
            .into_iter()
            .flat_map(|base| base..base + self.depth)
            .collect()
    }

    /// Returns a value other than 0 for a register, `value` if it takes such, that
    /// switches no recording on.
    pub fn legal(self, register: u32, value: u64) -> u64 {
        match register {
            LBR_CTL => LBR_CTL_USR,
            LBR_DEPTH => self.depth.into(),
            _ => value,
        }
    }

    /// Returns the address in a FROM or TO register without the flags that
    /// some formats keep in its upper bits.
    pub fn address(self, raw: u64) -> u64 {
        match self.format {
            3 | 4 | 6 => raw & ((1 << 48) - 1),
            _ => raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LBR: Geometry = Geometry {
        format: 5,
        depth: 32,
    };
    const ARCHITECTURAL: Geometry = Geometry {
        format: LBR_FMT_ARCHITECTURAL,
        depth: 32,
    };

    #[test]
    fn registers_are_numbered_as_in_the_manual() {
        let all = LBR.registers();
        assert_eq!(all.len(), 2 + 3 * 32);
        assert_eq!(all[..3], [0x1c8, 0x1c9, 0x680]);
        assert_eq!(all[33..35], [0x69f, 0x6c0]);
        assert_eq!(all[65..67], [0x6df, 0xdc0]);
        assert_eq!(all.last(), Some(&0xddf));

        let all = ARCHITECTURAL.registers();
        assert_eq!(all.len(), 4 + 3 * 32);
        assert_eq!(all[..5], [0x14cf, 0x1dd, 0x1de, 0x1e0, 0x1500]);
        assert_eq!(all[35..37], [0x151f, 0x1600]);
        assert_eq!(all[67..69], [0x161f, 0x1200]);
        assert_eq!(all.last(), Some(&0x121f));
    }

    #[test]
    fn filters_suppress_the_same_in_both_facilities() {
        for select in [0, 1, 1 << 6, 1 << 9 | 0x1c4] {
            assert_eq!(LBR.control(select), Control::LEGACY);
        }
        let on = |select| ARCHITECTURAL.control(select).on;
        assert_eq!(ARCHITECTURAL.control(0).msr, 0x14ce);
        assert_eq!(on(0), 0x7f_0007);
        assert_eq!(LBR_CTL_ON, on(0));
        assert_eq!(ARCHITECTURAL.control(0).stopped(), 0x7f_0006);
        for (bit, enables) in [
            (0, LBR_CTL_OS),
            (1, LBR_CTL_USR),
            (2, 1 << 16),
            (3, 1 << 19),
            (4, 1 << 20),
            (5, 1 << 21),
            (6, 1 << 18),
            (7, 1 << 17),
            (8, 1 << 22),
        ] {
            assert_eq!(on(1 << bit), 0x7f_0007 & !enables, "bit {bit}");
        }
        assert_eq!(on(1 << 9), 0x7f_000f);
    }

    #[test]
    fn flags_are_no_part_of_an_address() {
        let flags = Geometry {
            format: 4,
            depth: 16,
        };
        assert_eq!(flags.address(0x8000_1234_5678_9abc), 0x1234_5678_9abc);
        for lbr in [LBR, ARCHITECTURAL] {
            assert_eq!(lbr.address(0x8000_1234_5678_9abc), 0x8000_1234_5678_9abc);
            assert!(lbr.has_info());
        }
        assert!(!flags.has_info());
    }
}
