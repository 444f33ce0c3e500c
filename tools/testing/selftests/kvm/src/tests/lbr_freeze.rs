// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! DEBUGCTL.FREEZE_LBRS_ON_PMI: recording stops before the guest's PMI handler runs. A
//! guest with perfmon version 2 finds its control switched off, one with version 4 what
//! `streamlined` is about.

use anyhow::{ensure, Context, Result};
use kvm_selftests::cpuid;
use kvm_selftests::guest::{self, Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Branch, Control, Geometry};
use kvm_selftests::perf::HostLbr;
use kvm_selftests::rules::{DEBUG, OWNERSHIP};
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

mod registers;
mod streamlined;

/// Branches until the counter overflows.
const PERIOD: u64 = 50_000;
const FREEZE: u64 = msr::DEBUGCTL_FREEZE_LBRS_ON_PMI;
const LVT_FIXED: u64 = guest::PMI_VECTOR as u64;

/// The guest records, with these bits of DEBUGCTL.
fn setting(vcpu: &Vcpu, freeze: u64) -> [(u32, u64); 2] {
    let Control { msr, on } = vcpu.control();
    match msr {
        msr::DEBUGCTL => [(msr::DEBUGCTL, freeze), (msr, on | freeze)],
        _ => [(msr::DEBUGCTL, freeze), (msr, on)],
    }
}

/// Has the guest take branches until a PMI with these bits of DEBUGCTL and this LVTPC;
/// returns what switches recording as it was before.
fn take_pmi(vcpu: &mut Vcpu, freeze: u64, lvtpc: u64) -> Result<u64> {
    let [debugctl, (_, control)] = setting(vcpu, freeze);
    let arg = u32::try_from(control).context("a control of more than 32 bits")?;
    for (msr, value) in [
        debugctl,
        (msr::GLOBAL_CTRL, 0),
        (msr::X2APIC_SVR, 0x1ff),
        (msr::X2APIC_LVTPC, lvtpc),
        (msr::PMC0, PERIOD.wrapping_neg() & 0xffff_ffff),
        (msr::PERFEVTSEL0, msr::BRANCHES_RETIRED_WITH_PMI),
    ] {
        vcpu.wrmsr(msr, value)??;
    }
    let count = vcpu.call(Symbol::WaitPmi, arg)?;
    ensure!(count == 1, "{count} PMIs arrived, not one");
    Ok(control)
}

/// Where a record's branch is.
fn place(vcpu: &Vcpu, branch: &Branch) -> &'static str {
    let within = |from, to| {
        let range = vcpu.address(from)..vcpu.address(to);
        range.contains(&branch.from) || range.contains(&branch.to)
    };
    if within(Symbol::Pmi, Symbol::PmiEnd) {
        "handler"
    } else if within(Symbol::WaitPmiLoop, Symbol::WaitPmiEnd) {
        "loop"
    } else {
        "elsewhere"
    }
}

/// Returns where the branches are, newest first, and shows those elsewhere.
fn places(vcpu: &mut Vcpu, lbr: Geometry) -> Result<Vec<&'static str>> {
    let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
    let places: Vec<_> = branches.iter().map(|branch| place(vcpu, branch)).collect();
    for (branch, place) in branches.iter().zip(&places) {
        if *place == "elsewhere" {
            println!("# elsewhere: {branch}");
        }
    }
    Ok(places)
}

/// Fails unless all records are of the code that ran until the overflow.
fn expect_profiled(vcpu: &mut Vcpu, lbr: Geometry) -> Result<()> {
    let places = places(vcpu, lbr)?;
    let profiled = places.iter().filter(|place| **place == "loop").count();
    println!(
        "# {profiled} of {} records are of the profiled code",
        lbr.depth
    );
    ensure!(
        places.iter().all(|place| *place == "loop"),
        "records, newest first: {places:?}"
    );
    Ok(())
}

/// Fails unless the newest records are the PMI handler's.
fn expect_handled(vcpu: &mut Vcpu, lbr: Geometry) -> Result<()> {
    let places = places(vcpu, lbr)?;
    ensure!(
        places.starts_with(&["handler", "handler"]) && places.ends_with(&["loop"]),
        "records, newest first: {places:?}"
    );
    Ok(())
}

fn freezes(host: &Host, lvtpc: u64) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let version = cpuid::pmu_version(&vm.cpuid());
    if !(2..=3).contains(&version) {
        return skip(format!("perfmon version {version} has no legacy freeze"));
    }
    let mut vcpu = vm.vcpu(0)?;
    for round in 0..3 {
        let frozen = take_pmi(&mut vcpu, FREEZE, lvtpc)? & !msr::RECORD;
        let found = vcpu.control_at_pmi()?;
        ensure!(
            found == frozen,
            "the control is {found:#x} in the PMI handler, not {frozen:#x}, round {round}"
        );
        expect_profiled(&mut vcpu, lbr)
            .with_context(|| format!("version {version}, round {round}"))?;
    }
    PASS
}

fn goes_on(host: &Host, lvtpc: u64) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    let control = take_pmi(&mut vcpu, 0, lvtpc)?;
    let found = vcpu.control_at_pmi()?;
    ensure!(
        found == control,
        "the control is {found:#x} in the PMI handler though freeze is off"
    );
    expect_handled(&mut vcpu, lbr)?;
    PASS
}

/// PMIs of the host's in the guest's time stop nothing of the guest's.
fn not_by_host(host: &Host) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    expect_no_freeze(host, &mut vm.vcpu(0)?)
}

fn expect_no_freeze(host: &Host, vcpu: &mut Vcpu) -> Result<Verdict> {
    const ROUNDS: usize = 300;
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let [debugctl, (control, on)] = setting(vcpu, FREEZE);
    vcpu.wrmsr(debugctl.0, debugctl.1)??;
    let mut event = HostLbr::of_guests(cpu, 5_003)?;
    let (mut lost, mut partial, mut samples) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let outcomes = vcpu.run(&[
            Command::Wrmsr(control, on),
            Command::Call(Symbol::Spin, 5_000),
            Command::Rdmsr(control),
            Command::Wrmsr(control, 0),
        ])?;
        lost += usize::from(outcomes[2]? != on);
        let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
        let own = |branch: &Branch| vcpu.owns(branch.from) && vcpu.owns(branch.to);
        partial += usize::from(!branches.iter().all(own));
        for register in lbr.record_registers() {
            vcpu.must_set_msr(register, 0)?;
        }
        samples += event.drain()?.count;
    }
    ensure!(
        samples >= ROUNDS,
        "{samples} samples of the host's in {ROUNDS} rounds"
    );
    ensure!(
        lost == 0,
        "in {lost} of {ROUNDS} rounds the control is not {on:#x} any more"
    );
    ensure!(
        partial == 0,
        "in {partial} of {ROUNDS} rounds not all records are the guest's branches"
    );
    PASS
}

/// Of the built-in provider.
const RELEASED: &str = "loses a record whenever the vCPU is scheduled out";

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const FREEZES: &str = "With FREEZE_LBRS_ON_PMI and perfmon version 2 or 3 the guest's PMI \
                           clears DEBUGCTL.LBR before its handler runs, and no branch of the \
                           handler is recorded.";
    const GOES_ON: &str = "Without FREEZE_LBRS_ON_PMI a PMI leaves recording on, and the newest \
                           records are the handler's.";
    let mut suite = Suite::new(DEBUG);
    suite
        .case("interrupt_freezes", FREEZES, |host| {
            freezes(host, LVT_FIXED)
        })
        .builtin_may_fail(RELEASED)
        .case("nmi_freezes", FREEZES, |host| freezes(host, msr::LVT_NMI))
        .builtin_may_fail(RELEASED)
        .case("interrupt_goes_on", GOES_ON, |host| {
            goes_on(host, LVT_FIXED)
        })
        .case("nmi_goes_on", GOES_ON, |host| goes_on(host, msr::LVT_NMI))
        .by(OWNERSHIP)
        .case(
            "not_by_host",
            "PMIs of the host's that hit in guest mode stop nothing of the guest's recording.",
            not_by_host,
        )
        .builtin_fails("upstream lets the host's PMIs freeze, with perfmon version 3");
    registers::add(&mut suite);
    streamlined::add(&mut suite);
    suite
}
