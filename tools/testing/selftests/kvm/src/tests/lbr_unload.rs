// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Life of the module: what loading and unloading means for VMs that exist. Run
//! it on a host with kvm_intel.lbr=off; it leaves the module unloaded.

use anyhow::{bail, ensure, Context, Result};
use kvm_selftests::guest::Symbol;
use kvm_selftests::host::{module_loaded, parameter, Host};
use kvm_selftests::ktap::{skip, Suite, Verdict, PASS};
use kvm_selftests::module;
use kvm_selftests::msr::{self, Geometry};
use kvm_selftests::rules::OWNERSHIP;
use kvm_selftests::thread::VcpuThread;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;
use nix::errno::Errno;

fn expect_busy(when: &str) -> Result<()> {
    match module::unload() {
        Err(Errno::EWOULDBLOCK) => Ok(()),
        Ok(()) => bail!("guest_lbr can be unloaded {when}"),
        Err(errno) => bail!("unloading {when} fails with {errno}, not EWOULDBLOCK"),
    }
}

fn off() -> bool {
    parameter("kvm_intel", "lbr").as_deref() == Some("off")
}

fn expect_no_lbr(vcpu: &mut Vcpu, lbr: Geometry, with_lbr: u64) -> Result<()> {
    ensure!(
        !vcpu.set_msr(msr::PERF_CAPABILITIES, with_lbr)?,
        "the VM may be given LBR"
    );
    ensure!(
        vcpu.get_msr(msr::PERF_CAPABILITIES)?.unwrap_or(0) & msr::LBR_FMT == 0,
        "the VM has LBR"
    );
    vcpu.expect_no_lbr(lbr)
}

fn expect_records(lbr: Geometry, vcpu: &mut Vcpu) -> Result<()> {
    vcpu.call(Symbol::Jumps, 0)?;
    ensure!(
        vcpu.guest_snapshot(lbr)?.branches(lbr) == vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "the guest records nothing"
    );
    Ok(())
}

/// A VM has LBR if the module was there when it was created.
fn for_new_vms(host: &Host) -> Result<Verdict> {
    if !off() {
        return skip("needs kvm_intel.lbr=off");
    }
    module::absent()?;
    ensure!(
        host.perf_capabilities()? & msr::LBR_FMT == 0,
        "LBR_FMT is offered without the module"
    );
    let older = Vm::new(host)?;
    let mut older_vcpu = older.vcpu(0)?;
    module::load(host)?;
    let with_lbr = host.perf_capabilities()?;
    ensure!(
        with_lbr & msr::LBR_FMT != 0,
        "LBR_FMT is not offered with the module"
    );
    let newer = Vm::new(host)?;
    let mut newer_vcpu = newer.vcpu(0)?;
    let lbr = host.lbr()?;
    expect_no_lbr(&mut older_vcpu, lbr, with_lbr)?;
    expect_records(lbr, &mut newer_vcpu)?;
    // A vCPU that is added later is no different from its VM's first.
    expect_no_lbr(&mut older.vcpu(1)?, lbr, with_lbr)?;
    let thread = VcpuThread::start(newer.vcpu(1)?, host.cpu()?)?;
    thread.run(move |vcpu| expect_records(lbr, vcpu))?;
    expect_no_lbr(&mut older_vcpu, lbr, with_lbr)?;
    drop((newer, newer_vcpu, thread));
    module::unload().context("unloading beside the older VM")?;
    expect_no_lbr(&mut older_vcpu, lbr, with_lbr)?;
    PASS
}

/// Unloading is refused from the creation of a VM to its end.
fn busy_while_in_use(host: &Host) -> Result<Verdict> {
    module::absent()?;
    module::load(host)?;
    let vm = Vm::new(host)?;
    expect_busy("while there is a VM without vCPU")?;
    let mut vcpu = vm.vcpu(0)?;
    expect_busy("while there is a vCPU that never ran")?;
    expect_records(host.lbr()?, &mut vcpu)?;
    expect_busy("while a guest uses the LBR")?;
    let other = Vm::new(host)?;
    drop(vcpu);
    expect_busy("while there is a VM whose vCPU is closed")?;
    drop(vm);
    expect_busy("while there is another VM")?;
    drop(other);
    module::unload().context("unloading after the last VM")?;
    PASS
}

/// Loading again and again leaves nothing behind.
fn again(host: &Host) -> Result<Verdict> {
    module::absent()?;
    for _ in 0..5 {
        module::load(host)?;
        let vm = Vm::new(host)?;
        expect_records(host.lbr()?, &mut vm.vcpu(0)?)?;
        drop(vm);
        module::unload().context("unloading")?;
        ensure!(!module_loaded(), "the module is still there");
    }
    PASS
}

/// A second provider is refused, and what is there stays.
fn twice(host: &Host) -> Result<Verdict> {
    module::absent()?;
    module::load(host)?;
    ensure!(
        module::try_load(host)? == Err(Errno::EEXIST),
        "the module can be loaded twice"
    );
    let vm = Vm::new(host)?;
    expect_records(host.lbr()?, &mut vm.vcpu(0)?)?;
    drop(vm);
    module::unload().context("unloading")?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::without_lbr(OWNERSHIP);
    suite
        .case(
            "for_new_vms",
            "Loading the module gives LBR to VMs that are created later, and unloading it changes \
             nothing for those that are older.",
            for_new_vms,
        )
        .case(
            "busy_while_in_use",
            "The module cannot be unloaded from the creation of a VM to its end.",
            busy_while_in_use,
        )
        .case(
            "again",
            "The module can be loaded, used and unloaded any number of times.",
            again,
        )
        .case(
            "twice",
            "A second load is refused, and guests go on having LBR.",
            twice,
        );
    suite
}
