// SPDX-License-Identifier: GPL-2.0-only
//! Writes cpio archives of the kind an initramfs is made of (format "newc", see
//! the kernel's buffer-format document of early userspace).

use std::collections::BTreeMap;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;

struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// A tree of files to be written.  Names are absolute, without the leading
/// slash; missing directories are made.
#[derive(Default)]
pub struct Archive {
    // Sorted, so that a directory comes before what is in it.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, name: &str) {
        self.add(name, DIRECTORY, (0, 0), Vec::new());
    }

    /// Adds a file; `executable` gives mode 755, else 644.
    pub fn file(&mut self, name: &str, executable: bool, data: Vec<u8>) {
        let mode = if executable { 0o755 } else { 0o644 };
        self.add(name, REGULAR | mode, (0, 0), data);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.add(name, SYMLINK, (0, 0), target.into());
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.add(name, CHARACTER, (major, minor), Vec::new());
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: Vec<u8>) {
        let name = name.trim_start_matches('/');
        if let Some((parent, _)) = name.rsplit_once('/') {
            if !self.entries.contains_key(parent) {
                self.directory(parent);
            }
        }
        let entry = Entry { mode, device, data };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Writes the archive, its trailer included.
    ///
    /// # Errors
    ///
    /// If `out` cannot be written, or a file is 4 GiB or larger.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (number, (name, entry)) in self.entries.iter().enumerate() {
            write_entry(out, number, name, entry)?;
        }
        let trailer = Entry {
            mode: 0,
            device: (0, 0),
            data: Vec::new(),
        };
        write_entry(out, 0, "TRAILER!!!", &trailer)
    }
}

fn write_entry(out: &mut impl Write, number: usize, name: &str, entry: &Entry) -> io::Result<()> {
    let size = u32::try_from(entry.data.len())
        .map_err(|_| io::Error::other(format!("{name} is too large for an initramfs")))?;
    let (major, minor) = entry.device;
    // Inode, mode, uid, gid, links, mtime, size, device of the file system,
    // device of the node, length of the name with its NUL, checksum.
    write!(
        out,
        "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{:08x}{:08x}",
        number + 1,
        entry.mode,
        0,
        0,
        1,
        0,
        0,
        0,
        name.len() + 1,
        0
    )?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, 110 + name.len() + 1)?;
    out.write_all(&entry.data)?;
    pad(out, entry.data.len())
}

/// Header and data each end at a multiple of 4.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What the system's cpio makes of the archive.
    fn listed(archive: &Archive) -> String {
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut child = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn cpio_reads_what_we_write() {
        let mut archive = Archive::default();
        archive.file("/bin/tool", true, b"12345".to_vec());
        archive.file("etc/conf", false, b"1234567".to_vec());
        archive.symlink("bin/sh", "tool");
        archive.device("dev/console", 5, 1);
        let list = listed(&archive);
        let lines: Vec<_> = list.lines().collect();
        let expected = [
            ("drwxr-xr-x", "bin"),
            ("lrwxrwxrwx", "bin/sh -> tool"),
            ("-rwxr-xr-x", "bin/tool"),
            ("drwxr-xr-x", "dev"),
            ("crw-------", "dev/console"),
            ("drwxr-xr-x", "etc"),
            ("-rw-r--r--", "etc/conf"),
        ];
        assert_eq!(lines.len(), expected.len(), "{list}");
        for (line, (mode, name)) in lines.iter().zip(expected) {
            assert!(line.starts_with(mode) && line.ends_with(name), "{line}");
        }
        assert!(lines[4].contains("5,   1"), "{}", lines[4]);
        assert!(lines[2].contains(" 5 "), "{}", lines[2]);
    }
}
