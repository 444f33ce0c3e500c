// SPDX-License-Identifier: GPL-2.0-only
//! Prints profiles in the form of perf report.

use super::compare::{compare, Difference, Spread};
use super::{Branch, Profile};

/// Pads every column but the last to its widest cell; numbers are right-aligned.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let widths: Vec<usize> = (0..head.len())
        .map(|i| {
            all()
                .filter_map(|row| row.get(i))
                .map(String::len)
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let number = cell.ends_with('%') || cell.parse::<f64>().is_ok();
            line.push_str("  ");
            line.push_str(&if number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

fn names(branch: &Branch) -> [String; 3] {
    [
        branch.from.clone(),
        branch.to.clone(),
        branch.cycles.clone(),
    ]
}

/// A profile's branches of `floor` percent or more.
pub fn profile(profile: &Profile, floor: f64) -> String {
    let rows: Vec<_> = compare(profile, profile, floor)
        .into_iter()
        .map(|row| {
            let [from, to, cycles] = names(&row.branch);
            vec![percent(row.host), from, to, cycles]
        })
        .collect();
    format!(
        "Samples: {} of event 'cycles:u', branch records: {}\n{}",
        profile.samples,
        profile.records(),
        table(
            &[
                "Overhead",
                "Source Symbol",
                "Target Symbol",
                "Basic Block Cycles"
            ],
            &rows
        )
    )
}

/// Both sides and their differences.
pub fn differences(rows: &[Difference]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let [from, to, cycles] = names(&row.branch);
            let points = format!("{:+.2}", row.points());
            vec![
                from,
                to,
                cycles,
                percent(row.host),
                percent(row.guest),
                points,
            ]
        })
        .collect();
    let head = [
        "Source Symbol",
        "Target Symbol",
        "Basic Block Cycles",
        "Host",
        "Guest",
        "Difference",
    ];
    table(&head, &rows)
}

/// The spread over seeds.
pub fn spread(rows: &[Spread]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let [from, to, cycles] = names(&row.branch);
            let mean = format!("{:+.3}", row.mean);
            vec![
                from,
                to,
                cycles,
                percent(row.share),
                mean,
                format!("{:.3}", row.deviation),
            ]
        })
        .collect();
    let head = [
        "Source Symbol",
        "Target Symbol",
        "Basic Block Cycles",
        "Share",
        "Mean difference",
        "Standard deviation",
    ];
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_looks_like_perf_report() {
        let branch = |from: &str, cycles: &str| Branch {
            from: from.into(),
            to: "lfsr_cond".into(),
            cycles: cycles.into(),
        };
        let shown = profile(
            &Profile {
                samples: 4,
                branches: [(branch("cmp_end", "1"), 75), (branch("main", "12"), 25)].into(),
            },
            2.0,
        );
        assert_eq!(
            shown,
            "Samples: 4 of event 'cycles:u', branch records: 100\n\
             \x20 Overhead  Source Symbol  Target Symbol  Basic Block Cycles\n\
             \x20   75.00%  cmp_end        lfsr_cond                       1\n\
             \x20   25.00%  main           lfsr_cond                      12\n"
        );
    }
}
