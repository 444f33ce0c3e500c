// SPDX-License-Identifier: GPL-2.0-only
//! How the emulated software reaches the counters: a stream of text behind a page
//! of I/O ports.  It writes a line and reads the answer, which is a line as well;
//! zeros follow.  `Documentation/counters.rst` lists the lines.

use std::collections::VecDeque;

use super::Counters;

/// Longest line: a word and a name.
const LINE: usize = 80;
/// Longest name of a section.
const NAME: usize = 64;

/// The door to the counters of a machine.
#[derive(Clone, Debug, Default)]
pub struct Door {
    line: Vec<u8>,
    answer: VecDeque<u8>,
}

impl Door {
    /// The software writes a byte of a line.
    pub fn write(&mut self, byte: u8, counters: &mut Counters, instructions: &[u64]) {
        if byte != b'\n' {
            // One byte too many is enough to know that it is too long.
            if self.line.len() <= LINE {
                self.line.push(byte);
            }
            return;
        }
        counters.advance(instructions);
        let line = std::mem::take(&mut self.line);
        let text = match execute(&line, counters) {
            Ok(text) => text,
            Err(why) => format!("error: {why}"),
        };
        self.answer = text.into_bytes().into();
        self.answer.push_back(b'\n');
    }

    /// The software reads a byte of the answer.
    pub fn read(&mut self) -> u8 {
        self.answer.pop_front().unwrap_or(0)
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn execute(line: &[u8], counters: &mut Counters) -> Result<String, String> {
    if line.len() > LINE {
        return Err(format!("a line has at most {LINE} characters"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "a line is ASCII text".to_owned())?;
    let mut words = line.split_ascii_whitespace();
    let command = (words.next(), words.next(), words.next());
    if let (_, Some(name), None) = command {
        if !is_name(name) {
            return Err(format!(
                "a section's name has 1 to {NAME} letters, digits, dots, dashes and underscores"
            ));
        }
    }
    match command {
        (Some("start"), Some(name), None) => counters.start(name).map(|()| "ok".into()),
        (Some("stop"), Some(name), None) => counters.stop(name).map(|()| "ok".into()),
        (Some("read"), name, None) => {
            return counters
                .report(name)
                .map_err(|error| error.to_string())
                .and_then(|report| serde_json::to_string(&report).map_err(|e| e.to_string()))
        }
        _ => return Err("unknown line; say start NAME, stop NAME, read or read NAME".into()),
    }
    .map_err(|error| error.to_string())
}
