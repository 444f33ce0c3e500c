// SPDX-License-Identifier: GPL-2.0-only
//! Changes of the model: those of cargo-mutants, and those that `tools/emu/mutants.toml`
//! names beside them.

use std::path::PathBuf;

use anyhow::{bail, Context, Result};
use serde::Deserialize;

/// A change of the model, as `cargo mutants --list --json` has it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Mutant {
    pub(super) name: String,
    pub(super) file: PathBuf,
    span: Span,
    replacement: String,
    /// It is there for rows of several machines.
    #[serde(default)]
    pub(super) everywhere: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Span {
    start: Place,
    end: Place,
}

/// Line and column, both from 1; a column is a character.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn at(text: &str, offset: usize) -> Option<Self> {
        let before = text.get(..offset)?;
        let line = before.rsplit('\n').next().unwrap_or_default();
        Some(Self {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        })
    }

    fn offset(self, text: &str) -> Option<usize> {
        let line = text.split_inclusive('\n').nth(self.line.checked_sub(1)?)?;
        let start = line.as_ptr() as usize - text.as_ptr() as usize;
        let column = self.column.checked_sub(1)?;
        let within = line.char_indices().nth(column).map(|(at, _)| at);
        Some(start + within.unwrap_or(line.len()))
    }
}

impl Mutant {
    /// The text of its file with the change.
    pub(super) fn apply(&self, text: &str) -> Result<String> {
        let places = self.span.start.offset(text).zip(self.span.end.offset(text));
        let (start, end) = places.context("the list of mutants is of another text")?;
        Ok([&text[..start], &self.replacement, &text[end..]].concat())
    }

    /// Its name without line and column, which change with every edit.
    pub(super) fn title(&self) -> String {
        title(&self.name)
    }
}

fn title(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}:{what}"),
        _ => name.to_owned(),
    }
}

/// A change that cargo-mutants does not make, as that of a number, for a row that no other
/// makes fail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) file: PathBuf,
    find: String,
    replace: String,
}

impl Change {
    /// The same as a mutant of `text`, which its file has.
    pub(super) fn mutant(&self, text: &str) -> Result<Mutant> {
        let file = self.file.display();
        let mut found = text.match_indices(&self.find).map(|(at, _)| at);
        let (Some(at), None) = (found.next(), found.next()) else {
            bail!(
                "{file} does not have {:?} once; correct tools/emu/mutants.toml",
                self.find
            );
        };
        let (start, end) = Place::at(text, at)
            .zip(Place::at(text, at + self.find.len()))
            .context("no place in the text")?;
        Ok(Mutant {
            name: format!(
                "{file}:{}:{}: replace {} with {}",
                start.line, start.column, self.find, self.replace
            ),
            file: self.file.clone(),
            span: Span { start, end },
            replacement: self.replace.clone(),
            everywhere: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(start: (usize, usize), end: (usize, usize), replacement: &str) -> Mutant {
        let place = |(line, column)| Place { line, column };
        Mutant {
            name: "a/b.rs:2:3: replace + with - in f".into(),
            file: "a/b.rs".into(),
            span: Span {
                start: place(start),
                end: place(end),
            },
            replacement: replacement.into(),
            everywhere: false,
        }
    }

    #[test]
    fn a_span_is_replaced() {
        let text = "ä + b\nc + d\n";
        for (start, end, expected) in [
            ((1, 3), (1, 4), "ä - b\nc + d\n"),
            ((2, 3), (2, 4), "ä + b\nc - d\n"),
            ((1, 1), (2, 6), "-\n"),
        ] {
            assert_eq!(mutant(start, end, "-").apply(text).unwrap(), expected);
        }
        assert!(mutant((4, 1), (4, 1), "").apply(text).is_err());
    }

    #[test]
    fn a_change_is_a_mutant_of_the_one_place_that_has_it() {
        let change = |find: &str| Change {
            file: "f.rs".into(),
            find: find.into(),
            replace: "x".into(),
        };
        let text = "ä b\nc b\n";
        let mutant = change("c b").mutant(text).unwrap();
        assert_eq!(mutant.name, "f.rs:2:1: replace c b with x");
        assert_eq!(mutant.apply(text).unwrap(), "ä b\nx\n");
        let over = change("b\nc").mutant(text).unwrap();
        assert_eq!(over.apply(text).unwrap(), "ä x b\n");
        for absent in ["d", "b"] {
            let error = change(absent).mutant(text).unwrap_err().to_string();
            assert!(error.contains("does not have"), "{error}");
        }
    }

    #[test]
    fn a_title_has_no_line() {
        assert_eq!(
            mutant((1, 1), (1, 1), "").title(),
            "a/b.rs: replace + with - in f"
        );
    }
}
