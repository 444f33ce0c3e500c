// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An LBR facility as a table: its registers, what they take, and what is recorded.
//! All else in this test asks the table, so that another facility is another table.

use fastrand::Rng;
use kvm_selftests::guest::Symbol;
use kvm_selftests::msr::{self, Geometry};

/// How far from the next one a colour's addresses begin, and how many it has at most.
const SPAN: u64 = 1 << 43;
/// Where in it the addresses are that nobody executes.
const WRITTEN: u64 = 1 << 39;

/// Whose an address is: each vCPU has its code and all that is written for it in a
/// range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(u64);

impl Colour {
    /// Returns the colour of this number.
    pub(super) const fn new(number: u64) -> Self {
        Self((number + 1) * SPAN)
    }

    /// Where the memory of its vCPU is.
    pub(super) const fn base(self) -> u64 {
        self.0
    }

    /// Returns whether an address is of this colour.
    pub(super) fn has(self, address: u64) -> bool {
        (self.0..self.0 + SPAN).contains(&address)
    }

    /// Returns an address of this colour that no branch has.
    fn written(self, rng: &mut Rng) -> u64 {
        self.0 + WRITTEN + rng.u64(0..WRITTEN)
    }
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Which branches are recorded.
    Select,
    /// The number of the newest record.
    Top,
    /// Where a branch was.
    From(usize),
    /// Where it went.
    To(usize),
    /// What else is known of it.
    Info(usize),
}

impl Sort {
    /// Returns whether branches that are recorded change it, and a gap empties it.
    pub(super) fn is_record(self) -> bool {
        matches!(self, Self::From(_) | Self::To(_) | Self::Info(_))
    }

    fn is_address(self) -> bool {
        matches!(self, Self::From(_) | Self::To(_))
    }
}

/// One register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register {
    pub(super) msr: u32,
    pub(super) sort: Sort,
    /// The bits that it takes, if it has no address.
    takes: u64,
    /// The bits of its address, if it has one; the others are flags.
    address: u64,
    /// A value that it refuses, if there is one.
    refuses: Option<u64>,
}

impl Register {
    /// Returns the address in a value.
    pub(super) fn address(&self, value: u64) -> u64 {
        value & self.address
    }

    /// Returns a value that it takes, for a vCPU of this colour.
    pub(super) fn legal(&self, colour: Colour, rng: &mut Rng) -> u64 {
        match (self.sort.is_address(), rng.u32(0..4)) {
            (true, 0) => 0,
            (true, _) => colour.written(rng),
            (false, _) => rng.u64(..) & self.takes,
        }
    }

    /// Returns a value that it refuses, if there is one.
    pub(super) fn illegal(&self) -> Option<u64> {
        self.refuses
    }

    /// Returns whether the hardware may have recorded a value for a vCPU of this colour.
    pub(super) fn may_record(&self, value: u64, colour: Colour) -> bool {
        match self.sort.is_address() {
            true => {
                let address = self.address(value);
                colour.has(address) && address < colour.base() + WRITTEN
            }
            false => value & !self.takes == 0,
        }
    }
}

/// The register by which branches are recorded at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) msr: u32,
    /// Its bit that has branches recorded.
    pub(super) on: u64,
    /// Its bit that has the guest's PMI clear that bit.
    pub(super) freeze: u64,
    /// A value that it refuses.
    pub(super) refuses: u64,
}

/// What of a guest's branches is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Nothing,
    Some,
    /// All direct jumps at least.
    Jumps,
}

/// An exception that a routine raises while branches are recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exception {
    pub(super) name: &'static str,
    pub(super) routine: Symbol,
    pub(super) vector: u64,
    /// Whether recording goes on in the handler.
    pub(super) goes_on: bool,
    /// The newest record after it, if that is known.
    pub(super) newest: Option<Symbol>,
}

/// An LBR facility.
#[derive(Clone, Debug)]
pub(super) struct Facility {
    pub(super) depth: usize,
    pub(super) control: Control,
    pub(super) registers: Vec<Register>,
    pub(super) exceptions: &'static [Exception],
    /// What of the selecting register suppresses all of ring 0, some direct jumps, and
    /// has records removed.
    select_no_ring_0: u64,
    select_no_jumps: u64,
    select_call_stack: u64,
}

/// LBR_SELECT.
const CPL_EQ_0: u64 = 1 << 0;
const NEAR_REL_JMP: u64 = 1 << 7;
const EN_CALLSTACK: u64 = 1 << 9;
const SELECT_TAKES: u64 = 0x3ff;
/// LBR_INFO: mispredicted, and a count of cycles.
const INFO_TAKES: u64 = 1 << 63 | 0xffff;

const LEGACY_EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "INT1",
        routine: Symbol::Icebp,
        vector: 1,
        goes_on: false,
        newest: Some(Symbol::IcebpMark),
    },
    Exception {
        name: "a single step",
        routine: Symbol::SingleStep,
        vector: 1,
        goes_on: false,
        newest: Some(Symbol::SingleStepMark),
    },
    Exception {
        name: "INT3",
        routine: Symbol::Int3,
        vector: 3,
        goes_on: true,
        newest: None,
    },
    Exception {
        name: "a page fault",
        routine: Symbol::PageFault,
        vector: 14,
        goes_on: true,
        newest: None,
    },
];

impl Facility {
    /// The facility of LASTBRANCH and LBR_INFO registers, which DEBUGCTL controls.
    pub(super) fn legacy(lbr: Geometry) -> Self {
        const NOT_CANONICAL: u64 = 0x5a5a << 47;
        // Format 6 has a count of cycles above TO.
        let to_refuses = (lbr.format != 6).then_some(NOT_CANONICAL);
        let depth = lbr.depth as usize;
        let mut registers = vec![
            Register {
                msr: msr::LBR_SELECT,
                sort: Sort::Select,
                takes: SELECT_TAKES,
                address: 0,
                refuses: Some(SELECT_TAKES + 1),
            },
            Register {
                msr: msr::LBR_TOS,
                sort: Sort::Top,
                takes: u64::from(lbr.depth) - 1,
                address: 0,
                refuses: Some(u64::from(lbr.depth)),
            },
        ];
        for (msr, number) in lbr.record_registers().into_iter().zip(0..) {
            let record = number % depth;
            let (sort, takes, refuses) = match number / depth {
                0 => (Sort::From(record), 0, Some(NOT_CANONICAL)),
                1 => (Sort::To(record), 0, to_refuses),
                _ => (Sort::Info(record), INFO_TAKES, Some(1 << 40)),
            };
            let address = match sort.is_address() {
                true => lbr.address(u64::MAX),
                false => 0,
            };
            registers.push(Register {
                msr,
                sort,
                takes,
                address,
                refuses,
            });
        }
        Self {
            depth,
            control: Control {
                msr: msr::DEBUGCTL,
                on: msr::DEBUGCTL_LBR,
                freeze: msr::DEBUGCTL_FREEZE_LBRS_ON_PMI,
                refuses: 1 << 40,
            },
            registers,
            exceptions: LEGACY_EXCEPTIONS,
            select_no_ring_0: CPL_EQ_0,
            select_no_jumps: NEAR_REL_JMP | EN_CALLSTACK,
            select_call_stack: EN_CALLSTACK,
        }
    }

    /// Returns what is recorded of a guest that runs in ring 0.
    pub(super) fn recorded(&self, control: u64, select: u64) -> Recorded {
        if control & self.control.on == 0 || select & self.select_no_ring_0 != 0 {
            Recorded::Nothing
        } else if select & self.select_no_jumps != 0 {
            Recorded::Some
        } else {
            Recorded::Jumps
        }
    }

    /// Returns whether returns remove the records of calls.
    pub(super) fn is_call_stack(&self, select: u64) -> bool {
        select & self.select_call_stack != 0
    }

    /// Returns the number of the register of a sort.
    pub(super) fn find(&self, sort: Sort) -> Option<usize> {
        self.registers.iter().position(|r| r.sort == sort)
    }

    /// Returns the number of the record that is so many branches old, given the register
    /// of the newest, if the facility has it.
    pub(super) fn record(&self, top: Option<u64>, age: usize) -> usize {
        match top {
            Some(top) => (top as usize + self.depth - age) % self.depth,
            None => age,
        }
    }

    /// Returns the MSRs of all registers, the controlling one last.
    pub(super) fn msrs(&self) -> Vec<u32> {
        let registers = self.registers.iter().map(|register| register.msr);
        registers.chain([self.control.msr]).collect()
    }
}
