// SPDX-License-Identifier: GPL-2.0-only
//! Counts, as they are given to people and programs: JSON, described in
//! `Documentation/counters.rst`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::exits;

/// All that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In order of their start.
    pub sections: Vec<Section>,
}

/// What passed in a section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// As whoever started it called it.
    pub name: String,
    /// It was not stopped yet.
    pub running: bool,
    /// In order of their numbers.
    pub cpus: Vec<Cpu>,
}

/// What a logical CPU did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Instructions that retired outside VMX non-root operation.
    pub root_instructions: u64,
    /// Instructions that retired in VMX non-root operation.
    pub guest_instructions: u64,
    /// VM entries that loaded the guest's state.
    pub entries: u64,
    /// By basic reason.
    #[serde(serialize_with = "by_name")]
    pub exits: BTreeMap<u16, Exit>,
    /// VM entries that found their MSR bitmap other than the last one did.
    pub bitmap_changes: u64,
    /// By number.
    #[serde(serialize_with = "by_number")]
    pub msrs: BTreeMap<u32, Msr>,
}

/// VM exits for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// How many.
    pub count: u64,
    /// After how many of them the CPU has entered a guest again.
    pub returns: u64,
    /// Instructions from those to that entry, the entry's included.
    pub instructions: u64,
}

/// Accesses to one register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Msr {
    /// RDMSR outside VMX non-root operation.
    pub root_read: u64,
    /// WRMSR outside VMX non-root operation.
    pub root_write: u64,
    /// RDMSR in VMX non-root operation that did not exit.
    pub guest_read: u64,
    /// WRMSR in VMX non-root operation that did not exit.
    pub guest_write: u64,
    /// RDMSR that exited.
    pub exit_read: u64,
    /// WRMSR that exited.
    pub exit_write: u64,
    /// Stores by VM exits in MSR-store areas.
    pub store: u64,
    /// Loads by VM entries and VM exits from MSR-load areas.
    pub load: u64,
    /// Changes of its bits in MSR bitmaps.
    pub bitmap_flips: u64,
}

impl Cpu {
    /// What came after `start`.
    pub fn since(&self, start: &Self) -> Self {
        Self {
            root_instructions: self.root_instructions - start.root_instructions,
            guest_instructions: self.guest_instructions - start.guest_instructions,
            entries: self.entries - start.entries,
            exits: changed(&self.exits, &start.exits, Exit::since),
            bitmap_changes: self.bitmap_changes - start.bitmap_changes,
            msrs: changed(&self.msrs, &start.msrs, Msr::since),
        }
    }
}

impl Exit {
    fn since(&self, start: &Self) -> Self {
        Self {
            count: self.count - start.count,
            returns: self.returns - start.returns,
            instructions: self.instructions - start.instructions,
        }
    }
}

impl Msr {
    fn since(&self, start: &Self) -> Self {
        Self {
            root_read: self.root_read - start.root_read,
            root_write: self.root_write - start.root_write,
            guest_read: self.guest_read - start.guest_read,
            guest_write: self.guest_write - start.guest_write,
            exit_read: self.exit_read - start.exit_read,
            exit_write: self.exit_write - start.exit_write,
            store: self.store - start.store,
            load: self.load - start.load,
            bitmap_flips: self.bitmap_flips - start.bitmap_flips,
        }
    }
}

/// The entries that are not zero.
fn changed<K: Copy + Ord, V: Copy + Default + PartialEq>(
    now: &BTreeMap<K, V>,
    start: &BTreeMap<K, V>,
    since: fn(&V, &V) -> V,
) -> BTreeMap<K, V> {
    now.iter()
        .map(|(key, value)| {
            let before = start.get(key).copied().unwrap_or_default();
            (*key, since(value, &before))
        })
        .filter(|(_, value)| *value != V::default())
        .collect()
}

fn by_name<S: Serializer>(exits: &BTreeMap<u16, Exit>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(exits.iter().map(|(reason, exit)| {
        let name = exits::name(*reason).map_or_else(|| reason.to_string(), str::to_owned);
        (name, exit)
    }))
}

fn by_number<S: Serializer>(msrs: &BTreeMap<u32, Msr>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(msrs.iter().map(|(index, msr)| (format!("{index:#x}"), msr)))
}
