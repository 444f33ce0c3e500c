// SPDX-License-Identifier: GPL-2.0-only

//! The life of a vCPU in a small world, against a reference of a few lines, with each LBR
//! facility.

/// Makes tests of functions that are generic over the facility.
macro_rules! for_each_facility {
    ($($(#[$attribute:meta])* $test:ident,)*) => {
        mod legacy {
            $(
                #[test]
                $(#[$attribute])*
                fn $test() {
                    super::$test::<lbr::legacy::Facility>();
                }
            )*
        }
        mod architectural {
            $(
                #[test]
                $(#[$attribute])*
                fn $test() {
                    super::$test::<lbr::architectural::Facility>();
                }
            )*
        }
    };
}

mod explore;
mod hardware;
mod kvm;
mod perf;
mod random;
mod reference;
mod registers;
mod rows;

mod world;
