// SPDX-License-Identifier: GPL-2.0-only
//! Puts together what runs in the emulated host.
//!
//! The initramfs is a row of archives: the base with kernel modules, one for each
//! part that the suite needs, and one with the suite itself.  Each but the last is
//! kept in the cache under a hash of what went in.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cpio::Archive;
use crate::places::{Kernel, Places};
use crate::suite::Part;

pub(crate) const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// QEMU's files beside the binary, found in the first directory that has them.
const FIRMWARE: &[&str] = &[
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "multiboot_dma.bin",
    "pvh.bin",
];
const FIRMWARE_DIRECTORIES: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];

/// What perf's tests run beyond busybox, with the packages; those that busybox has
/// too are here because a test wants them dynamic.
const PERF_TEST_PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/bash", "bash"),
    ("/usr/bin/getconf", "libc-bin"),
    ("/usr/bin/grep", "grep"),
    ("/usr/bin/mktemp", "coreutils"),
    ("/usr/bin/objdump", "binutils"),
    ("/usr/bin/perl", "perl-base"),
    (PYTHON, "python3"),
    ("/usr/bin/readelf", "binutils"),
    ("/usr/bin/sleep", "coreutils"),
    ("/usr/bin/taskset", "util-linux"),
    ("/usr/bin/xz", "xz-utils"),
];

const PYTHON: &str = "/usr/bin/python3";
/// What perf's tests import, and the encodings of their files.
const PYTHON_MODULES: &str = "__future__, argparse, configparser, csv, encodings.ascii, \
     encodings.latin_1, glob, json.tool, logging, optparse, pathlib, platform, runpy, \
     shutil, subprocess, sys, tempfile";

/// One file to pack: from the build machine, to the initramfs.
type Source = (PathBuf, String);

/// What is in the archive that is not cached.
pub struct Job<'a> {
    /// `suite` or `shell`.
    pub mode: &'a str,
    /// The script to run, if any.
    pub script: Option<&'a [u8]>,
    /// Shell variables for it.
    pub variables: &'a [(String, String)],
}

/// Makes or finds all archives for a boot of the kernel named `kernel` with `parts`;
/// the last one is written to `scratch`.
///
/// # Errors
///
/// If something that is needed is missing.
pub fn build(
    places: &Places,
    kernel: &str,
    parts: &[Part],
    job: &Job<'_>,
    scratch: &Path,
) -> Result<Vec<PathBuf>> {
    let mut archives = vec![cached(
        places,
        "base",
        &base(places, &places.kernel(kernel)?)?,
    )?];
    for part in parts {
        let (name, sources) = match part {
            Part::Module => {
                let to = "lib/modules/guest_lbr.ko".to_owned();
                ("module", vec![(places.module(kernel)?, to)])
            }
            Part::Selftests => {
                let folder = places.selftests(kernel)?;
                ("selftests", programs(&folder, "selftests")?)
            }
            Part::KvmSelftests => {
                let folder = places.kvm_selftests()?;
                ("kvm-selftests", programs(&folder, "kvm-selftests")?)
            }
            Part::PerfTests => ("perf-tests", perf_tests(&places.perf()?)?),
            Part::Perf => {
                let mut sources = programs(&places.perf()?, "bin")?;
                let profile = places.top.join("tools/lab/initramfs/profile");
                sources.push((profile, "bin/profile".into()));
                ("perf", sources)
            }
            Part::Qemu => ("qemu", qemu(places, &places.guest_kernel(kernel)?)?),
        };
        archives.push(cached(places, name, &sources)?);
    }
    let last = scratch.join("job.cpio");
    write_job(&last, job)?;
    archives.push(last);
    Ok(archives)
}

fn base(places: &Places, kernel: &Kernel) -> Result<Vec<Source>> {
    if !Path::new(BUSYBOX).exists() || linked(Path::new(BUSYBOX))?.is_some() {
        bail!("{BUSYBOX} is missing or not static; run `make setup` (package busybox-static)");
    }
    let mut sources = vec![(BUSYBOX.into(), "bin/busybox".into())];
    for file in ["init", "lib.sh", "guest.sh"] {
        let path = places.top.join("tools/lab/initramfs").join(file);
        let to = if file == "init" {
            file.into()
        } else {
            format!("lab/{file}")
        };
        sources.push((path, to));
    }
    for module in [
        "virt/lib/irqbypass.ko",
        "arch/x86/kvm/kvm.ko",
        "arch/x86/kvm/kvm-intel.ko",
    ] {
        let path = kernel.module(module)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sources.push((path.clone(), format!("lib/modules/{name}")));
    }
    Ok(sources)
}

/// All executable files of a folder; each must be static.
fn programs(folder: &Path, to: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path().canonicalize()?;
        let metadata = fs::metadata(&path)?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            continue;
        }
        if linked(&path)?.is_some() {
            bail!("{} is not static; link it statically", path.display());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sources.push((path.clone(), format!("{to}/{name}")));
    }
    if sources.is_empty() {
        bail!("{} holds no program; run `make clients`", folder.display());
    }
    sources.sort();
    Ok(sources)
}

/// A program of the build machine with its libraries.
fn with_libraries(program: &str, package: &str) -> Result<Vec<Source>> {
    let path = Path::new(program);
    let Some(linked) = linked(path).ok().flatten() else {
        bail!("{program} is missing; run `make setup` (package {package})");
    };
    let mut sources = vec![(path.canonicalize()?, program.to_owned())];
    sources.extend(libraries(linked)?);
    Ok(sources)
}

/// Each library, to the place where its users look for it.
fn libraries(paths: Vec<PathBuf>) -> Result<Vec<Source>> {
    let source = |path: PathBuf| Ok((path.canonicalize()?, path.to_string_lossy().into_owned()));
    paths.into_iter().map(source).collect()
}

/// The files of [`PYTHON_MODULES`] and of all that those import.
fn python_modules() -> Result<Vec<Source>> {
    let program = format!(
        "import {PYTHON_MODULES}\n\
         for module in list(sys.modules.values()):\n    \
             if getattr(module, '__file__', None):\n        print(module.__file__)"
    );
    let output = Command::new(PYTHON)
        .args(["-I", "-c", &program])
        .output()
        .with_context(|| format!("{PYTHON} does not run"))?;
    if !output.status.success() {
        bail!(
            "{PYTHON}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut sources = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        sources.push((path.into(), path.to_owned()));
        if path.ends_with(".so") {
            sources.extend(libraries(linked(Path::new(path))?.unwrap_or_default())?);
        }
    }
    Ok(sources)
}

/// perf's own tests, and the shell that they are written for.
fn perf_tests(perf: &Path) -> Result<Vec<Source>> {
    let folder = perf.join("tests");
    let mut sources = Vec::new();
    for (program, package) in PERF_TEST_PROGRAMS {
        sources.extend(with_libraries(program, package)?);
    }
    sources.push(("/usr/bin/bash".into(), "bin/bash".into()));
    sources.extend(python_modules()?);
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let to = path.strip_prefix(&folder)?;
                let to = format!("perf-tests/{}", to.display());
                sources.push((path, to));
            }
        }
    }
    sources.sort();
    // Libraries that two programs share.
    sources.dedup();
    Ok(sources)
}

fn qemu(places: &Places, kernel: &Kernel) -> Result<Vec<Source>> {
    let mut sources = with_libraries(QEMU, "qemu-system-x86")?;
    for name in FIRMWARE {
        let Some(path) = FIRMWARE_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|path| path.exists())
        else {
            bail!("QEMU's {name} is missing; run `make setup` (packages qemu-system-x86, seabios)");
        };
        sources.push((path.canonicalize()?, format!("usr/share/qemu/{name}")));
    }
    sources.push((kernel.image.clone(), "guest/bzImage".into()));
    let init = places.top.join("tools/lab/initramfs/guest-init");
    sources.push((init, "guest/root/init".into()));
    Ok(sources)
}

/// The shared libraries of a program, its loader included; `None` if it is
/// static.
fn linked(program: &Path) -> Result<Option<Vec<PathBuf>>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("ldd does not run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = text + &String::from_utf8_lossy(&output.stderr);
    if all.contains("statically linked") || all.contains("not a dynamic executable") {
        return Ok(None);
    }
    if !output.status.success() || all.contains("not found") {
        bail!("ldd {}: {}", program.display(), all.trim());
    }
    let paths = all
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    Ok(Some(paths))
}

fn compress(archive: &Archive, to: &mut impl Write, path: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::new(to);
    archive
        .write(&mut out)
        .and_then(|()| out.flush())
        .with_context(|| format!("writing {}", path.display()))
}

fn cached(places: &Places, name: &str, sources: &[Source]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for (from, to) in sources {
        let metadata =
            fs::metadata(from).with_context(|| format!("{} is missing", from.display()))?;
        (
            from,
            to,
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ino(),
        )
            .hash(&mut hasher);
    }
    let folder = places.cache.join("lab");
    let path = folder.join(format!("{name}-{:016x}.cpio", hasher.finish()));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut archive = Archive::default();
    for (from, to) in sources {
        let mode = fs::metadata(from)?.permissions().mode();
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        archive.file(to, mode & 0o111 != 0, data);
    }
    forget_older(&folder, name);
    // Another lab, or another suite of this one, may do the same at the same time.
    let mut scratch = tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempfile_in(&folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    compress(&archive, &mut scratch, &path)?;
    scratch.persist(&path)?;
    Ok(path)
}

/// Removes archives of this name that were not touched for a week.
fn forget_older(folder: &Path, name: &str) {
    let week = std::time::Duration::from_secs(7 * 24 * 3600);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}-"));
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > week));
        if ours && old {
            // A file that is in use stays readable; one that is gone is gone.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Quotes for the shell.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

fn write_job(path: &Path, job: &Job<'_>) -> Result<()> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "tmp", "root"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.symlink("bin/sh", "busybox");
    let mut variables = format!("LAB_MODE={}\n", quote(job.mode));
    for (name, value) in job.variables {
        variables.push_str(&format!("{name}={}\n", quote(value)));
    }
    archive.file("lab/variables", false, variables.into_bytes());
    if let Some(script) = job.script {
        archive.file("lab/suite", false, script.to_owned());
    }
    let mut file = fs::File::create(path).with_context(|| format!("making {}", path.display()))?;
    compress(&archive, &mut file, path)
}
