// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Access to the LBR registers: who may read and write what, and that all is
//! read back exactly.

use anyhow::{ensure, Result};
use kvm_selftests::cpuid;
use kvm_selftests::guest::{Command, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Control, Geometry, Snapshot};
use kvm_selftests::vcpu::Vcpu;
use kvm_selftests::vm::Vm;

/// A write that must be refused.
struct Refused {
    name: &'static str,
    msr: fn(Geometry) -> u32,
    value: fn(Geometry) -> u64,
    only: fn(Geometry) -> bool,
}

const ALL: fn(Geometry) -> bool = |_| true;
const LEGACY: fn(Geometry) -> bool = |lbr| !lbr.is_architectural();
const ARCH: fn(Geometry) -> bool = Geometry::is_architectural;
/// Undefined bits of the architectural INFO registers may be written.
const INFO: fn(Geometry) -> bool = |lbr| lbr.has_info() && !lbr.is_architectural();
/// With 32 legacy records the next number is IA32_TSC_DEADLINE.
const TO_ENDS: fn(Geometry) -> bool = |lbr| lbr.depth < 32 || lbr.is_architectural();
/// FROM has no flags in its upper bits, so it must be canonical.
const PLAIN_FROM: fn(Geometry) -> bool = |lbr| !matches!(lbr.format, 3 | 4 | 6);

const REFUSED: &[Refused] = &[
    row("select_bit_10", |_| msr::LBR_SELECT, |_| 1 << 10, LEGACY),
    row("select_bit_31", |_| msr::LBR_SELECT, |_| 1 << 31, LEGACY),
    row("select_bit_63", |_| msr::LBR_SELECT, |_| 1 << 63, LEGACY),
    row(
        "tos_is_depth",
        |_| msr::LBR_TOS,
        |lbr| u64::from(lbr.depth),
        LEGACY,
    ),
    row("tos_bit_63", |_| msr::LBR_TOS, |_| 1 << 63, LEGACY),
    row(
        "from_bit_47",
        |_| msr::LBR_FROM,
        |_| 1 << 47,
        |lbr| PLAIN_FROM(lbr) && LEGACY(lbr),
    ),
    row(
        "from_last_noncanonical",
        |lbr| lbr.from() + lbr.depth - 1,
        |_| 0x8000_0000_0000_0000,
        PLAIN_FROM,
    ),
    row("to_noncanonical", Geometry::to, |_| 1 << 62, ALL),
    row(
        "to_last_noncanonical",
        |lbr| lbr.to() + lbr.depth - 1,
        |_| 0xfeff_0000_0000_0000,
        ALL,
    ),
    row("info_bit_16", |_| msr::LBR_INFO, |_| 1 << 16, INFO),
    row("info_bit_60", |_| msr::LBR_INFO, |_| 1 << 60, INFO),
    row(
        "info_last_bit_32",
        |lbr| msr::LBR_INFO + lbr.depth - 1,
        |_| 1 << 32,
        INFO,
    ),
    row("from_noncanonical", Geometry::from, |_| 1 << 62, PLAIN_FROM),
    row(
        "ler_from_noncanonical",
        |_| msr::LER_FROM,
        |_| 1 << 62,
        ARCH,
    ),
    row("ler_to_noncanonical", |_| msr::LER_TO, |_| 1 << 62, ARCH),
    row("ctl_bit_4", |_| msr::LBR_CTL, |_| 1 << 4, ARCH),
    row("ctl_bit_15", |_| msr::LBR_CTL, |_| 1 << 15 | 1, ARCH),
    row("ctl_bit_23", |_| msr::LBR_CTL, |_| 1 << 23 | 1, ARCH),
    row("ctl_bit_32", |_| msr::LBR_CTL, |_| 1 << 32 | 1, ARCH),
    row("ctl_bit_63", |_| msr::LBR_CTL, |_| 1 << 63, ARCH),
    row("depth_0", |_| msr::LBR_DEPTH, |_| 0, ARCH),
    row("depth_1", |_| msr::LBR_DEPTH, |_| 1, ARCH),
    row("depth_31", |_| msr::LBR_DEPTH, |_| 31, ARCH),
    row("depth_64", |_| msr::LBR_DEPTH, |_| 64, ARCH),
    row("depth_bit_32", |_| msr::LBR_DEPTH, |_| 1 << 32 | 8, ARCH),
    row("debugctl_bit_6", |_| msr::DEBUGCTL, |_| 1 << 6, ALL),
    row("debugctl_bit_7", |_| msr::DEBUGCTL, |_| 1 << 7 | 1, ALL),
    row("debugctl_bit_12", |_| msr::DEBUGCTL, |_| 1 << 12 | 1, ALL),
    row("debugctl_bit_16", |_| msr::DEBUGCTL, |_| 1 << 16 | 1, ALL),
    row("debugctl_bit_63", |_| msr::DEBUGCTL, |_| 1 << 63, ALL),
];

const fn row(
    name: &'static str,
    msr: fn(Geometry) -> u32,
    value: fn(Geometry) -> u64,
    only: fn(Geometry) -> bool,
) -> Refused {
    Refused {
        name,
        msr,
        value,
        only,
    }
}

/// A register behind the last record.
struct Beyond {
    name: &'static str,
    base: fn(Geometry) -> u32,
    only: fn(Geometry) -> bool,
}

const BEYOND: &[Beyond] = &[
    Beyond {
        name: "from",
        base: Geometry::from,
        only: ALL,
    },
    Beyond {
        name: "to",
        base: Geometry::to,
        only: TO_ENDS,
    },
    Beyond {
        name: "info",
        base: Geometry::info,
        only: Geometry::has_info,
    },
];

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

/// As the first access, or when the registers are passed through.
fn refused_for_guest(host: &Host, row: &Refused, passed_through: bool) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let (register, value) = ((row.msr)(lbr), (row.value)(lbr));
    if passed_through {
        vcpu.guest_snapshot(lbr)?;
        vcpu.expect_passthrough(lbr)?;
    }
    let outcomes = vcpu.run(&[Command::Wrmsr(register, value), Command::Rdmsr(register)])?;
    ensure!(
        outcomes[0] == Err(GP),
        "WRMSR {register:#x} of {value:#x} gave {:x?}",
        outcomes[0]
    );
    let before = match register {
        msr::LBR_DEPTH => lbr.depth.into(),
        _ => 0,
    };
    ensure!(outcomes[1] == Ok(before), "the refused value was kept");
    PASS
}

fn refused_for_userspace(host: &Host, row: &Refused, after_run: bool) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let (register, value) = ((row.msr)(lbr), (row.value)(lbr));
    if after_run {
        vcpu.record(true)?;
    }
    let before = vcpu.get_msr(register)?;
    ensure!(
        !vcpu.set_msr(register, value)?,
        "KVM_SET_MSRS accepted {value:#x} for MSR {register:#x}"
    );
    ensure!(
        vcpu.get_msr(register)? == before,
        "the refused value was kept"
    );
    PASS
}

fn beyond_depth(host: &Host, row: &Beyond) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = vcpu(host)?;
    let register = (row.base)(lbr) + lbr.depth;
    vcpu.record(true)?;
    ensure!(
        vcpu.rdmsr(register - 1)?.is_ok(),
        "the guest cannot read the last register {:#x}",
        register - 1
    );
    ensure!(
        vcpu.rdmsr(register)? == Err(GP),
        "the guest reads MSR {register:#x}"
    );
    ensure!(
        vcpu.wrmsr(register, 0)? == Err(GP),
        "the guest writes MSR {register:#x}"
    );
    ensure!(
        !vcpu.set_msr(register, 1)?,
        "userspace writes MSR {register:#x}"
    );
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
    const UNCHECKED: &str = "values are not checked";
    const TOS: &str = "LBR_TOS keeps what somebody else left";
    let mut suite = Suite::new();
    suite
        .case("turned_off", turned_off)
        .case("format_host_turns_on", format_host_turns_on)
        .builtin_fails(TOS)
        .case("other_formats_refused", other_formats)
        .case("other_model_refused", other_model)
        .only(LEGACY);
    for row in BEYOND {
        suite
            .case(format!("beyond_depth_{}", row.name), |host| {
                beyond_depth(host, row)
            })
            .only(row.only);
    }
    for row in REFUSED {
        suite
            .case(format!("guest_{}", row.name), |host| {
                refused_for_guest(host, row, false)
            })
            .builtin_fails(UNCHECKED)
            .only(row.only)
            .case(format!("guest_passed_through_{}", row.name), |host| {
                refused_for_guest(host, row, true)
            })
            .builtin_fails(UNCHECKED)
            .only(row.only)
            .case(format!("userspace_{}", row.name), |host| {
                refused_for_userspace(host, row, false)
            })
            .builtin_fails(UNCHECKED)
            .only(row.only)
            .case(format!("userspace_after_run_{}", row.name), |host| {
                refused_for_userspace(host, row, true)
            })
            .builtin_fails(UNCHECKED)
            .only(row.only);
    }
    suite
        .case("empty_at_first", empty_at_first)
        .builtin_fails(TOS)
        .case("set_get_before_run", set_get_before_run)
        .builtin_fails(LOST)
        .case("set_before_capabilities", set_before_capabilities)
        .builtin_fails(LOST)
        .case("set_get_after_run", set_get_after_run)
        .builtin_fails(LOST)
        .case("guest_writes_userspace_reads", guest_writes_userspace_reads)
        .builtin_fails(LOST)
        .case("control_round_trip", control_round_trip);
    suite
}
