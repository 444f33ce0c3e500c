// SPDX-License-Identifier: GPL-2.0-only
//! Figures against those that were accepted.

use anyhow::{Context, Result};

use crate::figures::Figure;
use crate::operations::OPERATIONS;

/// How much more than accepted an operation may cost, in percent.
pub const TOLERANCE: f64 = 1.0;

/// What became of an operation's cost.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// None, within the tolerance.
    None,
    /// It costs more.
    Worse(String),
    /// It costs less.
    Better(String),
}

/// An operation, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Machine and operation.
    pub name: String,
    /// What became of its cost.
    pub change: Change,
}

/// Returns the figures that are guarded, as they are committed.
pub fn guarded(figures: &[Figure]) -> Vec<Figure> {
    let is_guarded = |figure: &&Figure| {
        let mut operations = OPERATIONS.iter().filter(|operation| operation.guarded);
        operations.any(|operation| operation.name == figure.operation)
    };
    figures.iter().filter(is_guarded).cloned().collect()
}

/// Reads committed figures.
///
/// # Errors
///
/// If they are something else.
pub fn parse(text: &str) -> Result<Vec<Figure>> {
    serde_json::from_str(text).context("these are no figures")
}

/// Writes figures to be committed, one in a line.
///
/// # Errors
///
/// If they have no JSON.
pub fn text(figures: &[Figure]) -> Result<String> {
    let lines: Vec<_> = figures
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

fn change(accepted: &Figure, now: &Figure) -> Change {
    let say = || {
        format!(
            "{} instructions and {} exits at least, accepted were {} and {}",
            now.min, now.exits, accepted.min, accepted.exits
        )
    };
    // Of the least, as there is none without what just happens at the same time.
    let tolerance = accepted.min.abs() * TOLERANCE / 100.0;
    let more = now.min - accepted.min;
    if now.exits > accepted.exits || more > tolerance {
        Change::Worse(say())
    } else if now.exits < accepted.exits || -more > tolerance {
        Change::Better(say())
    } else {
        Change::None
    }
}

/// Compares figures of a machine with those that were accepted for it.
pub fn compare(accepted: &[Figure], now: &[Figure]) -> Vec<Verdict> {
    let place = |figure: &Figure| (figure.operation.clone(), figure.place.clone());
    let mut verdicts: Vec<_> = now
        .iter()
        .map(|figure| Verdict {
            name: format!("{}, {}", figure.place.machine, figure.operation),
            change: match accepted.iter().find(|other| place(other) == place(figure)) {
                Some(accepted) => change(accepted, figure),
                None => Change::Worse("it has no accepted figure".into()),
            },
        })
        .collect();
    let machines: Vec<_> = now.iter().map(|figure| &figure.place).collect();
    let gone = accepted.iter().filter(|figure| {
        machines.contains(&&figure.place) && !now.iter().any(|other| place(other) == place(figure))
    });
    verdicts.extend(gone.map(|figure| Verdict {
        name: format!("{}, {}", figure.place.machine, figure.operation),
        change: Change::Worse("it was not measured".into()),
    }));
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Place;

    fn figure(operation: &str, instructions: f64, exits: f64) -> Figure {
        Figure {
            operation: operation.into(),
            place: Place {
                machine: "skylake".into(),
                config: "lab".into(),
                provider: "guest_lbr".into(),
            },
            instructions,
            min: instructions,
            max: instructions,
            exits,
            msr_accesses: 0.0,
            bitmap_flips: 0.0,
        }
    }

    fn of(accepted: &[Figure], now: &[Figure]) -> Vec<&'static str> {
        compare(accepted, now)
            .iter()
            .map(|verdict| match verdict.change {
                Change::None => "same",
                Change::Worse(_) => "worse",
                Change::Better(_) => "better",
            })
            .collect()
    }

    #[test]
    fn one_percent_is_tolerated() {
        let accepted = [figure("exit_idle", 1000.0, 1.0)];
        for (now, exits, expected) in [
            (1000.0, 1.0, "same"),
            (1010.0, 1.0, "same"),
            (1011.0, 1.0, "worse"),
            (990.0, 1.0, "same"),
            (989.0, 1.0, "better"),
            (1000.0, 2.0, "worse"),
            (1000.0, 0.0, "better"),
        ] {
            assert_eq!(
                of(&accepted, &[figure("exit_idle", now, exits)]),
                [expected]
            );
        }
    }

    #[test]
    fn nothing_is_left_out() {
        let [one, other] = ["exit_idle", "exit_granted"].map(|name| figure(name, 1.0, 1.0));
        assert_eq!(
            of(std::slice::from_ref(&one), &[one.clone(), other.clone()]),
            ["same", "worse"]
        );
        assert_eq!(of(&[one.clone(), other], &[one]), ["same", "worse"]);
    }

    #[test]
    fn what_is_committed_reads_back() -> Result<()> {
        let figures = [
            figure("exit_idle", 1000.5, 1.0),
            figure("switch_same", 9.0, 1.0),
        ];
        let guarded = guarded(&figures);
        assert_eq!(guarded, figures[..1]);
        assert_eq!(parse(&text(&guarded)?)?, guarded);
        Ok(())
    }
}
