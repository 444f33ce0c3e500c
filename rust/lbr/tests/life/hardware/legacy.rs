// SPDX-License-Identifier: GPL-2.0-only

//! The facility of Skylake.

use lbr::legacy::{Facility, Records, Register};
use lbr::{architectural, Debugctl, Description};

use super::super::registers::Registers;
use super::{canonical, is_canonical, Hardware, DEPTH};

const SELECT: u32 = 0x1c8;
const TOS: u32 = 0x1c9;
const FROM: u32 = 0x680;
const TO: u32 = 0x6c0;
const INFO: u32 = 0xdc0;

impl Hardware for Facility {
    const HOST: Description = Description {
        format: 5,
        depth: DEPTH,
        from: FROM,
        to: TO,
        info: INFO,
        tsx: true,
        leaf: architectural::Leaf {
            eax: 0,
            ebx: 0,
            ecx: 0,
        },
    };
    const GUESTS: &'static [Description] = &[Self::HOST];
    const OTHERS: &'static [u32] = &[SELECT, TOS];
    const KEPT: &'static [(u32, u64)] = &[(SELECT, 0x1c4), (TOS, 7)];
    const REFUSED: (u32, u64) = (TOS, 32);
    const DEBUGCTLS: &'static [Debugctl] = &[
        Debugctl::from_raw(0),
        Debugctl::LBR,
        Debugctl::from_raw(1 << 11 | 1),
    ];

    fn takes(_: &Description, msr: u32, value: u64) -> Option<u64> {
        let takes = match msr {
            SELECT => value < 1 << 10,
            TOS => value < u64::from(DEPTH),
            INFO.. => value & 0x1fff_ffff_ffff_0000 == 0,
            _ => is_canonical(value),
        };
        takes.then_some(value)
    }

    fn legal(msr: u32, any: u64) -> u64 {
        match msr {
            SELECT => any & 0x3ff,
            TOS => any & 0x1f,
            INFO.. => any & 0xe000_0000_0000_ffff,
            _ => canonical(any),
        }
    }

    fn newest(registers: &Registers<Self>) -> u32 {
        FROM + u32::try_from(registers.get(TOS)).expect("a record")
    }

    fn get(records: &Records, msr: u32) -> u64 {
        records.get(register(msr))
    }

    fn set(records: &mut Records, msr: u32, value: u64) {
        records.set(register(msr), value);
    }
}

fn register(msr: u32) -> Register {
    let index = |first| (msr - first) as usize;
    match msr {
        SELECT => Register::Select,
        TOS => Register::Tos,
        FROM..TO => Register::From(index(FROM)),
        TO..INFO => Register::To(index(TO)),
        _ => Register::Info(index(INFO)),
    }
}
