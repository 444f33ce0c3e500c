// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CPUID says what there is, and what it says is there.

use core::arch::x86_64::__cpuid_count;

use anyhow::{ensure, Context, Result};
use kvm_bindings::{kvm_cpuid_entry2, CpuId};
use kvm_selftests::cpuid::{self, ARCH_LBR_LEAF, PMU};
use kvm_selftests::guest::{Symbol, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Geometry, Snapshot};
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

use super::{add, add_owned, Case, Owner, Setup};

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;

/// By name.
pub(super) const CASES: &[Case] = &[
    (
        "leaf_of_the_host",
        "CPUID.1CH is the host's, without its branch counters.",
        leaf_of_the_host,
    ),
    (
        "no_xsave_component",
        "Without CPUID.0DH.1:ECX[15], which guests never have, IA32_XSS[15] cannot be set.",
        no_xsave_component,
    ),
    (
        "xsaves_stores_nothing",
        "XSAVES stores no LBR state of a guest whose IA32_XSS[15] is 0.",
        xsaves_stores_nothing,
    ),
    (
        "formats",
        "IA32_PERF_CAPABILITIES.LBR_FMT takes 3FH and 0, and no other value.",
        formats,
    ),
    (
        "ctl_before_cpuid",
        "A vCPU without CPUID has no LBR MSRs: userspace reads 0 and can write 0.",
        ctl_before_cpuid,
    ),
    (
        "cpuid_takes_lbr_away",
        "A vCPU whose CPUID loses architectural LBR, and gets it back, has empty registers.",
        cpuid_takes_lbr_away,
    ),
];

/// The depths that the host has.
pub(super) fn depths(host: &Host) -> Result<Vec<u32>> {
    let cpuid = host.cpuid()?;
    cpuid::leaf(&cpuid, ARCH_LBR_LEAF, 0).context("no CPUID.1CH")?;
    Ok(cpuid::lbr_depths(&cpuid))
}

/// CPUID.1CH is the host's, without its branch counters.
fn leaf_of_the_host(host: &Host, lbr: Geometry) -> Result<Verdict> {
    const ECX: u32 = 7;
    let hosts = __cpuid_count(ARCH_LBR_LEAF, 0);
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    for (whose, cpuid) in [("KVM's", host.cpuid()?), ("the vCPU's", vcpu.cpuid()?)] {
        ensure!(cpuid::has_arch_lbr(&cpuid), "{whose} CPUID has no bit");
        let leaf = cpuid::leaf(&cpuid, ARCH_LBR_LEAF, 0).context("no CPUID.1CH")?;
        ensure!(
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx] == [hosts.eax, hosts.ebx, hosts.ecx & ECX, 0],
            "{whose} CPUID.1CH is {leaf:x?}, and the host's {hosts:x?}"
        );
    }
    let greatest = depths(host)?.pop();
    ensure!(
        greatest == Some(lbr.depth),
        "the greatest depth is {greatest:?}"
    );
    PASS
}

/// Guests have no XSAVE state component of the LBR, even if the VMM says so.
fn no_xsave_component(host: &Host, _: Geometry) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let mut cpuid = vm.cpuid();
    let component = msr::XSS_LBR as u32;
    let ecx = |cpuid: &CpuId| cpuid::leaf(cpuid, 0xd, 1).map(|leaf| leaf.ecx & component);
    ensure!(ecx(&cpuid) == Some(0), "KVM offers it");
    cpuid::change(&mut cpuid, 0xd, 1, |leaf| leaf.ecx |= component);
    let mut vcpu = vm.vcpu_with_cpuid(0, &cpuid)?;
    ensure!(ecx(&vcpu.cpuid()?) == Some(0), "the guest's CPUID has it");
    let write = vcpu.wrmsr(msr::XSS, msr::XSS_LBR)?;
    ensure!(
        write == Err(GP),
        "the guest's write of IA32_XSS gives {write:x?}"
    );
    ensure!(
        !vcpu.set_msr(msr::XSS, msr::XSS_LBR)?,
        "userspace sets IA32_XSS[15]"
    );
    let xss = vcpu.rdmsr(msr::XSS)?;
    ensure!(xss == Ok(0), "IA32_XSS is {xss:x?}");
    PASS
}

/// With the LBR's state component alone XSAVES has nothing to store.
fn xsaves_stores_nothing(host: &Host, lbr: Geometry) -> Result<Verdict> {
    const FILL: u8 = 0x5a;
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    vcpu.set_cr4(OSXSAVE)?;
    vcpu.write_snapshot(lbr, &Snapshot::pattern(lbr, 1))?;
    vcpu.expect_passthrough(lbr)?;
    for on in [false, true] {
        vcpu.record(on)?;
        let (components, behind) = vcpu.xsaves(FILL)?;
        ensure!(
            components & msr::XSS_LBR == 0,
            "XSTATE_BV is {components:#x}"
        );
        let stored = behind.iter().filter(|byte| **byte != FILL).count();
        ensure!(stored == 0, "{stored} bytes were stored");
    }
    PASS
}

/// LBR_FMT is up to the VMM, and nothing depends on it.
fn formats(host: &Host, _: Geometry) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let vcpu = vm.vcpu(0)?;
    let caps = host.perf_capabilities()? & !msr::LBR_FMT;
    for format in 0..=msr::LBR_FMT {
        let legal = format == 0 || format == msr::LBR_FMT_ARCHITECTURAL;
        ensure!(
            vcpu.set_msr(msr::PERF_CAPABILITIES, caps | format)? == legal,
            "LBR_FMT {format:#x}: accepted or not, the other way round"
        );
    }
    PASS
}

/// Before it has a CPUID, a vCPU has no IA32_LBR_CTL, which userspace may save and restore
/// all the same.
fn ctl_before_cpuid(host: &Host, lbr: Geometry) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let mut vcpu = vm.bare_vcpu(0)?;
    let on = lbr.control(0).on;
    for register in lbr.passed_through() {
        let seen = vcpu.get_msr(register)?;
        ensure!(seen == Some(0), "MSR {register:#x} is {seen:x?}");
        ensure!(
            vcpu.set_msr(register, 0)? && !vcpu.set_msr(register, lbr.legal(register, 1))?,
            "not 0 alone can be written to MSR {register:#x}"
        );
    }
    vm.set_up(&vcpu, &vm.cpuid())?;
    vcpu.must_set_msr(msr::LBR_CTL, on)?;
    Snapshot::empty(lbr).expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    let seen = vcpu.rdmsr(msr::LBR_CTL)?;
    ensure!(seen == Ok(on), "IA32_LBR_CTL is {seen:x?}");
    vcpu.record(false)?;
    expect_jumps(&mut vcpu, lbr)
}

/// A VMM may take architectural LBR away again, and give it back.
fn cpuid_takes_lbr_away(host: &Host, lbr: Geometry) -> Result<Verdict> {
    let vm = Vm::new(host)?;
    let mut vcpu = vm.vcpu(0)?;
    let mut without = vm.cpuid();
    cpuid::set_arch_lbr(&mut without, false);
    vcpu.set_snapshot(lbr, &Snapshot::pattern(lbr, 1))?;
    vcpu.must_set_msr(msr::LBR_CTL, lbr.control(0).on)?;
    vm.set_up(&vcpu, &without)?;
    for register in lbr.passed_through() {
        let seen = vcpu.get_msr(register)?;
        ensure!(seen == Some(0), "MSR {register:#x} is {seen:x?}");
    }
    vm.set_up(&vcpu, &vm.cpuid())?;
    let ctl = vcpu.get_msr(msr::LBR_CTL)?;
    ensure!(ctl == Some(0), "IA32_LBR_CTL is {ctl:x?}");
    Snapshot::empty(lbr).expect_same(&vcpu.host_snapshot(lbr)?, lbr)?;
    expect_jumps(&mut vcpu, lbr)
}

/// Fails unless the guest records.
fn expect_jumps(vcpu: &mut Vcpu, lbr: Geometry) -> Result<Verdict> {
    vcpu.call(Symbol::Jumps, 0)?;
    let seen = vcpu.guest_snapshot(lbr)?.branches(lbr);
    ensure!(
        seen == vcpu.expected_jumps(Symbol::JumpsFirst, lbr),
        "the newest record is {}",
        seen[0]
    );
    PASS
}

/// What a VMM may make of the CPUID.
type Change = fn(&mut CpuId);

fn change_leaf(cpuid: &mut CpuId, change: impl FnOnce(&mut kvm_cpuid_entry2)) {
    cpuid::change(cpuid, ARCH_LBR_LEAF, 0, change);
}

/// The bit is set, and CPUID.1CH says what is not so: the bit is cleared.
const INVALID: &[(&str, Change)] = &[
    ("no_leaf", |cpuid| {
        cpuid.retain(|leaf| leaf.function != ARCH_LBR_LEAF);
    }),
    ("leaf_is_0", |cpuid| {
        change_leaf(cpuid, |leaf| {
            (leaf.eax, leaf.ebx, leaf.ecx) = (0, 0, 0);
        });
    }),
    ("no_depth", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.eax &= !0xff);
    }),
    ("depth_of_64", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.eax |= 1 << 7);
    }),
    ("reserved_eax", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.eax |= 1 << 8);
    }),
    ("reserved_ebx", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.ebx |= 1 << 3);
    }),
    ("reserved_ecx", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.ecx |= 1 << 31);
    }),
    ("branch_counters", |cpuid| {
        change_leaf(cpuid, |leaf| leaf.ecx |= 1 << 16);
    }),
];

/// There is no more to architectural LBR than its own leaves.
const IRRELEVANT: &[(&str, Change)] = &[
    ("another_model", |cpuid| {
        cpuid::change(cpuid, 1, 0, |leaf| leaf.eax ^= 0x10);
    }),
    ("pmu_leaf_is_0", |cpuid| {
        cpuid::change(cpuid, PMU, 0, |leaf| {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
        });
    }),
    ("no_pmu_leaf", |cpuid| {
        cpuid.retain(|leaf| leaf.function != PMU);
    }),
    ("no_perf_capabilities", |cpuid| {
        // CPUID.01H:ECX.PDCM
        cpuid::change(cpuid, 1, 0, |leaf| leaf.ecx &= !(1 << 15));
    }),
];

fn invalid(host: &Host, change: Change) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut cpuid = vm.cpuid();
    cpuid::set_arch_lbr(&mut cpuid, true);
    change(&mut cpuid);
    let mut vcpu = vm.vcpu_with_cpuid(0, &cpuid)?;
    ensure!(
        !cpuid::has_arch_lbr(&vcpu.cpuid()?),
        "the guest's CPUID has the bit"
    );
    for register in lbr.passed_through() {
        let seen = vcpu.get_msr(register)?;
        ensure!(
            seen == Some(0) && vcpu.set_msr(register, 0)?,
            "userspace cannot save and restore MSR {register:#x}, {seen:x?}"
        );
    }
    vcpu.expect_no_lbr(lbr)?;
    PASS
}

fn irrelevant(host: &Host, change: Change, format: u64) -> Result<Verdict> {
    let lbr = host.lbr()?;
    let vm = Vm::new(host)?;
    let mut cpuid = vm.cpuid();
    change(&mut cpuid);
    let mut vcpu = vm.vcpu_with_cpuid(0, &cpuid)?;
    if let Some(caps) = vcpu.get_msr(msr::PERF_CAPABILITIES)? {
        if caps & msr::LBR_FMT != format && caps != 0 {
            vcpu.must_set_msr(msr::PERF_CAPABILITIES, caps & !msr::LBR_FMT | format)?;
        }
    }
    ensure!(
        cpuid::has_arch_lbr(&vcpu.cpuid()?),
        "the guest's CPUID has no bit"
    );
    expect_jumps(&mut vcpu, lbr)?;
    vcpu.expect_passthrough(lbr)?;
    // Not that it would stay by chance, slice by slice.
    std::thread::sleep(std::time::Duration::from_millis(5));
    expect_jumps(&mut vcpu, lbr)
}

/// A guest whose leaf has less than the host's.
fn reduced(host: &Host, owner: Owner, change: Change) -> Result<Setup> {
    let vm = Vm::new(host)?;
    let mut cpuid = vm.cpuid();
    change(&mut cpuid);
    let vcpu = vm.vcpu_with_cpuid(0, &cpuid)?;
    ensure!(
        cpuid::has_arch_lbr(&vcpu.cpuid()?),
        "the guest's CPUID has no bit"
    );
    Setup::of(host, vm, vcpu, owner)
}

fn shallow(host: &Host, owner: Owner) -> Result<Verdict> {
    let least = depths(host)?[0];
    let mut setup = reduced(host, owner, |cpuid| {
        // The lowest of the depths.
        change_leaf(cpuid, |leaf| {
            leaf.eax &= !0xff | leaf.eax & leaf.eax.wrapping_neg();
        });
    })?;
    let lbr = Geometry {
        depth: least,
        ..setup.lbr
    };
    let vcpu = &mut setup.vcpu;
    Snapshot::empty(lbr).expect_same(&vcpu.guest_snapshot(lbr)?, lbr)?;
    for depth in depths(host)? {
        let write = vcpu.wrmsr(msr::LBR_DEPTH, depth.into())?;
        ensure!(
            if depth == least {
                write.is_ok()
            } else {
                write == Err(GP)
            },
            "a depth of {depth} gives {write:x?} in a guest that has {least} alone"
        );
        ensure!(
            vcpu.set_msr(msr::LBR_DEPTH, depth.into())? == (depth == least),
            "userspace: a depth of {depth} in a guest that has {least} alone"
        );
    }
    for base in [lbr.from(), lbr.to(), lbr.info()] {
        ensure!(
            vcpu.rdmsr(base + least - 1)?.is_ok() && vcpu.rdmsr(base + least)? == Err(GP),
            "the guest has not {least} MSRs from {base:#x} on"
        );
    }
    if owner == Owner::Guest {
        return expect_jumps(vcpu, lbr);
    }
    PASS
}

fn no_call_stack(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = reduced(host, owner, |cpuid| {
        change_leaf(cpuid, |leaf| leaf.ebx &= !4);
    })?;
    let (vcpu, on) = (&mut setup.vcpu, setup.lbr.control(0).on);
    for (value, legal) in [(on | msr::LBR_CTL_CALL_STACK, false), (on, true)] {
        let write = vcpu.wrmsr(msr::LBR_CTL, value)?;
        ensure!(
            if legal {
                write.is_ok()
            } else {
                write == Err(GP)
            },
            "IA32_LBR_CTL {value:#x} gives {write:x?}"
        );
        ensure!(
            vcpu.set_msr(msr::LBR_CTL, value)? == legal,
            "userspace: IA32_LBR_CTL {value:#x}"
        );
    }
    vcpu.record(false)?;
    if owner == Owner::Guest {
        return expect_jumps(vcpu, setup.lbr);
    }
    PASS
}

/// Adds the cases of the tables.
pub(super) fn add_tables(suite: &mut Suite) {
    for (name, change) in INVALID {
        let rule = "A CPUID.1CH that the host's LBR cannot be has the CPUID bit of architectural \
                    LBR cleared.";
        add(suite, format!("invalid_{name}"), rule, |host| {
            invalid(host, *change)
        });
    }
    let rule = "Architectural LBR depends on nothing but its CPUID bit and its leaf.";
    for (name, change) in IRRELEVANT {
        add(suite, format!("irrelevant_{name}"), rule, |host| {
            irrelevant(host, *change, msr::LBR_FMT_ARCHITECTURAL)
        });
    }
    add(suite, "irrelevant_format_0", rule, |host| {
        irrelevant(host, |_| {}, 0)
    });
    let rule = "A guest has the depths that its own CPUID.1CH lists, and no others.";
    add_owned(suite, "shallow", rule, shallow);
    let rule = "IA32_LBR_CTL takes the call-stack bit only if the guest's CPUID.1CH lists it.";
    add_owned(suite, "no_call_stack", rule, no_call_stack);
}
