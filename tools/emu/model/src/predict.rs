// SPDX-License-Identifier: GPL-2.0-only
//! A branch predictor, so that some branches are mispredicted and the same ones
//! in every run.  No predictor of Intel's is documented; this one is the
//! textbook's: two-bit counters indexed by address and history for directions,
//! last targets for indirect branches, a stack for returns.

use crate::branch::{Kind, Taken};

const DIRECTIONS: usize = 1 << 12;
const HISTORY: u64 = (1 << 6) - 1;
const TARGETS: usize = 1 << 9;
const RETURNS: usize = 16;

/// The predictor of one logical CPU.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// Two-bit saturating counters: taken from 2 on.
    directions: Box<[u8; DIRECTIONS]>,
    history: u64,
    /// Last target of the indirect branches that share an index.
    targets: Box<[u64; TARGETS]>,
    returns: [u64; RETURNS],
    top: usize,
}

impl Default for Predictor {
    fn default() -> Self {
        Self {
            directions: Box::new([1; DIRECTIONS]),
            history: 0,
            targets: Box::new([0; TARGETS]),
            returns: [0; RETURNS],
            top: 0,
        }
    }
}

impl Predictor {
    /// A branch was taken: whether its prediction was wrong, and learn from it.
    pub fn taken(&mut self, branch: &Taken) -> bool {
        // Most are: to ask for them first is quicker than a jump table for all.
        if branch.kind == Kind::Conditional {
            return self.direction(branch.from, true);
        }
        match branch.kind {
            Kind::RelativeCall => {
                if !branch.is_zero_length_call() {
                    self.call(branch);
                }
                false
            }
            Kind::IndirectCall => {
                self.call(branch);
                self.target(branch)
            }
            Kind::IndirectJump => self.target(branch),
            Kind::Return => self.ret(branch),
            _ => false,
        }
    }

    /// The conditional branch at `from` was not taken: whether its prediction was
    /// wrong, and learn from it.
    pub fn not_taken(&mut self, from: u64) -> bool {
        self.direction(from, false)
    }

    fn direction(&mut self, from: u64, taken: bool) -> bool {
        let Some(counter) = self
            .directions
            .get_mut(index::<DIRECTIONS>(from ^ self.history << 6))
        else {
            return false;
        };
        let mispredicted = (*counter >= 2) != taken;
        *counter = if taken {
            (*counter + 1).min(3)
        } else {
            counter.saturating_sub(1)
        };
        self.history = (self.history << 1 | u64::from(taken)) & HISTORY;
        mispredicted
    }

    fn target(&mut self, branch: &Taken) -> bool {
        match self.targets.get_mut(index::<TARGETS>(branch.from)) {
            Some(target) => std::mem::replace(target, branch.to) != branch.to,
            None => false,
        }
    }

    fn call(&mut self, branch: &Taken) {
        self.top = (self.top + 1) % RETURNS;
        if let Some(slot) = self.returns.get_mut(self.top) {
            *slot = branch.from.wrapping_add(u64::from(branch.length));
        }
    }

    fn ret(&mut self, branch: &Taken) -> bool {
        let predicted = self.returns.get(self.top).copied();
        self.top = (self.top + RETURNS - 1) % RETURNS;
        predicted != Some(branch.to)
    }
}

/// Folds an address into an index of a table of `SIZE`, a power of two.
fn index<const SIZE: usize>(address: u64) -> usize {
    // Truncation is the point: the mask keeps the low bits only.
    (address ^ address >> 13) as usize & (SIZE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(kind: Kind, from: u64, to: u64) -> Taken {
        Taken::flat(kind, from, to, 5)
    }

    #[test]
    fn a_loop_is_learnt() {
        let mut predictor = Predictor::default();
        let jcc = branch(Kind::Conditional, 0x1000, 0xf00);
        let misses = (0..1000).filter(|_| predictor.taken(&jcc)).count();
        assert!((1..=20).contains(&misses), "{misses}");
        assert!(
            predictor.not_taken(0x1000),
            "leaving the loop comes unexpected"
        );
    }

    #[test]
    fn an_alternation_is_learnt() {
        let mut predictor = Predictor::default();
        let jcc = branch(Kind::Conditional, 0x1000, 0xf00);
        let mut pair =
            || usize::from(predictor.taken(&jcc)) + usize::from(predictor.not_taken(jcc.from));
        (0..100).for_each(|_| {
            pair();
        });
        assert_eq!((0..100).map(|_| pair()).sum::<usize>(), 0);
    }

    #[test]
    fn directions_go_by_address_and_the_last_six_outcomes() {
        let mut predictor = Predictor::default();
        let mut counters = std::collections::BTreeMap::new();
        let mut outcomes = std::collections::VecDeque::from([0; 6]);
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let from = 0xffff_ffff_8100_0000 + (random >> 40) % 32 * 0x1235;
            let taken = random >> 60 < 11;
            let history = outcomes.iter().fold(0, |bits, outcome| bits * 2 + outcome);
            let address = from ^ (history * 64);
            let entry = (address ^ (address / 8192)) % 4096;
            let counter = counters.entry(entry).or_insert(1u8);
            let mispredicted = (*counter > 1) != taken;
            let found = if taken {
                predictor.taken(&branch(Kind::Conditional, from, 0))
            } else {
                predictor.not_taken(from)
            };
            assert_eq!(found, mispredicted);
            *counter = match taken {
                true => (*counter + 1).min(3),
                false => counter.saturating_sub(1),
            };
            outcomes.pop_front();
            outcomes.push_back(u64::from(taken));
        }
    }

    #[test]
    fn one_call_too_deep_costs_the_outermost_return() {
        let mut predictor = Predictor::default();
        for depth in 0..=RETURNS as u64 {
            predictor.taken(&branch(Kind::RelativeCall, depth * 0x100, 0x9000));
        }
        let mut wrong = |depth: u64| {
            let ret = branch(Kind::Return, 0x9001, depth * 0x100 + 5);
            predictor.taken(&ret)
        };
        assert!(!(1..=RETURNS as u64).rev().any(&mut wrong));
        assert!(wrong(0));
    }

    #[test]
    fn indirect_branches_go_where_they_went() {
        let mut predictor = Predictor::default();
        let jump = |to| branch(Kind::IndirectJump, 0x2000, to);
        assert!(predictor.taken(&jump(0x10)));
        assert!(!predictor.taken(&jump(0x10)));
        assert!(predictor.taken(&jump(0x20)));
    }

    #[test]
    fn returns_follow_calls() {
        let mut predictor = Predictor::default();
        for depth in 0..RETURNS as u64 {
            predictor.taken(&branch(Kind::RelativeCall, depth * 0x100, 0x9000));
        }
        for depth in (0..RETURNS as u64).rev() {
            let ret = branch(Kind::Return, 0x9001, depth * 0x100 + 5);
            assert!(!predictor.taken(&ret), "{depth}");
        }
        assert!(predictor.taken(&branch(Kind::Return, 0x9001, 0x77)));
    }

    #[test]
    fn an_indirect_call_is_a_call_to_where_it_went() {
        let mut predictor = Predictor::default();
        let call = branch(Kind::IndirectCall, 0x100, 0x9000);
        for wrong in [true, false] {
            assert_eq!(predictor.taken(&call), wrong);
            assert!(!predictor.taken(&branch(Kind::Return, 0x9001, 0x105)));
        }
    }

    #[test]
    fn a_zero_length_call_is_no_call() {
        let mut predictor = Predictor::default();
        predictor.taken(&branch(Kind::RelativeCall, 0x100, 0x9000));
        predictor.taken(&branch(Kind::RelativeCall, 0x9000, 0x9005));
        assert!(!predictor.taken(&branch(Kind::Return, 0x9010, 0x105)));
    }

    #[test]
    fn far_and_direct_branches_are_always_right() {
        let mut predictor = Predictor::default();
        for kind in [
            Kind::RelativeJump,
            Kind::RelativeCall,
            Kind::Far,
            Kind::Event,
        ] {
            assert!(!predictor.taken(&branch(kind, 1, 2)), "{kind:?}");
        }
    }
}
