// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a vCPU may find in each of its LBR registers: what was written, a branch of its
//! own colour, or zero; never anything else.

use std::sync::Arc;

use anyhow::{bail, ensure, Result};

use super::facility::{Colour, Facility, Recorded, Register, Sort};

/// What one register may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Allowed {
    /// These values.
    values: Vec<u64>,
    /// This address, with any flags.
    address: Option<u64>,
    /// What the hardware recorded of the vCPU.
    recorded: bool,
}

impl Allowed {
    fn value(value: u64) -> Self {
        Self {
            values: vec![value],
            ..Self::default()
        }
    }

    fn also(&mut self, value: u64) {
        if !self.values.contains(&value) {
            self.values.push(value);
        }
    }

    fn all_of(&mut self, others: &[u64]) {
        self.values.extend(others);
        self.values.sort_unstable();
        self.values.dedup();
    }

    fn has(&self, value: u64, register: &Register, colour: Colour) -> bool {
        self.values.contains(&value)
            || (self.address.is_some() && self.address == Some(register.address(value)))
            || (self.recorded && register.may_record(value, colour))
    }
}

/// Who writes a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Guest,
    Userspace,
}

/// Whether somebody may have taken the LBR from a vCPU while it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undisturbed {
    Yes,
    No,
}

/// What may be missing of some branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Records {
    /// Nothing.
    Complete,
    /// Some may be, by a gap that began after recording was turned on for them.
    Gap,
    /// The same, and recording was on before.
    OldGap,
}

/// The registers of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    facility: Arc<Facility>,
    pub(super) colour: Colour,
    pub(super) control: u64,
    registers: Vec<Allowed>,
    /// Whatever a record may hold, all that are older may hold.
    moved: bool,
}

impl Reference {
    /// A new vCPU's.
    pub(super) fn new(facility: &Arc<Facility>, colour: Colour) -> Self {
        let initial = |register: &Register| match register.sort {
            Sort::Depth => Allowed::value(facility.depth as u64),
            _ => Allowed::value(0),
        };
        Self {
            facility: Arc::clone(facility),
            colour,
            control: 0,
            registers: facility.registers.iter().map(initial).collect(),
            moved: false,
        }
    }

    /// Returns a register's value, if there is such a register and no doubt.
    pub(super) fn known(&self, sort: Sort) -> Option<u64> {
        match self.registers[self.facility.find(sort)?] {
            Allowed {
                ref values,
                address: None,
                recorded: false,
            } if values.len() == 1 => Some(values[0]),
            _ => None,
        }
    }

    fn select(&self) -> u64 {
        self.known(Sort::Select).unwrap_or(0)
    }

    /// Returns how many records the guest has.
    fn depth(&self) -> usize {
        self.known(Sort::Depth)
            .map_or(self.facility.depth, |depth| depth as usize)
    }

    /// Returns whether a register is of a record that userspace alone has.
    pub(super) fn is_beyond(&self, index: usize) -> bool {
        let record = self.facility.registers[index].sort.record();
        record.is_some_and(|record| record >= self.depth())
    }

    /// Returns what is recorded now.
    pub(super) fn recorded(&self) -> Recorded {
        self.facility.recorded(self.control, self.select())
    }

    /// Returns whether the guest has branches recorded, be it none of its own.
    pub(super) fn is_on(&self) -> bool {
        self.control & self.facility.control.record != 0
    }

    /// A register is written. A guest that says how many records there are empties them,
    /// and what userspace had beyond.
    pub(super) fn write(&mut self, index: usize, value: u64, by: Writer) {
        let sort = self.facility.registers[index].sort;
        if sort == Sort::Depth && by == Writer::Guest {
            for (allowed, register) in self.registers.iter_mut().zip(&self.facility.registers) {
                if register.sort.record().is_some() {
                    *allowed = Allowed::value(0);
                }
            }
        }
        self.registers[index] = Allowed::value(value);
        self.moved = false;
    }

    /// The guest is entered. What userspace has of records that the guest has not may be
    /// lost by that.
    pub(super) fn enter(&mut self) {
        for index in 0..self.registers.len() {
            if self.is_beyond(index) {
                self.registers[index].also(0);
            }
        }
    }

    /// The guest takes branches.
    pub(super) fn branches(&mut self, undisturbed: Undisturbed) {
        if !self.is_on() {
            return;
        }
        let facility = Arc::clone(&self.facility);
        let recorded = self.recorded() != Recorded::Nothing;
        let removed = recorded && facility.is_call_stack(self.control, self.select());
        if recorded && facility.moves {
            self.records_move(removed);
        }
        let depth = self.depth();
        for (allowed, register) in self.registers.iter_mut().zip(&facility.registers) {
            match (register.sort, register.sort.record()) {
                (_, Some(record)) => {
                    let there = record < depth;
                    allowed.recorded |= recorded && there;
                    if undisturbed == Undisturbed::No || removed && there {
                        allowed.also(0);
                    }
                }
                (Sort::Top, _) => allowed.recorded |= recorded,
                (Sort::Last, _) => allowed.recorded = true,
                _ => {}
            }
        }
    }

    /// Each record makes the others one older, and one that is removed makes them one
    /// newer. How many there are is not known.
    fn records_move(&mut self, removed: bool) {
        if self.moved && !removed {
            return;
        }
        let depth = self.depth();
        let registers = &self.facility.registers;
        for first in [Sort::From(0), Sort::To(0), Sort::Info(0)] {
            let record = |sort: Sort| sort.record().filter(|record| *record < depth);
            let those: Vec<_> = (0..registers.len())
                .filter(|i| {
                    registers[*i].sort.is_like(first) && record(registers[*i].sort).is_some()
                })
                .collect();
            let mut newer = vec![];
            if removed {
                newer.extend(those.iter().flat_map(|i| self.registers[*i].values.clone()));
            }
            for index in those {
                self.registers[index].all_of(&newer);
                newer.clone_from(&self.registers[index].values);
            }
        }
        self.moved = true;
    }

    /// The newest records are those of branches from and to these addresses, newest
    /// first; `None` is any address.  Older ones are what they were.
    ///
    /// A gap empties the records when it begins.  If it may have begun before the guest
    /// wrote records, those may be left.
    pub(super) fn newest(
        &mut self,
        top: Option<u64>,
        branches: &[(u64, Option<u64>)],
        records: Records,
    ) {
        let facility = Arc::clone(&self.facility);
        self.moved = false;
        for (age, (from, to)) in branches.iter().enumerate().take(self.depth()) {
            let record = facility.record(top, age);
            for (sort, address) in [
                (Sort::From(record), Some(*from)),
                (Sort::To(record), *to),
                (Sort::Info(record), None),
            ] {
                if let Some(index) = facility.find(sort) {
                    let register = &mut self.registers[index];
                    if records != Records::OldGap {
                        register.values.clear();
                    }
                    if records != Records::Complete {
                        register.also(0);
                    }
                    (register.address, register.recorded) = (address, address.is_none());
                }
            }
        }
    }

    /// Fails unless a register may have this value.
    pub(super) fn expect(&self, index: usize, value: u64) -> Result<()> {
        let register = &self.facility.registers[index];
        let allowed = &self.registers[index];
        if allowed.has(value, register, self.colour) {
            return Ok(());
        }
        let mut may: Vec<_> = allowed.values.iter().map(|v| format!("{v:#x}")).collect();
        may.extend(
            allowed
                .address
                .map(|address| format!("the address {address:#x}")),
        );
        if allowed.recorded {
            may.push("what was recorded of it".into());
        }
        bail!(
            "MSR {:#x} ({:?}) is {value:#x}{}; it may be {}",
            register.msr,
            register.sort,
            whose(register.address(value), self.colour),
            may.join(" or ")
        )
    }

    /// Returns whether a value shows a gap where a branch could be.
    pub(super) fn is_gap(&self, index: usize, value: u64) -> bool {
        value == 0 && self.registers[index].address.is_some()
    }

    /// Fails unless a register may have this value; from now on it has.
    pub(super) fn settle(&mut self, index: usize, value: u64) -> Result<()> {
        self.expect(index, value)?;
        self.registers[index] = Allowed::value(value);
        self.moved = false;
        Ok(())
    }

    /// Fails unless the controlling register has this value.
    pub(super) fn expect_control(&self, value: u64) -> Result<()> {
        ensure!(
            value == self.control,
            "MSR {:#x} is {value:#x}, and {:#x} was written",
            self.facility.control.msr,
            self.control
        );
        Ok(())
    }

    /// Looks at all registers, the controlling one last, while the vCPU does not run.
    pub(super) fn settle_all(&mut self, values: &[u64]) -> Result<()> {
        ensure!(
            values.len() == self.registers.len() + 1,
            "KVM_GET_MSRS gave {} values",
            values.len()
        );
        for (index, value) in values.iter().enumerate() {
            match index == self.registers.len() {
                true => self.expect_control(*value)?,
                false => self.settle(index, *value)?,
            }
        }
        Ok(())
    }
}

/// Says whose an address is, if it is not of this colour.
fn whose(address: u64, colour: Colour) -> String {
    const COLOURS: u64 = 5;
    if address == 0 || colour.has(address) {
        return String::new();
    }
    let others = (0..COLOURS).find(|number| Colour::new(*number).has(address));
    match others {
        Some(number) => format!(", of colour {number}"),
        None => ", of the host perhaps".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facility::{architectural, legacy};
    use super::*;

    const FROM_0: usize = 2;
    const MINE: Colour = Colour::new(1);

    fn reference() -> Reference {
        Reference::new(&Arc::new(legacy(4)), MINE)
    }

    #[test]
    fn what_was_written_is_kept_while_nothing_is_recorded() {
        let mut reference = reference();
        reference.write(FROM_0, 5, Writer::Guest);
        reference.branches(Undisturbed::No);
        reference.expect(FROM_0, 5).unwrap();
        reference.expect(FROM_0, 0).unwrap_err();
        reference.expect(FROM_0, MINE.base()).unwrap_err();
    }

    #[test]
    fn what_is_recorded_is_of_the_own_colour() {
        let mut reference = reference();
        reference.write(FROM_0, 5, Writer::Guest);
        reference.control = 1;
        reference.branches(Undisturbed::Yes);
        for value in [5, MINE.base(), MINE.base() + 0x1234] {
            reference.expect(FROM_0, value).unwrap();
        }
        for value in [0, 6, Colour::new(0).base(), Colour::new(2).base(), 1 << 63] {
            reference.expect(FROM_0, value).unwrap_err();
        }
        reference.branches(Undisturbed::No);
        reference.expect(FROM_0, 0).unwrap();
        reference.settle(FROM_0, MINE.base()).unwrap();
        reference.control = 0;
        reference.branches(Undisturbed::No);
        reference.expect(FROM_0, 0).unwrap_err();
    }

    #[test]
    fn a_filter_of_all_branches_keeps_the_records() {
        let mut reference = reference();
        reference.write(0, 1, Writer::Guest);
        reference.write(FROM_0, 5, Writer::Guest);
        reference.control = 1;
        reference.branches(Undisturbed::Yes);
        reference.expect(FROM_0, MINE.base()).unwrap_err();
        reference.expect(FROM_0, 0).unwrap_err();
        reference.branches(Undisturbed::No);
        reference.expect(FROM_0, 0).unwrap();
    }

    #[test]
    fn the_newest_records_go_backwards_from_the_top() {
        let mut reference = reference();
        let jump = |number| (MINE.base() + number, Some(MINE.base() + number + 1));
        reference.newest(Some(1), &[jump(40), jump(30), jump(20)], Records::Complete);
        for (record, address) in [(1, 40), (0, 30), (3, 20)] {
            reference
                .expect(FROM_0 + record, MINE.base() + address)
                .unwrap();
            reference.expect(FROM_0 + record, 0).unwrap_err();
        }
        reference.expect(FROM_0 + 2, 0).unwrap();
        reference.newest(Some(1), &[jump(50)], Records::Gap);
        reference.expect(FROM_0 + 1, 0).unwrap();
        reference.write(FROM_0 + 1, 7, Writer::Guest);
        reference.newest(Some(1), &[jump(50)], Records::Gap);
        reference.expect(FROM_0 + 1, 7).unwrap_err();
        reference.write(FROM_0 + 1, 7, Writer::Guest);
        reference.newest(Some(1), &[jump(50)], Records::OldGap);
        reference.expect(FROM_0 + 1, 7).unwrap();
    }
    fn of_moving_records() -> (Reference, impl Fn(Sort) -> usize) {
        let facility = Arc::new(architectural(8));
        let reference = Reference::new(&facility, MINE);
        (reference, move |sort| facility.find(sort).unwrap())
    }

    #[test]
    fn records_move_to_where_they_are_older() {
        let (mut reference, find) = of_moving_records();
        let from = |record| find(Sort::From(record));
        reference.write(from(2), 5, Writer::Guest);
        reference.control = architectural(8).control.on;
        reference.branches(Undisturbed::Yes);
        for (record, may) in [(0, false), (1, false), (2, true), (3, true), (7, true)] {
            assert_eq!(reference.expect(from(record), 5).is_ok(), may, "{record}");
        }
        reference.expect(find(Sort::To(3)), 5).unwrap_err();
        reference.expect(from(2), 0).unwrap();
        // Calls and returns move them back.
        reference.control |= 1 << 3;
        reference.branches(Undisturbed::Yes);
        reference.expect(from(0), 5).unwrap();
    }

    #[test]
    fn the_guest_alone_empties_by_a_depth() {
        let (mut reference, find) = of_moving_records();
        let (newest, oldest) = (find(Sort::From(0)), find(Sort::From(7)));
        let write_depth = |reference: &mut Reference, depth, by| {
            reference.write(find(Sort::Depth), depth, by);
        };
        for index in [newest, oldest] {
            reference.write(index, 5, Writer::Userspace);
        }
        write_depth(&mut reference, 4, Writer::Userspace);
        assert!(reference.is_beyond(oldest) && !reference.is_beyond(newest));
        reference.control = architectural(8).control.on;
        reference.branches(Undisturbed::Yes);
        reference.expect(oldest, 5).unwrap();
        reference.expect(oldest, 0).unwrap_err();
        reference.expect(oldest, MINE.base()).unwrap_err();
        reference.enter();
        reference.expect(oldest, 0).unwrap();
        write_depth(&mut reference, 8, Writer::Guest);
        assert!(!reference.is_beyond(oldest));
        for index in [newest, oldest] {
            reference.expect(index, 5).unwrap_err();
            reference.expect(index, 0).unwrap();
        }
    }
}
