// SPDX-License-Identifier: GPL-2.0-only

//! The crate root for host tests; in the kernel module `lbr` is a module.

#![no_std]

#[path = "mod.rs"]
mod lbr;

pub use lbr::*;
