// SPDX-License-Identifier: GPL-2.0-only
//! The performance monitoring and last branch record facilities of one
//! logical CPU, as the Intel SDM describes them.
//!
//! The model knows nothing of the emulator that drives it nor of the software
//! that runs on it.

pub mod machine;
