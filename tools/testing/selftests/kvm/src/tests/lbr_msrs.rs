// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Access to the LBR registers: who may read and write what, and that all is
//! read back exactly.

use anyhow::{ensure, Result};
use kvm_selftests::cpuid;
use kvm_selftests::guest::GP;
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Control, Geometry, Snapshot};
use kvm_selftests::rules::{DEBUG, KVM, OWNERSHIP};
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

mod refused;

/// Registers that architectural LBR does not have.
const LEGACY: fn(Geometry) -> bool = |lbr| !lbr.is_architectural();

fn vcpu(host: &Host) -> Result<(Vm, Vcpu, Geometry)> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu, lbr))
}

/// A vCPU whose LBR_FMT is 0, or that has no CPUID bit of architectural LBR.
fn turned_off(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu_without_lbr(0)?;
    vcpu.expect_no_lbr(lbr)?;
    // Dropped, as for every feature that the vCPU lacks.
    vcpu.wrmsr(msr::DEBUGCTL, msr::DEBUGCTL_LBR)??;
    ensure!(
        vcpu.rdmsr(msr::DEBUGCTL)? == Ok(0),
        "DEBUGCTL.LBR can be set without LBR"
    );
    PASS
}

fn format_host_turns_on(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let caps = host.perf_capabilities()?;
    vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps & !msr::LBR_FMT)?;
    vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps)?;
    ensure!(
        vcpu.rdmsr(msr::PERF_CAPABILITIES)?? & msr::LBR_FMT == lbr.format,
        "the guest sees another format"
    );
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

fn other_formats(host: &Host) -> Result<Verdict> {
    let (_vm, vcpu, lbr) = vcpu(host)?;
    let caps = host.perf_capabilities()? & !msr::LBR_FMT;
    for format in (1..=msr::LBR_FMT).filter(|format| *format != lbr.format) {
        ensure!(
            !vcpu.set_msr(msr::PERF_CAPABILITIES, caps | format)?,
            "LBR_FMT {format} is accepted"
        );
    }
    PASS
}

fn other_model(host: &Host) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut cpuid = vm.cpuid();
    cpuid::change(&mut cpuid, 1, 0, |leaf| leaf.eax ^= 0x10);
    let mut vcpu = vm.vcpu_with_cpuid(0, &cpuid)?;
    ensure!(
        !vcpu.set_msr(msr::PERF_CAPABILITIES, host.perf_capabilities()?)?,
        "a guest of another CPU model may have LBR"
    );
    for register in [msr::LBR_TOS, msr::LBR_FROM] {
        ensure!(
            vcpu.rdmsr(register)? == Err(GP),
            "a guest of another CPU model reads MSR {register:#x}"
        );
        ensure!(
            !vcpu.set_msr(register, 1)?,
            "userspace writes MSR {register:#x}, depth {}",
            lbr.depth
        );
    }
    PASS
}

fn set_get_before_run(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let written = Snapshot::pattern(lbr, 1);
    vcpu.set_snapshot(lbr, &written)?;
    written.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    written.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    written.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    PASS
}

/// IA32_PERF_CAPABILITIES changes after the LBR registers were set, LBR_FMT stays.
fn set_before_capabilities(host: &Host) -> Result<Verdict> {
    let (_vm, vcpu, lbr) = vcpu(host)?;
    let written = Snapshot::pattern(lbr, 1);
    vcpu.set_snapshot(lbr, &written)?;
    let Control { msr: control, on } = vcpu.control();
    vcpu.must_set_msr(msr::DEBUGCTL, msr::DEBUGCTL_FREEZE_LBRS_ON_PMI)?;
    vcpu.must_set_msr(control, on)?;
    let debugctl = vcpu.get_msr(msr::DEBUGCTL)?;
    let caps = host.perf_capabilities()? & !msr::PERF_CAP_FW_WRITES;
    vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps)?;
    ensure!(
        vcpu.get_msr(msr::PERF_CAPABILITIES)? == Some(caps),
        "IA32_PERF_CAPABILITIES did not change"
    );
    ensure!(
        vcpu.get_msr(control)? == Some(on) && vcpu.get_msr(msr::DEBUGCTL)? == debugctl,
        "DEBUGCTL or the control got lost"
    );
    written.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    PASS
}

fn set_get_after_run(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    vcpu.guest_snapshot(lbr)?;
    for seed in [2, 3] {
        let written = Snapshot::pattern(lbr, seed);
        vcpu.set_snapshot(lbr, &written)?;
        written.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
        written.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    PASS
}

fn guest_writes_userspace_reads(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let written = Snapshot::pattern(lbr, 5);
    vcpu.write_snapshot(lbr, &written)?;
    written.expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    written.expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// What switches recording keeps what was written, with recording on and off.
fn control_round_trip(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let register = vcpu.control().msr;
    let other = match lbr.is_architectural() {
        true => vcpu.control().stopped(),
        false => msr::DEBUGCTL_FREEZE_LBRS_ON_PMI,
    };
    let both = msr::RECORD | other;
    for value in [both, msr::RECORD, other, 0] {
        vcpu.must_set_msr(register, value)?;
        ensure!(
            vcpu.get_msr(register)? == Some(value),
            "KVM_GET_MSRS does not return {value:#x}"
        );
        ensure!(
            vcpu.rdmsr(register)? == Ok(value),
            "the guest does not read {value:#x}"
        );
        vcpu.wrmsr(register, value ^ both)??;
        ensure!(
            vcpu.get_msr(register)? == Some(value ^ both),
            "KVM_GET_MSRS does not return what the guest wrote"
        );
    }
    PASS
}

fn empty_at_first(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let control = vcpu.get_msr(vcpu.control().msr)?;
    ensure!(control == Some(0), "the control is {control:x?}");
    Snapshot::empty(lbr).expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const LOST: &str = "accesses are dropped while its event is not ACTIVE";
    const TOS_STAYS: &str = "LBR_TOS keeps what somebody else left";
    let mut suite = Suite::new(DEBUG);
    suite
        .case(
            "turned_off",
            "A vCPU without LBR has no LBR MSRs: guest accesses raise #GP, and DEBUGCTL.LBR \
             stays 0.",
            turned_off,
        )
        .by(KVM)
        .case(
            "format_host_turns_on",
            "A vCPU whose LBR_FMT is set to 0 and back has LBR, and empty records.",
            format_host_turns_on,
        )
        .builtin_may_fail(TOS_STAYS)
        .case(
            "other_formats_refused",
            "KVM_SET_MSRS refuses each LBR_FMT but the host's and 0.",
            other_formats,
        )
        .case(
            "other_model_refused",
            "A vCPU whose CPUID names another CPU model may have no model-specific LBR.",
            other_model,
        )
        .only(LEGACY);
    refused::add(&mut suite);
    suite
        .by(OWNERSHIP)
        .case(
            "empty_at_first",
            "All LBR registers of a new vCPU are 0 for guest and userspace.",
            empty_at_first,
        )
        .builtin_may_fail(TOS_STAYS)
        .case(
            "set_get_before_run",
            "Userspace and the guest read exactly what userspace wrote before the first KVM_RUN.",
            set_get_before_run,
        )
        .builtin_may_fail(LOST)
        .case(
            "set_before_capabilities",
            "A change of IA32_PERF_CAPABILITIES that leaves LBR_FMT keeps DEBUGCTL and the LBR \
             registers that were set before.",
            set_before_capabilities,
        )
        .builtin_fails(LOST)
        .case(
            "set_get_after_run",
            "Userspace and the guest read exactly what userspace wrote after a KVM_RUN.",
            set_get_after_run,
        )
        .builtin_may_fail(LOST)
        .case(
            "guest_writes_userspace_reads",
            "Userspace and the guest read exactly what the guest wrote.",
            guest_writes_userspace_reads,
        )
        .builtin_may_fail(LOST)
        .case(
            "control_round_trip",
            "What switches recording reads back for guest and userspace as either wrote it.",
            control_round_trip,
        );
    suite
}
