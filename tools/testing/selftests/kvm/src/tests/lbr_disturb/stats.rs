// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What lives consisted of, so that some in which nothing happened are no success.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{ensure, Result};

/// Counts of what there was.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats(BTreeMap<&'static str, u64>);

/// What must not be missing in a thousand steps.
const EXPECTED: &[&str] = &[
    "records exact",
    "records after a gap",
    "exceptions",
    "PMIs",
    "writes refused",
    "accesses denied",
    "filters",
    "restores",
    "events",
    "samples",
    "moves",
    "CPUs offline",
    "VMMs killed",
    "unloads refused",
];

impl Stats {
    /// Counts one of these things.
    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts so many of these things.
    pub(super) fn add(&mut self, what: &'static str, number: u64) {
        *self.0.entry(what).or_default() += number;
    }

    /// Adds those of another life.
    pub(super) fn merge(&mut self, other: &Self) {
        for (what, number) in &other.0 {
            self.add(what, *number);
        }
    }

    /// Fails if something never happened, of these things too.
    pub(super) fn expect_all(&self, these: &[&str]) -> Result<()> {
        let missing: Vec<_> = EXPECTED
            .iter()
            .chain(these)
            .filter(|what| !self.0.contains_key(*what))
            .collect();
        ensure!(missing.is_empty(), "there were no {missing:?}; {self}");
        Ok(())
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self
            .0
            .iter()
            .map(|(what, number)| format!("{what} {number}"))
            .collect();
        f.write_str(&counts.join(", "))
    }
}
