// SPDX-License-Identifier: GPL-2.0-only
//! Branches, as the LBR filters and the branch events tell them apart.

/// What a taken branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Conditional near jump (Jcc, JrCXZ, LOOPcc).
    Conditional = 0,
    /// Direct near jump.
    RelativeJump = 1,
    /// Indirect near jump.
    IndirectJump = 2,
    /// Direct near call.
    RelativeCall = 3,
    /// Indirect near call.
    IndirectCall = 4,
    /// Near return.
    Return = 5,
    /// Instruction that loads CS: far JMP, CALL and RET, INT n, IRET, SYSCALL,
    /// SYSRET, SYSENTER, SYSEXIT.
    Far = 6,
    /// Delivery of an interrupt or exception; no instruction retires.
    Event = 7,
    /// RSM, for which the architectural LBR alone has a record, and no event counts.
    Resume = 8,
}

impl Kind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 9] = [
        Self::Conditional,
        Self::RelativeJump,
        Self::IndirectJump,
        Self::RelativeCall,
        Self::IndirectCall,
        Self::Return,
        Self::Far,
        Self::Event,
        Self::Resume,
    ];

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A branch that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it is.
    pub kind: Kind,
    /// Linear address of the branch instruction, or of the instruction that was
    /// not executed because of an event.
    pub from: u64,
    /// Linear address of the target.
    pub to: u64,
    /// The offset of `from` in its code segment, RIP.
    pub from_ip: u64,
    /// The offset of `to` in its code segment.
    pub to_ip: u64,
    /// Length of the branch instruction in bytes.
    pub length: u8,
}

impl Taken {
    /// A branch between code segments whose base is 0, as all are in 64-bit mode.
    pub fn flat(kind: Kind, from: u64, to: u64, length: u8) -> Self {
        Self {
            kind,
            from,
            to,
            from_ip: from,
            to_ip: to,
            length,
        }
    }

    /// A call of the next instruction: a way to read RIP, no call of a function.
    pub fn is_zero_length_call(&self) -> bool {
        self.kind == Kind::RelativeCall && self.to == self.from.wrapping_add(u64::from(self.length))
    }
}
