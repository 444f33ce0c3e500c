// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! An LBR facility as a table: its registers, what they take, and what is recorded.
//! All else in this test asks the table, so that another facility is another table.

use anyhow::Result;
use fastrand::Rng;
use kvm_selftests::cpuid;
use kvm_selftests::guest::Symbol;
use kvm_selftests::host::Host;
use kvm_selftests::msr::Geometry;

mod architectural;
mod legacy;

/// How far from the next one a colour's addresses begin, and how many it has at most.
const SPAN: u64 = 1 << 43;
/// Where in it the addresses are that nobody executes.
const WRITTEN: u64 = 1 << 39;
/// Of so many random registers one is none of a record.
const HEADS: u32 = 6;

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
    /// How many records there are.
    Depth,
    /// Whether the guest's PMI ends recording.
    Freeze,
    /// The last branch before the last event.
    Last,
    /// Where a branch was.
    From(usize),
    /// Where it went.
    To(usize),
    /// What else is known of it.
    Info(usize),
}

impl Sort {
    /// Returns the number of the record of which it is.
    pub(super) fn record(self) -> Option<usize> {
        match self {
            Self::From(record) | Self::To(record) | Self::Info(record) => Some(record),
            _ => None,
        }
    }

    /// Returns whether both are of records, and hold the same of them.
    pub(super) fn is_like(self, other: Self) -> bool {
        self.record().is_some() && std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What a register takes, and what the hardware makes of it.
#[derive(Clone, Debug)]
enum Takes {
    /// These bits.
    Bits(u64),
    /// These values.
    OneOf(Vec<u64>),
    /// An address in these bits; the others are flags.
    Address(u64),
}

/// One register.
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub(super) msr: u32,
    pub(super) sort: Sort,
    takes: Takes,
    /// Some values that it refuses.
    refuses: Vec<u64>,
}

impl Register {
    /// Returns the address in a value.
    pub(super) fn address(&self, value: u64) -> u64 {
        match self.takes {
            Takes::Address(bits) => value & bits,
            _ => 0,
        }
    }

    /// Returns a value that it takes, for a vCPU of this colour.
    pub(super) fn legal(&self, colour: Colour, rng: &mut Rng) -> u64 {
        match (&self.takes, rng.u32(0..4)) {
            (Takes::OneOf(values), _) => values[rng.usize(0..values.len())],
            (_, 0) => 0,
            (Takes::Address(_), _) => colour.written(rng),
            (Takes::Bits(bits), _) => rng.u64(..) & bits,
        }
    }

    /// Returns a value that it refuses, if there is one.
    pub(super) fn illegal(&self, rng: &mut Rng) -> Option<u64> {
        rng.choice(&self.refuses).copied()
    }

    /// Returns whether the hardware may have recorded a value for a vCPU of this colour.
    pub(super) fn may_record(&self, value: u64, colour: Colour) -> bool {
        match &self.takes {
            // It is what the CPU last recorded, of whomever, if an event comes before a
            // branch that the guest's filters let through; that no register holds before.
            _ if self.sort == Sort::Last => true,
            Takes::Address(bits) => {
                let address = value & bits;
                colour.has(address) && address < colour.base() + WRITTEN
            }
            Takes::Bits(bits) => value & !bits == 0,
            Takes::OneOf(values) => values.contains(&value),
        }
    }
}

/// Returns the registers of the records, given what FROM, TO and INFO take, and some values
/// that they refuse.
fn records(lbr: Geometry, kinds: [(Takes, Vec<u64>); 3]) -> impl Iterator<Item = Register> {
    let depth = lbr.depth as usize;
    let msrs = lbr.record_registers().into_iter().enumerate();
    msrs.map(move |(number, msr)| {
        let (kind, record) = (number / depth, number % depth);
        let (takes, refuses) = kinds[kind].clone();
        Register {
            msr,
            sort: [Sort::From, Sort::To, Sort::Info][kind](record),
            takes,
            refuses,
        }
    })
}

/// The register by which branches are recorded at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) msr: u32,
    /// Its bit that has branches recorded.
    pub(super) record: u64,
    /// That with all that the routines of the guest want.
    pub(super) on: u64,
    /// The bits that it takes.
    takes: u64,
    /// Bits that it refuses.
    refuses: u64,
}

impl Control {
    /// Returns a value that it takes.
    pub(super) fn legal(&self, rng: &mut Rng) -> u64 {
        let record = match rng.u32(0..5) {
            0..3 => self.record,
            _ => 0,
        };
        let others = match rng.bool() {
            true => self.on,
            false => rng.u64(..) & self.takes,
        };
        record | others & !self.record
    }

    /// Returns a value that it refuses.
    pub(super) fn illegal(&self, rng: &mut Rng) -> u64 {
        loop {
            let bit = 1 << rng.u32(0..64);
            if self.refuses & bit != 0 {
                return self.legal(rng) | bit;
            }
        }
    }
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

/// Those that both facilities know.
const EXCEPTIONS: &[Exception] = &[
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

/// What the registers that select branches mean to a guest in ring 0.
#[derive(Clone, Copy, Debug)]
struct Selection {
    recorded: Recorded,
    /// Returns remove the records of calls.
    call_stack: bool,
}

/// An LBR facility.
#[derive(Clone, Debug)]
pub(super) struct Facility {
    /// How many records there are, the most if that can be chosen.
    pub(super) depth: usize,
    pub(super) control: Control,
    /// The register that has the guest's PMI end recording, and the bit.
    freeze: u64,
    /// Those of records are the last.
    pub(super) registers: Vec<Register>,
    pub(super) exceptions: &'static [Exception],
    /// Record 0 is the newest; the others move.
    pub(super) moves: bool,
    /// Branch stacks of the host's may hold the branches of guests.
    pub(super) host_records_guests: bool,
    /// What must happen in a thousand steps, beside what does with any facility.
    pub(super) happens: &'static [&'static str],
    selection: fn(control: u64, select: u64) -> Selection,
}

impl Facility {
    /// Returns that of guests of this host.
    pub(super) fn of(host: &Host) -> Result<Self> {
        let lbr = host.lbr()?;
        Ok(match lbr.is_architectural() {
            true => architectural::facility(lbr, &cpuid::lbr_depths(&host.cpuid()?)),
            false => legacy::facility(lbr),
        })
    }

    /// Returns what is recorded of a guest that runs in ring 0.
    pub(super) fn recorded(&self, control: u64, select: u64) -> Recorded {
        match control & self.control.record {
            0 => Recorded::Nothing,
            _ => (self.selection)(control, select).recorded,
        }
    }

    /// Returns whether returns remove the records of calls.
    pub(super) fn is_call_stack(&self, control: u64, select: u64) -> bool {
        (self.selection)(control, select).call_stack
    }

    /// Returns the controlling register as the PMI handler finds it, given the register
    /// by which it freezes, if that is another.
    pub(super) fn at_pmi(&self, control: u64, freeze: Option<u64>) -> u64 {
        match freeze.unwrap_or(control) & self.freeze {
            0 => control,
            _ => control & !self.control.record,
        }
    }

    /// Returns the number of the register of a sort.
    pub(super) fn find(&self, sort: Sort) -> Option<usize> {
        self.registers.iter().position(|r| r.sort == sort)
    }

    /// Returns the number of a random register.
    pub(super) fn random(&self, rng: &mut Rng) -> usize {
        let heads = self
            .registers
            .iter()
            .take_while(|r| r.sort.record().is_none());
        let heads = heads.count();
        match rng.u32(0..HEADS) {
            0 => rng.usize(0..heads),
            _ => rng.usize(heads..self.registers.len()),
        }
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

#[cfg(test)]
pub(super) use architectural::tests::facility as architectural;
#[cfg(test)]
pub(super) use legacy::tests::facility as legacy;
