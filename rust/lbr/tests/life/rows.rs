// SPDX-License-Identifier: GPL-2.0-only

//! Single lives: what is traced, and what it costs.

use lbr::{Accessor, Debugctl, Description, Facility, GeneralProtection, State, Trace};

use super::perf::ENOMEM;
use super::reference::BRANCH;
use super::registers::{facility, msrs, FROM, INFO, SELECT, TO, TOS};
use super::world::{Action, Guest, World};

const OFF: Debugctl = Debugctl::from_raw(0);
const LBR: Debugctl = Debugctl::LBR;

/// A vCPU that is run by thread 0 on CPU 0. Thread 1 is on CPU 1.
struct Row(World);

impl Row {
    fn new() -> Self {
        Self::on(facility())
    }

    fn on(facility: Facility) -> Self {
        let mut row = Self(World::new(facility));
        row.does(Action::SchedIn { thread: 0, cpu: 0 });
        row.does(Action::SchedIn { thread: 1, cpu: 1 });
        row.does(Action::Refresh {
            thread: 0,
            enabled: true,
        });
        row
    }

    /// Does what must be possible, and returns what was traced.
    fn does(&mut self, action: Action) -> Vec<Trace> {
        assert!(self.0.step(action), "{action:?} is not possible");
        self.0.kvm.traces.clone()
    }

    fn runs(&mut self, guest: Guest) -> Vec<Trace> {
        self.does(Action::Run { thread: 0, guest })
    }

    fn is_served(&mut self) -> Vec<Trace> {
        self.does(Action::Service { thread: 0 })
    }

    fn writes_debugctl(&mut self, debugctl: Debugctl) {
        self.runs(Guest::WriteDebugctl { debugctl });
    }

    fn userspace_sets(&mut self, msr: u32, value: u64) {
        self.does(Action::Set {
            thread: 0,
            msr,
            value,
        });
    }

    /// Checks what userspace reads, which no invariant does for it.
    fn has(&mut self, msr: u32, value: u64) {
        assert_eq!(self.0.read(0, msr, Accessor::Userspace), Ok(value));
    }

    /// The guest has LBR on and its records granted, with one branch recorded.
    fn recording() -> Self {
        let mut row = Self::new();
        row.writes_debugctl(LBR);
        row.is_served();
        row.runs(Guest::Branch);
        row
    }

    /// KVM has that served if there is an event.
    fn begins_slice(&mut self) -> Vec<Trace> {
        self.does(Action::SchedOut { thread: 0 });
        self.does(Action::SchedIn { thread: 0, cpu: 0 });
        self.0.step(Action::Service { thread: 0 });
        self.0.kvm.traces.clone()
    }

    fn state(&self) -> State {
        self.0.life.state()
    }
}

#[test]
fn the_first_use_is_owned() {
    for first in [
        Guest::WriteDebugctl { debugctl: LBR },
        Guest::EnterL2 { debugctl: LBR },
        Guest::Read {
            msr: TOS,
            emulated: false,
        },
        Guest::Write {
            msr: SELECT,
            value: 0,
            emulated: false,
        },
    ] {
        let mut row = Row::new();
        row.runs(first);
        assert_eq!(row.state(), State::Idle);
        assert_eq!(row.is_served(), [], "{first:?}");
        assert_eq!(row.runs(Guest::Nothing), [Trace::Owned], "{first:?}");
        assert_eq!(row.0.kvm.flips, msrs().count());
        assert_eq!(row.state(), State::Owned);
        // From then on KVM need not ask.
        assert!(!row.0.kvm.published.attention && !row.0.kvm.requested);
        assert_eq!(row.runs(Guest::Branch), []);
        assert_eq!(row.0.kvm.flips, 0);
    }
}

#[test]
fn what_is_no_use_of_lbr() {
    let mut row = Row::new();
    row.runs(Guest::Nothing);
    assert!(!row.0.kvm.published.attention);
    for action in [
        Action::Get {
            thread: 1,
            msr: FROM,
        },
        Action::Set {
            thread: 1,
            msr: FROM,
            value: 1,
        },
        Action::SetDebugctl {
            thread: 1,
            debugctl: OFF,
        },
        Action::Reset { thread: 1 },
    ] {
        row.does(action);
        assert!(!row.0.kvm.requested, "{action:?}");
    }
    for guest in [
        Guest::WriteDebugctl {
            debugctl: Debugctl::FREEZE_LBRS_ON_PMI,
        },
        Guest::Write {
            msr: TOS,
            value: 32,
            emulated: false,
        },
        Guest::Branch,
    ] {
        row.runs(guest);
        assert!(!row.0.kvm.requested, "{guest:?}");
    }
    assert!(!row.0.kvm.published.attention);
}

#[test]
fn state_set_before_cpuid_is_used() {
    let mut row = Row(World::new(facility()));
    row.does(Action::SchedIn { thread: 0, cpu: 0 });
    row.does(Action::SetDebugctl {
        thread: 0,
        debugctl: LBR,
    });
    assert!(!row.0.kvm.requested);
    row.does(Action::Refresh {
        thread: 0,
        enabled: true,
    });
    row.userspace_sets(FROM, 1);
    row.is_served();
    row.runs(Guest::Nothing);
    row.has(FROM, 1);
    assert!(row.0.kvm.is_recording());
}

#[test]
fn a_vcpu_without_lbr_has_no_lbr_msrs() {
    let mut world = World::new(facility());
    world.step(Action::SchedIn { thread: 0, cpu: 0 });
    for msr in msrs() {
        assert!(!world.life.is_valid_msr(msr));
        let got = world.read(0, msr, Accessor::Userspace);
        assert_eq!(got, Err(GeneralProtection));
    }
    assert!(!Row::new().0.life.is_valid_msr(FROM - 1));
    // Taken away, all is as at first.
    let mut row = Row::new();
    row.userspace_sets(FROM, 1);
    for enabled in [false, true] {
        row.does(Action::Refresh { thread: 0, enabled });
    }
    row.has(FROM, 0);
}

#[test]
fn the_host_takes_the_lbrs_and_gives_them_back() {
    let mut row = Row::recording();
    row.does(Action::HostComes { cpu: 0 });
    assert_eq!(row.runs(Guest::Nothing), [Trace::Lost]);
    assert_eq!(row.state(), State::Reclaimed);
    // The records are emptied. After that perf is asked at each VM-Entry, and nobody else.
    assert_eq!(row.is_served(), []);
    for _ in 0..3 {
        assert_eq!(row.runs(Guest::Branch), []);
        assert!(row.0.kvm.published.attention && !row.0.kvm.requested);
    }
    row.does(Action::HostGoes { cpu: 0 });
    assert_eq!(row.runs(Guest::Branch), [Trace::Regained]);
    assert_eq!(row.state(), State::Owned);
    row.has(FROM, BRANCH);
}

#[test]
fn the_host_may_have_the_lbrs_first() {
    let mut row = Row::new();
    row.does(Action::HostComes { cpu: 0 });
    row.writes_debugctl(LBR);
    assert_eq!(row.is_served(), []);
    assert_eq!(row.runs(Guest::Nothing), [Trace::Lost]);
}

#[test]
fn a_vcpu_that_moves_is_granted_at_once() {
    let mut row = Row::recording();
    row.does(Action::SchedOut { thread: 1 });
    for cpu in [1, 0, 0] {
        row.does(Action::SchedOut { thread: 0 });
        row.does(Action::SchedIn { thread: 0, cpu });
        assert_eq!(row.is_served(), []);
        assert_eq!(row.runs(Guest::Nothing), []);
        // What is open stays open.
        assert_eq!(row.0.kvm.flips, 0);
    }
}

#[test]
fn unused_lbr_is_released_after_a_slice() {
    let mut row = Row::recording();
    for _ in 0..3 {
        assert_eq!(row.begins_slice(), []);
    }
    // The guest turns it off in this slice, and does nothing in the next.
    row.writes_debugctl(OFF);
    assert_eq!(row.begins_slice(), []);
    assert_eq!(row.begins_slice(), [Trace::Released]);
    assert_eq!(row.state(), State::Idle);
    assert_eq!(row.runs(Guest::Nothing), []);
    assert!(!row.0.kvm.published.attention);
    row.has(FROM, BRANCH);
    // A request alone begins no slice.
    let mut row = Row::recording();
    row.writes_debugctl(OFF);
    row.begins_slice();
    row.0.kvm.requested = true;
    assert_eq!(row.is_served(), []);
    assert_eq!(row.state(), State::Owned);
}

#[test]
fn a_reset_keeps_all_but_the_event() {
    let mut row = Row::recording();
    assert_eq!(row.does(Action::Reset { thread: 1 }), []);
    assert_eq!(row.state(), State::Idle);
    assert!(!row.0.kvm.published.has_event);
    row.is_served();
    assert_eq!(row.runs(Guest::Nothing), [Trace::Owned]);
    row.has(FROM, BRANCH);
    // Unused, it stays without one, and there is none to release.
    row.writes_debugctl(OFF);
    row.does(Action::SchedOut { thread: 0 });
    row.does(Action::SchedIn { thread: 0, cpu: 0 });
    row.does(Action::Reset { thread: 1 });
    assert_eq!(row.begins_slice(), []);
    assert_eq!(row.begins_slice(), []);
    assert!(!row.0.kvm.published.has_event);
}

#[test]
fn perf_is_asked_once_a_jiffy_at_most() {
    let refused = [Trace::CreateFailed(ENOMEM)];
    let mut row = Row::new();
    row.does(Action::Refuse { refuse: true });
    row.writes_debugctl(LBR);
    for _ in 0..3 {
        assert_eq!(row.is_served(), refused);
        // The gap is one reason to be served, a new jiffy another.
        row.runs(Guest::Nothing);
        if row.0.kvm.requested {
            assert_eq!(row.is_served(), []);
        }
        row.runs(Guest::Nothing);
        assert!(!row.0.kvm.requested);
        row.does(Action::Tick);
        row.runs(Guest::Nothing);
    }
    // Without LBR on, it takes an access.
    row.is_served();
    row.writes_debugctl(OFF);
    row.runs(Guest::Nothing);
    row.does(Action::Tick);
    row.runs(Guest::Nothing);
    assert!(!row.0.kvm.requested && !row.0.kvm.published.attention);
    row.runs(Guest::Read {
        msr: TOS,
        emulated: false,
    });
    assert_eq!(row.is_served(), refused);
    row.does(Action::Refuse { refuse: false });
    row.does(Action::Tick);
    row.writes_debugctl(LBR);
    row.is_served();
    assert_eq!(row.runs(Guest::Nothing), [Trace::Owned]);
}

#[test]
fn a_thread_takes_the_vcpu_over() {
    let mut row = Row::recording();
    // The grant is where thread 0 is.
    let taken = row.does(Action::Run {
        thread: 1,
        guest: Guest::Nothing,
    });
    assert_eq!(taken, [Trace::Lost]);
    assert!(row.0.kvm.requested);
    row.does(Action::Service { thread: 1 });
    let taken = row.does(Action::Run {
        thread: 1,
        guest: Guest::Branch,
    });
    assert_eq!(taken, [Trace::Owned]);
    row.has(FROM, BRANCH);
}

#[test]
fn a_gap_empties_the_records_once() {
    let mut row = Row::recording();
    for (msr, value) in [(SELECT, 0x1c4), (TOS, 7), (TO, 5), (INFO, 6)] {
        row.userspace_sets(msr, value);
    }
    for _ in 0..2 {
        row.does(Action::HostComes { cpu: 0 });
        row.runs(Guest::Nothing);
        for (msr, value) in [(SELECT, 0x1c4), (TOS, 7), (FROM, 0), (TO, 0), (INFO, 0)] {
            row.has(msr, value);
        }
        row.userspace_sets(TO, 5);
        row.is_served();
        row.runs(Guest::Nothing);
        row.has(TO, 5);
        row.does(Action::HostGoes { cpu: 0 });
        row.runs(Guest::Branch);
        row.has(TO, 5);
    }
    // The guest stops recording in a gap: what is written then stays, until it records.
    row.does(Action::HostComes { cpu: 0 });
    row.writes_debugctl(OFF);
    row.is_served();
    row.runs(Guest::Nothing);
    row.userspace_sets(TO, 5);
    row.runs(Guest::Nothing);
    row.has(TO, 5);
    row.writes_debugctl(LBR);
    row.runs(Guest::Nothing);
    row.has(TO, 0);
}

#[test]
fn stopped_records_are_kept() {
    let mut row = Row::recording();
    row.writes_debugctl(OFF);
    row.does(Action::HostComes { cpu: 0 });
    row.runs(Guest::Nothing);
    row.has(FROM, BRANCH);
    row.does(Action::HostGoes { cpu: 0 });
    for _ in 0..3 {
        row.begins_slice();
        row.runs(Guest::Nothing);
    }
    row.has(FROM, BRANCH);
}

#[test]
fn all_registers_cost_one_trip() {
    let mut row = Row::recording();
    let mut trips = 0;
    for msr in msrs() {
        row.does(Action::Get { thread: 1, msr });
        trips += row.0.perf.trips;
    }
    assert_eq!(trips, 1);
    // And none on the CPU that has them.
    row.runs(Guest::Nothing);
    for msr in msrs() {
        row.does(Action::Get { thread: 0, msr });
        assert_eq!(row.0.perf.trips, 0);
    }
}

#[test]
fn versions_two_and_three_freeze() {
    for version in 0..6 {
        let mut row = Row::recording();
        row.writes_debugctl(LBR | Debugctl::FREEZE_LBRS_ON_PMI);
        row.runs(Guest::VirtualPmi { version });
        assert_eq!(row.0.kvm.debugctl.lbr(), !matches!(version, 2 | 3));
        // No reason to hurry.
        row.runs(Guest::Nothing);
        assert_eq!(row.state(), State::Owned);
    }
    let mut row = Row::recording();
    row.runs(Guest::VirtualPmi { version: 2 });
    assert!(row.0.kvm.debugctl.lbr());
}

#[test]
fn bits_of_debugctl_are_added() {
    let both = LBR | Debugctl::FREEZE_LBRS_ON_PMI;
    assert_eq!(both.into_raw(), 0x801);
    assert_eq!(both | LBR, both);
}

#[test]
fn userspace_writes_back_what_it_read() {
    let haswell = Facility::new(&Description {
        format: 4,
        depth: 16,
        from: FROM,
        to: TO,
        info: 0,
        tsx: false,
    });
    let mut row = Row::on(haswell.expect("a usable facility"));
    // Bits 62:61 read as 0, but are a sign extension for a write.
    let (read, written) = (0x1fff_ffff_8100_0000, 0x7fff_ffff_8100_0000);
    for (accessor, value, done) in [
        (Accessor::Guest, read, Err(GeneralProtection)),
        (Accessor::Guest, written, Ok(())),
        (Accessor::Userspace, read, Ok(())),
        (Accessor::Userspace, written, Ok(())),
    ] {
        assert_eq!(row.0.write(0, FROM, value, accessor), done, "{accessor:?}");
    }
    row.has(FROM, written);
}
