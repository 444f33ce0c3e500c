// SPDX-License-Identifier: GPL-2.0-only
//! The second serial port, where results go.

use core::arch::asm;
use core::fmt;

use crate::cpu::{in8, out8};

const PORT: u16 = 0x2f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const TRANSMITTER_IDLE: u8 = 1 << 6;

/// 115200 baud, 8 bits, no parity, with its FIFO.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7)] {
        out8(PORT + register, value);
    }
}

/// Waits until the port's status has this bit.  Its registers are slow to read on an
/// emulated machine, and a byte takes thousands of instructions.
fn wait(bit: u8) {
    while in8(LINE_STATUS) & bit == 0 {
        // SAFETY: it counts down a register.
        unsafe { asm!("2: dec {0:e}", "jnz 2b", inout(reg) 2000 => _, options(nomem, nostack)) };
    }
}

/// Waits until everything is out.
pub fn flush() {
    wait(TRANSMITTER_IDLE);
}

/// The port.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            wait(TRANSMITTER_EMPTY);
            out8(PORT, byte);
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => {{
        use core::fmt::Write;
        // The port takes everything.
        let _ = writeln!($crate::serial::Serial, $($arg)*);
    }};
}
pub(crate) use say;
