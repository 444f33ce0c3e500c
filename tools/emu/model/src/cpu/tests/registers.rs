// SPDX-License-Identifier: GPL-2.0-only
//! Which registers there are, and what they take.
use super::*;

#[test]
fn registers_by_their_existence() {
    enum Is {
        Free,
        Fixed(u64),
        Foreign,
    }
    use Is::*;
    #[rustfmt::skip]
    let rows = [
        (IA32_PLATFORM_ID, Fixed(0)), (MSR_PKG_CST_CONFIG_CONTROL, Fixed(1 << 15)),
        (MSR_PLATFORM_INFO, Fixed(1 << 8)), (IA32_MCG_CAP, Fixed(0)), (IA32_MCG_STATUS, Free), (MSR_POWER_CTL, Free),
        (MSR_MISC_PWR_MGMT, Free),
        (IA32_BIOS_SIGN_ID, Fixed(0x0200_7006 << 32)),
        (IA32_PERF_CAPABILITIES, Fixed(0x3005)),
        (IA32_MPERF, Free), (IA32_APERF, Free),
        (IA32_DEBUGCTL, Free),
        (MSR_LBR_SELECT, Free),
        (0xc4, Free), (0xc5, Foreign),
        (0x189, Free), (0x18a, Foreign),
        (0x30b, Free), (0x30c, Foreign),
        (0x4c4, Free), (0x4c5, Foreign),
        (0x69f, Free), (0x6b0, Foreign),
        (0x6df, Free), (0x6f0, Foreign),
        (0xddf, Free), (0xde0, Foreign),
        (0x40, Foreign), (0x1db, Foreign), (0x3f1, Foreign), (0x19b, Foreign),
        (0x14ce, Foreign), (0x14cf, Foreign), (0x1200, Foreign), (0x1500, Foreign), (0x1600, Foreign),
        (0x10, Foreign), (0x277, Foreign), (0x6e0, Foreign), (0x6a0, Foreign), (0xda0, Foreign),
    ];
    for (index, is) in rows {
        let mut cpu = cpu();
        let read = cpu.read(index, at(0));
        let write = cpu.write(index, 1, at(0));
        match is {
            Free => {
                assert_eq!((read, write), (Some(Ok(0)), Some(Ok(()))), "{index:#x}");
                assert_eq!(cpu.read(index, at(0)), Some(Ok(1)), "{index:#x}");
            }
            Fixed(value) => {
                assert_eq!(read, Some(Ok(value)), "{index:#x}");
                assert_eq!(cpu.read(index, at(0)), read, "{index:#x}");
            }
            Foreign => assert_eq!((read, write), (None, None), "{index:#x}"),
        }
    }
}

#[test]
fn debugctl_has_no_branch_trace_and_no_rtm_debug() {
    for bit in 0..64 {
        let mut cpu = cpu();
        let fine = [0, 1, 11, 12, 14].contains(&bit);
        let result = cpu.write(IA32_DEBUGCTL, 1 << bit, at(0));
        assert_eq!(
            result,
            Some(if fine { Ok(()) } else { Err(Fault) }),
            "bit {bit}"
        );
        assert_eq!(cpu.is_loadable(IA32_DEBUGCTL, 1 << bit), fine, "bit {bit}");
    }
}

#[test]
fn software_may_clear_the_revision_before_it_asks_for_it() {
    let mut cpu = cpu();
    assert_eq!(cpu.write(IA32_BIOS_SIGN_ID, 0, at(0)), Some(Ok(())));
    assert_ne!(get(&mut cpu, IA32_BIOS_SIGN_ID), 0);
}

#[test]
fn misc_enable_says_what_there_is() {
    let mut cpu = cpu();
    assert_eq!(get(&mut cpu, IA32_MISC_ENABLE), 0x4_1881);
    set(&mut cpu, IA32_MISC_ENABLE, 1 << 22);
    assert_eq!(
        get(&mut cpu, IA32_MISC_ENABLE),
        0x40_1880,
        "availability is read-only"
    );
    for bit in 0..64 {
        let defined = [0, 3, 7, 11, 12, 18, 22, 23, 34].contains(&bit);
        assert_eq!(
            cpu.write(IA32_MISC_ENABLE, 1 << bit, at(0)),
            Some(if defined { Ok(()) } else { Err(Fault) }),
            "bit {bit}"
        );
    }
    assert_eq!(
        cpu.write(IA32_PERF_CAPABILITIES, 0x3005, at(0)),
        Some(Err(Fault))
    );
}

#[test]
fn transitions_load_valid_values_only() {
    let cpu = cpu();
    #[rustfmt::skip]
    let rows = [
        (IA32_PERF_GLOBAL_CTRL, 0x7_0000_000f, true),
        (IA32_PERF_GLOBAL_CTRL, 0x10, false),
        (IA32_DEBUGCTL, 0x5803, true),
        (IA32_DEBUGCTL, 0x40, false),
        (MSR_LBR_SELECT, 0, false),
    ];
    for (index, value, fine) in rows {
        assert_eq!(cpu.is_loadable(index, value), fine, "{index:#x} {value:#x}");
    }
}
