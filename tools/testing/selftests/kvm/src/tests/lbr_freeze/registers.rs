// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a guest and its VMM find of perfmon version 4 and 5: MSRs and their bits.

use core::arch::x86_64::__cpuid;

use anyhow::{ensure, Result};
use kvm_selftests::cpuid;
use kvm_selftests::guest::GP;
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, STATUS_CTR_FRZ as CTR, STATUS_LBR_FRZ as LBR};
use kvm_selftests::rules::{KVM, PERFMON};
use kvm_selftests::vm::Vm;

use super::streamlined::{add_versions, Setup, PASSES};
use super::FREEZE as FREEZE_LBRS;

const FREEZE_PERFMON: u64 = msr::DEBUGCTL_FREEZE_PERFMON_ON_PMI;

fn reserved_bits(host: &Host, version: u32) -> Result<Verdict> {
    let Setup { mut vcpu, .. } = Setup::new(host, version)?;
    for (msr, value, expected) in [
        (msr::GLOBAL_STATUS_SET, LBR | CTR | 1, Ok(())),
        (msr::GLOBAL_STATUS_RESET, LBR | CTR | 1, Ok(())),
        (msr::GLOBAL_STATUS_RESET, msr::STATUS_COND_CHGD, Ok(())),
        (msr::GLOBAL_STATUS_SET, msr::STATUS_COND_CHGD, Err(GP)),
        (msr::GLOBAL_STATUS_SET, 1 << 40, Err(GP)),
        (msr::GLOBAL_STATUS_RESET, 1 << 40, Err(GP)),
        (msr::GLOBAL_STATUS, 0, Err(GP)),
        (msr::GLOBAL_INUSE, 0, Err(GP)),
        (msr::DEBUGCTL, FREEZE_LBRS | FREEZE_PERFMON, Ok(())),
    ] {
        let outcome = vcpu.wrmsr(msr, value)?.map(drop);
        ensure!(
            outcome == expected,
            "a write of {value:#x} to MSR {msr:#x} gives {outcome:x?}"
        );
    }
    let set = vcpu.rdmsr(msr::GLOBAL_STATUS_SET)?;
    ensure!(set == Ok(0), "GLOBAL_STATUS_SET is read as {set:x?}");
    PASS
}

/// VMMs may restore DEBUGCTL before they say which version the vCPU has.
fn debugctl_before_cpuid(host: &Host, version: u32) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let mut vcpu = vm.bare_vcpu(0)?;
    vcpu.must_set_msr(msr::DEBUGCTL, FREEZE_PERFMON)?;
    let mut cpuid = vm.cpuid();
    cpuid::set_pmu_version(&mut cpuid, version);
    vm.set_up(&vcpu, &cpuid)?;
    let seen = vcpu.rdmsr(msr::DEBUGCTL)?;
    ensure!(
        seen == Ok(FREEZE_PERFMON),
        "the guest reads DEBUGCTL as {seen:x?}"
    );
    PASS
}

fn in_use(host: &Host, version: u32) -> Result<Verdict> {
    let Setup { mut vcpu, .. } = Setup::new(host, version)?;
    const INT: u64 = 1 << 20;
    for (select, fixed, expected) in [
        (0, 0, 0),
        (0xc4, 0, 1),
        (INT, 0, msr::INUSE_PMI),
        (0, 1, 1 << 32),
        (0, 0x20, 1 << 33),
        (0, 0x8, msr::INUSE_PMI),
        (0xc4 | INT, 0xb0, 1 | 1 << 33 | msr::INUSE_PMI),
    ] {
        vcpu.wrmsr(msr::PERFEVTSEL0, select)??;
        vcpu.wrmsr(msr::FIXED_CTR_CTRL, fixed)??;
        let seen = vcpu.rdmsr(msr::GLOBAL_INUSE)?;
        ensure!(
            seen == Ok(expected),
            "GLOBAL_INUSE is {seen:x?} with {select:#x} and {fixed:#x}"
        );
    }
    PASS
}

/// KVM lists IA32_PERF_GLOBAL_STATUS_SET if the host has such a version.
pub(super) fn is_listed(host: &Host) -> Result<bool> {
    let list = host.kvm.get_msr_index_list()?;
    Ok(list.as_slice().contains(&msr::GLOBAL_STATUS_SET))
}

fn listed_if_the_host_has_it(host: &Host) -> Result<Verdict> {
    let (version, listed) = (__cpuid(cpuid::PMU).eax & 0xff, is_listed(host)?);
    ensure!(
        listed == (version >= 4),
        "the host has perfmon version {version}, GLOBAL_STATUS_SET listed: {listed}"
    );
    let supported = cpuid::pmu_version(&host.cpuid()?);
    ensure!(supported <= 2, "KVM says version {supported}");
    PASS
}

/// Earlier versions, and hosts with such, have none of it.
fn absent(host: &Host) -> Result<Verdict> {
    let versions = if is_listed(host)? { 1..4 } else { 1..6 };
    for version in versions {
        let Setup { mut vcpu, .. } = Setup::new(host, version)?;
        for msr in [msr::GLOBAL_STATUS_SET, msr::GLOBAL_INUSE] {
            let seen = (vcpu.rdmsr(msr)?, vcpu.wrmsr(msr, 0)?);
            ensure!(
                seen == (Err(GP), Err(GP)),
                "version {version} has MSR {msr:#x}: {seen:x?}"
            );
        }
        for bit in [LBR, CTR] {
            ensure!(
                vcpu.wrmsr(msr::GLOBAL_STATUS_RESET, bit)? == Err(GP)
                    && !vcpu.set_msr(msr::GLOBAL_STATUS, bit)?,
                "version {version} has bit {bit:#x} of GLOBAL_STATUS"
            );
        }
        ensure!(
            vcpu.wrmsr(msr::DEBUGCTL, FREEZE_PERFMON)? == Err(GP)
                && !vcpu.set_msr(msr::DEBUGCTL, FREEZE_PERFMON)?,
            "version {version} has FREEZE_PERFMON_ON_PMI"
        );
    }
    PASS
}

/// Adds the cases.
pub(super) fn add(suite: &mut Suite) {
    suite
        .by(KVM)
        .case(
            "listed_if_the_host_has_it",
            "KVM_GET_MSR_INDEX_LIST has IA32_PERF_GLOBAL_STATUS_SET if the host has perfmon \
             version 4 or later; KVM_GET_SUPPORTED_CPUID says version 2.",
            listed_if_the_host_has_it,
        )
        .builtin_may_fail("that of a kernel without the series has no such version")
        .by(PERFMON)
        .case(
            "absent",
            "A guest with an earlier perfmon version has no GLOBAL_STATUS_SET, GLOBAL_INUSE, \
             LBR_FRZ, CTR_FRZ or FREEZE_PERFMON_ON_PMI.",
            absent,
        );
    add_versions(
        suite,
        "reserved_bits",
        "Reserved bits of GLOBAL_STATUS_SET and GLOBAL_STATUS_RESET raise #GP, and so do writes of \
         GLOBAL_STATUS and GLOBAL_INUSE.",
        PASSES,
        reserved_bits,
    );
    suite.by(KVM);
    add_versions(
        suite,
        "debugctl_before_cpuid",
        "KVM_SET_MSRS takes FREEZE_PERFMON_ON_PMI before KVM_SET_CPUID2, and the guest finds it.",
        PASSES,
        debugctl_before_cpuid,
    );
    suite.by(PERFMON);
    add_versions(
        suite,
        "in_use",
        "GLOBAL_INUSE names the counters that are programmed, and whether any has a PMI.",
        PASSES,
        in_use,
    );
}
