// SPDX-License-Identifier: GPL-2.0-only
//! Makes a boot medium: a CD with isolinux, a kernel and an initramfs in parts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const LDLINUX: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";

/// Writes `iso`, which boots `kernel` with the concatenated `initramfs` archives
/// and the kernel command line `append`.
///
/// # Errors
///
/// If a tool is missing or fails, with its message.
pub fn build(iso: &Path, kernel: &Path, initramfs: &[PathBuf], append: &str) -> Result<()> {
    for file in [ISOLINUX, LDLINUX] {
        if !Path::new(file).exists() {
            bail!("{file} is missing; run `make setup`");
        }
    }
    let config = iso.with_extension("cfg");
    let names: Vec<_> = (0..initramfs.len()).map(|i| format!("/p{i}.cpi")).collect();
    std::fs::write(
        &config,
        format!(
            "default lab\nlabel lab\nkernel /kernel\nappend initrd={} {append}\n",
            names.join(",")
        ),
    )
    .with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new("xorriso");
    command
        .args(["-as", "mkisofs", "-quiet", "-o"])
        .arg(iso)
        .args(["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table", "-graft-points"])
        .arg(format!("isolinux.bin={ISOLINUX}"))
        .arg(format!("ldlinux.c32={LDLINUX}"))
        .arg(format!("isolinux.cfg={}", config.display()))
        .arg(format!("kernel={}", kernel.display()));
    for (name, path) in names.iter().zip(initramfs) {
        command.arg(format!(
            "{}={}",
            name.trim_start_matches('/'),
            path.display()
        ));
    }
    let output = command
        .output()
        .context("xorriso does not run; run `make setup`")?;
    if !output.status.success() {
        bail!(
            "xorriso: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
