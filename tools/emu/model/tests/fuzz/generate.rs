// SPDX-License-Identifier: GPL-2.0-only
//! Random software: what it does depends on the seed alone.

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;

use crate::reference::{Branch, Facts, Place};

/// One thing that a CPU does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// So many instructions without a branch.
    Plain(u8),
    /// An instruction that loads, stores or both, some times.
    Memory(Vec<(bool, bool, Place)>),
    /// An instruction that is fetched from memory.
    Fetch(Place),
    /// CLFLUSH, or WBINVD.
    Flush(Option<u64>),
    /// An instruction that faults.
    Faulting,
    /// A branch, and whether it changes to CPL 0 or above.
    Taken(Branch, Option<bool>),
    NotTaken(u64),
    /// INT n: an event that is an instruction.
    Int(Branch, bool),
    /// Delivery of an interrupt.
    Event(Branch, bool),
    DebugException(Branch),
    Read(u32),
    Write(u32, u64),
    Rdpmc(u32),
    /// Leaf, subleaf, and what the emulator has of its own.
    Cpuid(u32, u32, [u32; 4]),
    /// VM entry that loads IA32_DEBUGCTL, IA32_LBR_CTL, IA32_PERF_GLOBAL_CTRL.
    Enter([u64; 3]),
    /// VM exit that loads IA32_PERF_GLOBAL_CTRL.
    Exit(u64),
    /// SMM is entered.
    Smi,
    /// It is left, for CPL 0 or above.
    Rsm(Branch, bool),
    /// `enum emu_reset_kind`
    Reset(u8),
    Save,
    Restore(Option<Box<[u64; 101]>>),
    Compare,
}

#[rustfmt::skip]
const EVENTS: [u64; 16] = [
    0x412e, 0x4f2e, 0x4f2e, 0x81d0, 0x82d0, 0x83d0, 0x003c, 0x013c, 0x00c0, 0x00c4, 0x00c5, 0x04c4, 0x20cc, 0x01e4, 0x01a4, 0x00c0,
];

/// The registers of all machines: first, number.
#[rustfmt::skip]
const REGISTERS: [(u32, u32); 35] = [
    (0x186, 8), (0xc1, 8), (0x4c1, 8), (0x309, 5), (0x38d, 1), (0x38e, 1), (0x38f, 1),
    (0x390, 1), (0x391, 2), (0x1c8, 1), (0x1c9, 1), (0x1d9, 1), (0x1d9, 1), (0x1dd, 2),
    (0x1e0, 1), (0x345, 1), (0x680, 33), (0x6c0, 33), (0xdc0, 33), (0x14ce, 1), (0x14ce, 1),
    (0x14cf, 1), (0x1200, 65), (0x1500, 65), (0x1600, 65), (0x38f, 1), (0xe7, 2), (0x1a6, 2), (0x3f6, 2), (0x17, 1), (0xe2, 1), (0xce, 1), (0x179, 2), (0x1fc, 1), (0x1aa, 1),
];

struct Source<'a> {
    facts: &'a Facts,
    rng: XorShiftRng,
}

impl Source<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end)
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }

    /// Few addresses, so that the predictor learns, of both halves.
    fn address(&mut self) -> u64 {
        let place = 0x1000 + self.below(64) * 8;
        if self.chance(2) {
            place | 0xffff_8000_0000_0000
        } else {
            place
        }
    }

    /// Memory of few sets of any cache, and more of it than a set has room for.
    fn place(&mut self) -> Place {
        Place {
            address: self.below(40) << 19 | self.below(2) << 6 | self.below(64),
            length: self.below(16) as u32 + 1,
        }
    }

    fn branch(&mut self, kind: u8) -> Branch {
        let from = self.address();
        let length = 5;
        let to = if kind == 3 && self.chance(4) {
            from + u64::from(length)
        } else {
            self.address()
        };
        // Near branches stay in their segment.
        let base = self.pick(&[0, 0, 0, 0x800]);
        let other = if kind < 6 {
            base
        } else {
            self.pick(&[0, 0x400])
        };
        Branch {
            kind,
            length,
            from,
            to,
            bases: (base, other),
        }
    }

    /// A value that makes sense, in most cases.
    fn sensible(&mut self, index: u32) -> u64 {
        let counters = ((1 << self.facts.general) - 1) | ((1 << self.facts.fixed) - 1) << 32;
        let near = ((1u64 << self.facts.bits) - 1) - self.below(40);
        match index {
            0x186..=0x18d => {
                let event = if self.chance(3) {
                    (0xc4 + self.below(2))
                        | self.pick(&[1, 2, 8, 0x10, 0x11, 0x20, 0x40, 0x80]) << 8
                } else {
                    self.pick(&EVENTS)
                };
                let threshold = if self.chance(4) {
                    self.pick(&[0, 1, 1, 2, 6, 255]) << 24
                        | self.below(2) << 23
                        | self.below(2) << 18
                } else {
                    0
                };
                threshold | event | 1 << 22 | self.below(4) << 16 | self.below(2) << 20
            }
            0xc1..=0xc8 => near & 0xffff_ffff,
            0x1a6 | 0x1a7 => self.rng.random::<u64>() >> 26,
            0x3f6 | 0x3f7 => self.below(0x1_0000) & !0xe8,
            0x17a => self.below(8),
            0x1aa | 0x1fc => self.below(4),
            0xe7 | 0xe8 => u64::MAX - self.below(40),
            0x309..=0x30d | 0x4c1..=0x4c8 => near,
            0x38d => self.rng.random::<u64>() & 0xbbbb & ((1 << (4 * self.facts.fixed)) - 1),
            0x38f => counters & (self.rng.random::<u64>() | self.rng.random::<u64>()),
            0x390 | 0x391 => {
                let frozen = if self.facts.version >= 4 {
                    self.below(4) << 58
                } else {
                    0
                };
                (counters & self.rng.random::<u64>()) | frozen
            }
            0x1c8 => {
                let callstack = if self.chance(3) { 0x3c4 } else { 0 };
                callstack | self.pick(&[0, 0, 1, 2, 4, 8, 0x10, 0x20, 0x100, 0x1c4])
            }
            0x1c9 => self.below(self.facts.depth as u64),
            0x1d9 => self.pick(&[0, 1, 1, 1, 2, 3]) | self.below(4) << 11 | self.below(2) << 14,
            0x14ce => {
                let kinds = self.pick(&[0x7f, 0x7f, 0x38, 0x31, 0x46, 0x01]) << 16;
                kinds | self.below(4) << 1 | self.pick(&[0, 1, 1]) | self.pick(&[0, 0, 8])
            }
            0x14cf => self.pick(&[8, 16, 32]),
            0xdc0..=0xde0 | 0x1200..=0x1220 => self.below(0x1_0000) | self.below(2) << 63,
            _ if self.chance(8) => self.address() ^ 0xff << self.pick(&[48, 49, 50]),
            _ => self.address(),
        }
    }

    fn value(&mut self, index: u32) -> u64 {
        match self.below(16) {
            0 => self.rng.random(),
            1 | 2 => self.sensible(index) ^ 1 << self.below(64),
            _ => self.sensible(index),
        }
    }

    fn index(&mut self) -> u32 {
        let (first, number) = REGISTERS[self.below(REGISTERS.len() as u64) as usize];
        match self.below(64) {
            0 => self.rng.random(),
            1 => first.wrapping_add(self.below(64) as u32),
            _ => first + self.below(u64::from(number)) as u32,
        }
    }

    fn area(&mut self) -> Option<Box<[u64; 101]>> {
        if self.chance(4) {
            return None;
        }
        let mut area = Box::new([0; 101]);
        area[0] = self.value(0x14ce);
        area[1] = self.sensible(0x14cf);
        for n in 2..101 {
            area[n] = self.sensible([0x1500, 0x1600, 0x1200][(n - 2) % 3]);
        }
        if self.chance(4) {
            let n = self.below(101) as usize;
            area[n] ^= 1 << self.below(64);
        }
        Some(area)
    }

    fn step(&mut self) -> Step {
        match self.below(128) {
            0..=13 => Step::Plain(self.below(12) as u8 + 1),
            14..=19 => {
                let access = [(true, false), (false, true), (true, true)];
                let number = self.below(3) + 1;
                Step::Memory(
                    (0..number)
                        .map(|_| {
                            let (load, store) = access[self.below(3) as usize];
                            (load, store, self.place())
                        })
                        .collect(),
                )
            }
            83..=86 => Step::Fetch(self.place()),
            87 => {
                let address = self.place().address;
                Step::Flush((!self.chance(8)).then_some(address))
            }
            20 => Step::Faulting,
            21..=54 => {
                let kind = self.below(6) as u8;
                Step::Taken(self.branch(kind), None)
            }
            55..=57 => Step::Taken(self.branch(6), Some(self.chance(2))),
            58..=61 => Step::NotTaken(self.address()),
            62 => Step::Int(self.branch(7), self.chance(2)),
            63 | 64 => Step::Event(self.branch(7), self.chance(2)),
            65 => Step::DebugException(self.branch(7)),
            66..=69 => Step::Read(self.index()),
            70 => {
                let fixed = u32::from(self.chance(2)) << 30;
                Step::Rdpmc(self.below(9) as u32 | fixed)
            }
            71 if self.chance(2) => Step::Rdpmc(self.rng.random()),
            71 => {
                let leaf = self.pick(&[1, 6, 7, 0xa, 0x15, 0x16, 0x1c, 0xd, 0x8000_0000]) as u32;
                Step::Cpuid(leaf, self.below(3) as u32, self.rng.random())
            }
            72 => Step::Enter([self.value(0x1d9), self.value(0x14ce), self.value(0x38f)]),
            73 => Step::Exit(self.value(0x38f)),
            74 if self.chance(2) => Step::Smi,
            74..=76 => Step::Rsm(self.branch(8), self.chance(2)),
            77 if self.chance(8) => Step::Reset(self.below(3) as u8),
            78 => Step::Save,
            79 if self.chance(2) => Step::Restore(self.area()),
            80..=82 => Step::Compare,
            _ => {
                let index = self.index();
                Step::Write(index, self.value(index))
            }
        }
    }
}

/// The steps of one life of a CPU.
pub(crate) fn program(facts: &Facts, seed: u64, life: u64, length: u64) -> Vec<Step> {
    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ life;
    let rng = XorShiftRng::seed_from_u64(seed);
    let mut source = Source { facts, rng };
    (0..length).map(|_| source.step()).collect()
}
