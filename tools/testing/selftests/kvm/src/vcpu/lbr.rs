// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vCPU's LBR, as the guest and as userspace see it.

use anyhow::{ensure, Context, Result};

use super::{Vcpu, EXIT_NOISE};
use crate::guest::{Command, Symbol, GP};
use crate::msr::{self, Branch, Control, Geometry, Snapshot};

/// Reads all LBR registers that may be passed through, many times.
pub fn many_reads(lbr: Geometry) -> Vec<Command> {
    lbr.passed_through()
        .into_iter()
        .cycle()
        .take(500)
        .map(Command::Rdmsr)
        .collect()
}

impl Vcpu {
    /// Has the guest switch recording in this way from now on.
    pub fn set_control(&mut self, control: Control) -> Result<()> {
        self.control = control;
        self.block.set_control(control)
    }

    /// Has the guest not record the branches that LBR_SELECT suppresses with this value,
    /// from now on.
    pub fn suppress(&mut self, lbr: Geometry, select: u64) -> Result<()> {
        if lbr.is_architectural() {
            return self.set_control(lbr.control(select));
        }
        self.wrmsr(msr::LBR_SELECT, select)??;
        Ok(())
    }

    /// Returns the command that switches recording on.
    pub fn on(&self) -> Command {
        Command::Wrmsr(self.control.msr, self.control.on)
    }

    /// Returns the command that switches recording off.
    pub fn off(&self) -> Command {
        Command::Wrmsr(self.control.msr, 0)
    }

    /// Has the guest switch recording.
    pub fn record(&mut self, on: bool) -> Result<()> {
        self.run_one(if on { self.on() } else { self.off() })??;
        Ok(())
    }

    /// Has the guest forget how much was recorded, see [`Snapshot::recorded`].
    pub fn forget(&mut self, lbr: Geometry) -> Result<()> {
        self.run_one(match lbr.is_architectural() {
            true => Command::Wrmsr(msr::LBR_DEPTH, lbr.depth.into()),
            false => Command::Wrmsr(msr::LBR_TOS, 0),
        })??;
        Ok(())
    }

    /// Has the guest read all LBR registers.
    pub fn guest_snapshot(&mut self, lbr: Geometry) -> Result<Snapshot> {
        let commands: Vec<_> = lbr.registers().into_iter().map(Command::Rdmsr).collect();
        let values: Result<Vec<u64>, _> = self.run(&commands)?.into_iter().collect();
        Snapshot::new(lbr, &values?).context("no LBR registers")
    }

    /// Has the guest write all LBR registers.
    pub fn write_snapshot(&mut self, lbr: Geometry, snapshot: &Snapshot) -> Result<()> {
        let commands: Vec<_> = lbr
            .registers()
            .into_iter()
            .zip(snapshot.values())
            .map(|(msr, value)| Command::Wrmsr(msr, value))
            .collect();
        for outcome in self.run(&commands)? {
            outcome?;
        }
        Ok(())
    }

    /// Reads all LBR registers by KVM_GET_MSRS.
    pub fn host_snapshot(&self, lbr: Geometry) -> Result<Snapshot> {
        let values = self.must_get_msrs(&lbr.registers())?;
        Snapshot::new(lbr, &values).context("no LBR registers")
    }

    /// Writes all LBR registers by KVM_SET_MSRS.
    pub fn set_snapshot(&self, lbr: Geometry, snapshot: &Snapshot) -> Result<()> {
        for (msr, value) in lbr.registers().into_iter().zip(snapshot.values()) {
            self.must_set_msr(msr, value)?;
        }
        Ok(())
    }

    /// Returns what [`Symbol::Jumps`] (or `JumpsOn`) leaves in the records,
    /// newest first, given the address of its first jump.
    pub fn expected_jumps(&self, first: Symbol, lbr: Geometry) -> Vec<Branch> {
        self.block.expected_jumps(first, lbr)
    }

    /// Fails unless reading all LBR registers, many times, causes no exit.
    pub fn expect_passthrough(&mut self, lbr: Geometry) -> Result<()> {
        let exits = self.exits_of(&many_reads(lbr))?;
        ensure!(
            exits <= EXIT_NOISE,
            "{exits} exits by reading LBR registers that should be passed through"
        );
        Ok(())
    }

    /// Fails unless each read of an LBR register causes an exit.
    pub fn expect_intercepted(&mut self, lbr: Geometry) -> Result<()> {
        let commands = many_reads(lbr);
        let exits = self.exits_of(&commands)?;
        ensure!(
            exits >= commands.len() as u64,
            "only {exits} exits by {} reads of LBR registers that should be intercepted",
            commands.len()
        );
        Ok(())
    }

    /// Fails if there is LBR, for the guest or for userspace.
    pub fn expect_no_lbr(&mut self, lbr: Geometry) -> Result<()> {
        for register in lbr.passed_through() {
            let value = lbr.legal(register, 1);
            let read = self.rdmsr(register)?;
            // KVM has these two in all guests, as 0.
            let expected = match register {
                msr::LER_FROM | msr::LER_TO => Ok(0),
                _ => Err(GP),
            };
            ensure!(
                read == expected && self.wrmsr(register, value)? == Err(GP),
                "the guest has MSR {register:#x} without LBR, {read:x?}"
            );
            ensure!(
                !self.set_msr(register, value)?,
                "userspace writes MSR {register:#x} without LBR"
            );
        }
        Ok(())
    }
}
