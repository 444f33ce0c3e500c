// SPDX-License-Identifier: GPL-2.0-only
//! Rows, and their results as KTAP.

use core::fmt::{self, Write};

use crate::serial::say;

/// Why a row failed: a line of text.
pub struct Failure {
    text: [u8; 112],
    used: usize,
}

impl Failure {
    /// A failure that says `text`, as much as fits.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut failure = Self {
            text: [0; 112],
            used: 0,
        };
        // What does not fit is cut off.
        let _ = failure.write_fmt(text);
        failure
    }
}

impl Write for Failure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.text.get_mut(self.used).ok_or(fmt::Error)? = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// What a row finds.
pub type Verdict = Result<(), Failure>;

/// Ends a row as failed.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::report::Failure::new(format_args!($($arg)*)))
    };
}
pub(crate) use fail;

/// Ends a row as failed unless the two are equal.
pub fn same(what: &str, found: u64, expected: u64) -> Verdict {
    if found != expected {
        fail!("{what}: {found:#x}, must be {expected:#x}");
    }
    Ok(())
}

/// One chapter's rows.
pub struct Report {
    rows: usize,
    failed: usize,
}

impl Report {
    /// Runs a row.
    pub fn row(&mut self, rule: fmt::Arguments<'_>, verdict: impl FnOnce() -> Verdict) {
        let verdict = verdict();
        self.rows += 1;
        if let Err(failure) = verdict {
            self.failed += 1;
            let text = failure.text.get(..failure.used).unwrap_or_default();
            let text = core::str::from_utf8(text).unwrap_or("?");
            say!("    # {text}");
            say!("    not ok {} {rule}", self.rows);
        } else {
            say!("    ok {} {rule}", self.rows);
        }
    }
}

/// Runs a row whose rule is a plain text or a format.
macro_rules! row {
    ($report:expr, ($($rule:tt)*), $verdict:expr) => {
        $report.row(format_args!($($rule)*), $verdict)
    };
}
pub(crate) use row;

/// The `number`th group of rows, on the rules of one part of the manual.
pub fn group(number: usize, title: &str, rows: impl FnOnce(&mut Report)) {
    let mut report = Report { rows: 0, failed: 0 };
    say!("    KTAP version 1");
    say!("    # Subtest: {title}");
    rows(&mut report);
    say!("    1..{}", report.rows);
    let verdict = if report.failed == 0 { "ok" } else { "not ok" };
    say!("{verdict} {number} {title}");
}
