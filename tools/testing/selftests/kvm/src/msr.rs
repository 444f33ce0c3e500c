// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The registers of the legacy LBR facility and of perfmon, as the manual
//! (SDM vol. 3, chapters on debug, last branch and performance monitoring, and
//! vol. 4) names them.

use std::fmt;

use anyhow::{bail, Result};

/// IA32_PERF_CAPABILITIES.
pub const PERF_CAPABILITIES: u32 = 0x345;
/// Its LBR_FMT field: the format of the records, 0 if there are none.
pub const LBR_FMT: u64 = 0x3f;

/// IA32_PERF_CAPABILITIES.FW_WRITES: counters can be written in full width.
pub const PERF_CAP_FW_WRITES: u64 = 1 << 13;

/// IA32_DEBUGCTL.
pub const DEBUGCTL: u32 = 0x1d9;
/// DEBUGCTL: record branches.
pub const DEBUGCTL_LBR: u64 = 1 << 0;
/// DEBUGCTL: stop recording when a PMI is requested.
pub const DEBUGCTL_FREEZE_LBRS_ON_PMI: u64 = 1 << 11;

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

/// IA32_PMC0.
pub const PMC0: u32 = 0xc1;
/// IA32_PERFEVTSEL0.
pub const PERFEVTSEL0: u32 = 0x186;
/// IA32_PERF_GLOBAL_CTRL.
pub const GLOBAL_CTRL: u32 = 0x38f;
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

/// The geometry of a host's LBR facility.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// PERF_CAPABILITIES.LBR_FMT.
    pub format: u64,
    /// Number of records, a power of two.
    pub depth: u32,
}

impl Geometry {
    /// Returns whether the format has LBR_INFO registers.
    pub fn has_info(self) -> bool {
        matches!(self.format, 5 | 7)
    }

    /// Returns all LBR registers: SELECT, TOS, and the records.
    pub fn registers(self) -> Vec<u32> {
        let mut all = vec![LBR_SELECT, LBR_TOS];
        all.extend(self.record_registers());
        all
    }

    /// Returns the registers of the records: all FROM, all TO, all INFO.
    pub fn record_registers(self) -> Vec<u32> {
        let mut bases = vec![LBR_FROM, LBR_TO];
        if self.has_info() {
            bases.push(LBR_INFO);
        }
        bases
            .into_iter()
            .flat_map(|base| base..base + self.depth)
            .collect()
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

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Address of the branch instruction.
    pub from: u64,
    /// Address of its target.
    pub to: u64,
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} -> {:#x}", self.from, self.to)
    }
}

/// All LBR registers of a vCPU at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// LBR_SELECT.
    pub select: u64,
    /// LBR_TOS.
    pub tos: u64,
    /// The records' registers in the order of [`Geometry::record_registers`].
    pub records: Vec<u64>,
}

impl Snapshot {
    /// Makes a snapshot of the values of [`Geometry::registers`].
    pub fn new(values: &[u64]) -> Option<Self> {
        let [select, tos, records @ ..] = values else {
            return None;
        };
        Some(Self {
            select: *select,
            tos: *tos,
            records: records.to_vec(),
        })
    }

    /// Returns the state of a new vCPU.
    pub fn empty(lbr: Geometry) -> Self {
        Self {
            select: 0,
            tos: 0,
            records: vec![0; lbr.record_registers().len()],
        }
    }

    /// Returns legal values that differ from register to register and from seed
    /// to seed, with empty registers between others.
    pub fn pattern(lbr: Geometry, seed: u64) -> Self {
        let depth = u64::from(lbr.depth);
        let value = |number: u64| match number / depth {
            _ if (number + seed).is_multiple_of(3) => 0,
            0 | 1 => 0x7f12_0000_0000 | seed << 24 | number << 4,
            _ => 1 << 63 | seed << 8 | number,
        };
        let count = lbr.record_registers().len() as u64;
        Self {
            select: 0x1c4 ^ seed,
            tos: (7 + seed) & (depth - 1),
            records: (0..count).map(value).collect(),
        }
    }

    /// Returns the values in the order of [`Geometry::registers`].
    pub fn values(&self) -> Vec<u64> {
        let mut all = vec![self.select, self.tos];
        all.extend(&self.records);
        all
    }

    /// Returns the records from the newest to the oldest, empty ones included.
    pub fn branches(&self, lbr: Geometry) -> Vec<Branch> {
        let depth = u64::from(lbr.depth);
        let depth_index = lbr.depth as usize;
        (0..depth)
            .map(|age| (self.tos.wrapping_sub(age) & (depth - 1)) as usize)
            .map(|index| Branch {
                from: lbr.address(self.records[index]),
                to: lbr.address(self.records[depth_index + index]),
            })
            .collect()
    }

    /// Fails unless `later` holds the same, bit for bit.
    pub fn expect_same(&self, later: &Self, lbr: Geometry) -> Result<()> {
        let (was, is) = (self.values(), later.values());
        let differ: Vec<_> = lbr
            .registers()
            .into_iter()
            .zip(was.into_iter().zip(is))
            .filter(|(_, (was, is))| was != is)
            .collect();
        if let Some((msr, (was, is))) = differ.first() {
            bail!(
                "MSR {msr:#x} is {is:#x}, not {was:#x} ({} registers differ)",
                differ.len()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LBR: Geometry = Geometry {
        format: 5,
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
    }

    #[test]
    fn branches_are_read_from_the_newest_backwards() {
        let mut snapshot = Snapshot::empty(LBR);
        snapshot.tos = 1;
        for (index, value) in [(0, 10), (1, 11), (31, 9), (32, 20), (33, 21), (63, 19)] {
            snapshot.records[index] = value;
        }
        let newest: Vec<_> = snapshot.branches(LBR).into_iter().take(4).collect();
        let expected = [(11, 21), (10, 20), (9, 19), (0, 0)];
        assert_eq!(newest, expected.map(|(from, to)| Branch { from, to }));
    }

    #[test]
    fn flags_are_no_part_of_an_address() {
        let flags = Geometry {
            format: 4,
            depth: 16,
        };
        assert_eq!(flags.address(0x8000_1234_5678_9abc), 0x1234_5678_9abc);
        assert_eq!(LBR.address(0x8000_1234_5678_9abc), 0x8000_1234_5678_9abc);
        assert!(!flags.has_info());
    }

    #[test]
    fn any_register_that_differs_is_found() {
        let was = Snapshot::pattern(LBR, 1);
        was.expect_same(&was.clone(), LBR).unwrap();
        for index in 0..was.values().len() {
            let mut values = was.values();
            values[index] ^= 1;
            let is = Snapshot::new(&values).unwrap();
            let error = was.expect_same(&is, LBR).unwrap_err().to_string();
            let name = format!("MSR {:#x} is", LBR.registers()[index]);
            assert!(error.starts_with(&name), "{error}");
        }
    }

    #[test]
    fn patterns_are_legal_and_have_holes() {
        for seed in 0..8 {
            let pattern = Snapshot::pattern(LBR, seed);
            assert!(pattern.select < 1 << 10 && pattern.tos < 32);
            assert_ne!(pattern, Snapshot::pattern(LBR, seed + 1));
            let (addresses, info) = pattern.records.split_at(64);
            assert!(addresses.iter().all(|address| address >> 47 == 0));
            assert!(info.iter().all(|info| info & !(1 << 63 | 0xffff) == 0));
            for sort in pattern.records.chunks(32) {
                assert!(sort.contains(&0) && sort.iter().any(|value| *value != 0));
            }
        }
    }
}
