// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The registers' rules, alike whoever has the LBR.

use core::arch::x86_64::__cpuid;

use anyhow::{ensure, Result};
use kvm_selftests::guest::{Command, Symbol, GP};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Verdict, PASS};
use kvm_selftests::msr::{self, Geometry, Snapshot};

use super::enumeration::depths;
use super::{OwnedCase, Owner, Setup};

/// The bits of INFO that are defined and do not depend on TSX.
const INFO_DEFINED: u64 = 0xffff | 0xf << 56 | 1 << 60 | 1 << 63;

/// By name.
pub(super) const CASES: &[OwnedCase] = &[
    (
        "legal_depths",
        "IA32_LBR_DEPTH takes each depth that CPUID.1CH lists.",
        legal_depths,
    ),
    (
        "illegal_depth_clears_nothing",
        "A WRMSR of IA32_LBR_DEPTH that raises #GP clears no record.",
        illegal_depth,
    ),
    (
        "depth_written_clears",
        "A WRMSR of IA32_LBR_DEPTH clears all records, and not IA32_LER_x.",
        depth_written_clears,
    ),
    (
        "beyond_depth",
        "Accesses of records beyond IA32_LBR_DEPTH raise #GP; userspace has all of them.",
        beyond_depth,
    ),
    (
        "depth_by_userspace_clears_nothing",
        "KVM_SET_MSRS of the depth that is there already clears no record.",
        depth_by_userspace,
    ),
    (
        "sorted_restore_to_another_depth",
        "KVM_SET_MSRS restores records and depth in any order, into a vCPU with another depth.",
        sorted_restore,
    ),
    (
        "ctl_bits",
        "IA32_LBR_CTL takes the bits that CPUID.1CH lists; each other bit raises #GP.",
        ctl_bits,
    ),
    (
        "canonical",
        "FROM, TO and IA32_LER_x take each address that is canonical to the CPU, and no other.",
        canonical,
    ),
    (
        "info_bits",
        "The defined bits of IA32_LBR_x_INFO read as they were written; the others raise no #GP.",
        info_bits,
    ),
    (
        "stopped_records_stay",
        "Records stay when recording is switched off.",
        stopped_records_stay,
    ),
    (
        "no_legacy_registers",
        "With architectural LBR there are no MSRs of the model-specific one.",
        no_legacy_registers,
    ),
    (
        "debugctl",
        "With architectural LBR IA32_DEBUGCTL.LBR is written in vain, and switches nothing.",
        debugctl,
    ),
];

/// A setup whose guest has filled all records.
fn filled(host: &Host, owner: Owner) -> Result<(Setup, Snapshot)> {
    let mut setup = Setup::new(host, owner)?;
    let pattern = Snapshot::pattern(setup.lbr, 3);
    setup.vcpu.write_snapshot(setup.lbr, &pattern)?;
    pattern.expect_same(&setup.vcpu.guest_snapshot(setup.lbr)?, setup.lbr)?;
    Ok((setup, pattern))
}

impl Setup {
    fn with_depth(&self, depth: u32) -> Geometry {
        Geometry { depth, ..self.lbr }
    }

    /// Fails unless the guest reads all records as 0, and LER as it was.
    fn expect_cleared(&mut self, depth: u32, before: &Snapshot) -> Result<()> {
        let lbr = self.with_depth(depth);
        let seen = self.vcpu.guest_snapshot(lbr)?;
        let left = seen.records.iter().filter(|value| **value != 0).count();
        ensure!(left == 0, "{left} of the records' registers are not 0");
        let ler = 1..4;
        ensure!(
            seen.values()[ler.clone()] == before.values()[ler],
            "a write of IA32_LBR_DEPTH changed IA32_LER_x"
        );
        let depth = u64::from(depth);
        ensure!(
            seen.values()[0] == depth,
            "IA32_LBR_DEPTH is {} and not {depth}",
            seen.values()[0]
        );
        Ok(())
    }
}

fn legal_depths(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    for depth in depths(host)? {
        setup.vcpu.wrmsr(msr::LBR_DEPTH, depth.into())??;
        let read = [
            setup.vcpu.rdmsr(msr::LBR_DEPTH)?.ok(),
            setup.vcpu.get_msr(msr::LBR_DEPTH)?,
        ];
        ensure!(
            read == [Some(depth.into()); 2],
            "guest and userspace read {read:x?}, not {depth}"
        );
    }
    PASS
}

fn illegal_depth(host: &Host, owner: Owner) -> Result<Verdict> {
    let (mut setup, before) = filled(host, owner)?;
    let lbr = setup.lbr;
    for depth in [0, 1, 5, 31, 33, 64, 1 << 32 | 8, 1 << 63 | 32] {
        ensure!(
            setup.vcpu.wrmsr(msr::LBR_DEPTH, depth)? == Err(GP),
            "IA32_LBR_DEPTH takes {depth:#x}"
        );
        before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    PASS
}

fn depth_written_clears(host: &Host, owner: Owner) -> Result<Verdict> {
    let (mut setup, before) = filled(host, owner)?;
    let (lbr, greatest) = (setup.lbr, setup.lbr.depth);
    for depth in depths(host)? {
        setup.vcpu.write_snapshot(lbr, &before)?;
        setup.vcpu.wrmsr(msr::LBR_DEPTH, depth.into())??;
        setup.expect_cleared(depth, &before)?;
        // What is beyond is cleared as well.
        setup.vcpu.wrmsr(msr::LBR_DEPTH, greatest.into())??;
        setup.expect_cleared(greatest, &before)?;
    }
    PASS
}

fn beyond_depth(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let lbr = setup.lbr;
    for depth in depths(host)? {
        setup.vcpu.wrmsr(msr::LBR_DEPTH, depth.into())??;
        for base in [lbr.from(), lbr.to(), lbr.info()] {
            for entry in 0..lbr.depth {
                let outcomes = setup.vcpu.run(&[
                    Command::Rdmsr(base + entry),
                    Command::Wrmsr(base + entry, 1),
                ])?;
                let there = entry < depth;
                for outcome in outcomes {
                    ensure!(
                        if there {
                            outcome.is_ok()
                        } else {
                            outcome == Err(GP)
                        },
                        "an access of MSR {:#x} gives {outcome:x?} with a depth of {depth}",
                        base + entry
                    );
                }
                ensure!(
                    setup.vcpu.get_msr(base + entry)?.is_some()
                        && setup.vcpu.set_msr(base + entry, 2)?,
                    "userspace cannot access MSR {:#x} with a depth of {depth}",
                    base + entry
                );
            }
        }
    }
    PASS
}

fn depth_by_userspace(host: &Host, owner: Owner) -> Result<Verdict> {
    let (mut setup, before) = filled(host, owner)?;
    let lbr = setup.lbr;
    setup.vcpu.must_set_msr(msr::LBR_DEPTH, lbr.depth.into())?;
    before.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    for depth in [0, 31, 64, 1 << 32 | 8] {
        ensure!(
            !setup.vcpu.set_msr(msr::LBR_DEPTH, depth)?,
            "userspace writes {depth:#x} to IA32_LBR_DEPTH"
        );
    }
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    PASS
}

/// A VMM restores by number, INFO before DEPTH, FROM and TO behind it, into a vCPU with
/// another depth.
fn sorted_restore(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let lbr = setup.lbr;
    for (seed, backwards) in [(1, false), (2, true)] {
        let saved = Snapshot::pattern(lbr, seed);
        let mut sorted: Vec<_> = lbr.registers().into_iter().zip(saved.values()).collect();
        sorted.sort_unstable();
        if backwards {
            sorted.reverse();
        }
        setup.vcpu.wrmsr(msr::LBR_DEPTH, 8)??;
        for (register, value) in sorted {
            setup.vcpu.must_set_msr(register, value)?;
        }
        saved.expect_same(&setup.vcpu.host_snapshot(lbr)?, lbr)?;
        saved.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    }
    PASS
}

fn ctl_bits(host: &Host, owner: Owner) -> Result<Verdict> {
    const ALL: u64 = msr::LBR_CTL_ON | msr::LBR_CTL_CALL_STACK;
    let mut setup = Setup::new(host, owner)?;
    for bit in (0..64).map(|bit| 1_u64 << bit) {
        let outcomes = setup.vcpu.run(&[
            Command::Wrmsr(msr::LBR_CTL, bit),
            Command::Rdmsr(msr::LBR_CTL),
            Command::Wrmsr(msr::LBR_CTL, 0),
        ])?;
        let expected = match ALL & bit {
            0 => [Err(GP), Ok(0)],
            _ => [outcomes[0], Ok(bit)],
        };
        ensure!(
            outcomes[..2] == expected && outcomes[0].is_ok() == (ALL & bit != 0),
            "IA32_LBR_CTL {bit:#x}: {:x?}",
            &outcomes[..2]
        );
        ensure!(
            setup.vcpu.set_msr(msr::LBR_CTL, bit)? == (ALL & bit != 0),
            "userspace's write of {bit:#x} to IA32_LBR_CTL is wrong"
        );
        let seen = setup.vcpu.get_msr(msr::LBR_CTL)?;
        ensure!(seen == Some(ALL & bit), "userspace reads {seen:x?}");
        setup.vcpu.must_set_msr(msr::LBR_CTL, 0)?;
    }
    PASS
}

/// Addresses are canonical to the CPU, not to the guest's paging mode.
fn canonical(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let lbr = setup.lbr;
    let bits = __cpuid(0x8000_0008).eax >> 8 & 0xff;
    let half = 1_u64 << (bits - 1);
    println!("# {bits} bits of linear addresses");
    let last = lbr.depth - 1;
    for register in [
        lbr.from(),
        lbr.from() + last,
        lbr.to(),
        lbr.to() + last,
        msr::LER_FROM,
        msr::LER_TO,
    ] {
        for value in [half - 1, half.wrapping_neg(), u64::MAX, 1 << 46, 1] {
            setup.vcpu.wrmsr(register, value)??;
            let seen = [
                setup.vcpu.rdmsr(register)?.ok(),
                setup.vcpu.get_msr(register)?,
            ];
            ensure!(
                seen == [Some(value); 2],
                "MSR {register:#x} is {seen:x?}, not {value:#x}"
            );
            setup.vcpu.must_set_msr(register, value)?;
        }
        for value in [half, half.wrapping_neg() - 1, 1 << 62, 1 << 63] {
            let write = setup.vcpu.wrmsr(register, value)?;
            ensure!(
                write == Err(GP),
                "the guest's WRMSR {register:#x} of {value:#x} gives {write:x?}"
            );
            ensure!(
                !setup.vcpu.set_msr(register, value)?,
                "userspace writes {value:#x} to MSR {register:#x}"
            );
        }
    }
    PASS
}

/// Undefined bits of INFO may be written.
fn info_bits(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let lbr = setup.lbr;
    for register in [lbr.info(), lbr.info() + lbr.depth - 1, msr::LER_INFO] {
        for bit in (0..64).map(|bit| 1_u64 << bit).chain([u64::MAX]) {
            let outcomes = setup
                .vcpu
                .run(&[Command::Wrmsr(register, bit), Command::Rdmsr(register)])?;
            ensure!(
                outcomes[0].is_ok(),
                "WRMSR {register:#x} of {bit:#x} gives {:x?}",
                outcomes[0]
            );
            let seen = outcomes[1]?;
            ensure!(
                seen & INFO_DEFINED == bit & INFO_DEFINED,
                "MSR {register:#x} is {seen:#x} and {bit:#x} was written"
            );
            ensure!(
                setup.vcpu.get_msr(register)? == Some(seen),
                "userspace does not read {seen:#x} from MSR {register:#x}"
            );
            setup.vcpu.must_set_msr(register, seen)?;
        }
    }
    PASS
}

/// Records can be read that were made before recording was switched off.
fn stopped_records_stay(host: &Host, owner: Owner) -> Result<Verdict> {
    let (mut setup, before) = filled(host, owner)?;
    let (lbr, control) = (setup.lbr, setup.vcpu.control());
    setup.vcpu.wrmsr(msr::LBR_CTL, control.stopped())??;
    setup.vcpu.call(Symbol::Spin, 100)?;
    before.expect_same(&setup.vcpu.guest_snapshot(lbr)?, lbr)?;
    let seen = setup.vcpu.rdmsr(msr::LBR_CTL)?;
    ensure!(seen == Ok(control.stopped()), "IA32_LBR_CTL is {seen:x?}");
    PASS
}

fn no_legacy_registers(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    for register in [
        msr::LBR_SELECT,
        msr::LBR_TOS,
        msr::LBR_FROM,
        msr::LBR_TO,
        msr::LBR_INFO,
    ] {
        let outcomes = setup
            .vcpu
            .run(&[Command::Rdmsr(register), Command::Wrmsr(register, 0)])?;
        ensure!(
            outcomes == [Err(GP); 2],
            "accesses of MSR {register:#x} give {outcomes:x?}"
        );
        ensure!(
            !setup.vcpu.set_msr(register, 1)?,
            "userspace writes MSR {register:#x}"
        );
    }
    PASS
}

/// DEBUGCTL has no bit LBR, and FREEZE_LBRS_ON_PMI all the same.
fn debugctl(host: &Host, owner: Owner) -> Result<Verdict> {
    let mut setup = Setup::new(host, owner)?;
    let freeze = msr::DEBUGCTL_FREEZE_LBRS_ON_PMI;
    for (value, kept) in [
        (msr::DEBUGCTL_LBR, 0),
        (freeze, freeze),
        (freeze | msr::DEBUGCTL_LBR, freeze),
        (0, 0),
    ] {
        setup.vcpu.wrmsr(msr::DEBUGCTL, value)??;
        let seen = [
            setup.vcpu.rdmsr(msr::DEBUGCTL)?.ok(),
            setup.vcpu.get_msr(msr::DEBUGCTL)?,
        ];
        ensure!(
            seen == [Some(kept); 2],
            "DEBUGCTL is {seen:x?}, {value:#x} was written"
        );
        setup.vcpu.must_set_msr(msr::DEBUGCTL, value)?;
        let seen = setup.vcpu.get_msr(msr::DEBUGCTL)?;
        ensure!(
            seen == Some(kept),
            "DEBUGCTL is {seen:x?}, userspace wrote {value:#x}"
        );
    }
    let ctl = setup.vcpu.rdmsr(msr::LBR_CTL)?;
    ensure!(ctl == Ok(0), "DEBUGCTL changed IA32_LBR_CTL to {ctl:x?}");
    PASS
}
