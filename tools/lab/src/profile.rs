// SPDX-License-Identifier: GPL-2.0-only
//! Branch profiles: what `perf report` prints, read back and compared.

pub mod compare;
pub mod table;

use std::collections::BTreeMap;

use thiserror::Error;

/// What separates the fields of a report (`perf report --field-separator`).
pub const SEPARATOR: char = '|';

/// The comment above perf's sums of branch types.
const STATISTICS: &str = "Branch Statistics:";
/// A comment line of ours: the number of samples, from perf record.
const SAMPLES: &str = "# lab-samples:";

/// What one row of a profile is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// Symbol that the branch left.
    pub from: String,
    /// Symbol that it reached.
    pub to: String,
    /// Cycles since the branch before, as perf prints them (`-` if unknown).
    pub cycles: String,
}

/// A branch profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Times the counter overflowed.
    pub samples: u64,
    /// Times each branch was found in a record.
    pub branches: BTreeMap<Branch, u64>,
}

/// Why a text is no branch profile.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseError {
    /// There is no line with the names of the columns.
    #[error("the report has no column {0:?}; it must come from perf report --branch-stack -n")]
    Column(&'static str),
    /// A row has too few fields, or no number where one must be.
    #[error("line {0} of the report is damaged: {1:?}")]
    Row(usize, String),
    /// The number of samples is not said.
    #[error("the report does not say how many samples there were")]
    Samples,
    /// There is no row.
    #[error("the report holds no branch")]
    Empty,
}

const COLUMNS: [&str; 4] = [
    "Samples",
    "Source Symbol",
    "Target Symbol",
    "Basic Block Cycles",
];

/// A symbol without perf's mark for the privilege level, `[.]` or `[k]`.
fn symbol(text: &str) -> &str {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((level, name)) if level.len() == 1 => name.trim(),
        _ => text,
    }
}

impl Profile {
    /// Reads a report.
    ///
    /// # Errors
    ///
    /// If it is not one of the expected form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut profile = Self::default();
        let mut samples = None;
        let mut columns = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(count) = line.strip_prefix(SAMPLES) {
                samples = count.trim().parse().ok();
            } else if let Some(comment) = line.strip_prefix('#') {
                // Of records with a branch type perf counts what there was, at the end.
                if comment.trim() == STATISTICS {
                    break;
                }
                if columns.is_none() && comment.contains(COLUMNS[1]) {
                    columns = Some(find_columns(comment)?);
                }
            } else if !line.is_empty() {
                let at = columns.as_ref().ok_or(ParseError::Column(COLUMNS[1]))?;
                let (branch, count) =
                    row(line, at).ok_or_else(|| ParseError::Row(number + 1, line.to_owned()))?;
                *profile.branches.entry(branch).or_default() += count;
            }
        }
        profile.samples = samples.ok_or(ParseError::Samples)?;
        if profile.branches.is_empty() {
            return Err(ParseError::Empty);
        }
        Ok(profile)
    }

    /// Number of records in the whole profile.
    pub fn records(&self) -> u64 {
        self.branches.values().sum()
    }

    /// Mean number of records in a sample; 0 without samples.
    pub fn depth(&self) -> f64 {
        ratio(self.records(), self.samples)
    }

    /// Share of a branch in percent.
    pub fn percent(&self, branch: &Branch) -> f64 {
        let count = self.branches.get(branch).copied().unwrap_or_default();
        100.0 * ratio(count, self.records())
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Far below 2^52: a profile has some ten thousand records.
    part as f64 / whole as f64
}

fn find_columns(header: &str) -> Result<[usize; 4], ParseError> {
    let mut at = [0; 4];
    for (slot, name) in at.iter_mut().zip(COLUMNS) {
        *slot = header
            .split(SEPARATOR)
            .position(|field| field.trim() == name)
            .ok_or(ParseError::Column(name))?;
    }
    Ok(at)
}

fn row(line: &str, at: &[usize; 4]) -> Option<(Branch, u64)> {
    let fields: Vec<_> = line.split(SEPARATOR).map(str::trim).collect();
    let field = |index: usize| fields.get(index).copied();
    let branch = Branch {
        from: symbol(field(at[1])?).to_owned(),
        to: symbol(field(at[2])?).to_owned(),
        cycles: field(at[3])?.to_owned(),
    };
    Some((branch, field(at[0])?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPORT: &str = "# To display the perf.data header info\n#\n# lab-samples: 10\n\
        # Samples: 100  of event 'cycles:u'\n# Event count (approx.): 100\n#\n\
        # Overhead|Samples|Source Symbol|Target Symbol|Basic Block Cycles\n#\n\
        60.00%|60|[.] cmp_end  |[.] lfsr_cond|1\n\
        \x20   30.00%|30|[.] lfsr_cond|[.] cmp_end|-\n\
        10.00%|10|[k] 0xffffffff81000000|[.] main|12\n\n#\n# (Tip: ...)\n#\n";

    fn branch(from: &str, to: &str, cycles: &str) -> Branch {
        Branch {
            from: from.into(),
            to: to.into(),
            cycles: cycles.into(),
        }
    }

    #[test]
    fn a_report_is_read() {
        let profile = Profile::parse(REPORT).unwrap();
        assert_eq!(profile.samples, 10);
        assert_eq!(profile.records(), 100);
        assert_eq!(profile.depth(), 10.0);
        assert_eq!(profile.percent(&branch("cmp_end", "lfsr_cond", "1")), 60.0);
        assert_eq!(profile.percent(&branch("lfsr_cond", "cmp_end", "-")), 30.0);
        assert_eq!(
            profile.percent(&branch("0xffffffff81000000", "main", "12")),
            10.0
        );
        assert_eq!(profile.percent(&branch("a", "b", "1")), 0.0);
    }

    #[test]
    fn sums_of_branch_types_are_no_branches() {
        let with = format!("{REPORT}#\n# Branch Statistics:\n#\nCOND_FWD:   7.6%\n");
        assert_eq!(Profile::parse(&with), Profile::parse(REPORT));
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, error) in [
            (String::new(), ParseError::Samples),
            (
                "perf: no such event\n".into(),
                ParseError::Column("Source Symbol"),
            ),
            (
                REPORT.replace("|Samples|", "|"),
                ParseError::Column("Samples"),
            ),
            (
                REPORT.replace("# lab-samples: 10", "#"),
                ParseError::Samples,
            ),
            (
                REPORT.replace("|60|", "|x|"),
                ParseError::Row(9, "60.00%|x|[.] cmp_end  |[.] lfsr_cond|1".into()),
            ),
            (
                REPORT.replace("|[.] main|12", ""),
                ParseError::Row(11, "10.00%|10|[k] 0xffffffff81000000".into()),
            ),
            (
                REPORT
                    .lines()
                    .filter(|l| l.starts_with('#'))
                    .collect::<Vec<_>>()
                    .join("\n"),
                ParseError::Empty,
            ),
        ] {
            assert_eq!(Profile::parse(&text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn shares_add_up(counts in prop::collection::vec(1..100_000u64, 1..40)) {
            let mut text = "# lab-samples: 7\n#Samples|Source Symbol|Target Symbol|Basic Block Cycles\n".to_owned();
            for (i, count) in counts.iter().enumerate() {
                text.push_str(&format!("{count}|[.] f{i}|[.] g|{i}\n"));
            }
            let profile = Profile::parse(&text).unwrap();
            prop_assert_eq!(profile.records(), counts.iter().sum::<u64>());
            let sum: f64 = profile.branches.keys().map(|b| profile.percent(b)).sum();
            prop_assert!((sum - 100.0).abs() < 1e-6);
        }

        #[test]
        fn no_text_is_too_odd(text in "(#?[a-zA-Z |%0-9.\\[\\]-]{0,30}\n){0,20}") {
            drop(Profile::parse(&text));
        }
    }
}
