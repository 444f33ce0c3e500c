// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Allocations that the kernel fails on purpose (fault injection, failslab), on
//! kernels that can.

use std::fs;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;

/// The number of the calling thread's allocation that fails; it is 0 when that has
/// happened.
const NTH: &str = "/proc/thread-self/fail-nth";
const FAILSLAB: &str = "/sys/kernel/debug/failslab";
/// Where the slab caches are, and the beginnings of the names of those of which an
/// allocation may fail: the kernel, KVM, perf and the module ask for them. Smaller ones
/// are what vmalloc() and the kernel's checkers need, which tell the log of each failure.
const SLAB: &str = "/sys/kernel/slab";
const CACHES: [&str; 9] = [
    "kmalloc-192",
    "kmalloc-256",
    "kmalloc-512",
    "kmalloc-1k",
    "kmalloc-2k",
    "kmalloc-4k",
    "kvm_",
    "perf_event",
    "x86_emulator",
];

/// Proof that the kernel can fail allocations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults(());

/// An allocation of the calling thread's is to fail, for as long as this lives.
pub(super) struct Armed(());

impl Faults {
    /// Prepares the kernel, if it can fail allocations.
    pub(super) fn probe() -> Result<Option<Self>> {
        if fs::metadata(NTH).is_err() || fs::metadata(FAILSLAB).is_err() {
            return Ok(None);
        }
        // Those that may sleep, too, without a stack trace in the log, of these caches.
        for (name, value) in [
            ("ignore-gfp-wait", "N"),
            ("verbose", "0"),
            ("cache-filter", "Y"),
        ] {
            let path = format!("{FAILSLAB}/{name}");
            fs::write(&path, value).with_context(|| path)?;
        }
        for cache in fs::read_dir(SLAB).context(SLAB)? {
            let cache = cache?;
            let name = cache.file_name();
            let name = name.to_string_lossy();
            if CACHES.iter().any(|ours| name.starts_with(ours)) {
                // A cache that shares another's memory may have none of its own.
                let _ = fs::write(cache.path().join("failslab"), "1");
            }
        }
        Ok(Some(Self(())))
    }

    /// Has the calling thread's allocation of this number, from 1, fail.
    pub(super) fn arm(self, nth: u32) -> Result<Armed> {
        fs::write(NTH, nth.to_string()).context(NTH)?;
        Ok(Armed(()))
    }

    /// Fails unless an error says that there was no memory.
    pub(super) fn expect_refusal(error: &anyhow::Error) -> Result<()> {
        let errno = error.chain().find_map(|cause| {
            cause
                .downcast_ref::<kvm_ioctls::Error>()
                .map(|error| Errno::from_raw(error.errno()))
        });
        ensure!(
            errno == Some(Errno::ENOMEM),
            "an allocation failed, and the kernel said: {error:#}"
        );
        Ok(())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // The thread may be about to end.
        let _ = fs::write(NTH, "0");
    }
}
