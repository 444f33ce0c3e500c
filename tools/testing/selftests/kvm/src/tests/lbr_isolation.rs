// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Two VMs and the host's own profiler share a CPU; nobody ever sees a branch of
//! somebody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{Branch, Geometry};
use kvm_selftests::perf::{HostLbr, Samples, PERIOD};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// Where the VMs are, far from each other and from all that the host runs.
const BASES: [u64; 2] = [0x1000_0000_0000, 0x2000_0000_0000];
/// How long each phase takes.
const PHASE: Duration = Duration::from_millis(300);
/// The phase after the last.
const END: usize = 5;
/// Between two phases.
const GAP: usize = usize::MAX;

/// What the host does in a phase. While it has an event no guest can record.
const HOST: [usize; 2] = [1, 3];

fn host_event(phase: usize, cpu: usize) -> Result<Option<HostLbr>> {
    match phase {
        1 => HostLbr::pinned(cpu).map(Some),
        3 => HostLbr::flexible(cpu, PERIOD).map(Some),
        _ => Ok(None),
    }
}

/// What a guest saw in each phase.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Rounds after which all records were of that round.
    full: usize,
    /// Rounds after which there was none.
    empty: usize,
}

/// The commands of one round: forget the records, take branches.
fn round(vcpu: &Vcpu, lbr: Geometry, spins: u32) -> Vec<Command> {
    let mut commands: Vec<_> = (lbr.from()..lbr.from() + lbr.depth)
        .chain(lbr.to()..lbr.to() + lbr.depth)
        .map(|register| Command::Wrmsr(register, 0))
        .collect();
    commands.extend([vcpu.on(), Command::Call(Symbol::Spin, spins), vcpu.off()]);
    commands
}

/// Does one round; returns the records, none of them somebody else's.
fn play(vcpu: &mut Vcpu, lbr: Geometry, commands: &[Command]) -> Result<Vec<Branch>> {
    for outcome in vcpu.run(commands)? {
        outcome?;
    }
    let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
    for branch in branches.iter().filter(|branch| !branch.is_empty()) {
        ensure!(
            vcpu.owns(branch.from) && vcpu.owns(branch.to),
            "a guest sees {branch}"
        );
    }
    Ok(branches)
}

/// Plays round by round until the end.
fn guest(vcpu: &mut Vcpu, lbr: Geometry, phase: &AtomicUsize) -> Result<[Seen; END]> {
    let commands = round(vcpu, lbr, 50_000);
    let mut seen = [Seen::default(); END];
    loop {
        let before = phase.load(Ordering::Acquire);
        if before == END {
            return Ok(seen);
        }
        let branches = play(vcpu, lbr, &commands).with_context(|| format!("in phase {before}"))?;
        if phase.load(Ordering::Acquire) != before {
            continue;
        }
        let Some(seen) = seen.get_mut(before) else {
            continue;
        };
        if branches.iter().all(Branch::is_empty) {
            seen.empty += 1;
        } else if !branches.iter().any(Branch::is_empty) {
            seen.full += 1;
        }
    }
}

type Guests = Vec<(VcpuThread, Receiver<Result<[Seen; END]>>)>;

/// Lets the phases pass; returns what the host's profilers saw.
fn phases(cpu: usize, phase: &AtomicUsize, guests: &Guests) -> Result<Vec<Samples>> {
    let mut all = vec![];
    for number in 0..END {
        let mut event = host_event(number, cpu)?;
        phase.store(number, Ordering::Release);
        let end = Instant::now() + PHASE;
        let mut samples = Samples::default();
        while Instant::now() < end {
            if let Some(event) = &mut event {
                samples.extend(event.drain()?);
            }
            for (_, result) in guests {
                if let Ok(early) = result.try_recv() {
                    early?;
                    bail!("a guest ended early");
                }
            }
        }
        phase.store(GAP, Ordering::Release);
        all.push(samples);
    }
    Ok(all)
}

fn share_a_cpu(host: &Host) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let phase = Arc::new(AtomicUsize::new(GAP));
    let vms = BASES
        .into_iter()
        .map(|base| Vm::at(host, base))
        .collect::<Result<Vec<_>>>()?;
    let mut guests: Guests = vec![];
    for vm in &vms {
        let thread = VcpuThread::start(vm.vcpu(0)?, cpu)?;
        let theirs = Arc::clone(&phase);
        let result = thread.spawn(move |vcpu| guest(vcpu, lbr, &theirs))?;
        guests.push((thread, result));
    }
    let samples = phases(cpu, &phase, &guests);
    phase.store(END, Ordering::Release);
    let samples = samples?;

    for (thread, result) in &guests {
        let seen = result.recv()??;
        println!("# guest {seen:?}");
        for free in [0, 2, 4] {
            ensure!(
                seen[free].full > 0,
                "a guest recorded nothing in phase {free}"
            );
        }
        for taken in HOST {
            ensure!(
                seen[taken].empty > 0 && seen[taken].full == 0,
                "a guest records beside the host's event in phase {taken}: {:?}",
                seen[taken]
            );
        }
        for samples in samples.iter().filter(|_| !lbr.host_records_guests()) {
            samples.expect_none_of(&*thread.vcpu()?)?;
        }
    }
    for phase in HOST {
        let samples = &samples[phase];
        println!(
            "# host {} samples, {} records in phase {phase}",
            samples.count,
            samples.branches.len()
        );
        ensure!(
            samples.count > 0 && samples.branches.len() >= samples.count,
            "the host got too little in phase {phase}"
        );
    }
    PASS
}

/// A host event of another thread than the vCPU's comes with each switch of threads.
/// It samples so often that some samples come before the host has taken as many
/// branches as there are records.
fn host_between_slices(host: &Host) -> Result<Verdict> {
    const SHORT: u64 = 251;
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, cpu)?;
    let mut event = HostLbr::of_this_thread(SHORT)?;
    let end = Instant::now() + PHASE;
    let guest = thread.spawn(move |vcpu| {
        let commands = round(vcpu, lbr, 50);
        let mut full = 0;
        while Instant::now() < end {
            if !play(vcpu, lbr, &commands)?.iter().any(Branch::is_empty) {
                full += 1;
            }
            std::thread::yield_now();
        }
        Ok(full)
    })?;
    while Instant::now() < end {
        std::thread::yield_now();
    }
    // Looking at a sample makes more than one.
    event.stop()?;
    let samples = event.drain()?;
    let full: usize = guest.recv()??;
    println!("# guest {full} rounds, host {} samples", samples.count);
    ensure!(full > 0, "the guest recorded nothing");
    ensure!(samples.count > 0, "the host got no samples");
    samples.expect_none_of(&*thread.vcpu()?)?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case(
            "two_vms_and_host_share_a_cpu",
            "Two guests and the host's profiler on one CPU each see their own branches only; \
             while the host profiles, a recording guest finds empty records.",
            share_a_cpu,
        )
        .builtin_fails("guests and host use the LBR at the same time")
        .case(
            "host_between_slices",
            "A host thread that profiles itself between a guest's slices sees no branch of the \
             guest's, and the guest none of the host's.",
            host_between_slices,
        );
    suite
}
