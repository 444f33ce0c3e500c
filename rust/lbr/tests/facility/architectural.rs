// SPDX-License-Identifier: GPL-2.0-only

//! Architectural LBR.

use lbr::architectural::{Facility, Leaf, Records, Register};
use lbr::{Accessor, Description, Facility as _, GeneralProtection};
use proptest::prelude::*;

use super::{canonical_48, try_all};

const LEAF: Leaf = Leaf {
    eax: 0x4000_000b,
    ebx: 7,
    ecx: 7,
};
const HOST: Description = with(LEAF);

const fn with(leaf: Leaf) -> Description {
    Description {
        format: 0x3f,
        depth: 32,
        from: 0x1500,
        to: 0x1600,
        info: 0x1200,
        tsx: false,
        leaf,
    }
}

const fn eax(eax: u32) -> Leaf {
    Leaf { eax, ..LEAF }
}

const fn ebx(ebx: u32) -> Leaf {
    Leaf { ebx, ..LEAF }
}

const fn ecx(ecx: u32) -> Leaf {
    Leaf { ecx, ..LEAF }
}

fn facility(description: Description) -> Facility {
    Facility::new(&description).expect("a usable facility")
}

fn guest(leaf: Leaf) -> Facility {
    let guest = facility(HOST).for_guest(&with(leaf));
    guest.expect("no more than the host has")
}

#[test]
fn only_usable_facilities_are_taken() {
    for (description, usable) in [
        (HOST, true),
        (Description { format: 5, ..HOST }, false),
        (Description { format: 0, ..HOST }, false),
        (with(Leaf::default()), false),
        (with(eax(1)), true),
        (with(eax(1 << 3)), true),
        // 40 and 64 records.
        (with(eax(1 << 4)), false),
        (with(eax(1 << 7 | 0xb)), false),
        (with(eax(3 << 30)), false),
        (with(ebx(0)), true),
        (with(ecx(0)), true),
        (
            Description {
                from: u32::MAX - 30,
                ..HOST
            },
            false,
        ),
        (
            Description {
                to: u32::MAX,
                ..HOST
            },
            false,
        ),
        (
            Description {
                info: u32::MAX - 31,
                ..HOST
            },
            false,
        ),
        (
            Description {
                info: u32::MAX - 32,
                ..HOST
            },
            true,
        ),
    ] {
        let is_usable = Facility::new(&description).is_some();
        assert_eq!(is_usable, usable, "{description:x?}");
    }
}

#[test]
fn a_guest_has_the_hosts_leaf_or_less() {
    for (leaf, has) in [
        (LEAF, true),
        (eax(0x4000_0003), true),
        (eax(0xb), true),
        (eax(1), true),
        (eax(1 << 3), true),
        (ebx(0), true),
        (ecx(0), true),
        (eax(0), false),
        (eax(0x4000_0000), false),
        (eax(0x4000_000f), false),
        (eax(0xc000_000b), false),
        (eax(0x1b), false),
        (ebx(0xf), false),
        (ecx(0xf), false),
        (ecx(0x1_0007), false),
        // The same bit of two.
        (
            Leaf {
                ebx: 0x17,
                ..eax(0x4000_001b)
            },
            false,
        ),
        (
            Leaf {
                ecx: 0xf,
                ..ebx(0xf)
            },
            false,
        ),
    ] {
        let guest = facility(HOST).for_guest(&with(leaf));
        assert_eq!(guest.is_some(), has, "{leaf:x?}");
    }
    // It can get again what it had before.
    assert!(guest(eax(1)).for_guest(&HOST).is_some());
}

#[test]
fn registers_have_their_numbers() {
    use Register::{Ctl, Depth, From, Info, LerFrom, LerInfo, LerTo, To};
    for (msr, register) in [
        (0, None),
        (0x1c8, None),
        (0x1c9, None),
        (0x1dc, None),
        (0x1dd, Some(LerFrom)),
        (0x1de, Some(LerTo)),
        (0x1df, None),
        (0x1e0, Some(LerInfo)),
        (0x680, None),
        (0x11ff, None),
        (0x1200, Some(Info(0))),
        (0x121f, Some(Info(31))),
        (0x1220, None),
        (0x14cd, None),
        (0x14ce, Some(Ctl)),
        (0x14cf, Some(Depth)),
        (0x14d0, None),
        (0x14ff, None),
        (0x1500, Some(From(0))),
        (0x151f, Some(From(31))),
        (0x1520, None),
        (0x15ff, None),
        (0x1600, Some(To(0))),
        (0x161f, Some(To(31))),
        (0x1620, None),
        (u32::MAX, None),
    ] {
        assert_eq!(facility(HOST).register(msr), register, "{msr:#x}");
    }
    // The greatest depth that the guest may have counts.
    let short = guest(eax(3));
    for (msr, register) in [
        (0x150f, Some(From(15))),
        (0x1510, None),
        (0x160f, Some(To(15))),
        (0x1610, None),
        (0x120f, Some(Info(15))),
        (0x1210, None),
        (0x14cf, Some(Depth)),
    ] {
        assert_eq!(short.register(msr), register, "{msr:#x}");
    }
}

#[test]
fn registers_take_what_the_manual_says() {
    use Register::{Ctl, Depth, From, Info, LerFrom, LerInfo, LerTo, To};
    let kernel = 0xffff_ffff_8100_0000;
    let refused = Err(GeneralProtection);
    for (leaf, register, value, taken) in [
        (LEAF, Ctl, 0x7f_000f, Ok(0x7f_000f)),
        (LEAF, Ctl, 1 << 4, refused),
        (LEAF, Ctl, 1 << 15, refused),
        (LEAF, Ctl, 1 << 23, refused),
        (LEAF, Ctl, 1 << 63, refused),
        (ebx(6), Ctl, 0x7f_0009, Ok(0x7f_0009)),
        (ebx(6), Ctl, 1 << 1, refused),
        (ebx(6), Ctl, 1 << 2, refused),
        (ebx(5), Ctl, 0xf, Ok(0xf)),
        (ebx(5), Ctl, 1 << 16, refused),
        (ebx(5), Ctl, 1 << 22, refused),
        (ebx(3), Ctl, 0x7f_0007, Ok(0x7f_0007)),
        (ebx(3), Ctl, 1 << 3, refused),
        (ebx(0), Ctl, 1, Ok(1)),
        (LEAF, Depth, 0, refused),
        (LEAF, Depth, 1, refused),
        (LEAF, Depth, 8, Ok(8)),
        (LEAF, Depth, 16, Ok(16)),
        (LEAF, Depth, 24, refused),
        (LEAF, Depth, 32, Ok(32)),
        (LEAF, Depth, 40, refused),
        (LEAF, Depth, 64, refused),
        (LEAF, Depth, 1 << 32 | 8, refused),
        (eax(3), Depth, 16, Ok(16)),
        (eax(3), Depth, 32, refused),
        (LEAF, From(0), kernel, Ok(kernel)),
        (LEAF, From(31), 0x7fff_ffff_ffff, Ok(0x7fff_ffff_ffff)),
        (LEAF, From(0), 0x8000_0000_0000, refused),
        (LEAF, From(0), 1 << 63, refused),
        (LEAF, To(0), kernel, Ok(kernel)),
        (LEAF, To(0), 1 << 48, refused),
        (LEAF, LerFrom, kernel, Ok(kernel)),
        (LEAF, LerFrom, 1 << 48, refused),
        (LEAF, LerTo, kernel, Ok(kernel)),
        (LEAF, LerTo, 1 << 48, refused),
        (LEAF, Info(0), u64::MAX, Ok(0xff00_0000_0000_ffff)),
        (LEAF, Info(0), 1 << 55 | 1 << 16, Ok(0)),
        (ecx(0), Info(0), u64::MAX, Ok(0xff00_0000_0000_ffff)),
        (LEAF, LerInfo, u64::MAX, Ok(0xff00_0000_0000_ffff)),
    ] {
        for accessor in [Accessor::Guest, Accessor::Userspace] {
            let got = guest(leaf).accept(register, value, accessor, canonical_48);
            assert_eq!(got, taken, "{leaf:x?} {register:?} {value:#x}");
        }
    }
}

#[test]
fn registers_begin_with_the_greatest_depth() {
    for (leaf, depth) in [(LEAF, 32), (eax(3), 16), (eax(1), 8), (eax(1 << 3), 32)] {
        let initial = guest(leaf).initial();
        assert_eq!(initial, Records::new(depth));
        assert_eq!(initial.get(Register::Depth), u64::from(depth));
        assert_eq!(initial.get(Register::From(0)), 0);
    }
}

#[test]
fn what_takes_more_than_the_guest_has_is_not_passed_through() {
    for (leaf, control) in [
        (LEAF, true),
        (ecx(0), true),
        (eax(0x4000_0003), false),
        (eax(0xb), false),
        (ebx(3), false),
    ] {
        let mut passed: Vec<_> = guest(leaf).passed_through().flatten().collect();
        passed.sort_unstable();
        let mut expected: Vec<u32> = vec![0x1dd, 0x1de, 0x1e0];
        expected.extend(0x1200..0x1220);
        if control {
            expected.push(0x14cf);
        }
        expected.extend(0x1500..0x1520);
        expected.extend(0x1600..0x1620);
        assert_eq!(passed, expected, "{leaf:x?}");
        let expected = control.then_some(0x14ce);
        assert_eq!(guest(leaf).control(), expected, "{leaf:x?}");
    }
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    any::<[u32; 3]>().prop_map(|[eax, ebx, ecx]| Leaf { eax, ebx, ecx })
}

proptest! {
    #[test]
    fn nothing_panics(
        leaf in any_leaf(),
        guest in any_leaf(),
        depth in any::<u32>(),
        bases in any::<[u32; 3]>(),
        msr in any::<u32>(),
        value in any::<u64>(),
    ) {
        let [from, to, info] = bases;
        for eax in [leaf.eax, leaf.eax & !0xf0] {
            let leaf = Leaf { eax, ..leaf };
            let description = Description { depth, from, to, info, ..with(leaf) };
            try_all::<Facility>(&description, &[msr, 0x14ce, 0x14cf, 0x1dd, 0x1de, 0x1e0], value);
            if let Some(facility) = Facility::new(&description) {
                let _ = facility.for_guest(&with(guest));
                // Less than the host has.
                let Leaf { eax, ebx, ecx } = guest;
                let less = Leaf { eax: eax & leaf.eax, ebx: ebx & leaf.ebx, ecx: ecx & leaf.ecx };
                if let Some(facility) = facility.for_guest(&with(less)) {
                    let _ = facility.initial();
                    prop_assert!(facility.passed_through().flatten().count() < 128);
                }
            }
        }
    }
}
