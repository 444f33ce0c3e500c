// SPDX-License-Identifier: GPL-2.0-only
//! XSAVES, XRSTORS and their area.

use core::arch::{asm, global_asm};

use crate::branches::{scenarios, Scenario};
use crate::cpu::{read_cr4, write_cr4, wrmsr};
use crate::msr;
use crate::traps::{self, Trap};

/// State component 15: the architectural last branch records.
pub const LBR: u64 = 1 << 15;
/// XCOMP_BV: the area is compacted.
pub const COMPACTED: u64 = 1 << 63;
/// The quadwords of state component 15.
pub const QUADWORDS: usize = 101;
/// Where it is in a compacted area that has no other, in quadwords.
const PLACE: usize = 576 / 8;
const OSXSAVE: u64 = 1 << 18;

/// An area for XSAVES with state component 15 alone behind the header.
#[repr(C, align(64))]
pub struct Area([u64; PLACE + QUADWORDS]);

impl Area {
    /// An area with `byte` everywhere but in the header, which says that it is
    /// compacted and has this in XSTATE_BV.
    pub fn new(byte: u8, present: u64) -> Self {
        let mut area = Self([u64::from_ne_bytes([byte; 8]); PLACE + QUADWORDS]);
        area.0[64..72].fill(0);
        area.0[64] = present;
        area.0[65] = COMPACTED | LBR;
        area
    }

    /// XSTATE_BV and XCOMP_BV.
    pub fn header(&self) -> (u64, u64) {
        (self.0[64], self.0[65])
    }

    /// State component 15.
    pub fn lbr(&mut self) -> &mut [u64] {
        &mut self.0[PLACE..]
    }
}

/// Lets XSAVES be used, with IA32_XSS and XCR0 of x87 state alone.
pub fn enable(supervisor: u64) {
    // SAFETY: OSXSAVE is no paging bit; XCR0 needs x87 only.
    unsafe {
        write_cr4(read_cr4() | OSXSAVE);
        asm!("xsetbv", in("ecx") 0, in("eax") 1, in("edx") 0);
    }
    wrmsr(msr::IA32_XSS, supervisor);
}

macro_rules! instruction {
    ($name:ident, $mnemonic:literal) => {
        /// The instruction, for the state components `request`.
        pub fn $name(area: &mut Area, request: u64) -> Result<(), Trap> {
            // SAFETY: a fault resumes at the label; the area has room for all that
            // may be requested.
            unsafe {
                asm!(
                    "lea {resume}, [rip + 2f]",
                    "mov [{slot}], {resume}",
                    concat!($mnemonic, " [{area}]"),
                    "2:",
                    resume = out(reg) _,
                    slot = in(reg) traps::resume_slot(),
                    area = in(reg) area,
                    in("eax") request as u32, in("edx") (request >> 32) as u32,
                );
            }
            traps::taken()
        }
    };
}

instruction!(xsaves, "xsaves64");
instruction!(xrstors, "xrstors64");
instruction!(xsavec, "xsavec64");

global_asm!(
    ".pushsection .data",
    ".balign 64",
    "empty_area: .fill 512, 1, 0",
    ".quad 0, 1 << 63 | 1 << 15",
    ".fill 48 + 808, 1, 0",
    ".balign 64",
    "full_area: .fill 512, 1, 0",
    ".quad 1 << 15, 1 << 63 | 1 << 15",
    ".fill 48 + 808, 1, 0",
    ".popsection",
);

// Both are for state component 15; the third instruction loads it.
scenarios! {
    xrstors_empty "XRSTORS of the initial configuration, JMP"
    before []
    code ["mov eax, 1 << 15" "xor edx, edx" "xrstors64 [rip + empty_area]"
        "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    xrstors_full "XRSTORS of an area, JMP"
    before []
    code ["mov eax, 1 << 15" "xor edx, edx" "xrstors64 [rip + full_area]"
        "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]
}
