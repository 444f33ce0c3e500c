// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What runs inside a guest, and how it is told what to do.
//!
//! The code is in `guest*.S`. A vCPU has a block of guest memory with a list of
//! [`Command`]s; it obeys them one by one and exits. Everything is at a fixed
//! offset from the VM's base, see [`crate::vm`].

use std::fmt;

use vm_memory::ByteValued;

core::arch::global_asm!(
    include_str!("guest.S"),
    include_str!("guest_debug.S"),
    include_str!("guest_nested.S"),
    include_str!("guest_arch.S"),
    include_str!("guest_disturb.S"),
    include_str!("guest_end.S"),
    options(raw)
);

/// Offset of the vCPU's own block: what the handlers report.
pub(crate) const BLOCK_PMI_CONTROL: u64 = 0x08;
pub(crate) const BLOCK_FAULT_VECTOR: u64 = 0x10;
pub(crate) const BLOCK_FAULT_RIP: u64 = 0x18;
pub(crate) const BLOCK_NOTE_VECTOR: u64 = 0x20;
pub(crate) const BLOCK_NOTE_CONTROL: u64 = 0x28;
pub(crate) const BLOCK_NOTE_COUNT: u64 = 0x30;
/// How its routines switch recording: the register, and its value for on.
pub(crate) const BLOCK_CONTROL: u64 = 0x40;
pub(crate) const BLOCK_ON: u64 = 0x48;
/// How many accesses to MSRs of L2's exited to L1.
pub(crate) const BLOCK_L2_MSR_EXITS: u64 = 0x50;
/// L2's r15: where its block is.
pub(crate) const BLOCK_L2_R15: u64 = 0x58;
/// IA32_PERF_GLOBAL_STATUS in the PMI handler.
pub(crate) const BLOCK_PMI_STATUS: u64 = 0xd0;
/// IA32_PMC0 in the PMI handler.
pub(crate) const BLOCK_PMI_COUNTER: u64 = 0xd8;
pub(crate) const BLOCK_COMMANDS: u64 = 0x1000;
/// Where XSAVES stores.
pub(crate) const BLOCK_AREA: u64 = 0xd000;
/// Size of a block; the stack is at its end.
pub(crate) const BLOCK_SIZE: u64 = 0x1_0000;
/// How many commands a list may have, the final one included.
pub(crate) const MAX_COMMANDS: usize = 1536;

/// The list is done.
pub(crate) const PORT_DONE: u16 = 0xf1;
/// Somebody may look, go on then.
pub(crate) const PORT_YIELD: u16 = 0xf2;
/// An exception that no test expects.
pub(crate) const PORT_FAULT: u16 = 0xf3;
/// The guest is in SMM.
pub(crate) const PORT_SMI: u16 = 0xf4;

/// The vector that a guest's LVTPC entry should use.
pub const PMI_VECTOR: u8 = 0x40;

macro_rules! symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident,)*) => {
        extern "C" {
            $(static $symbol: u8;)*
        }

        /// A place in the guest's code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Symbol {
            $($(#[$doc])* $name,)*
        }

        impl Symbol {
            fn pointer(self) -> *const u8 {
                match self {
                    $(Self::$name => &raw const $symbol,)*
                }
            }
        }
    };
}

symbols! {
    /// The first byte of the code.
    Start = guest_start,
    /// The interpreter.
    Entry = guest_entry,
    /// The exceptions' stubs, 16 bytes each.
    Exceptions = guest_exceptions,
    /// The PMI handler.
    Pmi = guest_pmi,
    /// The PMI handler's two jumps.
    PmiMarks = guest_pmi_marks,
    /// The end of the PMI handler.
    PmiEnd = guest_pmi_end,
    /// Routine: record [`JUMPS`] jumps, recording off before and after.
    Jumps = guest_jumps,
    /// The first of its jumps.
    JumpsFirst = guest_jumps_first,
    /// Routine: record [`JUMPS`] jumps, yield with recording on.
    JumpsOn = guest_jumps_on,
    /// The first of its jumps.
    JumpsOnFirst = guest_jumps_on_first,
    /// Routine: yield.
    Yield = guest_yield,
    /// Routine: three branches for each time that the argument says.
    Spin = guest_spin,
    /// Routine: one branch of each kind, see [`kinds`].
    Mixed = guest_mixed,
    /// Routine: to ring 3 and back, see [`ring_kinds`].
    Rings = guest_rings,
    /// Where SYSCALL leads.
    RingsBack = guest_rings_back,
    /// Routine: branch until the PMI came; the argument is the control.
    WaitPmi = guest_wait_pmi,
    /// Its loop.
    WaitPmiLoop = guest_wait_pmi_loop,
    /// The end of its loop.
    WaitPmiEnd = guest_wait_pmi_end,
    /// The handler that notes a #DB.
    NoteDb = guest_note_db,
    /// The handler that notes a #BP.
    NoteBp = guest_note_bp,
    /// The handler that notes a #PF.
    NotePf = guest_note_pf,
    /// Routine: record a jump, then INT1.
    Icebp = guest_icebp,
    /// Its jump.
    IcebpMark = guest_icebp_mark,
    /// Routine: record a jump that is executed with RFLAGS.TF set.
    SingleStep = guest_single_step,
    /// Its jump.
    SingleStepMark = guest_single_step_mark,
    /// Routine: record a jump, then write to where a breakpoint is.
    DataBreakpoint = guest_data_breakpoint,
    /// Its jump.
    DataBreakpointMark = guest_data_breakpoint_mark,
    /// Routine: record a jump, then execute where a breakpoint is.
    CodeBreakpoint = guest_code_breakpoint,
    /// Its jump.
    CodeBreakpointMark = guest_code_breakpoint_mark,
    /// Routine: record a jump, then INT3.
    Int3 = guest_int3,
    /// Its jump.
    Int3Mark = guest_int3_mark,
    /// Its INT3.
    Int3At = guest_int3_at,
    /// Routine: record a jump, then read where no memory is.
    PageFault = guest_page_fault,
    /// Its jump.
    PageFaultMark = guest_page_fault_mark,
    /// Its read.
    PageFaultAt = guest_page_fault_at,
    /// The interpreter's commands for a hypervisor.
    Nested = guest_nested,
    /// L2's end of a list; also a handler of L2's that ends it.
    Vmcall = guest_vmcall,
    /// L1's host RIP.
    L2Exit = guest_l2_exit,
    /// The SMI handler that only tells.
    SmmTell = guest_smm_tell,
    /// Its end.
    SmmTellEnd = guest_smm_tell_end,
    /// Routine: record [`JUMPS`] jumps, then exit often and yield [`EXITS`] times.
    Exits = guest_exits,
    /// The first of its jumps.
    ExitsFirst = guest_exits_first,
    /// Routine: XSAVES of the LBR alone.
    Xsaves = guest_xsaves,
    /// The SMI handler.
    Smm = guest_smm,
    /// Its end.
    SmmEnd = guest_smm_end,
    /// Routine: execute CPUID for each time that the argument says.
    Cpuid = guest_cpuid,
    /// Behind the last byte of the code.
    End = guest_end,
    /// The table of the branches of `Mixed`.
    Kinds = guest_kinds,
    /// Its end.
    KindsEnd = guest_kinds_end,
    /// The table of the branches of `Rings`.
    RingKinds = guest_ring_kinds,
    /// Its end.
    RingKindsEnd = guest_ring_kinds_end,
}

/// How many jumps [`Symbol::Jumps`] takes, more than any host has records.
pub const JUMPS: u64 = 40;
/// How often [`Symbol::Exits`] yields.
pub const EXITS: usize = 50;
/// How many bytes a jump is away from the one before.
pub const JUMP_STRIDE: u64 = 3;

impl Symbol {
    /// Returns the offset from the start of the code.
    pub fn offset(self) -> u64 {
        (self.pointer().addr() - Symbol::Start.pointer().addr()) as u64
    }
}

fn bytes(from: Symbol, to: Symbol) -> &'static [u8] {
    let length = to.pointer().addr() - from.pointer().addr();
    // SAFETY: Both are labels of one read-only section, `from` before `to`, with
    // initialized bytes between them.
    unsafe { std::slice::from_raw_parts(from.pointer(), length) }
}

/// Returns the code.
pub(crate) fn image() -> &'static [u8] {
    bytes(Symbol::Start, Symbol::End)
}

/// Returns the SMI handler that only tells, see [`PORT_SMI`].
pub(crate) fn smm_tell_image() -> &'static [u8] {
    bytes(Symbol::SmmTell, Symbol::SmmTellEnd)
}

/// Returns the SMI handler that reports IA32_LBR_CTL, which knows where.
pub(crate) fn smm_image() -> &'static [u8] {
    bytes(Symbol::Smm, Symbol::SmmEnd)
}

/// A branch of [`Symbol::Mixed`] or [`Symbol::Rings`], addresses relative to the start of the code.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The bit of LBR_SELECT that suppresses it.
    pub bit: u64,
    /// Its own offset.
    pub from: u64,
    /// Its target's offset.
    pub to: u64,
}

/// Returns the branches of [`Symbol::Mixed`] in the order in which it takes them.
pub fn kinds() -> Vec<Kind> {
    table(Symbol::Kinds, Symbol::KindsEnd)
}

/// Returns those of [`Symbol::Rings`], which begins in ring 0, each with the bit of LBR_SELECT
/// for the ring in which it ends.
pub fn ring_kinds() -> Vec<Kind> {
    table(Symbol::RingKinds, Symbol::RingKindsEnd)
}

fn table(from: Symbol, to: Symbol) -> Vec<Kind> {
    let (words, _) = bytes(from, to).as_chunks::<8>();
    let (rows, _) = words.as_chunks::<3>();
    rows.iter()
        .map(|row| row.map(u64::from_le_bytes))
        .map(|[bit, from, to]| Kind { bit, from, to })
        .collect()
}

/// What the interpreter can do.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Read an MSR.
    Rdmsr(u32),
    /// Write an MSR.
    Wrmsr(u32, u64),
    /// Call a routine with an argument.
    Call(Symbol, u32),
    /// VMXON with the region at this physical address.
    Vmxon(u64),
    /// VMCLEAR and VMPTRLD of the VMCS at this physical address.
    Vmptrld(u64),
    /// Write a field of the VMCS.
    Vmwrite(u32, u64),
    /// Read a field of the VMCS.
    Vmread(u32),
    /// VMLAUNCH or VMRESUME; the result is the reason of the VM-exit.
    Vmenter,
}

/// What an interpreter does at the end of its list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// Exit to userspace.
    Done,
    /// In L2, exit to L1.
    Vmcall,
}

/// A command as it lies in guest memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawCommand {
    code: u32,
    arg: u32,
    value: u64,
    result: u64,
    vector: u64,
}

// SAFETY: Plain integers without padding.
unsafe impl ByteValued for RawCommand {}

impl RawCommand {
    /// `base` is the linear address of the code.
    pub(crate) fn new(command: Command, base: u64) -> Self {
        let (code, arg, value) = match command {
            Command::Rdmsr(msr) => (1, msr, 0),
            Command::Wrmsr(msr, value) => (2, msr, value),
            Command::Call(routine, arg) => (3, arg, base + routine.offset()),
            Command::Vmxon(address) => (5, 0, address),
            Command::Vmptrld(address) => (6, 0, address),
            Command::Vmwrite(field, value) => (7, field, value),
            Command::Vmread(field) => (8, field, 0),
            Command::Vmenter => (9, 0, 0),
        };
        Self {
            code,
            arg,
            value,
            ..Self::default()
        }
    }

    pub(crate) fn end(end: End) -> Self {
        Self {
            code: match end {
                End::Done => 0,
                End::Vmcall => 4,
            },
            ..Self::default()
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self.vector {
            u64::MAX => Ok(self.result),
            vector => Err(Exception { vector }),
        }
    }
}

/// What came of a command: what was read, the routine's result or the reason of a
/// VM-exit, or the exception that RDMSR or WRMSR raised.
pub type Outcome = Result<u64, Exception>;

/// An exception in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u64,
}

/// General protection.
pub const GP: Exception = Exception { vector: 13 };

/// No exception: a VMX instruction failed (VMfail).
pub const VMX_FAILED: Exception = Exception { vector: 0x100 };

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == VMX_FAILED {
            return f.write_str("a VMX instruction failed in the guest");
        }
        write!(f, "exception {} in the guest", self.vector)
    }
}

impl std::error::Error for Exception {}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(offset: u64) -> &'static [u8] {
        &image()[offset as usize..]
    }

    #[test]
    fn jumps_have_the_stride_that_tests_count_on() {
        for first in [Symbol::JumpsFirst, Symbol::JumpsOnFirst, Symbol::ExitsFirst] {
            for number in 0..JUMPS {
                let jump = code(first.offset() + number * JUMP_STRIDE);
                assert_eq!(jump[..3], [0xeb, 0x01, 0x90], "jump {number}");
            }
            // Not one more.
            let behind = code(first.offset() + JUMPS * JUMP_STRIDE);
            assert_ne!(behind[0], 0xeb);
        }
        let marks = code(Symbol::PmiMarks.offset());
        assert_eq!(marks[..6], [0xeb, 0x01, 0x90, 0xeb, 0x01, 0x90]);
    }

    #[test]
    fn table_of_kinds_names_the_right_instructions() {
        let opcodes: [(u64, &[u8]); 11] = [
            (7, &[0xeb]),
            (2, &[0x74]),
            (3, &[0xe8]),
            (5, &[0xc3]),
            (4, &[0xff, 0xd3]),
            (5, &[0xc3]),
            (6, &[0xff, 0xe6]),
            (8, &[0x0f, 0x0b]),
            (7, &[0xe9]),
            (2, &[0x74]),
            (8, &[0x48, 0xcf]),
        ];
        let kinds = kinds();
        assert_eq!(kinds.len(), opcodes.len());
        for (kind, (bit, opcode)) in kinds.iter().zip(opcodes) {
            assert_eq!(kind.bit, bit, "{kind:x?}");
            assert!(code(kind.from).starts_with(opcode), "{kind:x?}");
        }
        // One goes on where the last one led, up to the next branch.
        for pair in kinds.windows(2) {
            assert!((pair[0].to..pair[0].to + 32).contains(&pair[1].from));
        }
    }

    #[test]
    fn table_of_rings_names_the_right_instructions() {
        let opcodes: [(u64, &[u8]); 4] = [
            (1, &[0x48, 0x0f, 0x07]),
            (1, &[0xeb, 0x01]),
            (0, &[0x0f, 0x05]),
            (0, &[0xeb, 0x01]),
        ];
        let kinds = ring_kinds();
        assert_eq!(kinds.len(), opcodes.len());
        for (kind, (bit, opcode)) in kinds.iter().zip(opcodes) {
            assert_eq!(kind.bit, bit, "{kind:x?}");
            assert!(code(kind.from).starts_with(opcode), "{kind:x?}");
        }
        assert!(kinds.windows(2).all(|pair| pair[0].to == pair[1].from));
    }

    #[test]
    fn exception_stubs_are_16_bytes_apart() {
        for vector in 0..32_u64 {
            let stub = code(Symbol::Exceptions.offset() + 16 * vector);
            let has_error_code = matches!(vector, 8 | 10..=14 | 17 | 21);
            let push = if has_error_code { stub } else { &stub[2..] };
            assert_eq!(push[..2], [0x6a, vector as u8], "vector {vector}");
        }
    }

    #[test]
    fn outcome_is_a_result_or_an_exception() {
        let mut raw = RawCommand::new(Command::Wrmsr(0x1c8, 5), 0);
        raw.vector = 13;
        assert_eq!(raw.outcome(), Err(GP));
        (raw.vector, raw.result) = (u64::MAX, 7);
        assert_eq!(raw.outcome(), Ok(7));
    }
}
