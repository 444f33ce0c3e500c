// SPDX-License-Identifier: GPL-2.0-only
//! The second serial port, where results go.

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

/// Waits until everything is out.
pub fn flush() {
    while in8(LINE_STATUS) & TRANSMITTER_IDLE == 0 {}
}

/// The port.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
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
