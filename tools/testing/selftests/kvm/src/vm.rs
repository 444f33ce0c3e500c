// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A virtual machine in 64-bit mode: 2 MiB of memory that it sees in one piece
//! at a linear address of the test's choice, the in-kernel APIC, no devices. Its
//! vCPUs may see the memory at different addresses.

use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use kvm_bindings::{
    kvm_enable_cap, kvm_regs, kvm_segment, kvm_userspace_memory_region, CpuId,
    KVM_CAP_PMU_CAPABILITY, KVM_MP_STATE_RUNNABLE, KVM_PMU_CAP_DISABLE,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::block::Block;
use crate::cpuid;
use crate::guest::{self, Symbol};
use crate::host::Host;
use crate::msr::{self, Control};
use crate::vcpu::Vcpu;

/// Where a VM's memory is if the test does not care.
pub const BASE: u64 = 0x1000_0000_0000;
/// Size of a VM's memory.
pub const SIZE: u64 = 2 << 20;

// Guest-physical addresses.
pub(crate) const GDT: u64 = 0x1000;
/// The tables of one view of the memory; those of the next follow.
pub(crate) const VIEW: u64 = 0x2000;
const VIEW_SIZE: u64 = 0x4000;
const MAX_VIEWS: usize = 3;
pub(crate) const L2_IDT: u64 = 0xe000;
/// Where the code is in it.
pub const CODE: u64 = 0x1_0000;
/// Free for VMX.
pub(crate) const VMX: u64 = 0x5_0000;
const BLOCKS: u64 = 0x10_0000;
/// Where SMM is after RESET.
const SMM_BASE: u64 = 0x3_0000;
const SMM_HANDLER: u64 = SMM_BASE + 0x8000;
const SMM_SAVED_LBR_CTL: u64 = 0xff10;
/// As in guest_arch.S.
const SMM_REPORT: u64 = 0x3_9000;
/// KVM's number of the memory slot that vCPUs in SMM have.
const SMM_ADDRESS_SPACE: u32 = 1 << 16;
const MAX_VCPUS: u64 = (SIZE - BLOCKS) / guest::BLOCK_SIZE;

// Offsets in a view's tables.
pub(crate) const PML4: u64 = 0x0;
const PDPT: u64 = 0x1000;
const PD: u64 = 0x2000;
pub(crate) const IDT: u64 = 0x3000;
/// Where L2 sees the memory: at L1's linear address with this bit changed.
const L2_VIEW: u64 = 1 << 46;

// Ring 3 may use it, too, and ring 0 executes it: there is no SMEP.
const PAGE_PRESENT_WRITABLE_USER: u64 = 0x7;
const PAGE_LARGE: u64 = 0x80;
const GDT_CODE: u64 = 0x00af_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
pub(crate) const SELECTOR_CODE: u16 = 0x08;
pub(crate) const SELECTOR_DATA: u16 = 0x10;
pub(crate) const CR0: u64 = 0x8005_0033; // PG AM WP NE ET MP PE
pub(crate) const CR4: u64 = 0x620; // PAE OSFXSR OSXMMEXCPT
const EFER: u64 = 0x501; // LMA LME SCE
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// How a vCPU sees the memory.
#[derive(Clone, Copy, Debug)]
struct View {
    /// The memory's linear address.
    base: u64,
    /// Where page tables and IDT are, guest-physical.
    tables: u64,
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    memory: Arc<MmapRegion>,
    views: Vec<View>,
    cpuid: CpuId,
    control: Control,
}

impl Vm {
    /// Creates a VM at [`BASE`].
    pub fn new(host: &Host) -> Result<Self> {
        Self::at(host, BASE)
    }

    /// Creates a VM whose memory is at `base`, a multiple of 2 MiB in the lower
    /// half of the linear addresses.
    pub fn at(host: &Host, base: u64) -> Result<Self> {
        Self::with_views(host, &[base])
    }

    /// Creates a VM whose vCPUs have the memory at addresses of their own, in the order
    /// of their numbers; further vCPUs have it where the last one has.
    pub fn with_views(host: &Host, bases: &[u64]) -> Result<Self> {
        ensure!(
            (1..=MAX_VIEWS).contains(&bases.len()),
            "a VM here has 1 to {MAX_VIEWS} views of its memory"
        );
        let tables = (VIEW..).step_by(VIEW_SIZE as usize);
        let views = bases.iter().zip(tables);
        let fd = host.kvm.create_vm().context("KVM_CREATE_VM")?;
        fd.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        let memory = Arc::new(MmapRegion::new(SIZE as usize).context("guest memory")?);
        let vm = Self {
            fd,
            memory,
            views: views
                .map(|(base, tables)| View {
                    base: *base,
                    tables,
                })
                .collect(),
            cpuid: host.cpuid()?,
            control: host.control(),
        };
        vm.has_memory(0)?;
        vm.load()?;
        Ok(vm)
    }

    /// Has the memory in one of KVM's slots.
    fn has_memory(&self, slot: u32) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            memory_size: SIZE,
            userspace_addr: self.memory.as_ptr().addr() as u64,
            ..Default::default()
        };
        // SAFETY: The mapping is as long as the region says, and `Vm` and each
        // `Vcpu` keep it until their file descriptor is closed.
        unsafe { self.fd.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")
    }

    /// Lets the guest take SMIs, which it tells of, see [`Stop::Smi`](crate::vcpu::Stop::Smi).
    pub fn allow_smm(&self) -> Result<()> {
        self.handle_smis_by(guest::smm_tell_image())
    }

    /// Lets the guest take SMIs, whose handler reports and yields, see [`Vm::smm_report`].
    pub fn handle_smis(&self) -> Result<()> {
        self.handle_smis_by(guest::smm_image())
    }

    fn handle_smis_by(&self, handler: &[u8]) -> Result<()> {
        self.has_memory(SMM_ADDRESS_SPACE)
            .context("KVM has no SMM")?;
        self.memory
            .as_volatile_slice()
            .write_slice(handler, SMM_HANDLER as usize)
            .context("SMI handler")
    }

    pub(crate) fn write(&self, address: u64, value: u64) -> Result<()> {
        self.memory
            .as_volatile_slice()
            .write_obj(value, address as usize)
            .context("guest memory")
    }

    /// Has a vector's handler at an offset into the code.
    fn gate(&self, vector: u64, offset: u64) -> Result<()> {
        for View { base, tables } in &self.views {
            self.gate_in(tables + IDT, *base, vector, offset)?;
        }
        Ok(())
    }

    fn gate_in(&self, idt: u64, base: u64, vector: u64, offset: u64) -> Result<()> {
        let handler = base + CODE + offset;
        let low = (handler & 0xffff) | u64::from(SELECTOR_CODE) << 16 | 0x8e00 << 32;
        self.write(idt + 16 * vector, low | (handler & 0xffff_0000) << 32)?;
        self.write(idt + 16 * vector + 8, handler >> 32)
    }

    /// Has the first view's memory at a second linear address, for an interpreter in L2
    /// with its exceptions. #DB ends its list.
    pub(crate) fn l2_view(&self) -> Result<Block> {
        let View { base, tables } = self.views[0];
        let base = base ^ L2_VIEW;
        self.write(
            tables + PML4 + 8 * ((base >> 39) & 0x1ff),
            (tables + PDPT) | PAGE_PRESENT_WRITABLE_USER,
        )?;
        for vector in 0..32 {
            let offset = Symbol::Exceptions.offset() + 16 * vector;
            self.gate_in(L2_IDT, base, vector, offset)?;
        }
        self.gate_in(L2_IDT, base, 1, Symbol::Vmcall.offset())?;
        let block = BLOCKS + (MAX_VCPUS - 1) * guest::BLOCK_SIZE;
        Ok(Block::new(Arc::clone(&self.memory), base, block))
    }

    fn load(&self) -> Result<()> {
        let write = |address, value| self.write(address, value);
        for View { base, tables } in &self.views {
            let index = |shift: u32| 8 * ((base >> shift) & 0x1ff);
            for (at, entry) in [
                (PML4 + index(39), tables + PDPT),
                (PDPT + index(30), tables + PD),
                (PD + index(21), PAGE_LARGE),
            ] {
                write(tables + at, entry | PAGE_PRESENT_WRITABLE_USER)?;
            }
        }
        write(GDT + u64::from(SELECTOR_CODE), GDT_CODE)?;
        write(GDT + u64::from(SELECTOR_DATA), GDT_DATA)?;
        for vector in 0..32 {
            self.gate(vector, Symbol::Exceptions.offset() + 16 * vector)?;
        }
        self.gate(2, Symbol::Pmi.offset())?;
        self.gate(u64::from(guest::PMI_VECTOR), Symbol::Pmi.offset())?;
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
        let vcpu = self.bare_vcpu(id)?;
        self.set_up(&vcpu, cpuid)?;
        Ok(vcpu)
    }

    /// Creates a vCPU that has no LBR.
    pub fn vcpu_without_lbr(&self, id: u64) -> Result<Vcpu> {
        let mut cpuid = self.cpuid();
        cpuid::set_arch_lbr(&mut cpuid, false);
        let vcpu = self.vcpu_with_cpuid(id, &cpuid)?;
        let caps = vcpu.get_msr(msr::PERF_CAPABILITIES)?.unwrap_or(0);
        vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps & !msr::LBR_FMT)?;
        Ok(vcpu)
    }

    /// Creates a vCPU as it comes from KVM, without any CPUID.
    pub fn bare_vcpu(&self, id: u64) -> Result<Vcpu> {
        ensure!(id < MAX_VCPUS, "a VM here has at most {MAX_VCPUS} vCPUs");
        let fd = self.fd.create_vcpu(id).context("KVM_CREATE_VCPU")?;
        let block = BLOCKS + id * guest::BLOCK_SIZE;
        let view = self.views[(id as usize).min(self.views.len() - 1)];
        let block = Block::new(Arc::clone(&self.memory), view.base, block);
        Vcpu::new(fd, block, self.control)
    }

    /// Gives a bare vCPU its CPUID and puts it at the start of the guest's code.
    pub fn set_up(&self, vcpu: &Vcpu, cpuid: &CpuId) -> Result<()> {
        let fd = vcpu.fd();
        fd.set_cpuid2(cpuid).context("KVM_SET_CPUID2")?;
        self.restart(vcpu)
    }

    /// Puts a vCPU at the start of the guest's code.
    pub fn restart(&self, vcpu: &Vcpu) -> Result<()> {
        let fd = vcpu.fd();
        let view = self.views.iter().find(|view| vcpu.owns(view.base));
        let View { base, tables } = *view.context("the vCPU is of another VM")?;
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
        (sregs.gdt.base, sregs.gdt.limit) = (base + GDT, 0x17);
        (sregs.idt.base, sregs.idt.limit) = (base + tables + IDT, 0xfff);
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, tables + PML4, CR4, EFER);
        sregs.apic_base |= APIC_BASE_X2APIC;
        fd.set_sregs(&sregs).context("KVM_SET_SREGS")?;
        let mut mp_state = fd.get_mp_state()?;
        mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        fd.set_mp_state(mp_state)?;
        let block = vcpu.block().linear();
        fd.set_regs(&kvm_regs {
            rip: vcpu.address(Symbol::Entry),
            rsp: block + guest::BLOCK_SIZE,
            r15: block,
            rflags: 2,
            ..Default::default()
        })?;
        Ok(())
    }

    /// Lets a vCPU go to ring 3 by SYSRET and back to a place in the code by SYSCALL, which
    /// ask no table for what these selectors are.
    pub fn allow_ring_3(&self, vcpu: &mut Vcpu, back: Symbol) -> Result<()> {
        const SELECTOR_USER: u64 = 0x18 | 3;
        let star = SELECTOR_USER << 48 | u64::from(SELECTOR_CODE) << 32;
        vcpu.wrmsr(msr::STAR, star)??;
        vcpu.wrmsr(msr::LSTAR, vcpu.address(back))??;
        Ok(())
    }

    /// Takes the virtual PMU from all vCPUs that are created from now on.
    pub fn disable_pmu(&self) -> Result<()> {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            ..Default::default()
        };
        cap.args[0] = u64::from(KVM_PMU_CAP_DISABLE);
        self.fd
            .enable_cap(&cap)
            .context("KVM_ENABLE_CAP of KVM_CAP_PMU_CAPABILITY")
    }

    /// Copies another VM's memory, as a migration does.
    pub fn copy_memory_of(&self, other: &Self) {
        let memory = other.memory.as_volatile_slice();
        memory.copy_to_volatile_slice(self.memory.as_volatile_slice());
    }

    /// Returns how often the SMI handler ran, and IA32_LBR_CTL as it found it.
    pub fn smm_report(&self) -> Result<(u32, u32)> {
        let read = |at: u64| self.memory.as_volatile_slice().read_obj(at as usize);
        Ok((read(SMM_REPORT + 8)?, read(SMM_REPORT)?))
    }

    /// Returns IA32_LBR_CTL as the state save area of the last SMI has it.
    pub fn smm_saved_ctl(&self) -> Result<u64> {
        let at = (SMM_BASE + SMM_SAVED_LBR_CTL) as usize;
        Ok(self.memory.as_volatile_slice().read_obj(at)?)
    }

    /// Lets the guest note #DB, #BP and #PF, see [`Vcpu::note`], instead of
    /// skipping or reporting them.
    pub fn note_exceptions(&self) -> Result<()> {
        for (vector, handler) in [
            (1, Symbol::NoteDb),
            (3, Symbol::NoteBp),
            (14, Symbol::NotePf),
        ] {
            self.gate(vector, handler.offset())?;
        }
        Ok(())
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
