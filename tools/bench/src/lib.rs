// SPDX-License-Identifier: GPL-2.0-only
//! What guest LBR costs, in executed instructions and VM exits.
//!
//! `kvm-selftests bench` and the suite `bench` do what is to be measured, each operation in
//! a section of the emulator's counters (`Documentation/counters.rst`). Here is what of a
//! section is the operation's cost, and how costs are written down:
//!
//! * `counts`: the counters of a boot;
//! * `operations`: all operations, and what of their sections is theirs;
//! * `figures`: the costs of a boot;
//! * `guard`: figures against those that were accepted;
//! * `page`: tables;
//! * `plot`: pictures.

pub mod counts;
pub mod figures;
pub mod guard;
pub mod operations;
pub mod page;
pub mod plot;
