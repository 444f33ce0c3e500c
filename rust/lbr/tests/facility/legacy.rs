// SPDX-License-Identifier: GPL-2.0-only

//! The facility of CPUs without architectural LBR.

use lbr::architectural::Leaf;
use lbr::legacy::{Facility, Register};
use lbr::{Accessor, Description, Facility as _, GeneralProtection};
use proptest::prelude::*;

use super::{canonical_48, try_all};

const NO_LEAF: Leaf = Leaf {
    eax: 0,
    ebx: 0,
    ecx: 0,
};
const SKYLAKE: Description = Description {
    format: 5,
    depth: 32,
    from: 0x680,
    to: 0x6c0,
    info: 0xdc0,
    tsx: true,
    leaf: NO_LEAF,
};
const HASWELL: Description = Description {
    format: 4,
    depth: 16,
    from: 0x680,
    to: 0x6c0,
    info: 0,
    tsx: true,
    leaf: NO_LEAF,
};

fn facility(description: Description) -> Facility {
    Facility::new(&description).expect("a usable facility")
}

fn accepts(description: Description, register: Register, value: u64) -> bool {
    facility(description)
        .accept(register, value, Accessor::Guest, canonical_48)
        .is_ok()
}

#[test]
fn only_usable_facilities_are_taken() {
    for (description, usable) in [
        (SKYLAKE, true),
        (HASWELL, true),
        (
            Description {
                format: 0,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                format: 2,
                ..HASWELL
            },
            false,
        ),
        (
            Description {
                format: 3,
                ..HASWELL
            },
            true,
        ),
        (
            Description {
                format: 6,
                ..SKYLAKE
            },
            true,
        ),
        (
            Description {
                format: 7,
                ..SKYLAKE
            },
            true,
        ),
        (
            Description {
                format: 8,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                format: 0x3f,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                depth: 0,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                depth: 8,
                ..SKYLAKE
            },
            true,
        ),
        (
            Description {
                depth: 24,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                depth: 64,
                ..SKYLAKE
            },
            false,
        ),
        (Description { info: 0, ..SKYLAKE }, false),
        (
            Description {
                info: 0,
                format: 7,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                from: u32::MAX,
                ..SKYLAKE
            },
            false,
        ),
        (
            Description {
                to: u32::MAX - 30,
                ..SKYLAKE
            },
            false,
        ),
    ] {
        assert_eq!(
            Facility::new(&description).is_some(),
            usable,
            "{description:?}"
        );
    }
}

#[test]
fn registers_have_their_numbers() {
    for (description, msr, register) in [
        (SKYLAKE, 0x1c7, None),
        (SKYLAKE, 0x1c8, Some(Register::Select)),
        (SKYLAKE, 0x1c9, Some(Register::Tos)),
        (SKYLAKE, 0x1ca, None),
        (SKYLAKE, 0x67f, None),
        (SKYLAKE, 0x680, Some(Register::From(0))),
        (SKYLAKE, 0x69f, Some(Register::From(31))),
        (SKYLAKE, 0x6a0, None),
        (SKYLAKE, 0x6bf, None),
        (SKYLAKE, 0x6c0, Some(Register::To(0))),
        (SKYLAKE, 0x6df, Some(Register::To(31))),
        (SKYLAKE, 0x6e0, None),
        (SKYLAKE, 0xdbf, None),
        (SKYLAKE, 0xdc0, Some(Register::Info(0))),
        (SKYLAKE, 0xddf, Some(Register::Info(31))),
        (SKYLAKE, 0xde0, None),
        (SKYLAKE, u32::MAX, None),
        (HASWELL, 0x68f, Some(Register::From(15))),
        (HASWELL, 0x690, None),
        (HASWELL, 0x6cf, Some(Register::To(15))),
        (HASWELL, 0x6d0, None),
        (HASWELL, 0, None),
        (HASWELL, 0xdc0, None),
        // Some 32-deep CPUs have INFO MSRs that their format does not use.
        (
            Description {
                format: 6,
                ..SKYLAKE
            },
            0xdc0,
            None,
        ),
    ] {
        assert_eq!(
            facility(description).register(msr),
            register,
            "{description:?} {msr:#x}"
        );
    }
}

#[test]
fn registers_take_what_the_manual_says() {
    use Register::{From, Info, Select, To, Tos};
    let no_tsx = Description {
        tsx: false,
        ..SKYLAKE
    };
    let haswell_no_tsx = Description {
        tsx: false,
        ..HASWELL
    };
    let flags = Description {
        format: 3,
        ..HASWELL
    };
    let time = Description {
        format: 6,
        ..SKYLAKE
    };
    let info2 = Description {
        format: 7,
        ..SKYLAKE
    };
    let kernel = 0xffff_ffff_8100_0000;
    for (description, register, value, accepted) in [
        (SKYLAKE, Select, 0, true),
        (SKYLAKE, Select, 0x3ff, true),
        (SKYLAKE, Select, 0x400, false),
        (SKYLAKE, Select, 1 << 63, false),
        (SKYLAKE, Tos, 31, true),
        (SKYLAKE, Tos, 32, false),
        (SKYLAKE, Tos, 1 << 32, false),
        (HASWELL, Tos, 15, true),
        (HASWELL, Tos, 16, false),
        (SKYLAKE, From(0), kernel, true),
        (SKYLAKE, From(0), 0x7fff_ffff_ffff, true),
        (SKYLAKE, From(0), 0x8000_0000_0000, false),
        (SKYLAKE, From(0), 1 << 63, false),
        (SKYLAKE, To(0), kernel, true),
        (SKYLAKE, To(0), 1 << 48, false),
        (SKYLAKE, Info(0), 0xe000_0000_0000_ffff, true),
        (SKYLAKE, Info(0), 1 << 60, false),
        (SKYLAKE, Info(0), 1 << 16, false),
        (no_tsx, Info(0), 1 << 63 | 0xffff, true),
        (no_tsx, Info(0), 1 << 62, false),
        (no_tsx, Info(0), 1 << 61, false),
        (info2, Info(0), 1 << 63 | 0xffff, true),
        (info2, Info(0), 1 << 62, false),
        (HASWELL, From(0), 0xe000_0000_1234_5678, true),
        (HASWELL, From(0), kernel & !(7 << 61), true),
        (HASWELL, From(0), 0x1000_0000_0000_0000, false),
        (HASWELL, To(0), 1 << 63, false),
        (haswell_no_tsx, From(0), 0x8000_0000_1234_5678, true),
        (haswell_no_tsx, From(0), kernel, true),
        (haswell_no_tsx, From(0), kernel & !(1 << 63), true),
        (haswell_no_tsx, From(0), kernel & !(3 << 61), false),
        (haswell_no_tsx, From(0), 3 << 61, false),
        (flags, From(0), 0x8000_0000_1234_5678, true),
        (flags, From(0), 1 << 62, false),
        (time, From(0), 0x8000_0000_1234_5678, true),
        (time, To(0), 0xabcd_7fff_1234_5678, true),
        (time, To(0), 0xabcd_8000_1234_5678, true),
    ] {
        assert_eq!(
            accepts(description, register, value),
            accepted,
            "{description:?} {register:?} {value:#x}"
        );
    }
}

#[test]
fn sign_bits_of_from_are_extended_only_without_tsx() {
    let haswell_no_tsx = Description {
        tsx: false,
        ..HASWELL
    };
    let no_tsx = facility(haswell_no_tsx);
    for (register, read, written) in [
        (
            Register::From(0),
            0x1fff_ffff_8100_0000,
            Ok(0x7fff_ffff_8100_0000),
        ),
        (
            Register::From(0),
            0x9fff_ffff_8100_0000,
            Ok(0xffff_ffff_8100_0000),
        ),
        (
            Register::From(0),
            0xffff_ffff_8100_0000,
            Ok(0xffff_ffff_8100_0000),
        ),
        (
            Register::From(0),
            0x8000_0000_1234_5678,
            Ok(0x8000_0000_1234_5678),
        ),
        (
            Register::To(0),
            0x1fff_ffff_8100_0000,
            Err(GeneralProtection),
        ),
    ] {
        let got = no_tsx.accept(register, read, Accessor::Userspace, canonical_48);
        assert_eq!(got, written, "{register:?} {read:#x}");
        if let Ok(written) = written {
            assert!(accepts(haswell_no_tsx, register, written));
        }
    }
    // Elsewhere these are flags, or bits of the address.
    let skylake_no_tsx = Description {
        tsx: false,
        ..SKYLAKE
    };
    let read = 0x1fff_ffff_8100_0000;
    for (description, written) in [
        (HASWELL, Ok(read)),
        (skylake_no_tsx, Err(GeneralProtection)),
    ] {
        let got = facility(description).accept(
            Register::From(0),
            read,
            Accessor::Userspace,
            canonical_48,
        );
        assert_eq!(got, written, "{description:?}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(
        format in 0..9u32,
        depth in any::<u32>(),
        bases in any::<[u32; 3]>(),
        tsx in any::<bool>(),
        msr in any::<u32>(),
        value in any::<u64>(),
    ) {
        let [from, to, info] = bases;
        for depth in [depth, 1 << (depth % 8)] {
            try_all::<Facility>(
                &Description { format, depth, from, to, info, tsx, leaf: NO_LEAF },
                &[msr, 0x1c8, 0x1c9],
                value,
            );
        }
    }

    #[test]
    fn all_registers_are_passed_through(msr in 0..0x1000u32) {
        for description in [SKYLAKE, HASWELL] {
            let facility = facility(description);
            let passed = facility.passed_through().any(|passed| passed.contains(&msr));
            prop_assert_eq!(passed, facility.register(msr).is_some());
        }
    }
}
