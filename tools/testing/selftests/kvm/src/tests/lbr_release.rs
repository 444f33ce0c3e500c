// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest that does not use the LBR for a scheduling slice gives it back, and
//! loses nothing by that.

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{if_traced, Suite, Verdict, PASS};
use kvm_selftests::msr::{Geometry, Snapshot};
use kvm_selftests::perf::TraceCount;
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::Competitor;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// Long enough to be scheduled out a few times if somebody competes.
const SLICES: Command = Command::Call(Symbol::Spin, 1_000_000);
/// How often to try.
const ROUNDS: usize = 10;

struct Setup {
    _vm: Vm,
    vcpu: Vcpu,
    lbr: Geometry,
    cpu: usize,
    released: TraceCount,
}

fn setup(host: &Host) -> Result<Setup> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let vm = Vm::new(host)?;
    Ok(Setup {
        vcpu: vm.vcpu(0)?,
        _vm: vm,
        lbr: host.lbr()?,
        cpu,
        released: TraceCount::start("guest_lbr_released", &[cpu])?,
    })
}

impl Setup {
    /// Lets the guest run, and be scheduled out, until its LBR is released;
    /// returns whether it was.
    fn idle(&mut self, rounds: usize) -> Result<bool> {
        let before = self.released.count()?;
        let competitor = Competitor::start(self.cpu);
        for _ in 0..rounds {
            self.vcpu.run(&[SLICES])?;
            if self.released.count()? > before {
                break;
            }
        }
        competitor.stop()?;
        Ok(self.released.count()? > before)
    }
}

/// What the guest wrote, holes included.
fn written(host: &Host) -> Result<Verdict> {
    let mut setup = setup(host)?;
    let lbr = setup.lbr;
    let values = Snapshot::pattern(lbr, 4);
    // The first access is intercepted; the writes go to the hardware.
    setup.vcpu.guest_snapshot(lbr)?;
    setup.vcpu.expect_passthrough(lbr)?;
    setup.vcpu.write_snapshot(lbr, &values)?;
    ensure!(setup.idle(ROUNDS)?, "not released");
    values.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
    let mut owned = TraceCount::start("guest_lbr_owned", &[setup.cpu])?;
    values.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    setup.vcpu.expect_passthrough(lbr)?;
    ensure!(owned.count()? > 0, "not acquired again");
    values.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// What the hardware recorded.
fn recorded(host: &Host) -> Result<Verdict> {
    let mut setup = setup(host)?;
    let lbr = setup.lbr;
    setup.vcpu.call(Symbol::Jumps, 0)?;
    let before = setup.vcpu.guest_snapshot(lbr)?;
    for _ in 0..2 {
        ensure!(setup.idle(ROUNDS)?, "not released");
        before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
        before.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
    }
    setup.vcpu.call(Symbol::Jumps, 0)?;
    let after = setup.vcpu.guest_snapshot(lbr)?;
    ensure!(
        after.branches(lbr) == setup.vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "newest record {}",
        after.branches(lbr)[0]
    );
    PASS
}

/// Recording is use.
fn kept_while_recording(host: &Host) -> Result<Verdict> {
    let mut setup = setup(host)?;
    setup.vcpu.record(true)?;
    setup.vcpu.expect_passthrough(setup.lbr)?;
    ensure!(!setup.idle(4)?, "released while recording");
    setup.vcpu.expect_passthrough(setup.lbr)?;
    setup.vcpu.record(false)?;
    ensure!(setup.idle(ROUNDS)?, "not released after recording");
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case(
            "written",
            "An LBR that the guest does not use for a slice is released, and the registers are \
             as the guest wrote them.",
            |host| if_traced(host, written),
        )
        .case(
            "recorded",
            "An LBR that the guest does not use for a slice is released, and the records are as \
             the hardware made them.",
            |host| if_traced(host, recorded),
        )
        .case(
            "kept_while_recording",
            "A guest that records keeps the LBR, though it accesses no register.",
            |host| if_traced(host, kept_while_recording),
        );
    suite
}
