// SPDX-License-Identifier: GPL-2.0-only

//! Which MSRs a facility has and what they accept, as tables.

use lbr::{Description, Facility, Register};
use proptest::prelude::*;

const SKYLAKE: Description = Description {
    format: 5,
    depth: 32,
    from: 0x680,
    to: 0x6c0,
    info: 0xdc0,
    tsx: true,
};
const HASWELL: Description = Description {
    format: 4,
    depth: 16,
    from: 0x680,
    to: 0x6c0,
    info: 0,
    tsx: true,
};

fn facility(description: Description) -> Facility {
    Facility::new(&description).expect("a usable facility")
}

fn canonical_48(address: u64) -> bool {
    let sign = (address as i64) << 16 >> 16;
    sign as u64 == address
}

fn accepts(description: Description, register: Register, value: u64) -> bool {
    facility(description)
        .check(register, value, canonical_48)
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
fn a_facility_says_what_it_is() {
    for format in 3..8 {
        for depth in [8, 16, 32] {
            let facility = facility(Description {
                format,
                depth,
                ..SKYLAKE
            });
            assert_eq!(facility.format().lbr_fmt(), format);
            assert_eq!(facility.depth(), depth);
        }
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
    for (register, read, write) in [
        (
            Register::From(0),
            0x1fff_ffff_8100_0000,
            0x7fff_ffff_8100_0000,
        ),
        (
            Register::From(0),
            0x9fff_ffff_8100_0000,
            0xffff_ffff_8100_0000,
        ),
        (
            Register::From(0),
            0xffff_ffff_8100_0000,
            0xffff_ffff_8100_0000,
        ),
        (
            Register::From(0),
            0x8000_0000_1234_5678,
            0x8000_0000_1234_5678,
        ),
        (
            Register::To(0),
            0x1fff_ffff_8100_0000,
            0x1fff_ffff_8100_0000,
        ),
    ] {
        assert_eq!(no_tsx.written_back(register, read), write);
        if let Register::From(_) = register {
            assert!(accepts(haswell_no_tsx, register, write));
        }
    }
    // Nothing is to extend, whether the register takes it or not.
    for read in [1 << 61, 1 << 62] {
        assert_eq!(no_tsx.written_back(Register::From(0), read), read);
    }
    // Elsewhere these are flags, or bits of the address.
    let skylake_no_tsx = Description {
        tsx: false,
        ..SKYLAKE
    };
    for description in [HASWELL, skylake_no_tsx] {
        let read = 0x1fff_ffff_8100_0000;
        let written = facility(description).written_back(Register::From(0), read);
        assert_eq!(written, read, "{description:?}");
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
            let description = Description { format, depth, from, to, info, tsx };
            if let Some(facility) = Facility::new(&description) {
                for msr in [msr, from, to, info, from.wrapping_sub(1), 0x1c8, 0x1c9] {
                    if let Some(register) = facility.register(msr) {
                        let _ = facility.check(register, value, canonical_48);
                    }
                }
            }
        }
    }

    /// The ranges to open or close are the registers, no more and no less.
    #[test]
    fn ranges_are_the_registers(msr in 0..0x1000u32) {
        for description in [SKYLAKE, HASWELL] {
            let facility = facility(description);
            let in_range = facility.msr_ranges().iter().any(|range| range.contains(&msr));
            prop_assert_eq!(in_range, facility.register(msr).is_some());
        }
    }
}
