// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! guest_lbr.ko: loading and unloading it.

use std::fs::File;

use anyhow::{Context, Result};
use nix::kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags};

use crate::host::{module_loaded, Host};

/// Loads the module; the inner error is the kernel's.
pub fn try_load(host: &Host) -> Result<nix::Result<()>> {
    let file = File::open(&host.module)
        .with_context(|| format!("{} cannot be opened; use --module", host.module.display()))?;
    Ok(finit_module(&file, c"", ModuleInitFlags::empty()))
}

/// Loads the module.
pub fn load(host: &Host) -> Result<()> {
    try_load(host)?.context("loading guest_lbr failed")
}

/// Unloads the module, if it is not in use.
pub fn unload() -> nix::Result<()> {
    delete_module(c"guest_lbr", DeleteModuleFlags::O_NONBLOCK)
}

/// Sees to it that the module is not loaded; fails if that cannot be.
pub fn absent() -> Result<()> {
    if module_loaded() {
        unload().context("guest_lbr is in use; end the VMs of this host first")?;
    }
    Ok(())
}
