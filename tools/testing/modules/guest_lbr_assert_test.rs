// SPDX-License-Identifier: GPL-2.0-only
//! Asserts what is wrong at insmod, so that Rust's debug assertions are seen to find it.

use core::hint::black_box;
use kernel::prelude::*;

module! {
    type: AssertTest,
    name: "guest_lbr_assert_test",
    license: "GPL",
}

struct AssertTest;

impl kernel::Module for AssertTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        debug_assert!(black_box(false));
        Ok(Self)
    }
}
