// SPDX-License-Identifier: GPL-2.0-only
//! Caches of code and data, so that some accesses reach the last level and some miss
//! it.  The SDM leaves their structure to the processor; these are the textbook's: two
//! levels, set-associative, the line that was not used for longest goes.

use crate::events::{Pulses, LLC_MISS, LLC_REFERENCE};

/// Bytes of a line, as CPUID.01H:EBX[15:8] has it.
const LINE: u64 = 64;
/// 256 KiB
const NEAR: (usize, usize) = (512, 8);
/// 8 MiB
const LAST: (usize, usize) = (8192, 16);

/// The caches that one logical CPU sees.
#[derive(Clone, Debug)]
pub struct Caches {
    near: Level,
    last: Level,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            near: Level::new(NEAR),
            last: Level::new(LAST),
        }
    }
}

/// The lines that an access to `length` bytes of memory at `address` touches.
pub fn lines(address: u64, length: u64) -> impl Iterator<Item = u64> {
    let end = address.saturating_add(length.saturating_sub(1));
    address / LINE..=end / LINE
}

impl Caches {
    /// An access to a line: what a counter sees of it.
    pub fn access(&mut self, line: u64) -> Pulses {
        if self.near.access(line) {
            0
        } else if self.last.access(line) {
            LLC_REFERENCE
        } else {
            LLC_REFERENCE | LLC_MISS
        }
    }

    /// CLFLUSH: the line that `address` is in leaves all levels.
    pub fn flush(&mut self, address: u64) {
        self.near.evict(address / LINE);
        self.last.evict(address / LINE);
    }

    /// INVD, WBINVD, reset: all lines leave.
    pub fn flush_all(&mut self) {
        *self = Self::default();
    }
}

/// One level.
#[derive(Clone, Debug)]
struct Level {
    /// Sets one behind another; in a set the line last used comes first.  A line is
    /// stored as its number and one, zero is none.
    lines: Box<[u64]>,
    sets: usize,
    ways: usize,
}

impl Level {
    fn new((sets, ways): (usize, usize)) -> Self {
        Self {
            lines: vec![0; sets * ways].into_boxed_slice(),
            sets,
            ways,
        }
    }

    fn set(&mut self, line: u64) -> &mut [u64] {
        // Truncation is harmless: there are less sets than that.
        let first = line as usize % self.sets * self.ways;
        self.lines
            .get_mut(first..first + self.ways)
            .unwrap_or_default()
    }

    /// Whether the line was there; it is now.
    fn access(&mut self, line: u64) -> bool {
        let set = self.set(line);
        let found = set.iter().position(|&stored| stored == line + 1);
        let place = found.unwrap_or(set.len().saturating_sub(1));
        if let Some(used) = set.get_mut(..=place) {
            used.rotate_right(1);
        }
        if let Some(first) = set.first_mut() {
            *first = line + 1;
        }
        found.is_some()
    }

    fn evict(&mut self, line: u64) {
        let set = self.set(line);
        let found = set.iter().position(|&stored| stored == line + 1);
        let Some(behind) = found.and_then(|place| set.get_mut(place..)) else {
            return;
        };
        behind.rotate_left(1);
        if let Some(last) = behind.last_mut() {
            *last = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Pulses = LLC_REFERENCE | LLC_MISS;

    /// The n-th line of the set of line 0, of either level.
    fn same_set(n: u64) -> u64 {
        n * LAST.0 as u64
    }

    #[test]
    fn an_access_touches_the_lines_that_it_spans() {
        #[rustfmt::skip]
        let rows = [
            (0, 1, 0..=0), (63, 1, 0..=0), (63, 2, 0..=1), (64, 64, 1..=1), (65, 64, 1..=2),
            (128, 0, 2..=2), (u64::MAX, 8, u64::MAX / 64..=u64::MAX / 64),
        ];
        for (address, length, expected) in rows {
            assert!(lines(address, length).eq(expected), "{address} {length}");
        }
    }

    #[test]
    fn a_line_is_near_once_it_was_used() {
        let mut caches = Caches::default();
        assert_eq!(caches.access(0), BOTH);
        assert_eq!(caches.access(0), 0);
        assert_eq!(caches.access(1), BOTH, "the next line is another");
        assert_eq!(caches.access(u64::MAX / LINE), BOTH);
        assert_eq!(caches.access(u64::MAX / LINE), 0);
    }

    #[test]
    fn the_last_level_has_what_the_near_one_lost() {
        let mut caches = Caches::default();
        for n in 0..=8 {
            assert_eq!(caches.access(same_set(n)), BOTH, "{n}");
        }
        assert_eq!(caches.access(same_set(0)), LLC_REFERENCE);
        assert_eq!(caches.access(same_set(0)), 0);
        assert_eq!(caches.access(same_set(2)), 0, "line 1 was the oldest");
        assert_eq!(caches.access(same_set(1)), LLC_REFERENCE);
    }

    #[test]
    fn a_set_of_the_last_level_has_sixteen_lines() {
        let mut caches = Caches::default();
        for n in 0..=16 {
            assert_eq!(caches.access(same_set(n)), BOTH, "{n}");
        }
        assert_eq!(caches.access(same_set(1)), LLC_REFERENCE);
        assert_eq!(caches.access(same_set(0)), BOTH, "the oldest had to go");
    }

    #[test]
    fn other_sets_keep_their_lines() {
        let mut caches = Caches::default();
        let near = 1;
        caches.access(near);
        for n in 0..100 {
            caches.access(same_set(n));
        }
        assert_eq!(caches.access(near), 0);
    }

    #[test]
    fn a_flushed_line_is_nowhere_and_leaves_room() {
        let mut caches = Caches::default();
        for n in 0..8 {
            caches.access(same_set(n));
        }
        caches.flush(same_set(3) * LINE + 63);
        caches.flush(same_set(99) * LINE);
        caches.access(same_set(20));
        for n in [0, 1, 2, 4, 5, 6, 7] {
            assert_eq!(caches.access(same_set(n)), 0, "{n} had not to go");
        }
        assert_eq!(caches.access(same_set(3)), BOTH);
        caches.flush_all();
        assert_eq!(caches.access(same_set(0)), BOTH);
    }
}
