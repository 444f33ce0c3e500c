// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest that is a hypervisor (L1) and its guest (L2) use the LBR: each has the
//! IA32_DEBUGCTL that the VMCS gives it, and no more records than it made itself.

use anyhow::{ensure, Result};
use kvm_selftests::block::Block;
use kvm_selftests::guest::{Command, Outcome, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{if_traced, Suite, Verdict, PASS};
use kvm_selftests::msr::{
    Branch, Geometry, Snapshot, DEBUGCTL, DEBUGCTL_FREEZE_LBRS_ON_PMI as FREEZE,
    DEBUGCTL_LBR as LBR, LBR_SELECT,
};
use kvm_selftests::nested::{spoil, DebugControls, Nested, GUEST_DEBUGCTL, LOAD_AND_SAVE};
use kvm_selftests::perf::{HostLbr, TraceCount, PERIOD};
use kvm_selftests::rules::{KVM, OWNERSHIP, SMM, VMX};
use kvm_selftests::thread::Competitor;
use kvm_selftests::vcpu::{many_reads, Stop, Vcpu, EXIT_NOISE};
use kvm_selftests::vm::Vm;

/// How often L2 exits to KVM while it records.
const EXITS: usize = 200;
/// Long enough to be scheduled out a few times if somebody competes.
const SLICES: Command = Command::Call(Symbol::Spin, 1_000_000);
/// How often to try.
const ROUNDS: usize = 10;

/// What is tested is IA32_DEBUGCTL, by which L2 records.
const LEGACY: fn(Geometry) -> bool = |lbr| !lbr.is_architectural();

struct Setup {
    vm: Vm,
    vcpu: Vcpu,
    nested: Nested,
    lbr: Geometry,
    cpu: usize,
}

impl Setup {
    fn with(host: &Host, debug: DebugControls) -> Result<Self> {
        let cpu = host.cpu()?;
        pin_to(cpu)?;
        let vm = Vm::new(host)?;
        let mut vcpu = vm.vcpu(0)?;
        Ok(Self {
            nested: Nested::new(&vm, &mut vcpu, debug)?,
            vm,
            vcpu,
            lbr: host.lbr()?,
            cpu,
        })
    }

    fn new(host: &Host) -> Result<Self> {
        Self::with(host, LOAD_AND_SAVE)
    }

    fn l2(&self) -> &Block {
        self.nested.l2()
    }

    /// Has L2 obey a list, and stay.
    fn run(&mut self, commands: &[Command]) -> Result<Vec<Outcome>> {
        self.nested.run(&mut self.vcpu, commands)
    }

    /// Reads all LBR registers in L2.
    fn l2_snapshot(&mut self) -> Result<Snapshot> {
        let reads: Vec<_> = self
            .lbr
            .registers()
            .into_iter()
            .map(Command::Rdmsr)
            .collect();
        let values: Result<Vec<u64>, _> = self.run(&reads)?.into_iter().collect();
        Snapshot::new(self.lbr, &values?).ok_or_else(|| anyhow::anyhow!("no LBR registers"))
    }

    /// Fails unless L2 and userspace find these registers.
    fn expect(&mut self, values: &Snapshot) -> Result<()> {
        values.expect_same(&self.l2_snapshot()?, self.lbr)?;
        values.expect_same(&self.vcpu.host_snapshot(self.lbr)?, self.lbr)
    }

    /// Has L2 record its jumps, and stop; returns the registers.
    fn l2_jumps(&mut self) -> Result<Snapshot> {
        self.run(&[Command::Call(Symbol::Jumps, 0)])?;
        let seen = self.l2_snapshot()?;
        let expected = self.l2().expected_jumps(Symbol::JumpsFirst, self.lbr);
        expect_newest(&expected, &seen.branches(self.lbr))?;
        Ok(seen)
    }

    /// Returns how many exits to KVM, and to L1, L2 causes by reading LBR registers.
    fn read_exits(&mut self) -> Result<(u64, u64)> {
        let reads = many_reads(self.lbr);
        let nested = &self.nested;
        let to_l1 = nested.msr_exits(&self.vcpu)?;
        let exits = self
            .vcpu
            .exits_while(|vcpu| nested.run(vcpu, &reads).map(drop))?;
        Ok((exits, nested.msr_exits(&self.vcpu)? - to_l1))
    }
}

fn expect_newest(expected: &[Branch], seen: &[Branch]) -> Result<()> {
    for (age, (expected, seen)) in expected.iter().zip(seen).enumerate() {
        ensure!(
            expected == seen,
            "record {age} (0 is the newest) is {seen}, not {expected}"
        );
    }
    Ok(())
}

/// Fails unless all branches are within one guest.
fn expect_own(branches: &[Branch], own: impl Fn(u64) -> bool) -> Result<()> {
    for branch in branches {
        ensure!(own(branch.from) && own(branch.to), "a record is {branch}");
    }
    Ok(())
}

/// VM-entry loads IA32_DEBUGCTL or leaves L1's, VM-exit saves it or not and clears it.
fn controls(host: &Host, debug: DebugControls) -> Result<Verdict> {
    let mut setup = Setup::with(host, debug)?;
    for _ in 0..2 {
        let (l2, l1) = setup.nested.visit(
            &mut setup.vcpu,
            &[
                Command::Vmwrite(GUEST_DEBUGCTL, LBR),
                Command::Wrmsr(DEBUGCTL, FREEZE),
            ],
            &[
                Command::Rdmsr(DEBUGCTL),
                Command::Wrmsr(DEBUGCTL, LBR | FREEZE),
            ],
            &[Command::Rdmsr(DEBUGCTL), Command::Vmread(GUEST_DEBUGCTL)],
        )?;
        let loaded = if debug.load { LBR } else { FREEZE };
        ensure!(l2[0] == Ok(loaded), "L2 begins with DEBUGCTL {:x?}", l2[0]);
        ensure!(l1[0] == Ok(0), "L1 goes on with DEBUGCTL {:x?}", l1[0]);
        let saved = if debug.save { LBR | FREEZE } else { LBR };
        ensure!(l1[1] == Ok(saved), "the VMCS has DEBUGCTL {:x?}", l1[1]);
    }
    PASS
}

/// What is saved is what became of the value, and not what L2 wrote last: #DB clears it.
fn saves_what_became_of_it(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    // L2's handler of #DB exits to L1.
    let icebp = [Command::Call(Symbol::Icebp, 0)];
    let after = [Command::Rdmsr(DEBUGCTL), Command::Vmread(GUEST_DEBUGCTL)];
    let (_, l1) = setup.nested.visit(&mut setup.vcpu, &[], &icebp, &after)?;
    ensure!(l1[0] == Ok(0), "L1 goes on with DEBUGCTL {:x?}", l1[0]);
    ensure!(
        l1[1] == Ok(0),
        "the VMCS has DEBUGCTL {:x?} after a #DB in L2",
        l1[1]
    );
    PASS
}

/// An SMI while L2 runs: its IA32_DEBUGCTL and its records are there after RSM.
fn smi(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    setup.vm.allow_smm()?;
    setup.run(&[])?;
    for debugctl in [LBR, 0, LBR | FREEZE] {
        let before = setup.l2_jumps()?;
        setup.run(&[
            Command::Wrmsr(LBR_SELECT, 1),
            Command::Wrmsr(DEBUGCTL, debugctl),
        ])?;
        setup.vcpu.smi()?;
        setup.nested.put(&[Command::Rdmsr(DEBUGCTL)])?;
        for expected in [Stop::Smi, Stop::Done] {
            let stop = setup.vcpu.resume()?;
            ensure!(stop == expected, "{stop:?} instead of {expected:?}");
        }
        let outcome = setup.nested.outcomes(1)?[0];
        ensure!(
            outcome == Ok(debugctl),
            "L2 goes on with DEBUGCTL {outcome:x?}, not {debugctl:#x}"
        );
        // With this LBR_SELECT nothing in ring 0 is recorded.
        setup.run(&[
            Command::Wrmsr(DEBUGCTL, 0),
            Command::Wrmsr(LBR_SELECT, before.values()[0]),
        ])?;
        setup.expect(&before)?;
    }
    PASS
}

/// KVM_SET_NESTED_STATE of an entry that fails late is refused, and L1 keeps its
/// IA32_DEBUGCTL and its records.
fn refused_state(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    setup.run(&[])?;
    let mut state = setup.vcpu.nested_state()?;
    setup.nested.leave(&mut setup.vcpu)?;
    setup.vcpu.call(Symbol::Jumps, 0)?;
    let before = setup.vcpu.guest_snapshot(setup.lbr)?;
    // L1's code is in ring 0.
    setup.vcpu.wrmsr(LBR_SELECT, 1)??;
    setup.vcpu.wrmsr(DEBUGCTL, LBR)??;
    spoil(&mut state);
    ensure!(
        !setup.vcpu.set_nested_state(&state),
        "KVM accepted an impossible CR3"
    );
    ensure!(
        setup.vcpu.get_msr(DEBUGCTL)? == Some(LBR),
        "userspace reads DEBUGCTL as {:x?}",
        setup.vcpu.get_msr(DEBUGCTL)?
    );
    let outcome = setup.vcpu.rdmsr(DEBUGCTL)?;
    ensure!(outcome == Ok(LBR), "L1 reads DEBUGCTL as {outcome:x?}");
    setup.vcpu.wrmsr(DEBUGCTL, 0)??;
    setup.vcpu.wrmsr(LBR_SELECT, before.values()[0])??;
    before.expect_same(&setup.vcpu.guest_snapshot(setup.lbr)?, setup.lbr)?;
    let stop = setup.vcpu.start(&[Command::Call(Symbol::JumpsOn, 0)])?;
    ensure!(stop == Stop::Yield, "L1 stopped: {stop:?}");
    let seen = setup.vcpu.host_snapshot(setup.lbr)?.branches(setup.lbr);
    let expected = setup.vcpu.expected_jumps(Symbol::JumpsOnFirst, setup.lbr);
    expect_newest(&expected, &seen)?;
    PASS
}

/// L1 records, L2 does not: nothing of L2's is in the records.
fn l1_records(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    let rdmsr = [Command::Rdmsr(DEBUGCTL); EXITS];
    let l2 = [&[Command::Call(Symbol::Spin, 100)], &rdmsr[..]].concat();
    let before = [
        Command::Vmwrite(GUEST_DEBUGCTL, 0),
        Command::Wrmsr(DEBUGCTL, LBR),
        Command::Call(Symbol::Spin, 100),
    ];
    let spin = [Command::Call(Symbol::Spin, 100)];
    setup.nested.visit(&mut setup.vcpu, &before, &l2, &spin)?;
    let seen = setup.vcpu.guest_snapshot(setup.lbr)?.branches(setup.lbr);
    expect_own(&seen, |address| setup.vcpu.owns(address))?;
    let last = setup.vcpu.address(Symbol::Nested);
    ensure!(
        seen[0].to == last,
        "L1's newest record is {}, not its way to VMRESUME",
        seen[0]
    );
    PASS
}

/// L2 records by the IA32_DEBUGCTL that L1 gave it, L1 does not: nothing of L1's is in
/// the records, and no exit to KVM is.
fn l2_records(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    let rdmsr = [Command::Rdmsr(DEBUGCTL); EXITS];
    let before = [
        Command::Vmwrite(GUEST_DEBUGCTL, LBR),
        Command::Call(Symbol::Spin, 100),
    ];
    let spin = [Command::Call(Symbol::Spin, 100)];
    setup
        .nested
        .visit(&mut setup.vcpu, &before, &rdmsr, &spin)?;
    let seen = setup.vcpu.guest_snapshot(setup.lbr)?.branches(setup.lbr);
    expect_own(&seen, |address| setup.l2().owns(address))?;
    // It goes on with the saved value.
    let jumps = [Command::Call(Symbol::JumpsOn, 0)];
    let stop = setup.nested.start(&mut setup.vcpu, &jumps)?;
    ensure!(stop == Stop::Yield, "L2 stopped: {stop:?}");
    let seen = setup.vcpu.host_snapshot(setup.lbr)?.branches(setup.lbr);
    let expected = setup.l2().expected_jumps(Symbol::JumpsOnFirst, setup.lbr);
    expect_newest(&expected, &seen)?;
    PASS
}

/// L2's accesses exit to nobody if L1 lets them, and to L1 if it does not.
fn passthrough(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    let reads = many_reads(setup.lbr).len() as u64;
    let lbr = setup.lbr;
    for intercept in [false, true, false] {
        // L1 uses the LBR.  If it were released meanwhile, L1 would have to enter L2 anew.
        setup.vcpu.guest_snapshot(lbr)?;
        setup.vcpu.expect_passthrough(lbr)?;
        setup.nested.intercept_lbr(&setup.vm, lbr, intercept)?;
        setup.run(&[])?;
        let (exits, to_l1) = setup.read_exits()?;
        println!("# intercepted by L1: {intercept}; {exits} exits, {to_l1} to L1 by {reads} reads");
        if intercept {
            ensure!(
                to_l1 == reads,
                "{to_l1} exits to L1 by {reads} reads of L2's"
            );
        } else {
            ensure!(
                exits <= EXIT_NOISE && to_l1 == 0,
                "{exits} exits, {to_l1} of them to L1, by reads of L2's that L1 lets pass"
            );
            let values = Snapshot::pattern(lbr, 3);
            let writes: Vec<_> = lbr
                .registers()
                .into_iter()
                .zip(values.values())
                .map(|(msr, value)| Command::Wrmsr(msr, value))
                .collect();
            setup.run(&writes)?;
            setup.expect(&values)?;
        }
        setup.nested.leave(&mut setup.vcpu)?;
    }
    PASS
}

/// The host has the LBR while L2 runs: L2 finds its own registers if it stopped
/// recording, and nothing if it did not.
fn host_event(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    let lbr = setup.lbr;
    setup.vcpu.guest_snapshot(lbr)?;
    setup.vcpu.expect_passthrough(lbr)?;
    setup.run(&[])?;
    let before = setup.l2_jumps()?;
    let mut event = HostLbr::flexible(setup.cpu, PERIOD)?;
    setup.run(&[Command::Call(Symbol::Spin, 100_000)])?;
    setup.expect(&before)?;
    let (exits, to_l1) = setup.read_exits()?;
    let reads = many_reads(lbr).len() as u64;
    ensure!(
        exits >= reads && to_l1 == 0,
        "{exits} exits, {to_l1} of them to L1, by {reads} reads while the host has the LBR"
    );
    setup.run(&[
        Command::Wrmsr(DEBUGCTL, LBR),
        Command::Call(Symbol::Spin, 1000),
    ])?;
    let gap = setup.l2_snapshot()?;
    let left = gap.records.iter().filter(|value| **value != 0).count();
    ensure!(left == 0, "{left} of L2's records are not empty in the gap");
    setup.run(&[Command::Wrmsr(DEBUGCTL, 0)])?;
    // The guest does not run long enough for a sample of its own.
    let mut samples = event.drain()?;
    for _ in 0..5 {
        setup.run(&[Command::Call(Symbol::Spin, 100_000)])?;
        samples.extend(event.drain()?);
    }
    ensure!(samples.count > 0, "the host got no samples");
    for branch in &samples.branches {
        let guests = |address| setup.vcpu.owns(address) || setup.l2().owns(address);
        ensure!(
            !guests(branch.from) && !guests(branch.to),
            "the host recorded a guest's {branch}"
        );
    }
    drop(event);
    setup.l2_jumps()?;
    PASS
}

/// L2 does not use the LBR for a while: it is released, and is all there after that.
fn released(host: &Host) -> Result<Verdict> {
    let mut setup = Setup::new(host)?;
    setup.run(&[])?;
    let mut before = setup.l2_jumps()?;
    for seed in 0..2 {
        let mut released = TraceCount::start("guest_lbr_released", &[setup.cpu])?;
        let competitor = Competitor::start(setup.cpu);
        for _ in 0..ROUNDS {
            setup.run(&[SLICES])?;
            if released.count()? > 0 {
                break;
            }
        }
        competitor.stop()?;
        ensure!(released.count()? > 0, "not released");
        let mut owned = TraceCount::start("guest_lbr_owned", &[setup.cpu])?;
        setup.expect(&before)?;
        ensure!(owned.count()? > 0, "not acquired again");
        setup.expect(&before)?;
        before = Snapshot::pattern(setup.lbr, seed);
        let writes: Vec<_> = setup
            .lbr
            .registers()
            .into_iter()
            .zip(before.values())
            .map(|(msr, value)| Command::Wrmsr(msr, value))
            .collect();
        setup.run(&writes)?;
    }
    setup.run(&[Command::Wrmsr(LBR_SELECT, 0)])?;
    setup.l2_jumps()?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(VMX);
    for (name, load, save, rule) in [
        (
            "load_and_save",
            true,
            true,
            "VM entry loads IA32_DEBUGCTL from the VMCS; VM exit saves it there and clears it.",
        ),
        (
            "load",
            true,
            false,
            "VM entry loads IA32_DEBUGCTL from the VMCS; VM exit clears it without saving it.",
        ),
        (
            "save",
            false,
            true,
            "VM entry leaves IA32_DEBUGCTL as it is; VM exit saves it to the VMCS and clears it.",
        ),
        (
            "neither",
            false,
            false,
            "VM entry leaves IA32_DEBUGCTL as it is; VM exit clears it without saving it.",
        ),
    ] {
        suite
            .case(format!("debugctl_{name}"), rule, move |host| {
                controls(host, DebugControls { load, save })
            })
            .only(LEGACY);
    }
    suite
        .case(
            "saves_what_became_of_it",
            "VM exit saves IA32_DEBUGCTL as a #DB in L2 left it, and not as L2 wrote it.",
            saves_what_became_of_it,
        )
        .only(LEGACY)
        .builtin_fails("upstream leaves DEBUGCTL.LBR set")
        .by(SMM)
        .case(
            "smi",
            "An SMI while L2 runs, and its RSM, leave L2's IA32_DEBUGCTL and records as they were.",
            smi,
        )
        .only(LEGACY)
        .builtin_fails("upstream loses L2's DEBUGCTL")
        .by(KVM)
        .case(
            "refused_state",
            "A KVM_SET_NESTED_STATE that is refused leaves L1's IA32_DEBUGCTL and records as they \
             were.",
            refused_state,
        )
        .only(LEGACY)
        .by(VMX)
        .case(
            "l1_records",
            "If IA32_DEBUGCTL.LBR is 1 for L1 and 0 for L2, all records are L1's.",
            l1_records,
        )
        .only(LEGACY)
        .case(
            "l2_records",
            "If IA32_DEBUGCTL.LBR is 0 for L1 and 1 for L2, all records are L2's, and no exit to \
             KVM is one.",
            l2_records,
        )
        .only(LEGACY)
        .builtin_fails("upstream makes no event for L2's DEBUGCTL.LBR")
        .by(OWNERSHIP)
        .case(
            "passthrough",
            "L2's accesses of LBR MSRs cause no VM exit if L1 lets them pass, and exits to L1 if \
             it does not.",
            passthrough,
        )
        .only(LEGACY)
        .builtin_fails("L2's accesses are always intercepted")
        .case(
            "host_event",
            "While the host has the LBR, L2 reads the records that it stopped, and empty ones if \
             it records; the host sees no branch of either guest.",
            host_event,
        )
        .only(LEGACY)
        .builtin_fails("guest and host use the LBR at the same time")
        .case(
            "released",
            "An LBR that L2 does not use for a while is released, and has all it had when L2 uses \
             it again.",
            |host| if_traced(host, released),
        )
        .only(LEGACY);
    suite
}
