// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A VMM sets state in whatever order it likes: KVM accepts and keeps it, and lets
//! the hardware have only what the vCPU may have.

use anyhow::{ensure, Result};
use kvm_bindings::CpuId;
use kvm_selftests::cpuid;
use kvm_selftests::guest::{Command, Symbol};
use kvm_selftests::hardware::HostMsrs;
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Geometry, LBR_FMT};
use kvm_selftests::rules::KVM;
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// The bits of DEBUGCTL that a vCPU without LBR lacks.
const DEBUGCTL: u64 = msr::DEBUGCTL_LBR | msr::DEBUGCTL_FREEZE_LBRS_ON_PMI;
/// Where no other VM has left branches of its own.
const BASE: u64 = 0x3000_0000_0000;

fn expect_debugctl(vcpu: &Vcpu, when: &str) -> Result<()> {
    let debugctl = vcpu.get_msr(msr::DEBUGCTL)?;
    ensure!(
        debugctl == Some(DEBUGCTL),
        "KVM_GET_MSRS of DEBUGCTL gives {debugctl:x?} {when}"
    );
    Ok(())
}

/// Has the guest take branches; returns DEBUGCTL as it reads it.
fn take_branches(vcpu: &mut Vcpu) -> Result<u64> {
    let outcomes = vcpu.run(&[
        Command::Call(Symbol::Spin, 100),
        Command::Rdmsr(msr::DEBUGCTL),
    ])?;
    Ok(outcomes[1]?)
}

/// Fails if the CPU's hardware holds a branch of the guest.
fn expect_no_record(host: &Host, vcpu: &Vcpu) -> Result<()> {
    let lbr = host.lbr()?;
    let hardware = HostMsrs::of(host.cpu()?)?;
    for index in 0..lbr.depth {
        let from = lbr.address(hardware.read(lbr.from() + index)?);
        ensure!(
            !vcpu.owns(from),
            "without LBR the guest's {from:#x} is recorded"
        );
    }
    Ok(())
}

/// DEBUGCTL does not switch architectural LBR; what does is not there without LBR.
const LEGACY: fn(Geometry) -> bool = |lbr| !lbr.is_architectural();

fn debugctl_before_cpuid(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.bare_vcpu(0)?;
    vcpu.must_set_msr(msr::DEBUGCTL, DEBUGCTL)?;
    expect_debugctl(&vcpu, "before KVM_SET_CPUID2")?;
    vm.set_up(&vcpu, &vm.cpuid())?;
    expect_debugctl(&vcpu, "after KVM_SET_CPUID2")?;
    let seen = take_branches(&mut vcpu)?;
    ensure!(seen == DEBUGCTL, "the guest reads DEBUGCTL as {seen:#x}");
    vcpu.wrmsr(msr::DEBUGCTL, 0)??;
    let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
    ensure!(
        branches.iter().all(|branch| vcpu.owns(branch.from)),
        "not all is recorded; the oldest record is {}",
        branches[branches.len() - 1]
    );
    PASS
}

/// A CPUID without a PMU.
fn without_pmu(vm: &Vm) -> CpuId {
    let mut cpuid = vm.cpuid();
    cpuid.retain(|entry| entry.function != 0xa);
    cpuid
}

/// DEBUGCTL is set before it turns out that the vCPU has no LBR, by its CPUID.
fn debugctl_before_cpuid_without_lbr(host: &Host) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let vm = Vm::at(host, BASE)?;
    let mut vcpu = vm.bare_vcpu(0)?;
    vcpu.must_set_msr(msr::DEBUGCTL, DEBUGCTL)?;
    vm.set_up(&vcpu, &without_pmu(&vm))?;
    expect_debugctl(&vcpu, "after KVM_SET_CPUID2 without LBR")?;
    take_branches(&mut vcpu)?;
    expect_no_record(host, &vcpu)?;
    expect_debugctl(&vcpu, "after KVM_RUN")?;
    PASS
}

/// DEBUGCTL is set though the vCPU has no LBR, and LBR_FMT only then.
fn debugctl_before_capabilities(host: &Host) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let lbr = host.lbr()?;
    let caps = host.perf_capabilities()?;
    // The guest that gets LBR in the end leaves records in the hardware.
    for run in [true, false] {
        let vm = Vm::at(host, BASE)?;
        let mut vcpu = vm.vcpu(0)?;
        vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps & !LBR_FMT)?;
        vcpu.must_set_msr(msr::DEBUGCTL, DEBUGCTL)?;
        expect_debugctl(&vcpu, "without LBR")?;
        if run {
            take_branches(&mut vcpu)?;
            expect_no_record(host, &vcpu)?;
            continue;
        }
        vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps)?;
        expect_debugctl(&vcpu, "with LBR")?;
        take_branches(&mut vcpu)?;
        vcpu.wrmsr(msr::DEBUGCTL, 0)??;
        let newest = vcpu.guest_snapshot(lbr)?.branches(lbr)[0];
        ensure!(vcpu.owns(newest.from), "nothing is recorded");
    }
    PASS
}

/// A VM whose vPMU is disabled has no legacy LBR, and does not say that it has. Of
/// architectural LBR it says the truth.
fn pmu_disabled(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    vm.disable_pmu()?;
    let mut vcpu = vm.vcpu(0)?;
    let there = lbr.is_architectural() && cpuid::has_arch_lbr(&vcpu.cpuid()?);
    if there {
        vcpu.guest_snapshot(lbr)?;
        return PASS;
    }
    vcpu.expect_no_lbr(lbr)?;
    let format = vcpu
        .get_msr(msr::PERF_CAPABILITIES)?
        .map(|caps| caps & LBR_FMT);
    ensure!(
        format.unwrap_or(0) == 0,
        "IA32_PERF_CAPABILITIES.LBR_FMT is {format:x?} with a vPMU that is disabled"
    );
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const LATE: &str = "its event comes later, and clears the records";
    let mut suite = Suite::new(KVM);
    suite
        .case(
            "debugctl_before_cpuid",
            "DEBUGCTL that userspace sets before KVM_SET_CPUID2 is kept, and the guest records \
             by it.",
            debugctl_before_cpuid,
        )
        .builtin_fails(LATE)
        .only(LEGACY)
        .case(
            "debugctl_before_cpuid_without_lbr",
            "DEBUGCTL that userspace sets before a CPUID without LBR is kept, and nothing is \
             recorded.",
            debugctl_before_cpuid_without_lbr,
        )
        .builtin_fails("upstream records without owning the LBR")
        .only(LEGACY)
        .case(
            "debugctl_before_capabilities",
            "DEBUGCTL that userspace sets before LBR_FMT is kept; nothing is recorded before, and \
             the guest records by it after.",
            debugctl_before_capabilities,
        )
        .builtin_fails(LATE)
        .only(LEGACY)
        .case(
            "pmu_disabled",
            "A VM with KVM_PMU_CAP_DISABLE has no model-specific LBR, and its \
             IA32_PERF_CAPABILITIES does not claim one.",
            pmu_disabled,
        )
        .builtin_fails("upstream leaves LBR_FMT as it is");
    suite
}
