// SPDX-License-Identifier: GPL-2.0-only
//! The caches, as lists of lines, of which the last used comes first.

use crate::reference::Place;

/// Lines that the near level has room for in a set, and its number of sets; then those of
/// the last level.
const SHAPES: [(usize, u64); 2] = [(8, 512), (16, 8192)];

#[derive(Default)]
pub(crate) struct Caches([Vec<u64>; 2]);

impl Caches {
    /// How many lines reach the last level, and how many of them it has not.
    pub(crate) fn access(&mut self, place: Place) -> (u64, u64) {
        let (mut references, mut misses) = (0, 0);
        let mut line = None;
        for byte in place.address..place.address + u64::from(place.length) {
            if line.replace(byte / 64) == Some(byte / 64) {
                continue;
            }
            if !self.touch(0, byte / 64) {
                references += 1;
                misses += u64::from(!self.touch(1, byte / 64));
            }
        }
        (references, misses)
    }

    /// Whether a level has the line; it has now.
    fn touch(&mut self, level: usize, line: u64) -> bool {
        let (ways, sets) = SHAPES[level];
        let lines = &mut self.0[level];
        let before = lines.len();
        lines.retain(|&other| other != line);
        let had = lines.len() < before;
        lines.insert(0, line);
        let mut kept = 0;
        lines.retain(|&other| {
            kept += usize::from(other % sets == line % sets);
            kept <= ways || other % sets != line % sets
        });
        had
    }

    pub(crate) fn flush(&mut self, address: Option<u64>) {
        for lines in &mut self.0 {
            lines.retain(|&line| address.is_some_and(|address| line != address / 64));
        }
    }
}
