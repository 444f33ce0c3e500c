// SPDX-License-Identifier: GPL-2.0-only
//! Adds too much at insmod, so that Rust's overflow checks are seen to find it.

use core::hint::black_box;
use kernel::prelude::*;

module! {
    type: OverflowTest,
    name: "guest_lbr_overflow_test",
    license: "GPL",
}

struct OverflowTest;

impl kernel::Module for OverflowTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("{}\n", black_box(u32::MAX) + 1);
        Ok(Self)
    }
}
