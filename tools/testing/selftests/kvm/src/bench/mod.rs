// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Single operations of guests and hosts that use the LBR, each in a section of the emulator's
//! counters. A section is named `OPERATION.NUMBER`; `tools/bench` knows what of it is the
//! operation's cost.

use std::path::Path;

use anyhow::{Context, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::msr;
use kvm_selftests::perf::{Guest, HostLbr};
use kvm_selftests::thread::Competitor;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

mod port;
mod switch;

use port::Port;

/// How often each operation is measured.
const ROUNDS: usize = 12;
/// An exit that no LBR has to do with.
const EXIT: Command = Command::Call(Symbol::Cpuid, 1);
/// Branches that no sampling period of the host's counts up to.
const NEVER: u64 = 1 << 40;
/// Long enough to be scheduled out a few times if somebody competes.
const SLICES: Command = Command::Call(Symbol::Spin, 1_000_000);

type Step = fn(&Bench) -> Result<()>;

/// What is measured, and with what.
struct Bench {
    host: Host,
    cpu: usize,
    port: Port,
}

/// Measures all operations.
pub(crate) fn print() -> Result<()> {
    let host = Host::probe(None, Path::new(""))?;
    let bench = Bench {
        cpu: host.cpu()?,
        port: Port::open()?,
        host,
    };
    pin_to(bench.cpu)?;
    println!("# {}", bench.host);
    bench.empty()?;
    let mut steps: Vec<(&str, Step)> = vec![
        ("exits without LBR", Bench::without),
        ("context switches", switch::without),
    ];
    if bench.host.lbr().is_ok() {
        // The first of them is the first LBR event of this boot.
        steps.insert(0, ("first use", Bench::first_use));
        steps.extend([
            ("exits of an idle guest", Bench::idle as Step),
            ("exits of an owner", Bench::granted),
            ("exits while the host has it", Bench::reclaimed),
            ("release", Bench::release),
            ("PMI", Bench::pmi),
            ("filter", Bench::filter),
            ("host events", Bench::revoke),
            ("registers", Bench::registers),
            ("context switches with LBR", switch::with_lbr),
            ("many VMs", switch::scale),
        ]);
    }
    for (step, measure) in steps {
        println!("# step: {step}");
        measure(&bench).context(step)?;
    }
    Ok(())
}

/// Spins until the kernel's tick has just been: there is none for as long as most operations
/// take.
fn after_a_tick() {
    let now = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: The call writes the time and nothing else.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
        (time.tv_sec, time.tv_nsec)
    };
    let start = now();
    while now() == start {
        std::hint::spin_loop();
    }
}

impl Bench {
    /// Measures one round of an operation.
    fn section<T>(
        &self,
        name: &str,
        round: usize,
        operation: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let name = format!("{name}.{round}");
        after_a_tick();
        self.port.section(&name, operation)
    }

    /// Measures a list of a guest's, each time after what prepares it.
    fn list(
        &self,
        name: &str,
        vcpu: &mut Vcpu,
        commands: &[Command],
        prepare: impl Fn(&mut Vcpu) -> Result<()>,
    ) -> Result<()> {
        for round in 0..ROUNDS {
            prepare(vcpu)?;
            self.section(name, round, || vcpu.start(commands))?;
            for outcome in vcpu.outcomes(commands.len())? {
                outcome?;
            }
        }
        Ok(())
    }

    /// What a section costs itself.
    fn empty(&self) -> Result<()> {
        for round in 0..ROUNDS {
            self.section("empty", round, || Ok(()))?;
        }
        Ok(())
    }

    fn without(&self) -> Result<()> {
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu_without_lbr(0)?;
        self.list("exit_without", &mut vcpu, &[EXIT], ready)?;
        self.list("run_without", &mut vcpu, &[], ready)?;
        self.list(
            "debugctl_read_without",
            &mut vcpu,
            &[Command::Rdmsr(msr::DEBUGCTL)],
            ready,
        )
    }

    fn first_use(&self) -> Result<()> {
        let from = self.host.lbr()?.from();
        for round in 0..ROUNDS {
            let vm = Vm::new(&self.host)?;
            let mut vcpu = vm.vcpu(0)?;
            vcpu.start(&[EXIT])?;
            let commands = [vcpu.on(), Command::Rdmsr(from)];
            self.section("first_use", round, || vcpu.start(&commands))?;
        }
        Ok(())
    }

    fn idle(&self) -> Result<()> {
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        self.list("exit_idle", &mut vcpu, &[EXIT], ready)?;
        self.list(
            "debugctl_read_idle",
            &mut vcpu,
            &[Command::Rdmsr(msr::DEBUGCTL)],
            ready,
        )
    }

    fn granted(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        let owns = |vcpu: &mut Vcpu| {
            vcpu.record(true)?;
            vcpu.expect_passthrough(lbr)
        };
        let mut measure =
            |name: &str, commands: &[Command]| self.list(name, &mut vcpu, commands, owns);
        let (control, on) = (lbr.control(0).msr, lbr.control(0).on);
        measure("exit_granted", &[EXIT])?;
        measure("run_granted", &[])?;
        measure("record_read_granted", &[Command::Rdmsr(lbr.from())])?;
        measure("record_write_granted", &[Command::Wrmsr(lbr.from(), 0)])?;
        measure("control_read_granted", &[Command::Rdmsr(control)])?;
        measure("control_write_granted", &[Command::Wrmsr(control, on)])?;
        measure("debugctl_read_granted", &[Command::Rdmsr(msr::DEBUGCTL)])
    }

    fn reclaimed(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        vcpu.record(true)?;
        let _event = HostLbr::on_cpu(self.cpu, NEVER, true, Guest::Counted)?;
        let waits = |vcpu: &mut Vcpu| {
            vcpu.record(true)?;
            ready(vcpu)
        };
        let mut measure =
            |name: &str, commands: &[Command]| self.list(name, &mut vcpu, commands, waits);
        let control = lbr.control(0).msr;
        measure("exit_reclaimed", &[EXIT])?;
        measure("record_read_reclaimed", &[Command::Rdmsr(lbr.from())])?;
        measure("record_write_reclaimed", &[Command::Wrmsr(lbr.from(), 0)])?;
        measure("control_read_reclaimed", &[Command::Rdmsr(control)])
    }

    /// The first access after an idle guest has lost the LBR.
    fn release(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        self.list(
            "first_access_after_release",
            &mut vcpu,
            &[Command::Rdmsr(lbr.from())],
            |vcpu| {
                vcpu.call(Symbol::Jumps, 0)?;
                let competitor = Competitor::start(self.cpu);
                vcpu.run(&[SLICES])?;
                vcpu.run(&[SLICES])?;
                competitor.stop()?;
                ready(vcpu)
            },
        )
    }

    /// A counter of a recording guest's overflows, up to the end of the handler.
    fn pmi(&self) -> Result<()> {
        const PERIOD: u64 = 5_000;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        let on = u32::try_from(vcpu.control().on).context("a control of more than 32 bits")?;
        vcpu.wrmsr(msr::DEBUGCTL, msr::DEBUGCTL_FREEZE_LBRS_ON_PMI)??;
        let on = match vcpu.control().msr {
            msr::DEBUGCTL => on | msr::DEBUGCTL_FREEZE_LBRS_ON_PMI as u32,
            _ => on,
        };
        self.list(
            "pmi",
            &mut vcpu,
            &[Command::Call(Symbol::WaitPmi, on)],
            |vcpu| {
                for (msr, value) in [
                    (msr::GLOBAL_CTRL, 0),
                    (msr::X2APIC_SVR, 0x1ff),
                    (msr::X2APIC_LVTPC, msr::LVT_NMI),
                    (msr::PMC0, PERIOD.wrapping_neg() & 0xffff_ffff),
                    (msr::PERFEVTSEL0, msr::BRANCHES_RETIRED_WITH_PMI),
                ] {
                    vcpu.wrmsr(msr, value)??;
                }
                ready(vcpu)
            },
        )
    }

    /// KVM adapts the intercepts to a new MSR filter: all of them are set anew.
    fn filter(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        let replace = |_: &mut Vcpu| {
            vm.deny_msrs(&[], kvm_ioctls::MsrFilterRangeFlags::READ)?;
            Ok(())
        };
        ready(&mut vcpu)?;
        self.list("filter_idle", &mut vcpu, &[], replace)?;
        vcpu.record(true)?;
        vcpu.expect_passthrough(lbr)?;
        self.list("filter_granted", &mut vcpu, &[], replace)
    }

    /// An event of the host's takes the LBR from a recording guest and gives it back.
    fn revoke(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        for (name, uses) in [("host_event_idle", false), ("host_event_granted", true)] {
            let mut vcpu = vm.vcpu(u64::from(uses))?;
            let mut event = HostLbr::on_cpu(self.cpu, NEVER, true, Guest::Counted)?;
            event.stop()?;
            for round in 0..ROUNDS {
                ready(&mut vcpu)?;
                if uses {
                    vcpu.record(true)?;
                    vcpu.expect_passthrough(lbr)?;
                }
                self.section(name, round, || {
                    event.go_on()?;
                    vcpu.start(&[EXIT])?;
                    event.stop()?;
                    vcpu.start(&[EXIT])
                })?;
            }
        }
        Ok(())
    }

    /// KVM_GET_MSRS of all LBR MSRs of a guest that does not run.
    fn registers(&self) -> Result<()> {
        let lbr = self.host.lbr()?;
        let vm = Vm::new(&self.host)?;
        let mut vcpu = vm.vcpu(0)?;
        vcpu.call(Symbol::Jumps, 0)?;
        vcpu.expect_passthrough(lbr)?;
        let all = lbr.registers();
        for round in 0..ROUNDS {
            self.section("get_msrs", round, || vcpu.must_get_msrs(&all))?;
        }
        Ok(())
    }
}

/// Enters once, for all that is only done then.
fn ready(vcpu: &mut Vcpu) -> Result<()> {
    vcpu.start(&[EXIT]).map(drop)
}
