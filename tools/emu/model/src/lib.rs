// SPDX-License-Identifier: GPL-2.0-only
//! The performance monitoring and last branch record facilities of one
//! logical CPU, as the Intel SDM describes them.
//!
//! The model knows nothing of the emulator that drives it nor of the software
//! that runs on it.  [`cpu::LogicalCpu`] is the whole; the emulator calls it
//! through [`ffi`], whose C side is `include/emu_model.h`.

pub mod branch;
pub mod cache;
pub mod counters;
pub mod cpu;
pub mod cpuid;
pub mod debugctl;
pub mod events;
pub mod feedback;
pub mod ffi;
pub mod lbr;
pub mod machine;
pub mod msr;
pub mod pmu;
pub mod predict;
pub mod random;
pub mod time;
