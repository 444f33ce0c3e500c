// SPDX-License-Identifier: GPL-2.0-only
//! Boots emulated Intel hosts, runs test suites inside and judges them.
//!
//! From a suite to a verdict: [`suite`] reads its description, [`initramfs`] and
//! [`iso`] make a boot medium, [`bochsrc`] describes the machine to the emulator,
//! [`emulator`] runs it under a limit, [`protocol`] and [`ktap`] read what came
//! out on the serial lines, [`splat`] looks for kernel faults, and [`run`] puts
//! it all together.

pub mod bench;
pub mod bochsrc;
pub mod cargo;
pub mod check;
pub mod checked;
pub mod compare;
pub mod conform;
pub mod costs;
pub mod cpio;
pub mod demo;
pub mod emulator;
pub mod initramfs;
pub mod iso;
pub mod junit;
pub mod kept;
pub mod ktap;
pub mod level;
pub mod mutants;
pub mod outcome;
pub mod places;
pub mod profile;
pub mod protocol;
pub mod run;
pub mod shell;
pub mod splat;
pub mod suite;
pub mod system;
pub mod table;
