// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The host takes the LBR from a guest by any branch-stack event: both sides keep
//! what is theirs, a gap in the guest's recording shows as a gap, and the guest gets
//! the LBR back with the next VM-entry.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Control, Geometry, Snapshot};
use kvm_selftests::perf::{HostLbr, Samples, TraceCount, PERIOD};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::{Stop, Vcpu};
use kvm_selftests::vm::Vm;

/// How long the host profiles.
const HOST_PROFILES: Duration = Duration::from_millis(30);
/// How many exits a guest may take that has the LBR back.
const EXITS: u64 = 2;
/// LBR_SELECT: suppress indirect jumps, of which the guest's routines take none.
const NO_INDIRECT_JUMPS: u64 = 1 << 6;

/// Opens an event of the host's on a CPU, or of the calling thread.
type Open = fn(usize) -> Result<HostLbr>;

fn flexible(cpu: usize) -> Result<HostLbr> {
    HostLbr::flexible(cpu, PERIOD)
}

fn of_thread(_cpu: usize) -> Result<HostLbr> {
    HostLbr::of_this_thread(PERIOD)
}

/// Takes branches on the host for a while; returns the samples of them.
fn profile(event: &mut HostLbr) -> Result<Samples> {
    let end = Instant::now() + HOST_PROFILES;
    let mut samples = Samples::default();
    while Instant::now() < end {
        samples.extend(event.drain()?);
    }
    Ok(samples)
}

/// Fails if the host recorded nothing.
fn expect_some(samples: &Samples) -> Result<()> {
    ensure!(samples.count > 0, "the host got no samples");
    ensure!(
        samples.branches.len() >= samples.count,
        "the host got {} samples with {} records",
        samples.count,
        samples.branches.len()
    );
    Ok(())
}

/// Fails if the host recorded nothing, or something of the guest's, which has not run
/// since the event came.
fn expect_host_only(samples: &Samples, vcpu: &Vcpu) -> Result<()> {
    expect_some(samples)?;
    samples.expect_none_of(vcpu)
}

/// The same, and the guest has run.
fn expect_host(samples: &Samples, vcpu: &Vcpu, lbr: Geometry) -> Result<()> {
    match lbr.host_records_guests() {
        true => expect_some(samples),
        false => expect_host_only(samples, vcpu),
    }
}

/// Fails unless the guest's accesses are passed through again at once.
fn expect_return(vcpu: &mut Vcpu, lbr: Geometry) -> Result<()> {
    let all = lbr.passed_through().into_iter();
    let reads: Vec<_> = all.map(Command::Rdmsr).collect();
    let exits = vcpu.exits_of(&reads)?;
    ensure!(
        exits <= EXITS,
        "{exits} exits by reading LBR registers after the host let go"
    );
    Ok(())
}

fn start(host: &Host) -> Result<(Vm, Vcpu, Geometry, usize)> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu, host.lbr()?, cpu))
}

/// Taken while recording is off: all registers stay as they are.
fn idle(host: &Host, open: Open) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    vcpu.call(Symbol::Jumps, 0)?;
    vcpu.expect_passthrough(lbr)?;
    let before = vcpu.guest_snapshot(lbr)?;

    let mut event = open(cpu)?;
    expect_host_only(&profile(&mut event)?, &vcpu)?;
    before.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    vcpu.expect_intercepted(lbr)?;
    expect_host(&profile(&mut event)?, &vcpu, lbr)?;

    drop(event);
    expect_return(&mut vcpu, lbr)?;
    before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    before.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    expect_records_again(&mut vcpu, lbr)
}

fn expect_records_again(vcpu: &mut Vcpu, lbr: Geometry) -> Result<Verdict> {
    vcpu.call(Symbol::Jumps, 0)?;
    let seen = vcpu.guest_snapshot(lbr)?.branches(lbr);
    let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
    ensure!(seen == expected, "newest record {}", seen[0]);
    PASS
}

/// Taken while recording is on: the guest still reads that it is, finds no
/// record, and recording goes on when the LBR is back.
fn recording(host: &Host, open: Open) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    let expected = vcpu.expected_jumps(Symbol::JumpsOnFirst, lbr);
    let spin = Command::Call(Symbol::Spin, 10_000);
    vcpu.suppress(lbr, NO_INDIRECT_JUMPS)?;
    let Control { msr: control, on } = vcpu.control();
    let stop = vcpu.start(&[
        Command::Call(Symbol::JumpsOn, 0),
        spin,
        Command::Rdmsr(control),
    ])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    let before = vcpu.host_snapshot(lbr)?;
    ensure!(
        before.branches(lbr) == expected,
        "userspace sees other records than the guest's jumps"
    );

    let mut event = open(cpu)?;
    expect_host_only(&profile(&mut event)?, &vcpu)?;
    before.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    ensure!(vcpu.resume()? == Stop::Done, "the guest did not stop");
    let outcomes = vcpu.outcomes(3)?;
    ensure!(
        outcomes[2] == Ok(on),
        "the guest reads MSR {control:#x} as {:x?}, not {on:#x}",
        outcomes[2]
    );
    ensure!(
        vcpu.get_msr(control)? == Some(on),
        "userspace reads that recording is off"
    );
    expect_empty(&vcpu.host_snapshot(lbr)?)?;
    expect_empty(&vcpu.guest_snapshot(lbr)?)?;
    expect_filter(&vcpu, lbr)?;
    let samples = profile(&mut event)?;
    vcpu.run(&[spin])?;
    expect_empty(&vcpu.guest_snapshot(lbr)?)?;
    expect_host(&samples, &vcpu, lbr)?;

    drop(event);
    vcpu.run(&[spin])?;
    ensure!(
        vcpu.rdmsr(control)? == Ok(on),
        "recording is not on any more"
    );
    expect_filter(&vcpu, lbr)?;
    for branch in vcpu.host_snapshot(lbr)?.branches(lbr) {
        ensure!(
            vcpu.owns(branch.from) && vcpu.owns(branch.to),
            "the guest sees {branch}"
        );
    }
    vcpu.record(false)?;
    expect_records_again(&mut vcpu, lbr)
}

/// Fails if there is a record in the gap.
fn expect_empty(seen: &Snapshot) -> Result<()> {
    let left = seen.records.iter().filter(|value| **value != 0).count();
    ensure!(
        left == 0,
        "{left} of the records' registers are not 0 while the host has the LBR"
    );
    Ok(())
}

/// Fails unless the guest's filter is what it was.
fn expect_filter(vcpu: &Vcpu, lbr: Geometry) -> Result<()> {
    let (register, filter) = match lbr.is_architectural() {
        true => (msr::LBR_CTL, lbr.control(NO_INDIRECT_JUMPS).on),
        false => (msr::LBR_SELECT, NO_INDIRECT_JUMPS),
    };
    let seen = vcpu.get_msr(register)?;
    ensure!(
        seen == Some(filter),
        "MSR {register:#x} is {seen:x?}, not {filter:#x}"
    );
    Ok(())
}

/// Records that the guest has stopped are kept, however often the host comes and
/// goes, and whether or not the guest runs meanwhile.
fn coming_and_going(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    vcpu.call(Symbol::Jumps, 0)?;
    let before = vcpu.guest_snapshot(lbr)?;
    for round in 0..4 {
        for open in [HostLbr::pinned as Open, flexible, of_thread] {
            let event = open(cpu)?;
            if round & 1 != 0 {
                vcpu.call(Symbol::Spin, 10_000)?;
            }
            drop(event);
            if round & 2 != 0 {
                vcpu.call(Symbol::Spin, 10_000)?;
            }
            before.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
        }
        before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    expect_records_again(&mut vcpu, lbr)
}

/// What the guest and userspace write while the host has the LBR is there when
/// it is back.
fn written_meanwhile(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    vcpu.call(Symbol::Jumps, 0)?;
    let mut event = HostLbr::pinned(cpu)?;
    expect_host_only(&profile(&mut event)?, &vcpu)?;
    let by_userspace = Snapshot::pattern(lbr, 1);
    vcpu.set_snapshot(lbr, &by_userspace)?;
    by_userspace.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    let by_guest = Snapshot::pattern(lbr, 2);
    vcpu.write_snapshot(lbr, &by_guest)?;
    by_guest.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    expect_host(&profile(&mut event)?, &vcpu, lbr)?;
    drop(event);
    expect_return(&mut vcpu, lbr)?;
    by_guest.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// A host event that is there first: the guest never gets the LBR, yet all that
/// it writes reads back.
fn host_was_first(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    let mut event = HostLbr::pinned(cpu)?;
    expect_host_only(&profile(&mut event)?, &vcpu)?;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    vcpu.call(Symbol::Jumps, 0)?;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    vcpu.expect_intercepted(lbr)?;
    expect_host(&profile(&mut event)?, &vcpu, lbr)?;
    drop(event);
    expect_return(&mut vcpu, lbr)?;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    expect_records_again(&mut vcpu, lbr)
}

/// A guest that comes after the host finds nothing of it.
fn host_was_before(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr, cpu) = start(host)?;
    let mut event = HostLbr::pinned(cpu)?;
    let samples = profile(&mut event)?;
    ensure!(samples.count > 0, "the host got no samples");
    drop(event);
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    vcpu.expect_passthrough(lbr)?;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// Taken by another CPU while the guest runs.
fn by_ipi(host: &Host) -> Result<Verdict> {
    let Some((cpu, other)) = host.two_cpus() else {
        return skip("needs two CPUs");
    };
    pin_to(other)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, cpu)?;
    thread.run(|vcpu| vcpu.call(Symbol::Jumps, 0))?;
    let mut lost = match host.has_tracepoints() {
        true => Some(TraceCount::start("guest_lbr_lost", &[cpu])?),
        false => None,
    };
    let guest = thread.spawn(|vcpu| {
        vcpu.run(&[
            vcpu.on(),
            Command::Call(Symbol::Spin, 4_000_000),
            Command::Rdmsr(vcpu.control().msr),
            vcpu.off(),
        ])
    })?;
    // The guest is somewhere in its loop.
    std::thread::sleep(Duration::from_millis(20));
    let mut event = HostLbr::pinned(cpu)?;
    let outcomes = guest.recv()??;
    if let Some(lost) = &mut lost {
        ensure!(lost.count()? > 0, "the guest did not lose the LBR");
    }
    ensure!(
        outcomes[2] == Ok(lbr.control(0).on),
        "the guest reads {:x?}, not that recording is on",
        outcomes[2]
    );
    std::thread::sleep(HOST_PROFILES);
    let samples = event.drain()?;
    let vcpu = thread.vcpu()?;
    expect_host(&samples, &vcpu, lbr)?;
    for branch in vcpu.host_snapshot(lbr)?.branches(lbr) {
        let own = |address| address == 0 || vcpu.owns(address);
        ensure!(
            own(branch.from) && own(branch.to),
            "the guest sees {branch}"
        );
    }
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const BOTH: &str = "guest and host use the LBR at the same time";
    const IDLE: &str = "Any branch-stack event of the host's takes the LBR from a guest that does \
                        not record, sees the host's branches alone, and leaves the guest all its \
                        registers.";
    const RECORDING: &str = "Any branch-stack event of the host's takes the LBR from a guest that \
                             records: the guest reads that recording is on, finds empty records, \
                             and records on when the event is gone.";
    let mut suite = Suite::new(OWNERSHIP);
    for (name, open) in [
        ("pinned", HostLbr::pinned as Open),
        ("flexible", flexible),
        ("thread", of_thread),
    ] {
        suite
            .case(format!("idle_{name}"), IDLE, move |host| idle(host, open))
            .builtin_fails(BOTH)
            .case(format!("recording_{name}"), RECORDING, move |host| {
                recording(host, open)
            })
            .builtin_fails(BOTH);
    }
    suite
        .case(
            "coming_and_going",
            "Records that the guest has stopped stay, however often the host takes the LBR.",
            coming_and_going,
        )
        .builtin_fails(BOTH)
        .case(
            "written_meanwhile",
            "What guest and userspace write while the host has the LBR is read back, also after \
             the host let go.",
            written_meanwhile,
        )
        .builtin_fails(BOTH)
        .case(
            "host_was_first",
            "A guest that comes while the host has the LBR reads empty records, and records when \
             the host let go.",
            host_was_first,
        )
        .builtin_fails(BOTH)
        .case(
            "host_was_before",
            "A guest that comes after the host finds all registers 0.",
            host_was_before,
        )
        .builtin_may_fail("LBR_TOS keeps the host's value")
        .case(
            "by_ipi",
            "An event that the host opens from another CPU takes the LBR from a guest in the \
             midst of recording, and neither sees the other's branches.",
            by_ipi,
        )
        .builtin_may_fail(BOTH);
    suite
}
