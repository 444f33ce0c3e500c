// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest with perfmon version 4 or 5, which a VMM asks for: a PMI freezes by LBR_FRZ and
//! CTR_FRZ in IA32_PERF_GLOBAL_STATUS, and what switches recording stays on.

use anyhow::{ensure, Result};
use kvm_selftests::cpuid;
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Geometry, Snapshot, STATUS_CTR_FRZ as CTR, STATUS_LBR_FRZ as LBR};
use kvm_selftests::nested::{Nested, LOAD_AND_SAVE};
use kvm_selftests::perf::HostLbr;
use kvm_selftests::rules::{OWNERSHIP, PERFMON};
use kvm_selftests::vcpu::{Vcpu, EXIT_NOISE};
use kvm_selftests::vm::Vm;

use super::registers::is_listed;
use super::{
    expect_handled, expect_no_freeze, expect_profiled, take_pmi, FREEZE as FREEZE_LBRS, LVT_FIXED,
};

const FREEZE_PERFMON: u64 = msr::DEBUGCTL_FREEZE_PERFMON_ON_PMI;

/// A vCPU whose perfmon has the version of the case.
pub(super) struct Setup {
    vm: Vm,
    pub(super) vcpu: Vcpu,
    lbr: Geometry,
}

impl Setup {
    pub(super) fn new(host: &Host, version: u32) -> Result<Self> {
        pin_to(host.cpu()?)?;
        let vm = Vm::new(host)?;
        let mut cpuid = vm.cpuid();
        cpuid::set_pmu_version(&mut cpuid, version);
        Ok(Self {
            vcpu: vm.vcpu_with_cpuid(0, &cpuid)?,
            vm,
            lbr: host.lbr()?,
        })
    }

    fn expect_status(&mut self, status: u64) -> Result<()> {
        let seen = (
            self.vcpu.rdmsr(msr::GLOBAL_STATUS)?,
            self.vcpu.get_msr(msr::GLOBAL_STATUS)?,
        );
        ensure!(
            seen == (Ok(status), Some(status)),
            "GLOBAL_STATUS is {seen:x?}, not {status:#x}"
        );
        Ok(())
    }

    /// Has the guest record jumps.
    fn jump(&mut self) -> Result<()> {
        self.vcpu.call(Symbol::Jumps, 0)?;
        let seen = self.vcpu.guest_snapshot(self.lbr)?.branches(self.lbr);
        let expected = self.vcpu.expected_jumps(Symbol::JumpsFirst, self.lbr);
        ensure!(seen == expected, "the newest record is {}", seen[0]);
        Ok(())
    }

    /// Fails unless nothing is recorded of what the guest wants recorded.
    fn stand_still(&mut self) -> Result<()> {
        let before = self.vcpu.guest_snapshot(self.lbr)?;
        let (on, off) = (self.vcpu.on(), self.vcpu.off());
        self.vcpu
            .run(&[on, Command::Call(Symbol::Spin, 100), off])?;
        before.expect_same(&self.vcpu.guest_snapshot(self.lbr)?, self.lbr)
    }

    /// Has the guest count branches; returns how many.
    fn count(&mut self) -> Result<u64> {
        let outcomes = self.vcpu.run(&[
            Command::Wrmsr(msr::GLOBAL_CTRL, 0),
            Command::Wrmsr(msr::PMC0, 0),
            Command::Wrmsr(msr::PERFEVTSEL0, msr::BRANCHES_RETIRED_WITH_PMI),
            Command::Wrmsr(msr::GLOBAL_CTRL, 1),
            Command::Call(Symbol::Spin, 1_000),
            Command::Wrmsr(msr::GLOBAL_CTRL, 0),
            Command::Rdmsr(msr::PMC0),
        ])?;
        Ok(outcomes[6]?)
    }
}

/// What a PMI with these bits of DEBUGCTL leaves.
fn pmi(host: &Host, version: u32, freeze: u64, lvtpc: u64) -> Result<Verdict> {
    let Setup { mut vcpu, lbr, .. } = Setup::new(host, version)?;
    let bit = |freeze_bit, status| if freeze & freeze_bit != 0 { status } else { 0 };
    let expected = msr::STATUS_PMC0 | bit(FREEZE_LBRS, LBR) | bit(FREEZE_PERFMON, CTR);
    for round in 0..3 {
        let control = take_pmi(&mut vcpu, freeze, lvtpc)?;
        let found = vcpu.control_at_pmi()?;
        ensure!(
            found == control,
            "the control is {found:#x} in the PMI handler, round {round}"
        );
        let (status, counter) = vcpu.counting_at_pmi()?;
        ensure!(
            status == expected,
            "GLOBAL_STATUS is {status:#x}, not {expected:#x}, round {round}"
        );
        // The handler's two jumps.
        ensure!(
            (counter < 2) == (freeze & FREEZE_PERFMON != 0),
            "{counter} branches were counted behind the overflow, round {round}"
        );
        match freeze & FREEZE_LBRS {
            0 => expect_handled(&mut vcpu, lbr)?,
            _ => expect_profiled(&mut vcpu, lbr)?,
        }
    }
    PASS
}

/// LBR_FRZ stops recording whoever sets it, and nothing else does.
fn by_status(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    setup.jump()?;
    for _ in 0..3 {
        setup.vcpu.wrmsr(msr::GLOBAL_STATUS_SET, LBR)??;
        setup.expect_status(LBR)?;
        setup.stand_still()?;
        setup.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, CTR)??;
        setup.stand_still()?;
        setup.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, LBR)??;
        setup.expect_status(0)?;
        setup.jump()?;
    }
    setup.vcpu.must_set_msr(msr::GLOBAL_STATUS, LBR)?;
    setup.stand_still()?;
    setup.vcpu.must_set_msr(msr::GLOBAL_STATUS, 0)?;
    setup.jump()?;
    PASS
}

/// What switches recording is read and written as ever, and counts when they thaw.
fn control_stays(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    let lbr = setup.lbr;
    setup.jump()?;
    setup.vcpu.wrmsr(msr::GLOBAL_STATUS_SET, LBR)??;
    let control = setup.vcpu.control();
    for value in [control.on, control.stopped(), 0, control.on] {
        setup.vcpu.wrmsr(control.msr, value)??;
        let seen = (
            setup.vcpu.rdmsr(control.msr)?,
            setup.vcpu.get_msr(control.msr)?,
        );
        ensure!(
            seen == (Ok(value), Some(value)),
            "the control is {seen:x?}, not {value:#x}"
        );
    }
    // The records are the guest's as ever.
    let reads: Vec<_> = lbr.registers().into_iter().map(Command::Rdmsr).collect();
    let exits = setup.vcpu.exits_of(&reads.repeat(10))?;
    ensure!(exits <= EXIT_NOISE, "{exits} exits by reads of records");
    // On by what was written meanwhile.
    setup.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, LBR)??;
    let outcomes = setup.vcpu.run(&[
        Command::Call(Symbol::Spin, 100),
        Command::Rdmsr(control.msr),
        Command::Wrmsr(control.msr, 0),
    ])?;
    ensure!(
        outcomes[1] == Ok(control.on),
        "the control is {:x?} when they thaw",
        outcomes[1]
    );
    let seen = setup.vcpu.guest_snapshot(lbr)?.branches(lbr);
    let jumps = setup.vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
    ensure!(
        seen.iter().all(|branch| setup.vcpu.owns(branch.from)) && seen[0] != jumps[0],
        "the newest record is {}",
        seen[0]
    );
    setup.vcpu.expect_passthrough(lbr)?;
    PASS
}

/// A host that takes the LBR leaves no gap in frozen records.
fn host_takes(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    let lbr = setup.lbr;
    setup.jump()?;
    let before = setup.vcpu.guest_snapshot(lbr)?;
    setup.vcpu.wrmsr(msr::GLOBAL_STATUS_SET, LBR)??;
    setup.vcpu.record(true)?;
    let event = HostLbr::pinned(host.cpu()?)?;
    setup.vcpu.call(Symbol::Spin, 10_000)?;
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    drop(event);
    setup.vcpu.call(Symbol::Spin, 10_000)?;
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    before.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
    setup.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, LBR)??;
    setup.jump()?;
    PASS
}

/// A guest whose records are frozen is moved.
fn moved(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    let lbr = setup.lbr;
    setup.jump()?;
    setup.vcpu.wrmsr(msr::GLOBAL_STATUS_SET, LBR)??;
    setup.vcpu.record(true)?;
    let control = setup.vcpu.control();
    let saved = setup.vcpu.host_snapshot(lbr)?;
    let mut other = Setup::new(host, version)?;
    other.vcpu.must_set_msr(control.msr, control.on)?;
    other.vcpu.set_snapshot(lbr, &saved)?;
    other.vcpu.must_set_msr(msr::GLOBAL_STATUS, LBR)?;
    // As save-all VMMs do.
    for msr in [msr::GLOBAL_STATUS_RESET, msr::GLOBAL_STATUS_SET] {
        let seen = setup.vcpu.get_msr(msr)?;
        ensure!(seen == Some(0), "userspace reads MSR {msr:#x} as {seen:x?}");
        other.vcpu.must_set_msr(msr, 0)?;
    }
    other.vcpu.call(Symbol::Spin, 1_000)?;
    other.expect_status(LBR)?;
    saved.expect_same(&other.vcpu.guest_snapshot(lbr)?, lbr)?;
    other.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, LBR)??;
    other.jump()?;
    PASS
}

/// L1 and L2 have one GLOBAL_STATUS.
fn in_l2(host: &Host, version: u32) -> Result<Verdict> {
    let Setup { vm, mut vcpu, lbr } = Setup::new(host, version)?;
    let nested = Nested::new(&vm, &mut vcpu, LOAD_AND_SAVE)?;
    let control = vcpu.control();
    let reads: Vec<_> = lbr.registers().into_iter().map(Command::Rdmsr).collect();
    let snapshot = |vcpu: &mut Vcpu| {
        let values: Result<Vec<u64>, _> = nested.run(vcpu, &reads)?.into_iter().collect();
        Snapshot::new(lbr, &values?).ok_or_else(|| anyhow::anyhow!("no LBR registers"))
    };
    let expected = nested.l2().expected_jumps(Symbol::JumpsFirst, lbr);
    for _ in 0..3 {
        nested.run(&mut vcpu, &[Command::Call(Symbol::Jumps, 0)])?;
        let before = snapshot(&mut vcpu)?;
        ensure!(
            before.branches(lbr) == expected,
            "the newest record is {}",
            before.branches(lbr)[0]
        );
        let frozen = nested.run(
            &mut vcpu,
            &[
                Command::Wrmsr(msr::GLOBAL_STATUS_SET, LBR),
                Command::Wrmsr(control.msr, control.on),
                Command::Call(Symbol::Spin, 100),
                Command::Rdmsr(control.msr),
                Command::Wrmsr(control.msr, 0),
            ],
        )?;
        ensure!(
            frozen[0].is_ok() && frozen[3] == Ok(control.on),
            "L2 freezes: {:x?}, and reads the control as {:x?}",
            frozen[0],
            frozen[3]
        );
        before.expect_same(&snapshot(&mut vcpu)?, lbr)?;
        nested.run(&mut vcpu, &[Command::Wrmsr(msr::GLOBAL_STATUS_RESET, LBR)])?;
    }
    PASS
}

/// CTR_FRZ stops the counters whoever sets it, and they go on behind it.
fn counters_by_status(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    for _ in 0..3 {
        let counted = setup.count()?;
        ensure!(counted >= 3_000, "{counted} branches counted");
        setup.vcpu.wrmsr(msr::GLOBAL_STATUS_SET, CTR)??;
        setup.expect_status(CTR)?;
        let counted = setup.count()?;
        ensure!(counted == 0, "{counted} branches counted while frozen");
        setup.vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, CTR)??;
    }
    setup.vcpu.must_set_msr(msr::GLOBAL_STATUS, CTR)?;
    let counted = setup.count()?;
    ensure!(counted == 0, "{counted} branches counted while frozen");
    setup.vcpu.must_set_msr(msr::GLOBAL_STATUS, 0)?;
    let counted = setup.count()?;
    ensure!(counted >= 3_000, "{counted} branches counted");
    PASS
}

/// PMIs of the host's set nothing of the guest's.
fn not_by_host(host: &Host, version: u32) -> Result<Verdict> {
    let mut setup = Setup::new(host, version)?;
    expect_no_freeze(host, &mut setup.vcpu)?;
    setup.expect_status(0)?;
    PASS
}

/// A case for one version of perfmon.
pub(super) type Case = fn(&Host, u32) -> Result<Verdict>;

/// Says what the built-in provider does of the case that was added last.
pub(super) type Mark = fn(&mut Suite);

pub(super) const PASSES: Mark = |_| ();
const LOSES_RECORDS: Mark = |suite| {
    suite.builtin_may_fail(super::RELEASED);
};

/// By name and rule.
const CASES: &[(&str, &str, Mark, Case)] = &[
    (
        "by_status",
        "LBR_FRZ in GLOBAL_STATUS stops recording whoever sets it, until it is cleared.",
        LOSES_RECORDS,
        by_status,
    ),
    (
        "control_stays",
        "What switches recording is read and written as ever while LBR_FRZ is set, and counts \
         when it is cleared.",
        LOSES_RECORDS,
        control_stays,
    ),
    (
        "in_l2",
        "L1 and L2 have one GLOBAL_STATUS: LBR_FRZ stops L2's recording.",
        LOSES_RECORDS,
        in_l2,
    ),
    (
        "counters_by_status",
        "CTR_FRZ in GLOBAL_STATUS stops all counters whoever sets it, until it is cleared.",
        PASSES,
        counters_by_status,
    ),
];

/// By name and rule.
const SHARING: &[(&str, &str, Mark, Case)] = &[
    (
        "host_takes",
        "Records that LBR_FRZ holds are kept exactly while the host has the LBR.",
        |suite| {
            suite.builtin_fails("loses what it holds when the host takes the LBR");
        },
        host_takes,
    ),
    (
        "moved",
        "Records that LBR_FRZ holds move to another VM, and stay frozen there.",
        |suite| {
            suite.builtin_fails("keeps records only while the vCPU runs");
        },
        moved,
    ),
    (
        "not_by_host",
        "PMIs of the host's that hit in guest mode set no bit of the guest's GLOBAL_STATUS.",
        LOSES_RECORDS,
        not_by_host,
    ),
];

/// What a PMI does with each setting of DEBUGCTL.
const PMIS: [(u64, &str, &str); 4] = [
    (
        0,
        "goes_on",
        "Without freeze a PMI sets its counter's bit of GLOBAL_STATUS alone, and counters and \
         records go on.",
    ),
    (
        FREEZE_LBRS,
        "freezes_lbr",
        "With FREEZE_LBRS_ON_PMI and perfmon version 4 or 5 a PMI sets LBR_FRZ, no branch of its \
         handler is recorded, and what switches recording stays on.",
    ),
    (
        FREEZE_PERFMON,
        "freezes_counters",
        "With FREEZE_PERFMON_ON_PMI and perfmon version 4 or 5 a PMI sets CTR_FRZ, and nothing of \
         its handler is counted.",
    ),
    (
        FREEZE_LBRS | FREEZE_PERFMON,
        "freezes_both",
        "With both freezes and perfmon version 4 or 5 a PMI sets LBR_FRZ and CTR_FRZ, and its \
         handler is neither recorded nor counted.",
    ),
];

/// Adds a case for each version that has the freeze.
pub(super) fn add_versions(
    suite: &mut Suite,
    name: &str,
    rule: &str,
    mark: Mark,
    run: impl Fn(&Host, u32) -> Result<Verdict> + Copy + 'static,
) {
    for version in [4, 5] {
        suite.case(format!("{name}_v{version}"), rule, move |host| {
            if !is_listed(host)? {
                return skip("the host's perfmon has no streamlined freeze");
            }
            run(host, version)
        });
        mark(suite);
    }
}

/// Adds the cases.
pub(super) fn add(suite: &mut Suite) {
    suite.by(PERFMON);
    for (freeze, what, rule) in PMIS {
        for (lvtpc, how) in [(LVT_FIXED, "interrupt"), (msr::LVT_NMI, "nmi")] {
            let name = format!("{how}_{what}");
            let run = move |host: &Host, version| pmi(host, version, freeze, lvtpc);
            add_versions(suite, &name, rule, LOSES_RECORDS, run);
        }
    }
    for (source, cases) in [(PERFMON, CASES), (OWNERSHIP, SHARING)] {
        suite.by(source);
        for (name, rule, mark, run) in cases {
            add_versions(suite, name, rule, *mark, *run);
        }
    }
}
