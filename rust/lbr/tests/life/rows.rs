// SPDX-License-Identifier: GPL-2.0-only

//! Single lives: what is traced, and what it costs.

mod only_architectural;
mod only_legacy;

use lbr::{Accessor, Debugctl, GeneralProtection, State, Trace};

use super::hardware::{msrs, Hardware};
use super::perf::ENOMEM;
use super::reference::BRANCH;
use super::world::{turn, Action, Guest, World};

const OFF: Debugctl = Debugctl::from_raw(0);

/// A vCPU that is run by thread 0 on CPU 0. Thread 1 is on CPU 1.
struct Row<F: Hardware>(World<F>);

impl<F: Hardware> Row<F> {
    fn new() -> Self {
        Self::on(World::new())
    }

    fn on(world: World<F>) -> Self {
        Self::of(world, 0)
    }

    /// With one of [`Hardware::GUESTS`].
    fn of(world: World<F>, guest: usize) -> Self {
        let mut row = Self(world);
        row.does(Action::SchedIn { thread: 0, cpu: 0 });
        row.does(Action::SchedIn { thread: 1, cpu: 1 });
        row.does(Action::Refresh {
            thread: 0,
            guest: Some(guest),
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

    fn turns(&mut self, on: bool) -> Vec<Trace> {
        self.runs(turn::<F>(on))
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
        row.turns(true);
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

fn the_first_use_is_owned<F: Hardware>() {
    for first in [
        turn::<F>(true),
        Guest::Read {
            msr: F::FROM,
            emulated: false,
        },
        Guest::Write {
            msr: F::KEPT[0].0,
            value: F::KEPT[0].1,
            emulated: false,
        },
    ] {
        let mut row = Row::<F>::new();
        row.runs(first);
        assert_eq!(row.state(), State::Idle);
        assert_eq!(row.is_served(), [], "{first:?}");
        assert_eq!(row.runs(Guest::Nothing), [Trace::Owned], "{first:?}");
        assert_eq!(row.0.kvm.flips, msrs::<F>().count());
        assert_eq!(row.state(), State::Owned);
        // From then on KVM need not ask.
        assert!(!row.0.kvm.published.attention && !row.0.kvm.requested);
        assert_eq!(row.runs(Guest::Branch), []);
        assert_eq!(row.0.kvm.flips, 0);
    }
}

fn what_is_no_use_of_lbr<F: Hardware>() {
    let mut row = Row::<F>::new();
    row.runs(Guest::Nothing);
    assert!(!row.0.kvm.published.attention);
    for action in [
        Action::Get {
            thread: 1,
            msr: F::FROM,
        },
        Action::Set {
            thread: 1,
            msr: F::FROM,
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
            msr: F::REFUSED.0,
            value: F::REFUSED.1,
            emulated: false,
        },
        Guest::Branch,
    ] {
        row.runs(guest);
        assert!(!row.0.kvm.requested, "{guest:?}");
    }
    assert!(!row.0.kvm.published.attention);
}

fn a_vcpu_without_lbr_has_no_lbr_msrs<F: Hardware>() {
    let mut world = World::<F>::new();
    world.step(Action::SchedIn { thread: 0, cpu: 0 });
    for msr in msrs::<F>() {
        assert!(!world.life.is_valid_msr(msr));
        let got = world.read(0, msr, Accessor::Userspace);
        assert_eq!(got, Err(GeneralProtection));
    }
    assert!(!Row::<F>::new().0.life.is_valid_msr(F::FROM - 1));
    // Taken away, all is as at first.
    let mut row = Row::<F>::new();
    row.userspace_sets(F::FROM, 1);
    for guest in [None, Some(0)] {
        row.does(Action::Refresh { thread: 0, guest });
    }
    row.has(F::FROM, 0);
}

fn the_host_takes_the_lbrs_and_gives_them_back<F: Hardware>() {
    let mut row = Row::<F>::recording();
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
    row.has(F::FROM, BRANCH);
}

fn the_host_may_have_the_lbrs_first<F: Hardware>() {
    let mut row = Row::<F>::new();
    row.does(Action::HostComes { cpu: 0 });
    row.turns(true);
    assert_eq!(row.is_served(), []);
    assert_eq!(row.runs(Guest::Nothing), [Trace::Lost]);
}

fn a_vcpu_that_moves_is_granted_at_once<F: Hardware>() {
    let mut row = Row::<F>::recording();
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

fn unused_lbr_is_released_after_a_slice<F: Hardware>() {
    let mut row = Row::<F>::recording();
    for _ in 0..3 {
        assert_eq!(row.begins_slice(), []);
    }
    // The guest turns it off in this slice, and does nothing in the next.
    row.turns(false);
    assert_eq!(row.begins_slice(), []);
    assert_eq!(row.begins_slice(), [Trace::Released]);
    assert_eq!(row.state(), State::Idle);
    assert_eq!(row.runs(Guest::Nothing), []);
    assert!(!row.0.kvm.published.attention);
    row.has(F::FROM, BRANCH);
    // A request alone begins no slice.
    let mut row = Row::<F>::recording();
    row.turns(false);
    row.begins_slice();
    row.0.kvm.requested = true;
    assert_eq!(row.is_served(), []);
    assert_eq!(row.state(), State::Owned);
}

fn a_reset_keeps_all_but_the_event<F: Hardware>() {
    let mut row = Row::<F>::recording();
    assert_eq!(row.does(Action::Reset { thread: 1 }), []);
    assert_eq!(row.state(), State::Idle);
    assert!(!row.0.kvm.published.has_event);
    row.is_served();
    assert_eq!(row.runs(Guest::Nothing), [Trace::Owned]);
    row.has(F::FROM, BRANCH);
    // Unused, it stays without one, and there is none to release.
    row.turns(false);
    row.does(Action::SchedOut { thread: 0 });
    row.does(Action::SchedIn { thread: 0, cpu: 0 });
    row.does(Action::Reset { thread: 1 });
    assert_eq!(row.begins_slice(), []);
    assert_eq!(row.begins_slice(), []);
    assert!(!row.0.kvm.published.has_event);
}

fn perf_is_asked_once_a_jiffy_at_most<F: Hardware>() {
    let refused = [Trace::CreateFailed(ENOMEM)];
    let mut row = Row::<F>::new();
    row.does(Action::Refuse { refuse: true });
    row.turns(true);
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
    // Without LBR on, it takes an access. Turning it off may be one.
    row.is_served();
    row.does(Action::Tick);
    row.turns(false);
    row.0.step(Action::Service { thread: 0 });
    row.runs(Guest::Nothing);
    row.does(Action::Tick);
    row.runs(Guest::Nothing);
    assert!(!row.0.kvm.requested && !row.0.kvm.published.attention);
    // Neither jiffy of before.
    row.0.kvm.now = 2;
    row.runs(Guest::Read {
        msr: F::FROM,
        emulated: false,
    });
    assert_eq!(row.is_served(), refused);
    row.does(Action::Refuse { refuse: false });
    row.does(Action::Tick);
    row.turns(true);
    row.is_served();
    assert_eq!(row.runs(Guest::Nothing), [Trace::Owned]);
}

fn a_thread_takes_the_vcpu_over<F: Hardware>() {
    let mut row = Row::<F>::recording();
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
    row.has(F::FROM, BRANCH);
}

fn a_gap_empties_the_records_once<F: Hardware>() {
    let mut row = Row::<F>::recording();
    for (msr, value) in F::KEPT.iter().copied().chain([(F::TO, 5), (F::INFO, 6)]) {
        row.userspace_sets(msr, value);
    }
    for _ in 0..2 {
        row.does(Action::HostComes { cpu: 0 });
        row.runs(Guest::Nothing);
        let emptied = [F::FROM, F::TO, F::INFO].map(|msr| (msr, 0));
        for (msr, value) in F::KEPT.iter().copied().chain(emptied) {
            row.has(msr, value);
        }
        row.userspace_sets(F::TO, 5);
        row.is_served();
        row.runs(Guest::Nothing);
        row.has(F::TO, 5);
        row.does(Action::HostGoes { cpu: 0 });
        row.runs(Guest::Branch);
        row.has(F::TO, 5);
    }
    // The guest stops recording in a gap: what is written then stays, until it records.
    row.does(Action::HostComes { cpu: 0 });
    row.turns(false);
    row.is_served();
    row.runs(Guest::Nothing);
    row.userspace_sets(F::TO, 5);
    row.runs(Guest::Nothing);
    row.has(F::TO, 5);
    row.turns(true);
    row.runs(Guest::Nothing);
    row.has(F::TO, 0);
}

fn stopped_records_are_kept<F: Hardware>() {
    let mut row = Row::<F>::recording();
    row.turns(false);
    row.does(Action::HostComes { cpu: 0 });
    row.runs(Guest::Nothing);
    row.has(F::FROM, BRANCH);
    row.does(Action::HostGoes { cpu: 0 });
    for _ in 0..3 {
        row.begins_slice();
        row.runs(Guest::Nothing);
    }
    row.has(F::FROM, BRANCH);
}

fn all_registers_cost_one_trip<F: Hardware>() {
    let mut row = Row::<F>::recording();
    for thread in [1, 0] {
        let mut trips = 0;
        for msr in msrs::<F>() {
            row.does(Action::Get { thread, msr });
            trips += row.0.perf.trips;
        }
        assert_eq!(trips, 1, "thread {thread}");
        row.runs(Guest::Nothing);
    }
}

fn versions_two_and_three_freeze<F: Hardware>() {
    for version in 0..6 {
        let mut row = Row::<F>::recording();
        row.writes_debugctl(Debugctl::LBR | Debugctl::FREEZE_LBRS_ON_PMI);
        row.runs(Guest::VirtualPmi { version });
        assert_eq!(F::is_on(row.0.kvm.controls), !matches!(version, 2 | 3));
        // No reason to hurry.
        row.runs(Guest::Nothing);
        assert_eq!(row.state(), State::Owned);
    }
    let mut row = Row::<F>::recording();
    row.runs(Guest::VirtualPmi { version: 2 });
    assert!(F::is_on(row.0.kvm.controls));
}

fn later_versions_freeze_what_stays_on<F: Hardware>() {
    for version in [4, 5] {
        let mut row = Row::<F>::recording();
        row.writes_debugctl(Debugctl::LBR | Debugctl::FREEZE_LBRS_ON_PMI);
        row.runs(Guest::VirtualPmi { version });
        assert!(F::is_on(row.0.kvm.controls));
        row.userspace_sets(F::FROM, 5);
        row.runs(Guest::Branch);
        row.has(F::FROM, 5);
        // All but the control stay open.
        assert_eq!(row.state(), State::Owned);
        assert_eq!(row.0.kvm.flips, usize::from(F::CTL.is_some()));
        // The host makes no gap in what is frozen.
        row.does(Action::HostComes { cpu: 0 });
        assert_eq!(row.runs(Guest::Branch), [Trace::Lost]);
        assert!(!row.0.kvm.requested);
        row.does(Action::HostGoes { cpu: 0 });
        assert_eq!(row.runs(Guest::Branch), [Trace::Regained]);
        row.has(F::FROM, 5);
        row.runs(Guest::SetFrozen { frozen: false });
        row.runs(Guest::Branch);
        assert_eq!(row.0.kvm.flips, usize::from(F::CTL.is_some()));
        row.has(F::FROM, BRANCH);
    }
    // It is still wanted, and a gap as soon as it could record.
    let mut row = Row::<F>::recording();
    row.does(Action::SetFrozen { frozen: true });
    row.does(Action::HostComes { cpu: 0 });
    for _ in 0..3 {
        row.begins_slice();
        row.runs(Guest::Nothing);
    }
    assert_eq!(row.state(), State::Reclaimed);
    row.has(F::FROM, BRANCH);
    row.does(Action::SetFrozen { frozen: false });
    row.runs(Guest::Nothing);
    row.has(F::FROM, 0);
}

for_each_facility! {
    the_first_use_is_owned,
    what_is_no_use_of_lbr,
    a_vcpu_without_lbr_has_no_lbr_msrs,
    the_host_takes_the_lbrs_and_gives_them_back,
    the_host_may_have_the_lbrs_first,
    a_vcpu_that_moves_is_granted_at_once,
    unused_lbr_is_released_after_a_slice,
    a_reset_keeps_all_but_the_event,
    perf_is_asked_once_a_jiffy_at_most,
    a_thread_takes_the_vcpu_over,
    a_gap_empties_the_records_once,
    stopped_records_are_kept,
    all_registers_cost_one_trip,
    versions_two_and_three_freeze,
    later_versions_freeze_what_stays_on,
}
