// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tests, one file each.

use anyhow::Result;
use kvm_selftests::ktap::Suite;

mod answers;
mod harness;
mod lbr_arch;
mod lbr_debug;
mod lbr_disturb;
mod lbr_filter;
mod lbr_freeze;
mod lbr_host_debugctl;
mod lbr_host_events;
mod lbr_isolation;
mod lbr_leak;
mod lbr_migration;
mod lbr_msrs;
mod lbr_nested;
mod lbr_passthrough;
mod lbr_reclaim;
mod lbr_release;
mod lbr_state_order;
mod lbr_suspend;
mod lbr_threads;
mod lbr_unload;
#[cfg(test)]
mod rules;

/// What the program can do under a name.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Run the cases.
    Test(fn() -> Suite),
    /// Print something.
    Print(fn() -> Result<()>),
}

/// All names.
pub(crate) const ALL: &[(&str, Action)] = &[
    ("harness", Action::Test(harness::suite)),
    ("lbr_msrs", Action::Test(lbr_msrs::suite)),
    ("lbr_arch", Action::Test(lbr_arch::suite)),
    ("lbr_passthrough", Action::Test(lbr_passthrough::suite)),
    ("lbr_freeze", Action::Test(lbr_freeze::suite)),
    ("lbr_filter", Action::Test(lbr_filter::suite)),
    ("lbr_threads", Action::Test(lbr_threads::suite)),
    ("lbr_suspend", Action::Test(lbr_suspend::suite)),
    ("lbr_reclaim", Action::Test(lbr_reclaim::suite)),
    ("lbr_release", Action::Test(lbr_release::suite)),
    ("lbr_isolation", Action::Test(lbr_isolation::suite)),
    ("lbr_debug", Action::Test(lbr_debug::suite)),
    ("lbr_state_order", Action::Test(lbr_state_order::suite)),
    ("lbr_migration", Action::Test(lbr_migration::suite)),
    ("lbr_nested", Action::Test(lbr_nested::suite)),
    ("lbr_leak", Action::Test(lbr_leak::suite)),
    ("lbr_host_events", Action::Test(lbr_host_events::suite)),
    ("lbr_host_debugctl", Action::Test(lbr_host_debugctl::suite)),
    ("lbr_disturb", Action::Test(lbr_disturb::suite)),
    ("lbr_disturb_vmm", Action::Print(lbr_disturb::vmm)),
    ("lbr_unload", Action::Test(lbr_unload::suite)),
    ("answers", Action::Print(answers::print)),
    ("bench", Action::Print(crate::bench::print)),
];
