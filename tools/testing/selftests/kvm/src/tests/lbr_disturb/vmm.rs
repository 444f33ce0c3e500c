// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Another VMM, in a process of its own, that is killed at a random moment.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{move_to, Host};
use kvm_selftests::vm::Vm;
use nix::unistd::{getppid, Pid};

use super::facility::{Colour, Facility};

/// The colour of its vCPU.
const COLOUR: Colour = Colour::new(4);
/// How long it sleeps between runs of its guest.
const PAUSE: Duration = Duration::from_millis(2);
/// Its name as a command of this program.
const NAME: &str = "lbr_disturb_vmm";

/// The process.
#[derive(Debug)]
pub(super) struct Vmm(Child);

impl Vmm {
    /// Starts it on these CPUs.
    pub(super) fn start(cpus: &[usize]) -> Result<Self> {
        let child = Process::new("/proc/self/exe")
            .arg(NAME)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("another VMM cannot be started")?;
        let vmm = Self(child);
        move_to(Pid::from_raw(vmm.0.id() as i32), cpus)?;
        Ok(vmm)
    }

    /// Kills it; fails if it had ended before, as it does if its guest sees what it must
    /// not.
    pub(super) fn kill(mut self) -> Result<()> {
        self.0.kill().context("the other VMM cannot be killed")?;
        let status = self.0.wait()?;
        let mut said = String::new();
        if let Some(output) = &mut self.0.stdout {
            output.read_to_string(&mut said)?;
        }
        ensure!(
            status.signal() == Some(libc::SIGKILL),
            "the other VMM ended by itself: {}",
            said.trim()
        );
        Ok(())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It has ended already, or the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the process does: its guest records and looks at its records until it is killed.
pub(crate) fn run() -> Result<()> {
    let parent = getppid();
    let result = record(parent);
    if let Err(error) = &result {
        println!("{error:#}");
    }
    result
}

fn record(parent: Pid) -> Result<()> {
    let host = Host::probe(None, std::path::Path::new(""))?;
    let facility = Facility::of(&host)?;
    let vm = Vm::at(&host, COLOUR.base())?;
    let mut vcpu = vm.vcpu(0)?;
    let control = facility.control;
    let mut commands = vec![
        Command::Wrmsr(control.msr, control.on),
        Command::Call(Symbol::Spin, 500),
        Command::Wrmsr(control.msr, 0),
    ];
    let setup = commands.len();
    commands.extend(facility.registers.iter().map(|r| Command::Rdmsr(r.msr)));
    while getppid() == parent {
        let outcomes = vcpu.run(&commands)?.split_off(setup);
        for (register, outcome) in facility.registers.iter().zip(outcomes) {
            let value = outcome?;
            ensure!(
                value == 0 || register.may_record(value, COLOUR),
                "the other VMM's guest reads MSR {:#x} as {value:#x}",
                register.msr
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
