// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What neither a guest nor userspace can write.

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{self, Geometry};
use kvm_selftests::rules::{KVM, MSRS};

use super::{vcpu, LEGACY};

/// A write that must be refused.
struct Refused {
    name: &'static str,
    what: &'static str,
    msr: fn(Geometry) -> u32,
    value: fn(Geometry) -> u64,
    only: fn(Geometry) -> bool,
}

const ALL: fn(Geometry) -> bool = |_| true;
const ARCH: fn(Geometry) -> bool = Geometry::is_architectural;
/// Undefined bits of the architectural INFO registers may be written.
const INFO: fn(Geometry) -> bool = |lbr| lbr.has_info() && !lbr.is_architectural();
/// With 32 legacy records the next number is IA32_TSC_DEADLINE.
const TO_ENDS: fn(Geometry) -> bool = |lbr| lbr.depth < 32 || lbr.is_architectural();
/// FROM has no flags in its upper bits, so it must be canonical.
const PLAIN_FROM: fn(Geometry) -> bool = |lbr| !matches!(lbr.format, 3 | 4 | 6);

/// What the rows write.
const SELECT_BIT: &str = "a reserved bit of MSR_LBR_SELECT";
const TOS: &str = "a number that is not below the depth to MSR_LASTBRANCH_TOS";
const FROM: &str = "an address that is not canonical to a record's FROM";
const TO: &str = "an address that is not canonical to a record's TO";
const INFO_BIT: &str = "a reserved bit of a record's INFO";
const LER: &str = "an address that is not canonical to IA32_LER_x";
const CTL_BIT: &str = "a reserved bit of IA32_LBR_CTL";
const DEPTH: &str = "a depth to IA32_LBR_DEPTH that CPUID.1CH does not list";
const DEBUGCTL_BIT: &str = "a bit of IA32_DEBUGCTL that the guest does not have";

const REFUSED: &[Refused] = &[
    row(
        "select_bit_10",
        SELECT_BIT,
        |_| msr::LBR_SELECT,
        |_| 1 << 10,
        LEGACY,
    ),
    row(
        "select_bit_31",
        SELECT_BIT,
        |_| msr::LBR_SELECT,
        |_| 1 << 31,
        LEGACY,
    ),
    row(
        "select_bit_63",
        SELECT_BIT,
        |_| msr::LBR_SELECT,
        |_| 1 << 63,
        LEGACY,
    ),
    row(
        "tos_is_depth",
        TOS,
        |_| msr::LBR_TOS,
        |lbr| u64::from(lbr.depth),
        LEGACY,
    ),
    row("tos_bit_63", TOS, |_| msr::LBR_TOS, |_| 1 << 63, LEGACY),
    row(
        "from_bit_47",
        FROM,
        |_| msr::LBR_FROM,
        |_| 1 << 47,
        |lbr| PLAIN_FROM(lbr) && LEGACY(lbr),
    ),
    row(
        "from_last_noncanonical",
        FROM,
        |lbr| lbr.from() + lbr.depth - 1,
        |_| 0x8000_0000_0000_0000,
        PLAIN_FROM,
    ),
    row("to_noncanonical", TO, Geometry::to, |_| 1 << 62, ALL),
    row(
        "to_last_noncanonical",
        TO,
        |lbr| lbr.to() + lbr.depth - 1,
        |_| 0xfeff_0000_0000_0000,
        ALL,
    ),
    row(
        "info_bit_16",
        INFO_BIT,
        |_| msr::LBR_INFO,
        |_| 1 << 16,
        INFO,
    ),
    row(
        "info_bit_60",
        INFO_BIT,
        |_| msr::LBR_INFO,
        |_| 1 << 60,
        INFO,
    ),
    row(
        "info_last_bit_32",
        INFO_BIT,
        |lbr| msr::LBR_INFO + lbr.depth - 1,
        |_| 1 << 32,
        INFO,
    ),
    row(
        "from_noncanonical",
        FROM,
        Geometry::from,
        |_| 1 << 62,
        PLAIN_FROM,
    ),
    row(
        "ler_from_noncanonical",
        LER,
        |_| msr::LER_FROM,
        |_| 1 << 62,
        ARCH,
    ),
    row(
        "ler_to_noncanonical",
        LER,
        |_| msr::LER_TO,
        |_| 1 << 62,
        ARCH,
    ),
    row("ctl_bit_4", CTL_BIT, |_| msr::LBR_CTL, |_| 1 << 4, ARCH),
    row(
        "ctl_bit_15",
        CTL_BIT,
        |_| msr::LBR_CTL,
        |_| 1 << 15 | 1,
        ARCH,
    ),
    row(
        "ctl_bit_23",
        CTL_BIT,
        |_| msr::LBR_CTL,
        |_| 1 << 23 | 1,
        ARCH,
    ),
    row(
        "ctl_bit_32",
        CTL_BIT,
        |_| msr::LBR_CTL,
        |_| 1 << 32 | 1,
        ARCH,
    ),
    row("ctl_bit_63", CTL_BIT, |_| msr::LBR_CTL, |_| 1 << 63, ARCH),
    row("depth_0", DEPTH, |_| msr::LBR_DEPTH, |_| 0, ARCH),
    row("depth_1", DEPTH, |_| msr::LBR_DEPTH, |_| 1, ARCH),
    row("depth_31", DEPTH, |_| msr::LBR_DEPTH, |_| 31, ARCH),
    row("depth_64", DEPTH, |_| msr::LBR_DEPTH, |_| 64, ARCH),
    row(
        "depth_bit_32",
        DEPTH,
        |_| msr::LBR_DEPTH,
        |_| 1 << 32 | 8,
        ARCH,
    ),
    row(
        "debugctl_bit_6",
        DEBUGCTL_BIT,
        |_| msr::DEBUGCTL,
        |_| 1 << 6,
        ALL,
    ),
    row(
        "debugctl_bit_7",
        DEBUGCTL_BIT,
        |_| msr::DEBUGCTL,
        |_| 1 << 7 | 1,
        ALL,
    ),
    row(
        "debugctl_bit_12",
        DEBUGCTL_BIT,
        |_| msr::DEBUGCTL,
        |_| 1 << 12 | 1,
        ALL,
    ),
    row(
        "debugctl_bit_16",
        DEBUGCTL_BIT,
        |_| msr::DEBUGCTL,
        |_| 1 << 16 | 1,
        ALL,
    ),
    row(
        "debugctl_bit_63",
        DEBUGCTL_BIT,
        |_| msr::DEBUGCTL,
        |_| 1 << 63,
        ALL,
    ),
];

const fn row(
    name: &'static str,
    what: &'static str,
    msr: fn(Geometry) -> u32,
    value: fn(Geometry) -> u64,
    only: fn(Geometry) -> bool,
) -> Refused {
    Refused {
        name,
        what,
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

/// Marks the case just added, as the built-in provider checks no values.
fn mark(suite: &mut Suite, row: &Refused) {
    suite.only(row.only);
    // KVM checks IA32_DEBUGCTL, whoever provides LBR.
    if row.what != DEBUGCTL_BIT {
        suite.builtin_fails("values are not checked");
    }
}

/// Adds the cases.
pub(super) fn add(suite: &mut Suite) {
    suite.by(MSRS);
    for row in BEYOND {
        suite
            .case(
                format!("beyond_depth_{}", row.name),
                "There are as many MSRs of each sort as the LBR is deep: the next raises #GP.",
                |host| beyond_depth(host, row),
            )
            .only(row.only);
    }
    for row in REFUSED {
        let rule = format!("WRMSR of {} raises #GP, and changes nothing", row.what);
        suite.case(
            format!("guest_{}", row.name),
            format!("{rule}, as the guest's first access."),
            |host| refused_for_guest(host, row, false),
        );
        mark(suite, row);
        suite.case(
            format!("guest_passed_through_{}", row.name),
            format!("{rule}, while the LBR MSRs are passed through."),
            |host| refused_for_guest(host, row, true),
        );
        suite.only(row.only);
        // The hardware checks.
        if row.what == TOS {
            suite.builtin_may_fail("LBR_TOS keeps what somebody else left");
        }
    }
    suite.by(KVM);
    for row in REFUSED {
        let rule = format!("KVM_SET_MSRS refuses {}", row.what);
        suite.case(
            format!("userspace_{}", row.name),
            format!("{rule}, before the first KVM_RUN."),
            |host| refused_for_userspace(host, row, false),
        );
        mark(suite, row);
        suite.case(
            format!("userspace_after_run_{}", row.name),
            format!("{rule}, after a KVM_RUN."),
            |host| refused_for_userspace(host, row, true),
        );
        mark(suite, row);
    }
}
