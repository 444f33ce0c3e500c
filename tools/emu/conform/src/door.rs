// SPDX-License-Identifier: GPL-2.0-only
//! The emulator's counters, behind an I/O port: one line there, one line back.

use core::cell::UnsafeCell;

use crate::cpu::{in8, out8};
use crate::report::{fail, Failure};

/// Any port of the page will do.
const PORT: u16 = 0x5123;
const SIZE: usize = 8192;

struct Answer(UnsafeCell<[u8; SIZE]>);

// SAFETY: there is one CPU, and `ask()` alone uses the buffer.
unsafe impl Sync for Answer {}

static ANSWER: Answer = Answer(UnsafeCell::new([0; SIZE]));

/// Writes a line.
pub fn tell(words: [&str; 2]) {
    for (n, word) in words.into_iter().enumerate() {
        if n > 0 {
            out8(PORT, b' ');
        }
        for byte in word.bytes() {
            out8(PORT, byte);
        }
    }
    out8(PORT, b'\n');
}

/// Writes a line and reads the answer, which the next call overwrites.
pub fn ask(words: [&str; 2]) -> &'static str {
    tell(words);
    // SAFETY: nobody keeps an answer beyond the next question.
    let buffer = unsafe { &mut *ANSWER.0.get() };
    let mut used = 0;
    for place in buffer.iter_mut() {
        *place = in8(PORT);
        if *place == 0 || *place == b'\n' {
            break;
        }
        used += 1;
    }
    core::str::from_utf8(buffer.get(..used).unwrap_or_default()).unwrap_or("not UTF-8")
}

/// What `run` does is a section of this name.
pub fn section<T>(name: &str, run: impl FnOnce() -> T) -> Result<T, Failure> {
    let answer = ask(["start", name]);
    if answer != "ok" {
        fail!("start {name} is answered with {answer}");
    }
    let result = run();
    let answer = ask(["stop", name]);
    if answer != "ok" {
        fail!("stop {name} is answered with {answer}");
    }
    Ok(result)
}

/// The number in section `name` behind these keys, each one in what the one before
/// it has; 0 if a key is missing.
pub fn number(name: &str, path: &[&str]) -> u64 {
    let mut rest = ask(["read", name]);
    for key in path {
        let found = rest.match_indices(key).find(|(place, _)| {
            rest[..*place].ends_with('"') && rest[*place + key.len()..].starts_with("\":")
        });
        let Some((place, _)) = found else {
            return 0;
        };
        rest = &rest[place + key.len() + 2..];
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
