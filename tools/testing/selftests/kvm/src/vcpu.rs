// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A vCPU: what the guest is told to do, and the ioctls by which userspace looks
//! at it.

mod lbr;

pub use lbr::many_reads;

use std::os::fd::AsRawFd;

use anyhow::{bail, ensure, Context, Result};
use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    kvm_guest_debug, kvm_msr_entry, CpuId, Msrs, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE,
    KVM_VCPUEVENT_VALID_SMM,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::block::Block;
use crate::guest::{self, Command, End, Outcome, Symbol};
use crate::msr::Control;
use crate::stats::Stats;

/// How many exits may be counted in a short run that the guest did not cause.
pub const EXIT_NOISE: u64 = 50;

const DB_VECTOR: u8 = 1;
/// IP after INIT.
const RESET_IP: u64 = 0xfff0;

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
    /// What switches recording.
    pub control: u64,
    /// How many exceptions there were so far.
    pub count: u64,
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    block: Block,
    control: Control,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, block: Block, control: Control) -> Result<Self> {
        let mut vcpu = Self { fd, block, control };
        vcpu.set_control(control)?;
        Ok(vcpu)
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

    /// Returns how the guest switches recording.
    pub fn control(&self) -> Control {
        self.control
    }

    /// Returns what switches recording as the PMI handler found it.
    pub fn control_at_pmi(&self) -> Result<u64> {
        self.block.peek(guest::BLOCK_PMI_CONTROL)
    }

    /// Returns IA32_PERF_GLOBAL_STATUS and IA32_PMC0 as the PMI handler found them.
    pub fn counting_at_pmi(&self) -> Result<(u64, u64)> {
        Ok((
            self.block.peek(guest::BLOCK_PMI_STATUS)?,
            self.block.peek(guest::BLOCK_PMI_COUNTER)?,
        ))
    }

    /// Returns the last exception that the guest noted and how many there were,
    /// see [`crate::vm::Vm::note_exceptions`].
    pub fn note(&self) -> Result<Note> {
        Ok(Note {
            vector: self.block.peek(guest::BLOCK_NOTE_VECTOR)?,
            control: self.block.peek(guest::BLOCK_NOTE_CONTROL)?,
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

    /// Sends the vCPU an SMI.
    pub fn smi(&self) -> Result<()> {
        self.fd.smi().context("KVM_SMI")
    }

    /// Sends the vCPU an INIT, which has it ready to run; see [`crate::vm::Vm::restart`].
    pub fn init(&self) -> Result<()> {
        let mut events = self.fd.get_vcpu_events().context("KVM_GET_VCPU_EVENTS")?;
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
        events.smi.latched_init = 1;
        self.fd
            .set_vcpu_events(&events)
            .context("KVM_SET_VCPU_EVENTS")?;
        // That is where KVM takes it.
        let state = self.fd.get_mp_state().context("KVM_GET_MP_STATE")?;
        ensure!(
            state.mp_state == KVM_MP_STATE_RUNNABLE && self.fd.get_regs()?.rip == RESET_IP,
            "the vCPU took no INIT"
        );
        Ok(())
    }

    /// Takes over another vCPU's state but for MSRs, as a migration does.
    pub fn take_over(&self, other: &mut Self) -> Result<()> {
        // The exit's OUT is not behind the guest yet.
        other.fd.set_kvm_immediate_exit(1);
        let entered = other.fd.run().is_ok();
        other.fd.set_kvm_immediate_exit(0);
        ensure!(!entered, "the guest was entered once more");
        self.fd.set_sregs(&other.fd.get_sregs()?)?;
        self.fd.set_regs(&other.fd.get_regs()?)?;
        let mut events = other.fd.get_vcpu_events()?;
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
        self.fd
            .set_vcpu_events(&events)
            .context("KVM_SET_VCPU_EVENTS")
    }

    /// Sets bits of CR4.
    pub fn set_cr4(&self, bits: u64) -> Result<()> {
        let mut sregs = self.fd.get_sregs().context("KVM_GET_SREGS")?;
        sregs.cr4 |= bits;
        self.fd.set_sregs(&sregs).context("KVM_SET_SREGS")
    }

    /// Has the guest store its LBR by XSAVES to an area full of this byte; returns
    /// XSTATE_BV and what is behind the header.
    pub fn xsaves(&mut self, fill: u8) -> Result<(u64, Vec<u8>)> {
        // The legacy region, of which the LBR is not, and the header.
        const XSTATE_BV: u64 = 512;
        const LBR: u64 = 576;
        let offset = guest::BLOCK_AREA + LBR;
        self.block.write(offset, &[fill; 1024])?;
        self.call(Symbol::Xsaves, 0)?;
        let mut behind = vec![0; 1024];
        self.block.read(offset, &mut behind)?;
        Ok((self.block.peek(guest::BLOCK_AREA + XSTATE_BV)?, behind))
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

    /// Returns the vCPU's CPUID as KVM made it.
    pub fn cpuid(&self) -> Result<CpuId> {
        let cpuid = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        cpuid.context("KVM_GET_CPUID2")
    }

    /// Reads an MSR by KVM_GET_MSRS; `None` is an error.
    pub fn get_msr(&self, msr: u32) -> Result<Option<u64>> {
        Ok(self.get_msrs(&[msr])?.pop())
    }

    /// Writes an MSR by KVM_SET_MSRS; returns whether KVM accepted it.
    pub fn set_msr(&self, msr: u32, value: u64) -> Result<bool> {
        Ok(self.set_msrs(&[(msr, value)])? == 1)
    }

    /// Writes an MSR by KVM_SET_MSRS, which must be accepted.
    pub fn must_set_msr(&self, msr: u32, value: u64) -> Result<()> {
        ensure!(
            self.set_msr(msr, value)?,
            "KVM_SET_MSRS refused {value:#x} for MSR {msr:#x}"
        );
        Ok(())
    }

    /// Reads MSRs by KVM_GET_MSRS, up to the first that KVM refuses.
    pub fn get_msrs(&self, msrs: &[u32]) -> Result<Vec<u64>> {
        let entries: Vec<_> = msrs
            .iter()
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries)?;
        let count = self.fd.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        let read = msrs.as_slice().iter().take(count);
        Ok(read.map(|entry| entry.data).collect())
    }

    /// Reads MSRs by KVM_GET_MSRS, which must refuse none.
    pub fn must_get_msrs(&self, msrs: &[u32]) -> Result<Vec<u64>> {
        let values = self.get_msrs(msrs)?;
        if let Some(refused) = msrs.get(values.len()) {
            bail!("KVM_GET_MSRS stopped at MSR {refused:#x}");
        }
        Ok(values)
    }

    /// Writes MSRs by KVM_SET_MSRS; returns how many KVM accepted before it refused one.
    pub fn set_msrs(&self, values: &[(u32, u64)]) -> Result<usize> {
        let entries: Vec<_> = values
            .iter()
            .map(|(index, data)| kvm_msr_entry {
                index: *index,
                data: *data,
                ..Default::default()
            })
            .collect();
        let msrs = Msrs::from_entries(&entries)?;
        self.fd.set_msrs(&msrs).context("KVM_SET_MSRS")
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

    /// Opens the vCPU's statistics.
    fn stats(&self) -> Result<Stats> {
        Stats::open(self.fd.as_raw_fd())
    }
}
