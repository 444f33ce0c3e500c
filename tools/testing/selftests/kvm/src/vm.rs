// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine in 64-bit mode: 2 MiB of memory that it sees in one piece
//! at a linear address of the test's choice, the in-kernel APIC, no devices.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use kvm_bindings::{
    kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region, CpuId, Msrs,
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE,
};
use kvm_ioctls::{
    MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuExit, VcpuFd, VmFd,
};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::guest::{self, Command, Outcome, RawCommand, Symbol};
use crate::host::Host;
use crate::msr::{Branch, Geometry, Snapshot};
use crate::stats::Stats;

/// Where a VM's memory is if the test does not care.
pub const BASE: u64 = 0x1000_0000_0000;
/// Size of a VM's memory.
pub const SIZE: u64 = 2 << 20;

// Guest-physical addresses.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const CODE: u64 = 0x1_0000;
const BLOCKS: u64 = 0x10_0000;
const MAX_VCPUS: u64 = (SIZE - BLOCKS) / guest::BLOCK_SIZE;

const PAGE_PRESENT_WRITABLE: u64 = 0x3;
const PAGE_LARGE: u64 = 0x80;
const GDT_CODE: u64 = 0x00af_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
const SELECTOR_CODE: u16 = 0x08;
const SELECTOR_DATA: u16 = 0x10;
const CR0: u64 = 0x8005_0033; // PG AM WP NE ET MP PE
const CR4: u64 = 0x620; // PAE OSFXSR OSXMMEXCPT
const EFER: u64 = 0x500; // LMA LME
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    memory: Arc<MmapRegion>,
    base: u64,
    cpuid: CpuId,
}

impl Vm {
    /// Creates a VM at [`BASE`].
    pub fn new(host: &Host) -> Result<Self> {
        Self::at(host, BASE)
    }

    /// Creates a VM whose memory is at `base`, a multiple of 2 MiB in the lower
    /// half of the linear addresses.
    pub fn at(host: &Host, base: u64) -> Result<Self> {
        let fd = host.kvm.create_vm().context("KVM_CREATE_VM")?;
        fd.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        let memory = Arc::new(MmapRegion::new(SIZE as usize).context("guest memory")?);
        let region = kvm_userspace_memory_region {
            memory_size: SIZE,
            userspace_addr: memory.as_ptr().addr() as u64,
            ..Default::default()
        };
        // SAFETY: The mapping is as long as the region says, and `Vm` and each
        // `Vcpu` keep it until their file descriptor is closed.
        unsafe { fd.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
        let vm = Self {
            fd,
            memory,
            base,
            cpuid: host.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?,
        };
        vm.load()?;
        Ok(vm)
    }

    fn load(&self) -> Result<()> {
        let write = |address: u64, value: u64| {
            self.memory
                .as_volatile_slice()
                .write_obj(value, address as usize)
        };
        let index = |shift: u32| 8 * ((self.base >> shift) & 0x1ff);
        write(PML4 + index(39), PDPT | PAGE_PRESENT_WRITABLE)?;
        write(PDPT + index(30), PD | PAGE_PRESENT_WRITABLE)?;
        write(PD + index(21), PAGE_LARGE | PAGE_PRESENT_WRITABLE)?;
        write(GDT + u64::from(SELECTOR_CODE), GDT_CODE)?;
        write(GDT + u64::from(SELECTOR_DATA), GDT_DATA)?;
        let gate = |vector: u64, offset: u64| {
            let handler = self.base + CODE + offset;
            let low = (handler & 0xffff) | u64::from(SELECTOR_CODE) << 16 | 0x8e00 << 32;
            write(IDT + 16 * vector, low | (handler & 0xffff_0000) << 32)?;
            write(IDT + 16 * vector + 8, handler >> 32)
        };
        for vector in 0..32 {
            gate(vector, Symbol::Exceptions.offset() + 16 * vector)?;
        }
        gate(2, Symbol::Pmi.offset())?;
        gate(u64::from(guest::PMI_VECTOR), Symbol::Pmi.offset())?;
        self.memory
            .as_volatile_slice()
            .write_slice(guest::image(), CODE as usize)
            .context("guest code")
    }

    /// Creates a vCPU with the CPUID that KVM supports.
    pub fn vcpu(&self, id: u64) -> Result<Vcpu> {
        self.vcpu_with_cpuid(id, &self.cpuid)
    }

    /// Returns the CPUID that KVM supports, to be changed by a test.
    pub fn cpuid(&self) -> CpuId {
        self.cpuid.clone()
    }

    /// Creates a vCPU with a CPUID of the test's choice.
    pub fn vcpu_with_cpuid(&self, id: u64, cpuid: &CpuId) -> Result<Vcpu> {
        ensure!(id < MAX_VCPUS, "a VM here has at most {MAX_VCPUS} vCPUs");
        let fd = self.fd.create_vcpu(id).context("KVM_CREATE_VCPU")?;
        fd.set_cpuid2(cpuid).context("KVM_SET_CPUID2")?;
        let mut sregs = fd.get_sregs()?;
        let data = kvm_segment {
            limit: u32::MAX,
            selector: SELECTOR_DATA,
            type_: 3,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment {
            selector: SELECTOR_CODE,
            type_: 11,
            db: 0,
            l: 1,
            ..data
        };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment {
            limit: 0x67,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        (sregs.gdt.base, sregs.gdt.limit) = (self.base + GDT, 0x17);
        (sregs.idt.base, sregs.idt.limit) = (self.base + IDT, 0xfff);
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4, EFER);
        sregs.apic_base |= APIC_BASE_X2APIC;
        fd.set_sregs(&sregs).context("KVM_SET_SREGS")?;
        let mut mp_state = fd.get_mp_state()?;
        mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        fd.set_mp_state(mp_state)?;
        let block = BLOCKS + id * guest::BLOCK_SIZE;
        fd.set_regs(&kvm_regs {
            rip: self.base + CODE + Symbol::Entry.offset(),
            rsp: self.base + block + guest::BLOCK_SIZE,
            r15: self.base + block,
            rflags: 2,
            ..Default::default()
        })?;
        Ok(Vcpu {
            fd,
            memory: Arc::clone(&self.memory),
            base: self.base,
            block,
        })
    }

    /// Denies the guest the accesses `flags` to these MSRs; an empty list
    /// allows all again.
    pub fn deny_msrs(&self, msrs: &[u32], flags: MsrFilterRangeFlags) -> Result<()> {
        let ranges: Vec<_> = msrs
            .iter()
            .map(|base| MsrFilterRange {
                flags,
                base: *base,
                msr_count: 1,
                bitmap: &[0],
            })
            .collect();
        self.fd
            .set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
            .context("KVM_X86_SET_MSR_FILTER")
    }
}

/// How many exits may be counted in a short run that the guest did not cause.
pub const EXIT_NOISE: u64 = 10;

fn many_reads(lbr: Geometry) -> Vec<Command> {
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
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    memory: Arc<MmapRegion>,
    base: u64,
    block: u64,
}

impl Vcpu {
    /// Returns the linear address of a place in the code.
    pub fn address(&self, symbol: Symbol) -> u64 {
        self.base + CODE + symbol.offset()
    }

    /// Returns the linear address of an offset into the code.
    pub fn code_address(&self, offset: u64) -> u64 {
        self.base + CODE + offset
    }

    /// Returns whether the VM's memory is at this linear address.
    pub fn owns(&self, address: u64) -> bool {
        (self.base..self.base + SIZE).contains(&address)
    }

    /// Returns DEBUGCTL as the PMI handler found it.
    pub fn debugctl_at_pmi(&self) -> Result<u64> {
        self.peek(guest::BLOCK_PMI_DEBUGCTL)
    }

    fn peek(&self, offset: u64) -> Result<u64> {
        let at = (self.block + offset) as usize;
        Ok(self.memory.as_volatile_slice().read_obj(at)?)
    }

    /// Has the guest obey a list of commands; returns at its end or when a
    /// routine yields.
    pub fn start(&mut self, commands: &[Command]) -> Result<Stop> {
        ensure!(commands.len() < guest::MAX_COMMANDS, "too many commands");
        let mut raw: Vec<_> = commands
            .iter()
            .map(|command| RawCommand::new(*command, self.base + CODE))
            .collect();
        raw.push(RawCommand::default());
        let mut at = (self.block + guest::BLOCK_COMMANDS) as usize;
        for command in raw {
            self.memory.as_volatile_slice().write_obj(command, at)?;
            at += size_of::<RawCommand>();
        }
        self.resume()
    }

    /// Enters the guest until it stops.
    pub fn resume(&mut self) -> Result<Stop> {
        let what = match self.fd.run().context("KVM_RUN")? {
            VcpuExit::IoOut(guest::PORT_DONE, _) => return Ok(Stop::Done),
            VcpuExit::IoOut(guest::PORT_YIELD, _) => return Ok(Stop::Yield),
            VcpuExit::IoOut(guest::PORT_FAULT, _) => None,
            other => Some(format!("{other:?}")),
        };
        match what {
            Some(exit) => bail!("unexpected exit {exit}, rip {:#x}", self.fd.get_regs()?.rip),
            None => bail!(
                "unexpected exception {} in the guest, rip {:#x}",
                self.peek(guest::BLOCK_FAULT_VECTOR)?,
                self.peek(guest::BLOCK_FAULT_RIP)?
            ),
        }
    }

    /// Returns what came of the first `count` commands of the last list.
    pub fn outcomes(&self, count: usize) -> Result<Vec<Outcome>> {
        (0..count)
            .map(|index| {
                let offset = guest::BLOCK_COMMANDS + (index * size_of::<RawCommand>()) as u64;
                let at = (self.block + offset) as usize;
                let raw: RawCommand = self.memory.as_volatile_slice().read_obj(at)?;
                Ok(raw.outcome())
            })
            .collect()
    }

    /// Has the guest obey a list without yields; returns what came of each.
    pub fn run(&mut self, commands: &[Command]) -> Result<Vec<Outcome>> {
        match self.start(commands)? {
            Stop::Done => self.outcomes(commands.len()),
            Stop::Yield => bail!("a routine yielded in a list that should not"),
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
        let first = self.address(first);
        (0..guest::JUMPS)
            .rev()
            .take(lbr.depth as usize)
            .map(|number| first + number * guest::JUMP_STRIDE)
            .map(|from| Branch {
                from,
                to: from + guest::JUMP_STRIDE,
            })
            .collect()
    }

    /// Returns how many exits a list of commands causes, host interrupts and
    /// the exit at its end aside. A few more may be counted that the guest
    /// does not cause, see [`EXIT_NOISE`].
    pub fn exits_of(&mut self, commands: &[Command]) -> Result<u64> {
        let stats = self.stats()?;
        let before = stats.synchronous_exits()?;
        self.run(commands)?;
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
