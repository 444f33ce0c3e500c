// SPDX-License-Identifier: GPL-2.0-only

//! What only the architectural facility has.

use lbr::architectural::{Facility, Leaf};
use lbr::{Debugctl, Description, State, Trace};

use super::super::hardware::{msrs, Hardware};
use super::super::reference::BRANCH;
use super::super::world::{Action, Guest, World};
use super::Row;

const CTL: u32 = 0x14ce;
const DEPTH: u32 = 0x14cf;
const FROM: u32 = Facility::HOST.from;
const TO: u32 = Facility::HOST.to;
const INFO: u32 = Facility::HOST.info;

type ArchRow = Row<Facility>;

/// A guest that records, with and without the LBRs.
fn recording() -> [ArchRow; 2] {
    let granted = ArchRow::recording();
    let mut refused = ArchRow::recording();
    refused.turns(false);
    refused.does(Action::HostComes { cpu: 0 });
    refused.runs(Guest::Nothing);
    [granted, refused]
}

fn read(msr: u32) -> Guest {
    Guest::Read {
        msr,
        emulated: false,
    }
}

fn write(msr: u32, value: u64) -> Guest {
    Guest::Write {
        msr,
        value,
        emulated: false,
    }
}

#[test]
fn a_guests_write_of_the_depth_empties_the_records() {
    for depth in [8, 16, 32] {
        for mut row in recording() {
            row.userspace_sets(0x1dd, 7);
            row.runs(Guest::Nothing);
            row.runs(write(DEPTH, depth));
            row.has(DEPTH, depth);
            row.has(FROM, 0);
            row.has(0x1dd, 7);
        }
    }
    for depth in [0, 7, 24, 40, 64, 1 << 32 | 8] {
        for mut row in recording() {
            row.runs(write(DEPTH, depth));
            row.has(DEPTH, 32);
            row.has(FROM, BRANCH);
        }
    }
}

#[test]
fn userspace_restores_in_any_order() {
    let state = [
        (INFO + 9, 1),
        (CTL, 0x7f_000f),
        (FROM + 9, 2),
        (DEPTH, 16),
        (TO + 9, 3),
        (FROM + 15, 4),
        (0x1e0, 5),
    ];
    for order in 0..state.len() {
        let mut row = ArchRow::new();
        row.userspace_sets(DEPTH, 8);
        let mut state = state;
        state.rotate_left(order);
        for (msr, value) in state {
            row.userspace_sets(msr, value);
        }
        row.is_served();
        assert_eq!(row.runs(read(FROM + 15)), [Trace::Owned]);
        for (msr, value) in state {
            row.runs(read(msr));
            row.has(msr, value);
        }
    }
}

#[test]
fn the_depth_hides_records_from_the_guest_alone() {
    for mut row in recording() {
        row.userspace_sets(DEPTH, 8);
        row.runs(Guest::Nothing);
        for first in [FROM, TO, INFO] {
            for emulated in [false, true] {
                let msr = first + 8;
                row.runs(Guest::Read { msr, emulated });
                row.runs(Guest::Write {
                    msr,
                    value: 1,
                    emulated,
                });
            }
            row.has(first + 8, 0);
            row.userspace_sets(first + 8, 1);
            row.has(first + 8, 1);
        }
        row.has(FROM, BRANCH);
        // In time they are what userspace wrote.
        row.userspace_sets(FROM + 8, 1);
        row.userspace_sets(DEPTH, 16);
        row.runs(read(FROM + 8));
        row.has(FROM + 8, 1);
    }
}

#[test]
fn a_guest_with_less_has_its_control_intercepted() {
    // The features of INFO make no difference.
    for (guest, intercepted) in [(0, 0), (1, 2), (2, 2), (3, 0)] {
        let mut row = Row::of(World::<Facility>::new(), guest);
        row.turns(true);
        row.is_served();
        row.runs(Guest::Nothing);
        assert_eq!(row.0.kvm.flips, msrs::<Facility>().count() - intercepted);
        // What the host has, the guest may not.
        for (msr, value) in [(DEPTH, 32), (DEPTH, 8), (CTL, 9), (CTL, 1)] {
            row.runs(write(msr, value));
        }
        row.has(DEPTH, 8);
        row.has(CTL, 1);
        row.runs(Guest::Branch);
        row.has(FROM, BRANCH);
    }
}

#[test]
fn a_guest_has_the_hosts_leaf_or_less() {
    let Leaf { eax, ebx, ecx } = Facility::HOST.leaf;
    for (eax, ebx, ecx, has) in [
        (eax, ebx, ecx, true),
        (1, 0, 0, true),
        (eax & !(1 << 30), ebx, ecx, true),
        (0, ebx, ecx, false),
        (1 << 30, ebx, ecx, false),
        (eax | 1 << 2, ebx, ecx, false),
        (eax | 1 << 31, ebx, ecx, false),
        (eax, ebx | 1 << 3, ecx, false),
        (eax, ebx, ecx | 1 << 16, false),
    ] {
        let mut world = ArchRow::new().0;
        let leaf = Leaf { eax, ebx, ecx };
        let description = Description {
            leaf,
            ..Facility::HOST
        };
        world.refresh(0, Some(&description));
        assert_eq!(world.life.state() == State::Idle, has, "{leaf:x?}");
        assert_eq!(world.life.is_valid_msr(CTL), has, "{leaf:x?}");
    }
}

#[test]
fn control_is_the_guests_whoever_has_the_lbrs() {
    let mut row = ArchRow::recording();
    row.runs(write(CTL, 0x1_0003));
    row.does(Action::HostComes { cpu: 0 });
    for _ in 0..2 {
        row.runs(read(CTL));
        row.has(CTL, 0x1_0003);
        row.0.step(Action::Service { thread: 0 });
    }
    row.runs(write(CTL, 0x2_0003));
    row.runs(Guest::EnterL2 {
        debugctl: Debugctl::from_raw(0),
    });
    row.does(Action::HostGoes { cpu: 0 });
    row.runs(read(CTL));
    row.runs(Guest::Debug);
    row.has(CTL, 0x2_0002);
    // Given anew, it is as after reset.
    let mut row = ArchRow::new();
    row.userspace_sets(CTL, 1);
    row.userspace_sets(DEPTH, 8);
    for guest in [None, Some(1)] {
        row.does(Action::Refresh { thread: 0, guest });
    }
    row.has(CTL, 0);
    row.has(DEPTH, 16);
}
