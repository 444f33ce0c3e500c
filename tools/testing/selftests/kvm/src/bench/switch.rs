// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Context switches: a vCPU's thread leaves the CPU to another thread and comes back.

use std::io::{pipe, PipeReader, PipeWriter, Read, Write};
use std::thread;

use anyhow::{anyhow, Context, Result};
use kvm_selftests::host::pin_to;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

use super::{ready, Bench, EXIT, ROUNDS};

/// Two threads that take turns.
struct Turns {
    go: PipeWriter,
    done: PipeReader,
}

impl Turns {
    /// Lets the other thread run until it waits again.
    fn give(&mut self) -> Result<()> {
        self.go.write_all(&[0])?;
        self.done.read_exact(&mut [0])?;
        Ok(())
    }
}

/// Takes turns with a thread that does this in each of its own.
fn with_other<T>(
    bench: &Bench,
    mut other: impl FnMut() -> Result<()> + Send,
    run: impl FnOnce(&mut Turns) -> Result<T>,
) -> Result<T> {
    let (mut wait, go) = pipe()?;
    let (done, mut tell) = pipe()?;
    let cpu = bench.cpu;
    thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<()> {
            pin_to(cpu)?;
            // Until the other end is closed.
            while wait.read(&mut [0])? == 1 {
                other()?;
                tell.write_all(&[0])?;
            }
            Ok(())
        });
        let mut turns = Turns { go, done };
        let result = run(&mut turns);
        drop(turns);
        thread
            .join()
            .map_err(|_| anyhow!("the other thread died"))?
            .context("the other thread")?;
        result
    })
}

/// Measures the way away and back, and the next VM-entry.
fn measure(
    bench: &Bench,
    name: &str,
    vcpu: &mut Vcpu,
    other: impl FnMut() -> Result<()> + Send,
    prepare: impl Fn(&mut Vcpu) -> Result<()>,
) -> Result<()> {
    with_other(bench, other, |turns| {
        for round in 0..ROUNDS {
            prepare(vcpu)?;
            turns.give()?;
            ready(vcpu)?;
            bench.section(name, round, || {
                turns.give()?;
                vcpu.start(&[EXIT])
            })?;
        }
        Ok(())
    })
}

pub(super) fn without(bench: &Bench) -> Result<()> {
    let vm = Vm::new(&bench.host)?;
    let mut vcpu = vm.vcpu_without_lbr(0)?;
    measure(bench, "switch_without", &mut vcpu, || Ok(()), |_| Ok(()))
}

pub(super) fn with_lbr(bench: &Bench) -> Result<()> {
    let lbr = bench.host.lbr()?;
    let records = |vcpu: &mut Vcpu| {
        vcpu.record(true)?;
        vcpu.expect_passthrough(lbr)
    };
    let vm = Vm::new(&bench.host)?;
    let mut vcpu = vm.vcpu(0)?;
    measure(bench, "switch_idle", &mut vcpu, || Ok(()), |_| Ok(()))?;
    measure(bench, "switch_same", &mut vcpu, || Ok(()), records)?;

    let other = Vm::new(&bench.host)?;
    let mut theirs = other.vcpu(0)?;
    theirs.record(true)?;
    let enter = move || theirs.start(&[EXIT]).map(drop);
    measure(bench, "switch_other", &mut vcpu, enter, records)
}

/// The same two operations beside more and more VMs that record.
pub(super) fn scale(bench: &Bench) -> Result<()> {
    let lbr = bench.host.lbr()?;
    let mut others = Vec::new();
    for (count, exit, switch) in [
        (1, "exit_beside_1", "switch_beside_1"),
        (2, "exit_beside_2", "switch_beside_2"),
        (8, "exit_beside_8", "switch_beside_8"),
        (32, "exit_beside_32", "switch_beside_32"),
    ] {
        while others.len() + 1 < count {
            let vm = Vm::new(&bench.host)?;
            let thread = VcpuThread::start(vm.vcpu(0)?, bench.cpu)?;
            thread.keep_busy(false);
            thread.run(|vcpu| vcpu.record(true))?;
            others.push((vm, thread));
        }
        let vm = Vm::new(&bench.host)?;
        let mut vcpu = vm.vcpu(0)?;
        let records = |vcpu: &mut Vcpu| {
            vcpu.record(true)?;
            vcpu.expect_passthrough(lbr)
        };
        bench.list(exit, &mut vcpu, &[EXIT], records)?;
        measure(bench, switch, &mut vcpu, || Ok(()), records)?;
    }
    Ok(())
}
