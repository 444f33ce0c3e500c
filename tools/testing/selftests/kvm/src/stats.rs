// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vCPU's counters, from KVM's binary statistics (KVM_GET_STATS_FD; the format
//! is described in the kernel's KVM API document).

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Offset of a descriptor's name.
const NAME: usize = 16;

/// The counters by which tests tell exits that the guest caused from others.
#[derive(Debug)]
pub struct Stats {
    file: File,
    exits: u64,
    irq_exits: u64,
}

impl Stats {
    pub(crate) fn open(vcpu: RawFd) -> Result<Self> {
        // SAFETY: The ioctl takes no argument and touches no memory of ours.
        let fd = unsafe { libc::ioctl(vcpu, KVM_GET_STATS_FD) };
        ensure!(
            fd >= 0,
            "KVM_GET_STATS_FD: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: The descriptor was just made for us and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut stats = Self {
            file,
            exits: 0,
            irq_exits: 0,
        };
        stats.exits = stats.find("exits")?;
        stats.irq_exits = stats.find("irq_exits")?;
        Ok(stats)
    }

    fn word(&self, offset: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Returns where in the file a counter's value is.
    fn find(&self, name: &str) -> Result<u64> {
        // struct kvm_stats_header: flags, name_size, num_desc, id_offset,
        // desc_offset, data_offset.
        let name_size = self.word(4)? as usize;
        let (count, descriptors, data) = (self.word(8)?, self.word(16)?, self.word(20)?);
        let size = NAME + name_size;
        let mut descriptor = vec![0; size];
        for index in 0..u64::from(count) {
            let at = u64::from(descriptors) + index * size as u64;
            self.file.read_exact_at(&mut descriptor, at)?;
            if descriptor[NAME..].split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                // struct kvm_stats_desc: flags, exponent and size, offset,
                // bucket_size, name.
                return Ok(u64::from(data) + u64::from(self.word(at + 8)?));
            }
        }
        anyhow::bail!("KVM has no vCPU statistic named {name}")
    }

    fn value(&self, offset: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, offset)
            .context("vCPU statistics")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Returns how often the guest exited by what it did itself, i.e. without
    /// the exits by host interrupts.
    pub fn synchronous_exits(&self) -> Result<u64> {
        Ok(self.value(self.exits)? - self.value(self.irq_exits)?)
    }
}
