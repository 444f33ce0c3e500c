// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A VM whose vCPU has no LBR, and whose VMM and guest switch recording on all the same,
//! leaves no branch in the records of another VM.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::Arc;

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::host::{pin_to, Host, Provider};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::module;
use kvm_selftests::msr::{DEBUGCTL, DEBUGCTL_LBR, LBR_CTL, LBR_CTL_ON};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::{Vm, SIZE};

/// Where the VM without LBR is, and the one with it.
const WITHOUT: u64 = 0x1000_0000_0000;
const WITH: u64 = 0x2000_0000_0000;
/// How often the guest with LBR reads its records.
const ROUNDS: usize = 100;
/// How long it works between recording and reading: about a time slice.
const WORK: u32 = 120_000;
/// How recording is switched on, on a CPU with or without architectural LBR.
const SWITCHES: [(u32, u64); 2] = [(DEBUGCTL, DEBUGCTL_LBR), (LBR_CTL, LBR_CTL_ON)];

/// A VM without LBR, recording switched on, which takes branches until it is ended.
struct Neighbour {
    _vm: Vm,
    _thread: VcpuThread,
    stop: Arc<AtomicBool>,
    runs: Receiver<Result<usize>>,
}

impl Neighbour {
    fn start(vm: Vm, vcpu: Vcpu, cpu: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = VcpuThread::start(vcpu, cpu)?;
        let runs = thread.spawn(move |vcpu| {
            let mut runs = 0;
            // Ignored or #GP.
            let _ = vcpu.run(&SWITCHES.map(|(msr, on)| Command::Wrmsr(msr, on)))?;
            while !theirs.load(Ordering::Relaxed) {
                vcpu.call(Symbol::Spin, 10_000)?;
                runs += 1;
            }
            Ok(runs)
        })?;
        Ok(Self {
            _vm: vm,
            _thread: thread,
            stop,
            runs,
        })
    }

    fn owns(&self, address: u64) -> bool {
        (WITHOUT..WITHOUT + SIZE).contains(&address)
    }

    /// Returns how often it ran.
    fn end(&self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.runs.recv()?
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn without_lbr(vm: &Vm) -> Result<Vcpu> {
    let vcpu = vm.vcpu_without_lbr(0)?;
    let [(debugctl, lbr), (ctl, on)] = SWITCHES;
    vcpu.must_set_msr(debugctl, lbr)?;
    ensure!(
        !vcpu.set_msr(ctl, on)?,
        "userspace writes IA32_LBR_CTL of a vCPU without LBR"
    );
    Ok(vcpu)
}

/// Reads a guest's records beside a VM without LBR, on the same CPU.
fn read_beside(host: &Host, without: Vm, vcpu: Vcpu) -> Result<Verdict> {
    let cpu = host.cpu()?;
    pin_to(cpu)?;
    let lbr = host.lbr()?;
    let vm = Vm::at(host, WITH)?;
    let mut reader = vm.vcpu(0)?;
    let neighbour = Neighbour::start(without, vcpu, cpu)?;
    let mut commands = vec![
        reader.on(),
        Command::Call(Symbol::Spin, 10),
        reader.off(),
        Command::Call(Symbol::Spin, WORK),
    ];
    let work = commands.len();
    commands.extend((0..lbr.depth).map(|index| Command::Rdmsr(lbr.from() + index)));

    let (mut theirs, mut most, mut rounds) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let mut found = 0;
        for outcome in reader.run(&commands)?.split_off(work) {
            let from = lbr.address(outcome?);
            ensure!(
                from == 0 || reader.owns(from) || neighbour.owns(from),
                "the guest reads {from:#x}"
            );
            found += usize::from(neighbour.owns(from));
        }
        theirs += found;
        most = most.max(found);
        rounds += usize::from(found > 0);
    }
    let runs = neighbour.end()?;
    println!("# the neighbour ran {runs} times");
    ensure!(runs > 20, "the neighbour ran {runs} times only");
    ensure!(
        theirs == 0,
        "in {rounds} of {ROUNDS} rounds the guest read addresses of the neighbour, {theirs} in \
         all, up to {most} of {} registers at once",
        lbr.depth
    );
    PASS
}

/// The VM without LBR is older than the module: the kernel's built-in provider
/// has it, or nobody.
fn older_vm(host: &Host) -> Result<Verdict> {
    if host.provider != Provider::GuestLbr {
        return skip("needs guest_lbr");
    }
    module::absent()?;
    let without = Vm::at(host, WITHOUT)?;
    let vcpu = without_lbr(&without)?;
    module::load(host)?;
    read_beside(host, without, vcpu)
}

/// Both VMs have the same provider.
fn same_provider(host: &Host) -> Result<Verdict> {
    if let Err(error) = host.lbr() {
        return skip(format!("{error:#}"));
    }
    let without = Vm::at(host, WITHOUT)?;
    let vcpu = without_lbr(&without)?;
    read_beside(host, without, vcpu)
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const RULE: &str = "A guest reads no branch of a VM without LBR, though that VM's userspace \
                        sets DEBUGCTL.LBR";
    let mut suite = Suite::without_lbr(OWNERSHIP);
    suite
        .case(
            "older_vm",
            format!("{RULE} and it is older than the module."),
            older_vm,
        )
        .case("same_provider", format!("{RULE}."), same_provider);
    suite
}
