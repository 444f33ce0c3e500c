// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine of one page of assembly: enough for VM entries and VM exits.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::boot;
use crate::cpu::{rdmsr, read_cr4, write_cr4, wrmsr};

const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_VMX_BASIC: u32 = 0x480;
pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;

/// Pin-based control: NMIs exit.
pub const NMI_EXITING: u32 = 1 << 3;
/// Processor-based control: RDPMC exits.
pub const RDPMC_EXITING: u32 = 1 << 11;
const USE_MSR_BITMAPS: u32 = 1 << 28;
/// VM-exit control: the guest's IA32_DEBUGCTL and DR7 are saved.
pub const SAVE_DEBUG_CONTROLS: u32 = 1 << 2;
const HOST_64_BIT: u32 = 1 << 9;
/// Processor-based control: a VM exit after the first instruction.
pub const MONITOR_TRAP: u32 = 1 << 27;
/// VM-exit control: the host's IA32_PERF_GLOBAL_CTRL is loaded.
pub const EXIT_LOAD_GLOBAL_CTRL: u32 = 1 << 12;
/// VM-exit control: the guest's IA32_PERF_GLOBAL_CTRL is saved.
pub const SAVE_GLOBAL_CTRL: u32 = 1 << 30;
/// VM-exit control: IA32_LBR_CTL is cleared.
pub const CLEAR_LBR_CTL: u32 = 1 << 26;
/// VM-entry control: the guest's IA32_DEBUGCTL and DR7 are loaded.
pub const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
const GUEST_64_BIT: u32 = 1 << 9;
/// VM-entry control: the guest's IA32_PERF_GLOBAL_CTRL is loaded.
pub const ENTRY_LOAD_GLOBAL_CTRL: u32 = 1 << 13;
/// VM-entry control: the guest's IA32_LBR_CTL is loaded.
pub const LOAD_LBR_CTL: u32 = 1 << 21;

/// Fields of the VMCS.
pub mod field {
    pub const GUEST_DEBUGCTL: u64 = 0x2802;
    pub const GUEST_GLOBAL_CTRL: u64 = 0x2808;
    pub const GUEST_LBR_CTL: u64 = 0x2816;
    pub const HOST_GLOBAL_CTRL: u64 = 0x2c04;
    pub const EXIT_STORE_ADDRESS: u64 = 0x2006;
    pub const EXIT_LOAD_ADDRESS: u64 = 0x2008;
    pub const ENTRY_LOAD_ADDRESS: u64 = 0x200a;
    pub const EXIT_STORE_COUNT: u64 = 0x400e;
    pub const EXIT_LOAD_COUNT: u64 = 0x4010;
    pub const ENTRY_LOAD_COUNT: u64 = 0x4014;
    pub const EXCEPTION_BITMAP: u64 = 0x4004;
    pub const ENTRY_INTERRUPTION: u64 = 0x4016;
    pub const ENTRY_INSTRUCTION_LENGTH: u64 = 0x401a;
    pub const INSTRUCTION_ERROR: u64 = 0x4400;
    pub const EXIT_REASON: u64 = 0x4402;
    pub const EXIT_INTERRUPTION: u64 = 0x4404;
    pub const VECTORING: u64 = 0x4408;
    pub const GUEST_CS: u64 = 0x0802;
    pub const GUEST_SS: u64 = 0x0804;
    pub const GUEST_GS_BASE: u64 = 0x6810;
    pub const GUEST_IDTR_LIMIT: u64 = 0x4812;
    pub const GUEST_CS_RIGHTS: u64 = 0x4816;
    pub const GUEST_SS_RIGHTS: u64 = 0x4818;
    pub const EXIT_QUALIFICATION: u64 = 0x6400;
    pub const GUEST_INTERRUPTIBILITY: u64 = 0x4824;
    pub const GUEST_ACTIVITY: u64 = 0x4826;
    pub const GUEST_DR7: u64 = 0x681a;
    pub const GUEST_RFLAGS: u64 = 0x6820;
    pub const GUEST_PENDING_DEBUG: u64 = 0x6822;
}

/// An entry of an MSR load or store area.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct AreaEntry {
    pub index: u32,
    pub reserved: u32,
    pub value: u64,
}

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: there is one CPU, and this module alone uses the pages.
unsafe impl Sync for Page {}

impl Page {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn address(&self) -> u64 {
        self.0.get() as u64
    }
}

static VMXON: Page = Page::new();
static VMCS: Page = Page::new();
static BITMAP: Page = Page::new();
static GUEST_STACK: Page = Page::new();

extern "C" {
    fn vmx_enter() -> u64;
    static vmx_jump: u8;
    static vmx_jump_target: u8;
    static gdt: u8;
    static tss: u8;
}

/// The guests, by the address where they start.
pub mod guest {
    macro_rules! guests {
        ($($name:ident)*) => {
            extern "C" {
                $(#[link_name = concat!("guest_", stringify!($name))] pub fn $name();)*
            }
        };
    }
    guests! {
        exit cpuid jump nops_10 nops_110 rdmsr rdmsr_lbr_ctl wrmsr rdpmc step int1 store nops_long smi
    }
}

global_asm!(
    r#"
    .text
    // gives 0 after a VM exit, 1 if there was no VM entry
vmx_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov eax, 0x6c14
    vmwrite rax, rsp
    lea rcx, [rip + 20f]
    mov eax, 0x6c16
    vmwrite rax, rcx
    // the last branch before VM entry
    .globl vmx_jump
vmx_jump:
    jmp vmx_jump_target
    nop
    .globl vmx_jump_target
vmx_jump_target:
    vmlaunch
    mov eax, 1
    jmp 21f
    // what a guest leaves in RDX:RAX is its answer
20: mov [rip + vmx_answer], eax
    mov [rip + vmx_answer + 4], edx
    xor eax, eax
21: pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

guest_cpuid:
    cpuid

guest_exit:
    vmcall

    .globl guest_jump_from, guest_jump_to
guest_jump:
guest_jump_from:
    jmp 22f
    nop
guest_jump_to:
22: vmcall

guest_nops_10:
    .fill 10, 1, 0x90
    vmcall

guest_nops_110:
    .fill 110, 1, 0x90
    vmcall

guest_nops_long:
    .fill 500, 1, 0x90
    vmcall

    // the register is that of IA32_DEBUGCTL
guest_rdmsr:
    mov ecx, 0x1d9
    rdmsr
    vmcall

guest_rdmsr_lbr_ctl:
    mov ecx, 0x14ce
    rdmsr
    vmcall

    // IA32_PERFEVTSEL0
guest_wrmsr:
    mov ecx, 0x186
    mov eax, 4
    xor edx, edx
    wrmsr
    vmcall

guest_rdpmc:
    xor ecx, ecx
    rdpmc
    vmcall

    // sends an SMI, if the base of GS is the APIC's
guest_smi:
    mov dword ptr gs:[0x300], 0x4200
    vmcall

    // RFLAGS.TF is set at the start
guest_step:
    nop
    nop
    vmcall

guest_int1:
    .byte 0xf1
    vmcall

    // a breakpoint is for the store
guest_store:
    mov [rip + vmx_answer], al
    vmcall

    .bss
    .balign 8
    .globl vmx_answer
vmx_answer:
    .zero 8
    "#
);

extern "C" {
    static vmx_answer: u64;
    static guest_jump_from: u8;
    static guest_jump_to: u8;
}

/// VMWRITE.
pub fn write(field: u64, value: u64) {
    // SAFETY: a VMCS is current; it describes our own memory only.
    unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) value) }
}

/// VMREAD.
pub fn read(field: u64) -> u64 {
    let value;
    // SAFETY: a VMCS is current.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field) }
    value
}

/// What the guest's RDX:RAX said.
pub fn answer() -> u64 {
    // SAFETY: one CPU; volatile, as assembly writes it.
    unsafe { (&raw const vmx_answer).read_volatile() }
}

/// Sets DR0 to where [`guest::store`] stores.
pub fn break_at_store() {
    // SAFETY: DR7 enables no breakpoint here.
    unsafe { asm!("mov dr0, {}", in(reg) &raw const vmx_answer) }
}

/// FROM and TO of the last branch before VM entry.
pub fn jump() -> (u64, u64) {
    (
        &raw const vmx_jump as u64,
        &raw const vmx_jump_target as u64,
    )
}

/// FROM and TO of the branch of [`guest::jump`].
pub fn guest_jump() -> (u64, u64) {
    (
        &raw const guest_jump_from as u64,
        &raw const guest_jump_to as u64,
    )
}

/// Whether VMX works here.
pub fn start() -> bool {
    if crate::cpu::cpuid(1, 0).ecx >> 5 & 1 == 0 {
        return false;
    }
    let control = rdmsr(IA32_FEATURE_CONTROL);
    if control & 1 == 0 {
        wrmsr(IA32_FEATURE_CONTROL, control | 5);
    } else if control & 4 == 0 {
        return false;
    }
    let revision = rdmsr(IA32_VMX_BASIC) & 0x7fff_ffff;
    let region = VMXON.address();
    // SAFETY: VMXE is no paging bit; the region is a page with the revision.
    unsafe {
        write_cr4(read_cr4() | 1 << 13);
        (*VMXON.0.get())[0] = revision;
        asm!("vmxon [{}]", in(reg) &region);
    }
    true
}

/// Controls to set beyond what a 64-bit guest needs.
#[derive(Clone, Copy, Default)]
pub struct Controls {
    pub pin: u32,
    pub processor: u32,
    pub exit: u32,
    pub entry: u32,
}

/// The allowed settings of the VM-exit and the VM-entry controls.
pub fn allowed() -> (u32, u32) {
    let high = |index| (rdmsr(index) >> 32) as u32;
    (
        high(IA32_VMX_TRUE_EXIT_CTLS),
        high(IA32_VMX_TRUE_ENTRY_CTLS),
    )
}

fn controls(capability: u32, wanted: u32) -> u64 {
    let allowed = rdmsr(capability);
    // What must be 1, and of the wanted what may be.
    (allowed | u64::from(wanted)) & 0xffff_ffff & (allowed >> 32)
}

/// Makes a VMCS whose guest starts at `code` and sees everything that we see.
pub fn prepare(code: unsafe extern "C" fn(), wanted: Controls) {
    let region = VMCS.address();
    // SAFETY: the region is a page that nothing else uses.
    unsafe {
        *VMCS.0.get() = [0; 512];
        (*VMCS.0.get())[0] = rdmsr(IA32_VMX_BASIC) & 0x7fff_ffff;
        *BITMAP.0.get() = [0; 512];
        asm!("vmclear [{}]", in(reg) &region);
        asm!("vmptrld [{}]", in(reg) &region);
    }
    let (cr0, cr3): (u64, u64);
    // SAFETY: reading has no effect.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0);
        asm!("mov {}, cr3", out(reg) cr3);
    }
    let cr4 = read_cr4();
    let (gdt_base, tss_base) = (&raw const gdt as u64, &raw const tss as u64);
    let idt_base = crate::traps::table();
    let stack = GUEST_STACK.address() + 4096;
    #[rustfmt::skip]
    let fields = [
        (0x4000, controls(IA32_VMX_TRUE_PINBASED_CTLS, wanted.pin)),
        (0x4002, controls(IA32_VMX_TRUE_PROCBASED_CTLS, USE_MSR_BITMAPS | wanted.processor)),
        (0x400c, controls(IA32_VMX_TRUE_EXIT_CTLS, HOST_64_BIT | wanted.exit)),
        (0x4012, controls(IA32_VMX_TRUE_ENTRY_CTLS, GUEST_64_BIT | wanted.entry)),
        (0x2004, BITMAP.address()),
        // Host: selectors, bases, control registers.
        (0x0c00, 0x10), (0x0c02, boot::KERNEL_CODE), (0x0c04, 0x10), (0x0c06, 0x10),
        (0x0c08, 0x10), (0x0c0a, 0x10), (0x0c0c, 0x38),
        (0x6c00, cr0), (0x6c02, cr3), (0x6c04, cr4),
        (0x6c0a, tss_base), (0x6c0c, gdt_base), (0x6c0e, idt_base),
        // Guest: selectors, limits, access rights, bases.
        (0x0800, 0x10), (0x0802, boot::KERNEL_CODE), (0x0804, 0x10), (0x0806, 0x10),
        (0x0808, 0x10), (0x080a, 0x10), (0x080c, 0), (0x080e, 0x38),
        (0x4800, 0xffff_ffff), (0x4802, 0xffff_ffff), (0x4804, 0xffff_ffff),
        (0x4806, 0xffff_ffff), (0x4808, 0xffff_ffff), (0x480a, 0xffff_ffff),
        (0x480e, 0x67), (0x4810, 0x47), (0x4812, 0xfff),
        (0x4814, 0xc093), (0x4816, 0xa09b), (0x4818, 0xc093), (0x481a, 0xc093),
        (0x481c, 0xc093), (0x481e, 0xc093), (0x4820, 0x1_0000), (0x4822, 0x8b),
        (0x6814, tss_base), (0x6816, gdt_base), (0x6818, idt_base),
        // Guest: control registers, DR7, RSP, RIP, RFLAGS, no VMCS shadowed.
        (0x6800, cr0), (0x6802, cr3), (0x6804, cr4), (field::GUEST_DR7, 0x400),
        (0x681c, stack), (0x681e, code as usize as u64), (field::GUEST_RFLAGS, 2),
        (0x2800, u64::MAX),
    ];
    for (field, value) in fields {
        write(field, value);
    }
}

/// Makes accesses to this register exit: reads, writes or both.
pub fn intercept(index: u32, reads: bool, writes: bool) {
    // Reads of low registers are in the first KiB, writes in the third.
    for (wanted, base) in [(reads, 0), (writes, 256)] {
        if wanted {
            // SAFETY: one CPU; the page is ours.
            unsafe { (*BITMAP.0.get())[base + index as usize / 64] |= 1 << (index % 64) }
        }
    }
}

/// How an attempt to enter ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A VM exit for this reason, bit 31 set if VM entry failed late.
    Exit(u64),
    /// VMLAUNCH failed with this error.
    Failed(u64),
}

/// Enters what [`prepare`] made.
pub fn enter() -> End {
    // SAFETY: the VMCS describes a guest that touches nothing of ours but registers.
    if unsafe { vmx_enter() } == 0 {
        End::Exit(read(field::EXIT_REASON) & 0xffff_ffff)
    } else {
        End::Failed(read(field::INSTRUCTION_ERROR))
    }
}
