// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A branch-stack event of the host's beside a guest that uses the LBR: the event
//! runs all the time, and nothing else of the guest's vPMU notices.

use std::time::Duration;

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr;
use kvm_selftests::perf::{HostLbr, PERIOD};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// How often a routine's instructions are counted.
const ROUNDS: usize = 5;
/// Four instructions each.
const SPINS: u32 = 105_000;
/// What may be counted twice, by a host interrupt or an exit.
const NOISE: u64 = 100;
/// Of the time in which it should, an event has to run for so many percent.
const PERCENT: f64 = 95.0;

/// Returns how many instructions the guest counts while it spins, each time.
fn count(vcpu: &mut Vcpu) -> Result<Vec<u64>> {
    let mut commands = vec![Command::Rdmsr(msr::PMC0)];
    for _ in 0..ROUNDS {
        commands.extend([
            Command::Call(Symbol::Spin, SPINS),
            Command::Rdmsr(msr::PMC0),
        ]);
    }
    let counts: Vec<u64> = vcpu
        .run(&commands)?
        .into_iter()
        .step_by(2)
        .collect::<Result<_, _>>()?;
    Ok(counts.windows(2).map(|pair| pair[1] - pair[0]).collect())
}

/// The guest's counters lose nothing, by which the host's event would come in.
fn costs_no_counts(host: &Host, open: fn(usize) -> Result<HostLbr>) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    for (register, value) in [
        (msr::PERFEVTSEL0, msr::INSTRUCTIONS_RETIRED),
        (msr::GLOBAL_CTRL, 1),
    ] {
        vcpu.wrmsr(register, value)??;
    }
    vcpu.record(true)?;
    let alone = count(&mut vcpu)?[0];
    ensure!(
        alone > 4 * u64::from(SPINS),
        "the guest counts {alone} instructions, and executes more"
    );
    let event = open(cpu)?;
    let beside = count(&mut vcpu)?;
    drop(event);
    let after = count(&mut vcpu)?;
    println!("# {alone} alone, {beside:?} beside the host's event, {after:?} after it");
    for count in beside.into_iter().chain(after) {
        ensure!(
            (alone..=alone + NOISE).contains(&count),
            "the guest counts {count} instructions instead of {alone}"
        );
    }
    PASS
}

/// How the guest uses its CPU.
#[derive(Clone, Copy)]
enum Slices {
    /// The vCPU's thread often sleeps.
    Short,
    /// It enters the guest once.
    Long,
}

/// The host's event runs, and sees the host alone.
fn runs(host: &Host, slices: Slices, open: fn(usize) -> Result<HostLbr>) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    vcpu.call(Symbol::Jumps, 0)?;
    vcpu.expect_passthrough(lbr)?;
    vcpu.record(true)?;
    let mut event = open(cpu)?;
    match slices {
        Slices::Short => {
            for _ in 0..150 {
                vcpu.call(Symbol::Spin, 25_000)?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Slices::Long => {
            vcpu.call(Symbol::Spin, 8_000_000)?;
        }
    }
    let percent = event.percent()?;
    ensure!(
        percent >= PERCENT,
        "the host's event ran {percent:.1} % of its time"
    );
    let samples = event.drain()?;
    ensure!(
        samples.count > 0 && samples.branches.len() >= samples.count,
        "the host got {} samples with {} records",
        samples.count,
        samples.branches.len()
    );
    if !lbr.host_records_guests() {
        samples.expect_none_of(&vcpu)?;
    }
    PASS
}

fn flexible(cpu: usize) -> Result<HostLbr> {
    HostLbr::flexible(cpu, 10 * PERIOD)
}

fn of_thread(_cpu: usize) -> Result<HostLbr> {
    HostLbr::of_this_thread(10 * PERIOD)
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const BOTH: &str = "guest and host use the LBR at the same time";
    const COUNTS: &str = "A branch-stack event of the host's costs the guest's counters nothing.";
    const RUNS: &str = "A branch-stack event of the host's runs all the time beside a guest that \
                        records, and samples the host's branches alone.";
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case("pinned_costs_no_counts", COUNTS, |host| {
            costs_no_counts(host, HostLbr::pinned)
        })
        .case("flexible_costs_no_counts", COUNTS, |host| {
            costs_no_counts(host, flexible)
        })
        .case("thread_costs_no_counts", COUNTS, |host| {
            costs_no_counts(host, of_thread)
        })
        .case("flexible_runs_beside_short_slices", RUNS, |host| {
            runs(host, Slices::Short, flexible)
        })
        .builtin_may_fail(BOTH)
        .case("flexible_runs_beside_a_long_slice", RUNS, |host| {
            runs(host, Slices::Long, flexible)
        })
        .builtin_may_fail(BOTH)
        .case("thread_runs_beside_short_slices", RUNS, |host| {
            runs(host, Slices::Short, of_thread)
        })
        .builtin_may_fail(BOTH)
        .case("thread_runs_beside_a_long_slice", RUNS, |host| {
            runs(host, Slices::Long, of_thread)
        })
        .builtin_may_fail(BOTH);
    suite
}
