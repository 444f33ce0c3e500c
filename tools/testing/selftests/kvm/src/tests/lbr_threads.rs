// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Userspace reads and writes LBR registers on another thread than the vCPU's.

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{can_offline, function_calls, pin_to, Host, Offline};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::msr::{Control, Geometry, Snapshot};
use kvm_selftests::process::{Child, Ending};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// LBR_SELECT: suppress branches that end in ring 0.
const CPL_EQ_0: u64 = 1 << 0;
/// Where a second VM is.
const OTHER_BASE: u64 = 0x2000_0000_0000;
/// How many interrupts reading all registers may cost. The timer and others may send
/// one, too.
const TRIPS: u64 = 3;

/// The vCPU's CPU and ours: the same, or two.
fn pair(host: &Host, two: bool) -> Result<Option<(usize, usize)>> {
    match two {
        true => Ok(host.two_cpus()),
        false => host.cpu().map(|cpu| Some((cpu, cpu))),
    }
}

/// While the vCPU's event is ACTIVE on its CPU, if there are two CPUs.
fn get_and_set(host: &Host, two: bool) -> Result<Verdict> {
    let Some((theirs, ours)) = pair(host, two)? else {
        return skip("needs two CPUs");
    };
    pin_to(ours)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, theirs)?;
    for seed in 0..3 {
        thread.run(move |vcpu| {
            vcpu.suppress(lbr, 0)?;
            vcpu.call(Symbol::Jumps, 0)
        })?;
        let expected = thread.vcpu()?.expected_jumps(Symbol::JumpsFirst, lbr);
        let seen = thread.vcpu()?.host_snapshot(lbr)?;
        ensure!(
            seen.branches(lbr) == expected,
            "this thread sees {}, not {}",
            seen.branches(lbr)[0],
            expected[0]
        );
        let values = Snapshot::pattern(lbr, seed);
        thread.vcpu()?.set_snapshot(lbr, &values)?;
        values.expect_same(&thread.vcpu()?.host_snapshot(lbr)?, lbr)?;
        let guest = thread.run(move |vcpu| vcpu.guest_snapshot(lbr))?;
        values.expect_same(&guest, lbr)?;
        // Not yet used by the vCPU's thread, just read by this one.
        values.expect_same(&thread.vcpu()?.host_snapshot(lbr)?, lbr)?;
    }
    PASS
}

/// The control and the records are set by this thread before the vCPU's thread
/// has entered the guest: the LBR belongs to the vCPU's thread all the same.
fn set_before_run(host: &Host, two: bool) -> Result<Verdict> {
    let Some((theirs, ours)) = pair(host, two)? else {
        return skip("needs two CPUs");
    };
    pin_to(ours)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    // A guest that runs in ring 0 only records nothing with this.
    let values = Snapshot::pattern(lbr, 1).with_select(lbr, CPL_EQ_0);
    let Control { msr: control, on } = lbr.control(CPL_EQ_0);
    vcpu.set_snapshot(lbr, &values)?;
    vcpu.must_set_msr(control, on)?;
    let thread = VcpuThread::start(vcpu, theirs)?;
    let outcomes =
        thread.run(move |vcpu| vcpu.run(&[Command::Rdmsr(control), Command::Wrmsr(control, 0)]))?;
    ensure!(
        outcomes[0] == Ok(on),
        "the guest reads MSR {control:#x} as {:x?}",
        outcomes[0]
    );
    let seen = thread.run(move |vcpu| {
        vcpu.expect_passthrough(lbr)?;
        vcpu.guest_snapshot(lbr)
    })?;
    values.expect_same(&seen, lbr)?;
    thread.run(move |vcpu| {
        vcpu.suppress(lbr, 0)?;
        vcpu.call(Symbol::Jumps, 0)?;
        let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
        ensure!(
            vcpu.guest_snapshot(lbr)?.branches(lbr) == expected,
            "the guest does not record on its own thread"
        );
        Ok(())
    })?;
    PASS
}

/// The vCPU's LBR in use on this thread; returns its registers.
fn use_here(vcpu: &mut Vcpu, lbr: Geometry) -> Result<Snapshot> {
    vcpu.call(Symbol::Jumps, 0)?;
    vcpu.expect_passthrough(lbr)?;
    vcpu.guest_snapshot(lbr)
}

/// The vCPU goes on on another thread when its first one has ended.
fn thread_ended(host: &Host) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let first = VcpuThread::start(vm.vcpu(0)?, cpu)?;
    let before = first.run(move |vcpu| use_here(vcpu, lbr))?;
    goes_on(host, &before, first.end()?)
}

/// The vCPU goes on here when a process that shares this one's memory has run it and
/// now runs another program, or none.
fn process_gone(host: &Host, ending: Ending) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    for _ in 0..3 {
        let (child, before) = Child::run(ending, || use_here(&mut vcpu, lbr))?;
        before.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
        before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
        // It competes for the CPU.
        for _ in 0..10 {
            vcpu.call(Symbol::Jumps, 0)?;
            let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
            ensure!(
                vcpu.guest_snapshot(lbr)?.branches(lbr) == expected,
                "the guest does not record after the process"
            );
            vcpu.expect_passthrough(lbr)?;
        }
        let before = vcpu.guest_snapshot(lbr)?;
        drop(child);
        before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    let before = vcpu.guest_snapshot(lbr)?;
    goes_on(host, &before, vcpu)
}

/// The vCPU goes on on another thread while its first one, this one, lives.
fn thread_changed(host: &Host) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    let before = use_here(&mut vcpu, host.lbr()?)?;
    goes_on(host, &before, vcpu)
}

/// Returns whether LBR_TOS is another, if there is one.
fn moved(before: Option<u64>, after: Option<u64>) -> bool {
    before.is_none() || before != after
}

/// Fails unless the vCPU keeps its registers on a new thread, and uses the LBR.
fn goes_on(host: &Host, before: &Snapshot, vcpu: Vcpu) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let second = VcpuThread::start(vcpu, host.cpu()?)?;
    before.expect_same(&second.vcpu()?.host_snapshot(lbr)?, lbr)?;
    before.expect_same(&second.run(move |vcpu| vcpu.guest_snapshot(lbr))?, lbr)?;
    let tos = before.tos(lbr);
    second.run(move |vcpu| {
        vcpu.call(Symbol::Jumps, 0)?;
        let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
        let seen = vcpu.guest_snapshot(lbr)?;
        ensure!(
            seen.branches(lbr) == expected && moved(tos, seen.tos(lbr)),
            "the guest does not record on its new thread"
        );
        vcpu.expect_passthrough(lbr)
    })?;
    PASS
}

/// The vCPU goes to another CPU, where its registers change, and back.
fn there_and_back(host: &Host) -> Result<Verdict> {
    let Some((first, second)) = host.two_cpus() else {
        return skip("needs two CPUs");
    };
    pin_to(first)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    use_here(&mut vcpu, lbr)?;
    for (seed, cpu) in [second, first, second].into_iter().enumerate() {
        let values = Snapshot::pattern(lbr, seed as u64 + 1);
        let before = vcpu.guest_snapshot(lbr)?;
        pin_to(cpu)?;
        before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
        vcpu.expect_passthrough(lbr)?;
        vcpu.write_snapshot(lbr, &values)?;
        values.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    PASS
}

/// The CPU of the vCPU's thread is taken away: the vCPU goes on on another.
fn cpu_offlined(host: &Host) -> Result<Verdict> {
    let Some((ours, theirs)) = host.two_cpus() else {
        return skip("needs two CPUs");
    };
    if !can_offline(theirs) {
        return skip("the second CPU cannot be taken offline");
    }
    pin_to(ours)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, theirs)?;
    let before = thread.run(move |vcpu| use_here(vcpu, lbr))?;
    let offline = Offline::new(theirs)?;
    before.expect_same(&thread.vcpu()?.host_snapshot(lbr)?, lbr)?;
    before.expect_same(&thread.run(move |vcpu| vcpu.guest_snapshot(lbr))?, lbr)?;
    thread.run(move |vcpu| {
        vcpu.call(Symbol::Jumps, 0)?;
        vcpu.expect_passthrough(lbr)
    })?;
    drop(offline);
    let expected = thread.vcpu()?.expected_jumps(Symbol::JumpsFirst, lbr);
    let seen = thread.run(move |vcpu| vcpu.guest_snapshot(lbr))?;
    ensure!(
        seen.branches(lbr) == expected && moved(before.tos(lbr), seen.tos(lbr)),
        "the guest does not record on its new CPU"
    );
    PASS
}

/// The vCPU's CPU goes offline and comes back: the vCPU finds its registers there as
/// they were, and another guest none of them.
fn cpu_back(host: &Host) -> Result<Verdict> {
    let Some((ours, theirs)) = host.two_cpus() else {
        return skip("needs two CPUs");
    };
    if !can_offline(theirs) {
        return skip("the second CPU cannot be taken offline");
    }
    pin_to(ours)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, theirs)?;
    for seed in 0..4 {
        let values = Snapshot::pattern(lbr, seed);
        let written = values.clone();
        thread.run(move |vcpu| {
            vcpu.expect_passthrough(lbr)?;
            vcpu.write_snapshot(lbr, &written)
        })?;
        drop(Offline::new(theirs)?);
        if seed % 2 == 0 {
            let other = Vm::at(host, OTHER_BASE)?;
            let other = VcpuThread::start(other.vcpu(0)?, theirs)?;
            let seen = other.run(move |vcpu| vcpu.guest_snapshot(lbr))?;
            Snapshot::empty(lbr).expect_same(&seen, lbr)?;
            other.run(move |vcpu| use_here(vcpu, lbr))?;
        }
        let seen = thread.run(move |vcpu| {
            pin_to(theirs)?;
            vcpu.guest_snapshot(lbr)
        })?;
        values.expect_same(&seen, lbr)?;
        values.expect_same(&thread.vcpu()?.host_snapshot(lbr)?, lbr)?;
    }
    PASS
}

/// One thread runs two vCPUs, each for a while: both record and have their registers
/// passed through.
fn two_vcpus_on_one_thread(host: &Host, same_vm: bool) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let lbr = host.lbr()?;
    let vms = [Vm::new(host)?, Vm::at(host, OTHER_BASE)?];
    let mut vcpus = match same_vm {
        true => [vms[0].vcpu(0)?, vms[0].vcpu(1)?],
        false => [vms[0].vcpu(0)?, vms[1].vcpu(0)?],
    };
    let mut before = [Snapshot::empty(lbr), Snapshot::empty(lbr)];
    for round in 0..4 {
        for (index, (vcpu, before)) in vcpus.iter_mut().zip(&mut before).enumerate() {
            before.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
            vcpu.suppress(lbr, 0)?;
            let expected = vcpu.expected_jumps(Symbol::JumpsFirst, lbr);
            vcpu.call(Symbol::Jumps, 0)?;
            let seen = vcpu.guest_snapshot(lbr)?;
            ensure!(
                seen.branches(lbr) == expected,
                "round {round}: the guest's newest record is {}",
                seen.branches(lbr)[0]
            );
            vcpu.expect_passthrough(lbr)?;
            *before = Snapshot::pattern(lbr, 2 * round + index as u64);
            vcpu.write_snapshot(lbr, before)?;
        }
    }
    PASS
}

/// Userspace reads all registers of a vCPU that is on another CPU: one interrupt
/// there brings them all.
fn one_trip(host: &Host) -> Result<Verdict> {
    let Some((theirs, ours)) = host.two_cpus() else {
        return skip("needs two CPUs");
    };
    pin_to(ours)?;
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let thread = VcpuThread::start(vm.vcpu(0)?, theirs)?;
    for _ in 0..3 {
        let before = thread.run(move |vcpu| use_here(vcpu, lbr))?;
        let vcpu = thread.vcpu()?;
        let interrupts = function_calls(theirs)?;
        let seen = vcpu.host_snapshot(lbr)?;
        let interrupts = function_calls(theirs)? - interrupts;
        before.expect_same(&seen, lbr)?;
        println!("# {interrupts} function call interrupts");
        ensure!(
            (1..=TRIPS).contains(&interrupts),
            "{interrupts} function call interrupts by reading {} registers",
            seen.values().len()
        );
    }
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const DUMMY: &str = "reads 0 and drops writes on any other thread";
    const CALLER: &str = "its event belongs to the thread of the ioctl";
    const ONE_EVENT: &str = "perf has room for one of its events";
    const GET_AND_SET: &str = "Userspace reads and writes on any thread the LBR registers that \
                               the guest has on its own.";
    const SET_BEFORE_RUN: &str = "Recording and records that another thread sets before the first \
                                  KVM_RUN are there in the guest, which has the LBR.";
    const THREAD: &str = "A vCPU that goes on on another thread has its registers there, and \
                          records";
    const PROCESS: &str = "A vCPU that another process has run has its registers here, and \
                           records, when that process";
    const OFFLINE: &str = "A vCPU whose CPU goes offline has its registers";
    const TWO: &str = "Two vCPUs that one thread runs in turn each have their own registers, \
                       passed through, and record.";
    let mut suite = Suite::new(OWNERSHIP);
    suite
        .case("get_and_set_same_cpu", GET_AND_SET, |host| {
            get_and_set(host, false)
        })
        .builtin_fails(DUMMY)
        .case("get_and_set_other_cpu", GET_AND_SET, |host| {
            get_and_set(host, true)
        })
        .builtin_fails(DUMMY)
        .case("set_before_run_same_cpu", SET_BEFORE_RUN, |host| {
            set_before_run(host, false)
        })
        .builtin_fails(CALLER)
        .case("set_before_run_other_cpu", SET_BEFORE_RUN, |host| {
            set_before_run(host, true)
        })
        .builtin_fails(CALLER)
        .case(
            "thread_ended",
            format!("{THREAD}, after the first one has ended."),
            thread_ended,
        )
        .builtin_fails(CALLER)
        .case(
            "thread_changed",
            format!("{THREAD}, while the first one lives."),
            thread_changed,
        )
        .builtin_fails(CALLER)
        .case(
            "process_execs",
            format!("{PROCESS} executes another program."),
            |host| process_gone(host, Ending::Exec),
        )
        .builtin_fails(CALLER)
        .case("process_exits", format!("{PROCESS} exits."), |host| {
            process_gone(host, Ending::Exit)
        })
        .builtin_fails(CALLER)
        .case(
            "there_and_back",
            "A vCPU that moves to another CPU and back has its registers on each.",
            there_and_back,
        )
        .builtin_fails("TOS and SELECT are those of the other CPU")
        .case(
            "cpu_offlined",
            format!("{OFFLINE} on another, and records there."),
            cpu_offlined,
        )
        .builtin_may_fail(DUMMY)
        .case(
            "cpu_back",
            format!("{OFFLINE} on it when it is back, and another guest has none of them."),
            cpu_back,
        )
        .builtin_fails(DUMMY)
        .case("two_vcpus_on_one_thread", TWO, |host| {
            two_vcpus_on_one_thread(host, true)
        })
        .builtin_fails(ONE_EVENT)
        .case("two_vms_on_one_thread", TWO, |host| {
            two_vcpus_on_one_thread(host, false)
        })
        .builtin_fails(ONE_EVENT)
        .case(
            "one_trip",
            "Reading all LBR registers of a vCPU on another CPU interrupts that CPU once.",
            one_trip,
        )
        .builtin_fails(DUMMY);
    suite
}
