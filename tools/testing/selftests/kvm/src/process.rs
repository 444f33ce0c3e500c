// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A process that shares this one's memory for a while, as KVM wants it of whoever runs
//! a vCPU.

use anyhow::{bail, Context, Result};
use nix::sched::{clone, CloneFlags};
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{execv, Pid};

/// Bytes of the process's stack.
const STACK: usize = 1 << 18;

/// What the process does when it has done its job.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// It ends.
    Exit,
    /// It runs another program, which keeps its CPU busy.
    Exec,
}

/// A process that does not share memory any more. It is killed at the end.
#[derive(Debug)]
pub struct Child(Pid);

impl Child {
    /// Has a process do a job, while this one waits, until it ends or runs another
    /// program; returns what came of the job.
    pub fn run<T>(ending: Ending, job: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let mut stack = vec![0; STACK];
        let mut result = None;
        let mut job = Some(job);
        let child = Box::new(|| {
            result = job.take().map(|job| job());
            if let Ending::Exec = ending {
                let program = [c"sh", c"-c", c"while :; do :; done"];
                let _ = execv(c"/bin/sh", &program);
                // The program is missing: not what was asked for.
                result = None;
            }
            0
        });
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: This thread, whose memory the closure uses, stands still until the
        // process is done with it, and the stack is larger than any job needs.
        let child = unsafe { clone(child, &mut stack, flags, Some(libc::SIGCHLD)) };
        let child = Self(child.context("clone")?);
        match result {
            Some(result) => Ok((child, result?)),
            None => bail!("the process did not do its job"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended, which is no fault.
        let _ = kill(self.0, Signal::SIGKILL);
        if let Err(error) = waitpid(self.0, None) {
            eprintln!("# process {} stays: {error}", self.0);
        }
    }
}
