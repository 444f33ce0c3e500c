// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An interpreter's block of guest memory: the commands that it obeys and what came
//! of them.

use std::sync::Arc;

use anyhow::{ensure, Result};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::guest::{self, Command, End, Outcome, RawCommand, Symbol};
use crate::msr::{Branch, Control, Geometry};
use crate::vm::{CODE, SIZE};

/// The block of a vCPU's interpreter, or of a guest's of its guest.
#[derive(Clone, Debug)]
pub struct Block {
    memory: Arc<MmapRegion>,
    base: u64,
    at: u64,
}

impl Block {
    /// `base` is where the interpreter sees the memory, `at` the guest-physical
    /// address of the block.
    pub(crate) fn new(memory: Arc<MmapRegion>, base: u64, at: u64) -> Self {
        Self { memory, base, at }
    }

    /// Returns the block's linear address.
    pub(crate) fn linear(&self) -> u64 {
        self.base + self.at
    }

    /// Returns the linear address of the VM's memory.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Returns the linear address of a place in the code.
    pub fn address(&self, symbol: Symbol) -> u64 {
        self.code_address(symbol.offset())
    }

    /// Returns the linear address of an offset into the code.
    pub fn code_address(&self, offset: u64) -> u64 {
        self.base + CODE + offset
    }

    /// Returns whether the VM's memory is at this linear address.
    pub fn owns(&self, address: u64) -> bool {
        (self.base..self.base + SIZE).contains(&address)
    }

    pub(crate) fn peek(&self, offset: u64) -> Result<u64> {
        let at = (self.at + offset) as usize;
        Ok(self.memory.as_volatile_slice().read_obj(at)?)
    }

    pub(crate) fn poke(&self, offset: u64, value: u64) -> Result<()> {
        let at = (self.at + offset) as usize;
        Ok(self.memory.as_volatile_slice().write_obj(value, at)?)
    }

    /// Says how the interpreter's routines switch recording.
    pub(crate) fn set_control(&self, control: Control) -> Result<()> {
        self.poke(guest::BLOCK_CONTROL, control.msr.into())?;
        self.poke(guest::BLOCK_ON, control.on)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = (self.at + offset) as usize;
        Ok(self.memory.as_volatile_slice().write_slice(bytes, at)?)
    }

    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let at = (self.at + offset) as usize;
        Ok(self.memory.as_volatile_slice().read_slice(bytes, at)?)
    }

    /// Gives the interpreter a list of commands.
    pub(crate) fn put(&self, commands: &[Command], end: End) -> Result<()> {
        ensure!(commands.len() < guest::MAX_COMMANDS, "too many commands");
        let base = self.base + CODE;
        let raw = commands
            .iter()
            .map(|command| RawCommand::new(*command, base))
            .chain([RawCommand::end(end)]);
        let mut at = (self.at + guest::BLOCK_COMMANDS) as usize;
        for command in raw {
            self.memory.as_volatile_slice().write_obj(command, at)?;
            at += size_of::<RawCommand>();
        }
        Ok(())
    }

    /// Returns what came of the first `count` commands of the last list.
    pub(crate) fn outcomes(&self, count: usize) -> Result<Vec<Outcome>> {
        (0..count)
            .map(|index| {
                let offset = guest::BLOCK_COMMANDS + (index * size_of::<RawCommand>()) as u64;
                let at = (self.at + offset) as usize;
                let raw: RawCommand = self.memory.as_volatile_slice().read_obj(at)?;
                Ok(raw.outcome())
            })
            .collect()
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
}
