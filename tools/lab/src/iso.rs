// SPDX-License-Identifier: GPL-2.0-only
//! Makes a boot medium: a CD with isolinux and a kernel with its initramfs in
//! parts, or a Multiboot image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const MODULES: &str = "/usr/lib/syslinux/modules/bios";
/// The date of all on the medium: the same input is to be the same bytes.
const DATE: &str = "2023111422132000";

/// Writes `iso`, which boots `kernel` with the concatenated `initramfs` archives
/// and the kernel command line `append`.
///
/// # Errors
///
/// If a tool is missing or fails, with its message.
pub fn build(iso: &Path, kernel: &Path, initramfs: &[PathBuf], append: &str) -> Result<()> {
    let mut files = vec![("kernel".to_owned(), kernel.to_owned())];
    for (n, part) in initramfs.iter().enumerate() {
        files.push((format!("p{n}.cpi"), part.clone()));
    }
    let names: Vec<_> = (0..initramfs.len()).map(|n| format!("/p{n}.cpi")).collect();
    let append = format!("initrd={} {append}", names.join(","));
    master(iso, "/kernel", &append, &files)
}

/// Writes `iso`, which boots the Multiboot `image` with the command line `append`.
///
/// # Errors
///
/// If a tool is missing or fails, with its message.
pub fn multiboot(iso: &Path, image: &Path, append: &str) -> Result<()> {
    let modules = Path::new(MODULES);
    let mut files = vec![("image".to_owned(), image.to_owned())];
    for name in ["mboot.c32", "libcom32.c32"] {
        files.push((name.to_owned(), modules.join(name)));
    }
    master(iso, "/mboot.c32", &format!("/image {append}"), &files)
}

/// A CD with isolinux and `files`, by their names there, that starts `kernel`.
fn master(iso: &Path, kernel: &str, append: &str, files: &[(String, PathBuf)]) -> Result<()> {
    let config = iso.with_extension("cfg");
    std::fs::write(
        &config,
        format!("default lab\nlabel lab\nkernel {kernel}\nappend {append}\n"),
    )
    .with_context(|| format!("writing {}", config.display()))?;
    let ldlinux = Path::new(MODULES).join("ldlinux.c32");
    let own = [
        ("isolinux.bin".to_owned(), PathBuf::from(ISOLINUX)),
        ("ldlinux.c32".to_owned(), ldlinux),
        ("isolinux.cfg".to_owned(), config),
    ];
    let mut command = Command::new("xorriso");
    command
        .args(["-as", "mkisofs", "-quiet", "-o"])
        .arg(iso)
        .arg(format!("--modification-date={DATE}"))
        .args(["--set_all_file_dates", DATE])
        .args(["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table", "-graft-points"]);
    for (name, path) in own.iter().chain(files) {
        if !path.exists() {
            bail!("{} is missing; run `make setup`", path.display());
        }
        command.arg(format!("{name}={}", path.display()));
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_same_input_makes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let media =
            [("a", SystemTime::UNIX_EPOCH), ("b", SystemTime::now())].map(|(name, time)| {
                let folder = folder.path().join(name);
                let (kernel, iso) = (folder.join("image"), folder.join("iso"));
                fs::create_dir(&folder).unwrap();
                fs::write(&kernel, "kernel").unwrap();
                let file = File::options().write(true).open(&kernel).unwrap();
                file.set_modified(time).unwrap();
                build(&iso, &kernel, &[], "quiet").unwrap();
                fs::read(&iso).unwrap()
            });
        assert!(media[0] == media[1], "two media of the same files differ");
    }
}
