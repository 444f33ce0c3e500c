// SPDX-License-Identifier: GPL-2.0-only
//! What time it is for a logical CPU.

/// A moment in a logical CPU's life, in events since it was created.
///
/// One core cycle passes per instruction that the emulator starts, whether or
/// not it retires, and per iteration of a repeated string instruction; none
/// passes while the CPU is halted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Now {
    /// Core cycles that the CPU was not halted.
    pub cycles: u64,
    /// Instructions retired.
    pub instructions: u64,
}

impl Now {
    /// What passed since `earlier`; nothing when that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cycles: self.cycles.saturating_sub(earlier.cycles),
            instructions: self.instructions.saturating_sub(earlier.instructions),
        }
    }

    /// The later of both, per member.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cycles: self.cycles.max(other.cycles),
            instructions: self.instructions.max(other.instructions),
        }
    }
}
