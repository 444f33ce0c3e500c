// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is in the LBR registers.

use std::fmt;

use anyhow::{bail, Result};

use super::Geometry;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Address of the branch instruction.
    pub from: u64,
    /// Address of its target.
    pub to: u64,
}

impl Branch {
    /// Returns whether the record is empty.
    pub fn is_empty(&self) -> bool {
        self.from == 0 && self.to == 0
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} -> {:#x}", self.from, self.to)
    }
}

/// The LBR registers of a vCPU at one moment, but the one that switches recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// SELECT and TOS, or DEPTH and LER.
    head: Vec<u64>,
    /// The records' registers in the order of [`Geometry::record_registers`].
    pub records: Vec<u64>,
}

impl Snapshot {
    /// Makes a snapshot of the values of [`Geometry::registers`].
    pub fn new(lbr: Geometry, values: &[u64]) -> Option<Self> {
        let (head, records) = values.split_at_checked(lbr.head_registers().len())?;
        Some(Self {
            head: head.to_vec(),
            records: records.to_vec(),
        })
    }

    /// Returns the state of a new vCPU.
    pub fn empty(lbr: Geometry) -> Self {
        Self {
            head: match lbr.is_architectural() {
                true => vec![lbr.depth.into(), 0, 0, 0],
                false => vec![0, 0],
            },
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
            head: match lbr.is_architectural() {
                true => vec![
                    depth,
                    0x7f13_0000_0000 | seed,
                    0x7f14_0000_0000 | seed,
                    seed,
                ],
                false => vec![0x1c4 ^ seed, (7 + seed) & (depth - 1)],
            },
            records: (0..count).map(value).collect(),
        }
    }

    /// The same with another LBR_SELECT, if there is one.
    pub fn with_select(mut self, lbr: Geometry, select: u64) -> Self {
        if !lbr.is_architectural() {
            self.head[0] = select;
        }
        self
    }

    /// Returns LBR_TOS, if there is one.
    pub fn tos(&self, lbr: Geometry) -> Option<u64> {
        (!lbr.is_architectural()).then(|| self.head[1])
    }

    /// Returns how many branches were recorded since [`crate::vcpu::Vcpu::forget`].
    pub fn recorded(&self, lbr: Geometry) -> u64 {
        let from = &self.records[..lbr.depth as usize];
        let filled = from.iter().filter(|from| **from != 0).count();
        self.tos(lbr).unwrap_or(filled as u64)
    }

    /// Returns the values in the order of [`Geometry::registers`].
    pub fn values(&self) -> Vec<u64> {
        let mut all = self.head.clone();
        all.extend(&self.records);
        all
    }

    /// Returns the records from the newest to the oldest, empty ones included.
    pub fn branches(&self, lbr: Geometry) -> Vec<Branch> {
        let depth = lbr.depth as usize;
        let index = |age: usize| match self.tos(lbr) {
            Some(tos) => (tos as usize).wrapping_sub(age) & (depth - 1),
            None => age,
        };
        (0..depth)
            .map(index)
            .map(|index| Branch {
                from: lbr.address(self.records[index]),
                to: lbr.address(self.records[depth + index]),
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
    use crate::msr::LBR_FMT_ARCHITECTURAL;

    const LBR: Geometry = Geometry {
        format: 5,
        depth: 32,
    };
    const ARCHITECTURAL: Geometry = Geometry {
        format: LBR_FMT_ARCHITECTURAL,
        depth: 32,
    };

    #[test]
    fn branches_are_read_from_the_newest_backwards() {
        let mut snapshot = Snapshot::empty(LBR);
        snapshot.head[1] = 1;
        let values = [(0, 10), (1, 11), (31, 9), (32, 20), (33, 21), (63, 19)];
        for (index, value) in values {
            snapshot.records[index] = value;
        }
        let newest = |snapshot: &Snapshot, lbr| -> Vec<_> {
            let branches = snapshot.branches(lbr).into_iter();
            branches.map(|branch| (branch.from, branch.to)).collect()
        };
        let legacy = newest(&snapshot, LBR);
        assert_eq!(legacy[..4], [(11, 21), (10, 20), (9, 19), (0, 0)]);
        assert_eq!(snapshot.recorded(LBR), 1);

        let mut snapshot = Snapshot::empty(ARCHITECTURAL);
        for (index, value) in values {
            snapshot.records[index] = value;
        }
        let architectural = newest(&snapshot, ARCHITECTURAL);
        assert_eq!(architectural[..3], [(10, 20), (11, 21), (0, 0)]);
        assert_eq!(architectural[31], (9, 19));
        assert_eq!(snapshot.recorded(ARCHITECTURAL), 3);
    }

    #[test]
    fn any_register_that_differs_is_found() {
        for lbr in [LBR, ARCHITECTURAL] {
            let was = Snapshot::pattern(lbr, 1);
            was.expect_same(&was.clone(), lbr).unwrap();
            for index in 0..was.values().len() {
                let mut values = was.values();
                values[index] ^= 1;
                let is = Snapshot::new(lbr, &values).unwrap();
                let error = was.expect_same(&is, lbr).unwrap_err().to_string();
                let name = format!("MSR {:#x} is", lbr.registers()[index]);
                assert!(error.starts_with(&name), "{error}");
            }
        }
    }

    #[test]
    fn patterns_are_legal_and_have_holes() {
        for (lbr, seed) in [LBR, ARCHITECTURAL]
            .into_iter()
            .flat_map(|lbr| (0..8).map(move |seed| (lbr, seed)))
        {
            let pattern = Snapshot::pattern(lbr, seed);
            match pattern.head[..] {
                [select, tos] => assert!(select < 1 << 10 && tos < 32),
                [depth, from, to, info] => {
                    assert_eq!(depth, 32);
                    assert!(from >> 47 == 0 && to >> 47 == 0 && info >> 16 == 0);
                }
                _ => unreachable!(),
            }
            assert_ne!(pattern, Snapshot::pattern(lbr, seed + 1));
            let (addresses, info) = pattern.records.split_at(64);
            assert!(addresses.iter().all(|address| address >> 47 == 0));
            assert!(info.iter().all(|info| info & !(1 << 63 | 0xffff) == 0));
            for sort in pattern.records.chunks(32) {
                assert!(sort.contains(&0) && sort.iter().any(|value| *value != 0));
            }
        }
    }
}
