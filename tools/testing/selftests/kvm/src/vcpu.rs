// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vCPU: what the guest is told to do, and the ioctls by which userspace looks
//! at it.

use std::os::fd::AsRawFd;

use anyhow::{bail, ensure, Context, Result};
use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{kvm_guest_debug, kvm_msr_entry, Msrs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::block::Block;
use crate::guest::{self, Command, End, Outcome, Symbol};
use crate::msr::{Branch, Geometry, Snapshot};
use crate::stats::Stats;

/// How many exits may be counted in a short run that the guest did not cause.
pub const EXIT_NOISE: u64 = 50;

const DB_VECTOR: u8 = 1;

/// Reads all LBR registers, many times.
pub fn many_reads(lbr: Geometry) -> Vec<Command> {
    lbr.registers()
        .into_iter()
        .cycle()
        .take(500)
        .map(Command::Rdmsr)
        .collect()
}

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It obeyed all commands.
    Done,
    /// A routine yielded; [`Vcpu::resume`] goes on.
    Yield,
    /// It is in SMM, which it leaves when it goes on.
    Smi,
}

/// What an exception's handler found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The vector.
    pub vector: u64,
    /// DEBUGCTL.
    pub debugctl: u64,
    /// How many exceptions there were so far.
    pub count: u64,
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    block: Block,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, block: Block) -> Self {
        Self { fd, block }
    }

    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// Returns the linear address of a place in the code.
    pub fn address(&self, symbol: Symbol) -> u64 {
        self.block.address(symbol)
    }

    /// Returns the linear address of an offset into the code.
    pub fn code_address(&self, offset: u64) -> u64 {
        self.block.code_address(offset)
    }

    /// Returns whether the VM's memory is at this linear address.
    pub fn owns(&self, address: u64) -> bool {
        self.block.owns(address)
    }

    /// Returns DEBUGCTL as the PMI handler found it.
    pub fn debugctl_at_pmi(&self) -> Result<u64> {
        self.block.peek(guest::BLOCK_PMI_DEBUGCTL)
    }

    /// Returns the last exception that the guest noted and how many there were,
    /// see [`crate::vm::Vm::note_exceptions`].
    pub fn note(&self) -> Result<Note> {
        Ok(Note {
            vector: self.block.peek(guest::BLOCK_NOTE_VECTOR)?,
            debugctl: self.block.peek(guest::BLOCK_NOTE_DEBUGCTL)?,
            count: self.block.peek(guest::BLOCK_NOTE_COUNT)?,
        })
    }

    /// Has a #DB injected at the next KVM_RUN, as a VMM does that restores a
    /// vCPU (KVM_SET_VCPU_EVENTS).
    pub fn restore_db(&self) -> Result<()> {
        let mut events = self.fd.get_vcpu_events().context("KVM_GET_VCPU_EVENTS")?;
        events.exception.injected = 1;
        events.exception.nr = DB_VECTOR;
        events.exception.has_error_code = 0;
        self.fd
            .set_vcpu_events(&events)
            .context("KVM_SET_VCPU_EVENTS")
    }

    /// Has the host debug the guest, with these KVM_GUESTDBG flags, or 0 to end
    /// that.
    pub fn debug(&self, control: u32) -> Result<()> {
        let debug = kvm_guest_debug {
            control,
            ..Default::default()
        };
        self.fd
            .set_guest_debug(&debug)
            .context("KVM_SET_GUEST_DEBUG")
    }

    /// Enters the guest until a debug exit; returns its address.
    pub fn run_to_debug_exit(&mut self) -> Result<u64> {
        match self.fd.run().context("KVM_RUN")? {
            VcpuExit::Debug(exit) => Ok(exit.pc),
            other => bail!("unexpected exit {other:?}"),
        }
    }

    /// Sends an SMI.
    pub fn smi(&self) -> Result<()> {
        self.fd.smi().context("KVM_SMI")
    }

    /// Returns where the guest is.
    pub fn rip(&self) -> Result<u64> {
        Ok(self.fd.get_regs().context("KVM_GET_REGS")?.rip)
    }

    /// Returns what userspace has to keep of the guest's VMX.
    pub fn nested_state(&self) -> Result<KvmNestedStateBuffer> {
        let mut state = KvmNestedStateBuffer::empty();
        self.fd
            .nested_state(&mut state)
            .context("KVM_GET_NESTED_STATE")?;
        Ok(state)
    }

    /// Restores it; returns whether KVM accepted it.
    pub fn set_nested_state(&self, state: &KvmNestedStateBuffer) -> bool {
        self.fd.set_nested_state(state).is_ok()
    }

    /// Has the guest obey a list of commands; returns at its end or when a
    /// routine yields.
    pub fn start(&mut self, commands: &[Command]) -> Result<Stop> {
        self.block.put(commands, End::Done)?;
        self.resume()
    }

    /// Enters the guest until it stops.
    pub fn resume(&mut self) -> Result<Stop> {
        let what = match self.fd.run().context("KVM_RUN")? {
            VcpuExit::IoOut(guest::PORT_DONE, _) => return Ok(Stop::Done),
            VcpuExit::IoOut(guest::PORT_YIELD, _) => return Ok(Stop::Yield),
            VcpuExit::IoOut(guest::PORT_SMI, _) => return Ok(Stop::Smi),
            VcpuExit::IoOut(guest::PORT_FAULT, _) => None,
            other => Some(format!("{other:?}")),
        };
        match what {
            Some(exit) => bail!("unexpected exit {exit}, rip {:#x}", self.rip()?),
            None => bail!(
                "unexpected exception {} in the guest, rip {:#x}",
                self.block.peek(guest::BLOCK_FAULT_VECTOR)?,
                self.block.peek(guest::BLOCK_FAULT_RIP)?
            ),
        }
    }

    /// Returns what came of the first `count` commands of the last list.
    pub fn outcomes(&self, count: usize) -> Result<Vec<Outcome>> {
        self.block.outcomes(count)
    }

    /// Has the guest obey a list without yields; returns what came of each.
    pub fn run(&mut self, commands: &[Command]) -> Result<Vec<Outcome>> {
        match self.start(commands)? {
            Stop::Done => self.outcomes(commands.len()),
            other => bail!("a list that should not stop did: {other:?}"),
        }
    }

    fn run_one(&mut self, command: Command) -> Result<Outcome> {
        self.run(&[command])?.pop().context("no outcome")
    }

    /// Has the guest read an MSR.
    pub fn rdmsr(&mut self, msr: u32) -> Result<Outcome> {
        self.run_one(Command::Rdmsr(msr))
    }

    /// Has the guest write an MSR.
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Result<Outcome> {
        self.run_one(Command::Wrmsr(msr, value))
    }

    /// Has the guest call a routine.
    pub fn call(&mut self, routine: Symbol, arg: u32) -> Result<u64> {
        Ok(self.run_one(Command::Call(routine, arg))??)
    }

    /// Has the guest read all LBR registers.
    pub fn guest_snapshot(&mut self, lbr: Geometry) -> Result<Snapshot> {
        let commands: Vec<_> = lbr.registers().into_iter().map(Command::Rdmsr).collect();
        let values: Result<Vec<u64>, _> = self.run(&commands)?.into_iter().collect();
        Snapshot::new(&values?).context("no LBR registers")
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

    /// Reads an MSR by KVM_GET_MSRS; `None` is an error.
    pub fn get_msr(&self, msr: u32) -> Result<Option<u64>> {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
            index: msr,
            ..Default::default()
        }])?;
        let count = self.fd.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        Ok((count == 1).then(|| msrs.as_slice()[0].data))
    }

    /// Writes an MSR by KVM_SET_MSRS; returns whether KVM accepted it.
    pub fn set_msr(&self, msr: u32, value: u64) -> Result<bool> {
        let msrs = Msrs::from_entries(&[kvm_msr_entry {
            index: msr,
            data: value,
            ..Default::default()
        }])?;
        Ok(self.fd.set_msrs(&msrs).context("KVM_SET_MSRS")? == 1)
    }

    /// Writes an MSR by KVM_SET_MSRS, which must be accepted.
    pub fn must_set_msr(&self, msr: u32, value: u64) -> Result<()> {
        ensure!(
            self.set_msr(msr, value)?,
            "KVM_SET_MSRS refused {value:#x} for MSR {msr:#x}"
        );
        Ok(())
    }

    /// Reads all LBR registers by KVM_GET_MSRS.
    pub fn host_snapshot(&self, lbr: Geometry) -> Result<Snapshot> {
        let entries: Vec<_> = lbr
            .registers()
            .into_iter()
            .map(|index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries)?;
        let count = self.fd.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        ensure!(
            count == entries.len(),
            "KVM_GET_MSRS stopped at MSR {:#x}",
            entries[count].index
        );
        let values: Vec<_> = msrs.as_slice().iter().map(|entry| entry.data).collect();
        Snapshot::new(&values).context("no LBR registers")
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

    /// Returns how many exits a list of commands causes, host interrupts and
    /// the exit at its end aside. A few more may be counted that the guest
    /// does not cause, see [`EXIT_NOISE`].
    pub fn exits_of(&mut self, commands: &[Command]) -> Result<u64> {
        self.exits_while(|vcpu| vcpu.run(commands).map(drop))
    }

    /// The same of whatever enters the guest once.
    pub fn exits_while(&mut self, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        let stats = self.stats()?;
        let before = stats.synchronous_exits()?;
        run(self)?;
        Ok(stats.synchronous_exits()? - before - 1)
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

    /// Opens the vCPU's statistics.
    fn stats(&self) -> Result<Stats> {
        Stats::open(self.fd.as_raw_fd())
    }
}
