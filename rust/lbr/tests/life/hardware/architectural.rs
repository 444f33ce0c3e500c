// SPDX-License-Identifier: GPL-2.0-only

//! The architectural facility with depths of 8, 16 and 32.

use lbr::architectural::{Facility, Leaf, Records, Register};
use lbr::{Debugctl, Description};

use super::super::registers::Registers;
use super::{canonical, is_canonical, Hardware, DEPTH};

const LER_FROM: u32 = 0x1dd;
const LER_TO: u32 = 0x1de;
const LER_INFO: u32 = 0x1e0;
const LBR_CTL: u32 = 0x14ce;
const LBR_DEPTH: u32 = 0x14cf;
const FROM: u32 = 0x1500;
const TO: u32 = 0x1600;
const INFO: u32 = 0x1200;

const HOST: Description = Description {
    format: 0x3f,
    depth: DEPTH,
    from: FROM,
    to: TO,
    info: INFO,
    tsx: false,
    leaf: Leaf {
        eax: 0x4000_000b,
        ebx: 7,
        ecx: 7,
    },
};

impl Hardware for Facility {
    const HOST: Description = HOST;
    const GUESTS: &'static [Description] = &[
        HOST,
        Description {
            depth: 16,
            leaf: Leaf {
                eax: 0x4000_0003,
                ..HOST.leaf
            },
            ..HOST
        },
        Description {
            leaf: Leaf {
                ebx: 3,
                ..HOST.leaf
            },
            ..HOST
        },
        Description {
            leaf: Leaf {
                ecx: 0,
                ..HOST.leaf
            },
            ..HOST
        },
    ];
    const OTHERS: &'static [u32] = &[LBR_DEPTH, LER_FROM, LER_TO, LER_INFO, LBR_CTL];
    const CTL: Option<u32> = Some(LBR_CTL);
    const DEPTH: Option<u32> = Some(LBR_DEPTH);
    const KEPT: &'static [(u32, u64)] = &[
        (LBR_CTL, 0x1_0003),
        (LBR_DEPTH, 8),
        (LER_FROM, 7),
        (LER_TO, 8),
        (LER_INFO, 9),
    ];
    const REFUSED: (u32, u64) = (LBR_DEPTH, 24);
    // IA32_DEBUGCTL.LBR is nothing here.
    const DEBUGCTLS: &'static [Debugctl] = &[Debugctl::from_raw(1 << 11 | 1)];

    fn takes(has: &Description, msr: u32, value: u64) -> Option<u64> {
        let Leaf { eax, ebx, .. } = has.leaf;
        let bits = |bit: u32, bits| if ebx & 1 << bit != 0 { bits } else { 0 };
        let takes = match msr {
            LBR_CTL => value & !(1 | bits(0, 0x6) | bits(1, 0x7f_0000) | bits(2, 0x8)) == 0,
            LBR_DEPTH => (1..=8).any(|n| value == n * 8 && eax >> (n - 1) & 1 != 0),
            LER_INFO | INFO..FROM => return Some(value & 0xff00_0000_0000_ffff),
            _ => is_canonical(value),
        };
        takes.then_some(value)
    }

    fn legal(msr: u32, any: u64) -> u64 {
        match msr {
            LBR_CTL => any & 0x7f_000f,
            LBR_DEPTH => 8 << (any % 3),
            LER_INFO | INFO..FROM => any,
            _ => canonical(any),
        }
    }

    fn newest(_: &Registers<Self>) -> u32 {
        FROM
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
        LBR_CTL => Register::Ctl,
        LBR_DEPTH => Register::Depth,
        LER_FROM => Register::LerFrom,
        LER_TO => Register::LerTo,
        LER_INFO => Register::LerInfo,
        FROM..TO => Register::From(index(FROM)),
        TO.. => Register::To(index(TO)),
        _ => Register::Info(index(INFO)),
    }
}
