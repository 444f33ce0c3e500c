// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest of the guest's (L2): an interpreter in the same memory, seen at another
//! linear address, so that its branches are not those of its hypervisor (L1). What L1
//! does not intercept is left to KVM: an exit to userspace of L2's leads there.

use anyhow::{bail, ensure, Context, Result};
use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::KVM_STATE_NESTED_RUN_PENDING;

use crate::block::Block;
use crate::guest::{self, Command, End, Outcome, Symbol};
use crate::msr;
use crate::vcpu::{Stop, Vcpu};
use crate::vm::{self, Vm, VMX};

// Guest-physical addresses.
const VMXON: u64 = VMX;
const VMCS: u64 = VMX + 0x1000;
const MSR_BITMAP: u64 = VMX + 0x2000;
/// The part of an MSR bitmap for writes of MSRs below 2000H. That for reads is first.
const BITMAP_WRITES: u64 = 0x800;
const BITMAP_MSRS: u32 = 0x2000;

const CR4_VMXE: u64 = 1 << 13;

const FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_LOCKED_VMX: u64 = 1 << 0 | 1 << 2;
const VMX_BASIC: u32 = 0x480;
/// IA32_VMX_TRUE_PINBASED_CTLS and so on: which bits must be 1.
const TRUE_PIN: u32 = 0x48d;
const TRUE_PROC: u32 = 0x48e;
const TRUE_EXIT: u32 = 0x48f;
const TRUE_ENTRY: u32 = 0x490;

const PROC_MSR_BITMAPS: u64 = 1 << 28;
const EXIT_SAVE_DEBUG: u64 = 1 << 2;
const EXIT_HOST_64_BIT: u64 = 1 << 9;
const ENTRY_LOAD_DEBUG: u64 = 1 << 2;
const ENTRY_64_BIT: u64 = 1 << 9;

/// VMCS field: IA32_DEBUGCTL of the guest.
pub const GUEST_DEBUGCTL: u32 = 0x2802;

/// Basic exit reason: VMCALL.
const EXIT_REASON_VMCALL: u64 = 18;

/// Offset of the guest's CR3 in KVM's struct vmcs12, which is ABI.
const VMCS12_GUEST_CR3: usize = 432;
/// More than any CPU has of physical address bits.
const NO_CR3: u64 = 1 << 60;

/// What VM-entry and VM-exit do with IA32_DEBUGCTL.
#[derive(Clone, Copy, Debug)]
pub struct DebugControls {
    /// VM-entry loads L2's from the VMCS.
    pub load: bool,
    /// VM-exit saves it there.
    pub save: bool,
}

/// The usual.
pub const LOAD_AND_SAVE: DebugControls = DebugControls {
    load: true,
    save: true,
};

/// The guest of a vCPU's guest.
#[derive(Debug)]
pub struct Nested {
    l2: Block,
}

impl Nested {
    /// Makes a vCPU's guest a hypervisor, with a guest that has not been entered yet.
    pub fn new(vm: &Vm, vcpu: &mut Vcpu, debug: DebugControls) -> Result<Self> {
        let l2 = vm.l2_view()?;
        l2.set_control(vcpu.control())?;
        let mut sregs = vcpu.fd().get_sregs().context("KVM_GET_SREGS")?;
        sregs.cr4 |= CR4_VMXE;
        vcpu.fd().set_sregs(&sregs).context("KVM_SET_SREGS")?;
        vcpu.must_set_msr(FEATURE_CONTROL, FEATURE_CONTROL_LOCKED_VMX)
            .context("no nested virtualization; use kvm_intel.nested=1")?;
        let read = |msr| vcpu.get_msr(msr)?.context("no VMX in the guest");
        let revision = read(VMX_BASIC)? & 0x7fff_ffff;
        for region in [VMXON, VMCS] {
            vm.write(region, revision)?;
        }
        let when = |condition, bit| if condition { bit } else { 0 };
        let must = |msr| Ok::<_, anyhow::Error>(read(msr)? & 0xffff_ffff);
        let controls = [
            (0x4000, must(TRUE_PIN)?),
            (0x4002, must(TRUE_PROC)? | PROC_MSR_BITMAPS),
            (
                0x400c,
                must(TRUE_EXIT)? | EXIT_HOST_64_BIT | when(debug.save, EXIT_SAVE_DEBUG),
            ),
            (
                0x4012,
                must(TRUE_ENTRY)? | ENTRY_64_BIT | when(debug.load, ENTRY_LOAD_DEBUG),
            ),
            (0x2004, MSR_BITMAP),
            (0x2800, u64::MAX),
        ];
        let mut commands = vec![Command::Vmxon(VMXON), Command::Vmptrld(VMCS)];
        commands.extend(
            controls
                .into_iter()
                .chain(guest_state(&l2))
                .chain(host_state(vcpu.block()))
                .map(|(field, value)| Command::Vmwrite(field, value)),
        );
        for (command, outcome) in commands.iter().zip(vcpu.run(&commands)?) {
            outcome.with_context(|| format!("{command:x?}"))?;
        }
        vcpu.block().poke(guest::BLOCK_L2_R15, l2.linear())?;
        Ok(Self { l2 })
    }

    /// Returns L2's code and memory.
    pub fn l2(&self) -> &Block {
        &self.l2
    }

    fn is_in_l2(&self, vcpu: &Vcpu) -> Result<bool> {
        Ok(self.l2.owns(vcpu.rip()?))
    }

    /// Gives L2 a list to obey when it is entered next.
    pub fn put(&self, commands: &[Command]) -> Result<()> {
        self.l2.put(commands, End::Done)
    }

    /// Returns what came of the first `count` commands of L2's last list.
    pub fn outcomes(&self, count: usize) -> Result<Vec<Outcome>> {
        self.l2.outcomes(count)
    }

    /// Enters L2, if it is not there, until it obeyed a list or a routine yields. It is
    /// L2 that goes on.
    pub fn start(&self, vcpu: &mut Vcpu, commands: &[Command]) -> Result<Stop> {
        self.put(commands)?;
        let stop = match self.is_in_l2(vcpu)? {
            true => vcpu.resume()?,
            false => vcpu.start(&[Command::Vmenter])?,
        };
        ensure!(
            self.is_in_l2(vcpu)?,
            "L2 exited to L1: {:x?}",
            vcpu.outcomes(1)?
        );
        Ok(stop)
    }

    /// Has L2 obey a list without yields; returns what came of each.
    pub fn run(&self, vcpu: &mut Vcpu, commands: &[Command]) -> Result<Vec<Outcome>> {
        let stop = self.start(vcpu, commands)?;
        ensure!(stop == Stop::Done, "L2 stopped: {stop:?}");
        self.l2.outcomes(commands.len())
    }

    /// Exits from L2 to L1.
    pub fn leave(&self, vcpu: &mut Vcpu) -> Result<()> {
        self.l2.put(&[], End::Vmcall)?;
        let stop = vcpu.resume()?;
        ensure!(
            stop == Stop::Done && !self.is_in_l2(vcpu)?,
            "L2 did not exit to L1 but {stop:?}"
        );
        expect_vmcall(&vcpu.outcomes(1)?)
    }

    /// Has L2 obey a list between two lists of L1's; returns what came of L2's and of
    /// L1's second.
    pub fn visit(
        &self,
        vcpu: &mut Vcpu,
        before: &[Command],
        commands: &[Command],
        after: &[Command],
    ) -> Result<(Vec<Outcome>, Vec<Outcome>)> {
        self.l2.put(commands, End::Vmcall)?;
        let mut outcomes = vcpu.run(&[before, &[Command::Vmenter], after].concat())?;
        let mut later = outcomes.split_off(before.len());
        let after = later.split_off(1);
        expect_vmcall(&later)?;
        Ok((self.l2.outcomes(commands.len())?, after))
    }

    /// Has L1 intercept the LBR MSRs, or let L2 access them.
    pub fn intercept_lbr(&self, vm: &Vm, lbr: msr::Geometry, intercept: bool) -> Result<()> {
        let mut bitmap = [0_u64; BITMAP_MSRS as usize / 64];
        for register in lbr.registers().into_iter().filter(|_| intercept) {
            ensure!(register < BITMAP_MSRS, "MSR {register:#x} is in no bitmap");
            bitmap[register as usize / 64] |= 1 << (register % 64);
        }
        for part in [0, BITMAP_WRITES] {
            for (word, at) in bitmap.into_iter().zip((MSR_BITMAP + part..).step_by(8)) {
                vm.write(at, word)?;
            }
        }
        Ok(())
    }

    /// Returns how many accesses of L2's exited to L1 so far.
    pub fn msr_exits(&self, vcpu: &Vcpu) -> Result<u64> {
        vcpu.block().peek(guest::BLOCK_L2_MSR_EXITS)
    }
}

fn expect_vmcall(outcomes: &[Outcome]) -> Result<()> {
    match outcomes {
        [Ok(EXIT_REASON_VMCALL)] => Ok(()),
        other => bail!("L2 exited with {other:x?} and not by VMCALL"),
    }
}

/// Makes KVM's copy of a guest's VMX, taken in L2, one of a VM-entry that fails after
/// all that KVM checks first.
pub fn spoil(state: &mut KvmNestedStateBuffer) {
    state.flags |= KVM_STATE_NESTED_RUN_PENDING as u16;
    // SAFETY: All bits of all parts of the union mean something.
    let vmcs12 = unsafe { &mut state.data.vmx.vmcs12 };
    vmcs12[VMCS12_GUEST_CR3..][..8].copy_from_slice(&NO_CR3.to_le_bytes());
}

/// Selector, limit and access rights of ES, CS, SS, DS, FS, GS, LDTR and TR.
fn segments() -> [(u64, u64, u64); 8] {
    let data = (u64::from(vm::SELECTOR_DATA), 0xffff_ffff, 0xc093);
    let code = (u64::from(vm::SELECTOR_CODE), 0xffff_ffff, 0xa09b);
    let (unusable, task) = ((0, 0, 0x1_0000), (0, 0x67, 0x8b));
    [data, code, data, data, data, data, unusable, task]
}

/// L2's state at its first entry: the interpreter.
fn guest_state(l2: &Block) -> Vec<(u32, u64)> {
    let mut fields = vec![
        (0x4810, 0x17),                            // GDTR limit
        (0x4812, 0xfff),                           // IDTR limit
        (0x6800, vm::CR0),                         // CR0
        (0x6802, vm::VIEW + vm::PML4),             // CR3
        (0x6804, vm::CR4 | CR4_VMXE),              // CR4
        (0x6816, l2.base() + vm::GDT),             // GDTR base
        (0x6818, l2.base() + vm::L2_IDT),          // IDTR base
        (0x681a, 0x400),                           // DR7
        (0x681c, l2.linear() + guest::BLOCK_SIZE), // RSP
        (0x681e, l2.address(Symbol::Entry)),       // RIP
        (0x6820, 2),                               // RFLAGS
    ];
    for (segment, (selector, limit, rights)) in (0..).step_by(2).zip(segments()) {
        fields.extend([
            (0x800 + segment, selector),
            (0x4800 + segment, limit),
            (0x4814 + segment, rights),
            (0x6806 + segment, 0),
        ]);
    }
    fields
}

/// L1's state after a VM-exit. Its RSP is set at each entry.
fn host_state(l1: &Block) -> Vec<(u32, u64)> {
    let data = u64::from(vm::SELECTOR_DATA);
    vec![
        (0xc00, data),                            // ES
        (0xc02, u64::from(vm::SELECTOR_CODE)),    // CS
        (0xc04, data),                            // SS
        (0xc06, data),                            // DS
        (0xc08, data),                            // FS
        (0xc0a, data),                            // GS
        (0xc0c, data),                            // TR, any but 0
        (0x6c00, vm::CR0),                        // CR0
        (0x6c02, vm::VIEW + vm::PML4),            // CR3
        (0x6c04, vm::CR4 | CR4_VMXE),             // CR4
        (0x6c0c, l1.base() + vm::GDT),            // GDTR base
        (0x6c0e, l1.base() + vm::VIEW + vm::IDT), // IDTR base
        (0x6c16, l1.address(Symbol::L2Exit)),     // RIP
    ]
}
