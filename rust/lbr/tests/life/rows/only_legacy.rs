// SPDX-License-Identifier: GPL-2.0-only

//! What only the facility has that `IA32_DEBUGCTL.LBR` turns on.

use lbr::legacy::Facility;
use lbr::{Accessor, Debugctl, Description, Facility as _, GeneralProtection, State, Trace};

use super::super::hardware::Hardware;
use super::super::world::{Action, Guest, World};
use super::Row;

const FROM: u32 = Facility::HOST.from;

#[test]
fn l2_may_use_it_first() {
    let mut row = Row::<Facility>::new();
    row.runs(Guest::EnterL2 {
        debugctl: Debugctl::LBR,
    });
    assert_eq!(row.state(), State::Idle);
    assert_eq!(row.is_served(), []);
    assert_eq!(row.runs(Guest::Nothing), [Trace::Owned]);
}

#[test]
fn state_set_before_cpuid_is_used() {
    let mut row = Row(World::<Facility>::new());
    row.does(Action::SchedIn { thread: 0, cpu: 0 });
    row.does(Action::SetDebugctl {
        thread: 0,
        debugctl: Debugctl::LBR,
    });
    assert!(!row.0.kvm.requested);
    row.does(Action::Refresh {
        thread: 0,
        guest: Some(0),
    });
    row.userspace_sets(FROM, 1);
    row.is_served();
    row.runs(Guest::Nothing);
    row.has(FROM, 1);
    assert!(row.0.kvm.is_recording());
}

#[test]
fn userspace_writes_back_what_it_read() {
    let haswell = Facility::new(&Description {
        format: 4,
        depth: 16,
        info: 0,
        tsx: false,
        ..Facility::HOST
    });
    let mut world = World::on(haswell.expect("a usable facility"));
    world.step(Action::SchedIn { thread: 0, cpu: 0 });
    world.refresh(0, Some(&Facility::HOST));
    // Bits 62:61 read as 0, but are a sign extension for a write.
    let (read, written) = (0x1fff_ffff_8100_0000, 0x7fff_ffff_8100_0000);
    for (accessor, value, done) in [
        (Accessor::Guest, read, Err(GeneralProtection)),
        (Accessor::Guest, written, Ok(())),
        (Accessor::Userspace, read, Ok(())),
        (Accessor::Userspace, written, Ok(())),
    ] {
        assert_eq!(world.write(0, FROM, value, accessor), done, "{accessor:?}");
    }
    let got = world.read(0, FROM, Accessor::Userspace);
    assert_eq!(got, Ok(written));
}

#[test]
fn bits_of_debugctl_are_added() {
    let both = Debugctl::LBR | Debugctl::FREEZE_LBRS_ON_PMI;
    assert_eq!(both.into_raw(), 0x801);
    assert_eq!(both | Debugctl::LBR, both);
}
