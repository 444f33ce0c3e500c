// SPDX-License-Identifier: GPL-2.0-only
//! Is the guest's profile the host's?
//!
//! Both sides execute the same instructions and are sampled with the same event
//! and period, so each branch must have the same share but for chance.  How far
//! chance goes is measured: `lab spread` profiles many seeds of the workload on
//! both sides and prints the standard deviation of the difference for each
//! branch.  A machine's [`bound`] is four times the largest of them.

use std::collections::BTreeSet;

use super::{Branch, Profile};

/// Branches below this share (in percent, on both sides) are not compared.
pub const FLOOR: f64 = 2.0;

/// The largest differences that chance explains, in percentage points, by machine: four times
/// the largest standard deviation of `lab spread` there with guest_lbr, rounded up.
///
/// | machine | seeds | samples a side | largest deviation | largest difference |
/// | --- | --- | --- | --- | --- |
/// | skylake | 12 | 9,473 to 9,482 | 0.084 (lfsr_cond -> lfsr_cond) | 0.185 |
/// | icelake | 12 | 9,472 to 9,482 | 0.092 (lfsr_cond -> lfsr_cond) | 0.185 |
/// | sapphire-rapids | 12 | 9,472 to 9,482 | 0.089 (lfsr_cond -> lfsr_cond) | 0.162 |
///
/// Measure anew after a change of the workload, the period or the number of samples.
const BOUNDS: [(&str, f64); 3] = [
    ("skylake", 0.34),
    ("icelake", 0.37),
    ("sapphire-rapids", 0.36),
];

/// The bound of a machine, `NAME` or `NAME:CPUS:MIB`.  One that was not measured has the
/// largest that there is.
pub fn bound(machine: &str) -> f64 {
    let name = machine.split(':').next().unwrap_or(machine);
    let of = |(measured, bound): &(&str, f64)| (*measured == name).then_some(*bound);
    let largest = || BOUNDS.iter().map(|(_, bound)| *bound).fold(0.0, f64::max);
    BOUNDS.iter().find_map(of).unwrap_or_else(largest)
}

/// How many records fewer than the facility's depth a sample may hold on average: it
/// is full but for the first sample of a run.  A filter that lets too much through
/// leaves perf with fewer, as perf sorts out what was not asked for.
const MISSING: f64 = 0.1;

/// Fewer samples than this say nothing.
pub const SAMPLES: u64 = 1000;

/// One branch on both sides, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The branch.
    pub branch: Branch,
    /// Its share on the host.
    pub host: f64,
    /// Its share in the guest.
    pub guest: f64,
}

impl Difference {
    /// Guest minus host, in percentage points.
    pub fn points(&self) -> f64 {
        self.guest - self.host
    }
}

/// All branches that have a share of `floor` percent or more on one side, the
/// largest first.
pub fn compare(host: &Profile, guest: &Profile, floor: f64) -> Vec<Difference> {
    let branches: BTreeSet<_> = host.branches.keys().chain(guest.branches.keys()).collect();
    let mut rows: Vec<_> = branches
        .into_iter()
        .map(|branch| Difference {
            branch: branch.clone(),
            host: host.percent(branch),
            guest: guest.percent(branch),
        })
        .filter(|row| row.host.max(row.guest) >= floor)
        .collect();
    rows.sort_by(|a, b| b.host.max(b.guest).total_cmp(&a.host.max(a.guest)));
    rows
}

/// The largest difference without its sign; 0 if there is no row.
pub fn largest(rows: &[Difference]) -> f64 {
    rows.iter()
        .map(|row| row.points().abs())
        .fold(0.0, f64::max)
}

/// What is wrong with one side's profile: too few samples, or samples that are
/// not full on a machine with `depth` records.
pub fn shallow(side: &str, profile: &Profile, depth: u8) -> Vec<String> {
    let mut objections = Vec::new();
    if profile.samples < SAMPLES {
        objections.push(format!(
            "{side}: {} samples, {SAMPLES} are needed",
            profile.samples
        ));
    }
    let needed = f64::from(depth) - MISSING;
    if profile.depth() < needed {
        objections.push(format!(
            "{side}: {:.2} records in a sample, {needed:.1} are needed",
            profile.depth()
        ));
    }
    objections
}

/// Branches whose shares are further apart than `bound`.
pub fn apart(host: &Profile, guest: &Profile, bound: f64) -> Vec<String> {
    let rows = compare(host, guest, FLOOR);
    if rows.is_empty() {
        return vec![format!("no branch has a share of {FLOOR} %")];
    }
    rows.iter()
        .filter(|row| row.points().abs() > bound)
        .map(|row| {
            format!(
                "{} -> {} ({} cycles): host {:.2} %, guest {:.2} %, more than {bound} points apart",
                row.branch.from, row.branch.to, row.branch.cycles, row.host, row.guest
            )
        })
        .collect()
}

/// How one branch's difference varies from seed to seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The branch.
    pub branch: Branch,
    /// Mean share of both sides, in percent.
    pub share: f64,
    /// Mean difference, in percentage points.
    pub mean: f64,
    /// Standard deviation of the difference, in percentage points.
    pub deviation: f64,
}

/// The spread of every branch with a mean share of [`FLOOR`] or more over pairs of
/// profiles; nothing for fewer than two pairs.
pub fn spread(pairs: &[(Profile, Profile)]) -> Vec<Spread> {
    if pairs.len() < 2 {
        return Vec::new();
    }
    // A number of runs: small.
    let count = pairs.len() as f64;
    let branches: BTreeSet<_> = pairs
        .iter()
        .flat_map(|(host, guest)| host.branches.keys().chain(guest.branches.keys()))
        .collect();
    let mut rows: Vec<_> = branches
        .into_iter()
        .map(|branch| {
            let both = |pair: &(Profile, Profile)| (pair.0.percent(branch), pair.1.percent(branch));
            let shares: Vec<_> = pairs.iter().map(both).collect();
            let mean = shares.iter().map(|(host, guest)| guest - host).sum::<f64>() / count;
            let squares = shares
                .iter()
                .map(|(host, guest)| (guest - host - mean).powi(2));
            Spread {
                branch: branch.clone(),
                share: shares
                    .iter()
                    .map(|(host, guest)| (host + guest) / 2.0)
                    .sum::<f64>()
                    / count,
                mean,
                deviation: (squares.sum::<f64>() / (count - 1.0)).sqrt(),
            }
        })
        .filter(|row| row.share >= FLOOR)
        .collect();
    rows.sort_by(|a, b| b.share.total_cmp(&a.share));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile(samples: u64, counts: &[u64]) -> Profile {
        let branch = |i: usize| Branch {
            from: format!("f{i}"),
            to: "g".into(),
            cycles: "1".into(),
        };
        Profile {
            samples,
            branches: counts
                .iter()
                .enumerate()
                .map(|(i, c)| (branch(i), *c))
                .collect(),
        }
    }

    #[test]
    fn equal_profiles_meet_no_objection() {
        let host = profile(1000, &[16000, 16000]);
        assert_eq!(apart(&host, &host, 0.34), Vec::<String>::new());
        assert_eq!(shallow("host", &host, 32), Vec::<String>::new());
    }

    #[test]
    fn each_objection_is_raised_by_its_cause() {
        let few = shallow("guest", &profile(999, &[16000, 15968]), 32);
        assert_eq!(few, ["guest: 999 samples, 1000 are needed"]);
        let shallow = shallow("guest", &profile(1010, &[16000, 16000]), 32);
        assert_eq!(
            shallow,
            ["guest: 31.68 records in a sample, 31.9 are needed"]
        );
        let good = profile(1000, &[16000, 15500, 500]);
        for (guest, message) in [
            (profile(1000, &[16200, 15300, 500]), "f0 -> g (1 cycles)"),
            (
                profile(1000, &[15300, 15300, 500, 900]),
                "f3 -> g (1 cycles): host 0.00 %",
            ),
            (
                profile(1000, &[32000]),
                "f1 -> g (1 cycles): host 48.44 %, guest 0.00 %",
            ),
            (
                profile(1000, &[0]),
                "f0 -> g (1 cycles): host 50.00 %, guest 0.00 %",
            ),
        ] {
            let found = apart(&good, &guest, 0.34).join("\n");
            assert!(found.contains(message), "{message}: {found}");
        }
        // Below the floor on both sides a difference does not matter.
        let guest = profile(1000, &[16040, 15540, 420]);
        assert_eq!(apart(&good, &guest, 0.34), Vec::<String>::new());
        let empty = profile(1000, &[]);
        assert_eq!(apart(&empty, &empty, 0.34).len(), 1);
    }

    #[test]
    fn a_machine_has_its_own_bound() {
        let largest = BOUNDS.iter().map(|(_, bound)| *bound).fold(0.0, f64::max);
        for (name, own) in BOUNDS {
            assert_eq!(bound(name), own);
            assert_eq!(bound(&format!("{name}:2:64")), own);
            assert_eq!(bound(&format!("{name}-smp")), largest);
        }
        let (host, guest) = (profile(1, &[5000, 5000]), profile(1, &[5040, 4960]));
        assert_eq!(apart(&host, &guest, 0.41), Vec::<String>::new());
        assert_eq!(apart(&host, &guest, 0.39).len(), 2);
    }

    #[test]
    fn spread_is_mean_and_deviation_of_the_difference() {
        let pairs = [
            (profile(1, &[50, 50]), profile(1, &[51, 49])),
            (profile(1, &[50, 50]), profile(1, &[53, 47])),
        ];
        let rows = spread(&pairs);
        assert_eq!(rows.len(), 2);
        assert!((rows[0].mean - 2.0).abs() < 1e-9);
        assert!((rows[0].deviation - 2.0f64.sqrt()).abs() < 1e-9);
        assert!(spread(&pairs[..1]).is_empty());
    }

    proptest! {
        #[test]
        fn differences_are_antisymmetric_and_cancel_out(
            a in prop::collection::vec(1..1000u64, 1..20),
            b in prop::collection::vec(1..1000u64, 1..20),
        ) {
            let (a, b) = (profile(1, &a), profile(1, &b));
            let forth = compare(&a, &b, 0.0);
            let back = compare(&b, &a, 0.0);
            prop_assert!((largest(&forth) - largest(&back)).abs() < 1e-9);
            prop_assert!(forth.iter().map(Difference::points).sum::<f64>().abs() < 1e-6);
            prop_assert_eq!(largest(&compare(&a, &a, 0.0)), 0.0);
        }

        #[test]
        fn rows_are_sorted_and_above_the_floor(
            a in prop::collection::vec(1..1000u64, 1..20),
            b in prop::collection::vec(1..1000u64, 1..20),
        ) {
            let rows = compare(&profile(1, &a), &profile(1, &b), FLOOR);
            let tops: Vec<_> = rows.iter().map(|row| row.host.max(row.guest)).collect();
            prop_assert!(tops.windows(2).all(|w| w[0] >= w[1]));
            prop_assert!(tops.iter().all(|&top| top >= FLOOR));
        }
    }
}
