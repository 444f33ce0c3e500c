// SPDX-License-Identifier: GPL-2.0-only
//! Tables of figures, for people: Markdown for a terminal, reStructuredText for the
//! documentation.

use std::fmt::Write;

use crate::figures::Figure;
use crate::operations::title;

/// The providers that have columns, and what these are called.
const COLUMNS: [(&str, &str); 4] = [
    ("none", "no LBR"),
    ("builtin", "built-in"),
    ("guest_lbr", "guest_lbr"),
    ("host", "bare host"),
];

/// A table of one machine and configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// The columns' names.
    pub columns: Vec<&'static str>,
    /// The rows: an operation and its cells.
    pub rows: Vec<(String, Vec<String>)>,
}

fn number(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 {
        text.insert(0, '-');
    }
    text
}

fn cell(figure: Option<&Figure>) -> String {
    let Some(figure) = figure else {
        return "-".into();
    };
    let mut text = number(figure.instructions);
    if figure.min != figure.instructions || figure.max != figure.instructions {
        let _ = write!(text, " ({} to {})", number(figure.min), number(figure.max));
    }
    // Whole for single operations.
    let exits = (figure.exits * 100.0).round() / 100.0;
    let _ = write!(text, "; {exits} exits");
    if exits == 1.0 {
        text.pop();
    }
    text
}

/// Returns the tables, in the order in which machines and configurations come.
pub fn tables(figures: &[Figure]) -> Vec<Table> {
    let mut places: Vec<(&str, &str)> = Vec::new();
    for figure in figures {
        let place = (&*figure.place.machine, &*figure.place.config);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
        .into_iter()
        .map(|(machine, config)| {
            let own: Vec<_> = figures
                .iter()
                .filter(|f| f.place.machine == machine && f.place.config == config)
                .collect();
            table(machine, config, &own)
        })
        .collect()
}

fn table(machine: &str, config: &str, figures: &[&Figure]) -> Table {
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(provider, _)| figures.iter().any(|f| f.place.provider == *provider))
        .collect();
    let mut operations: Vec<&str> = Vec::new();
    for figure in figures {
        if !operations.contains(&&*figure.operation) {
            operations.push(&figure.operation);
        }
    }
    let rows = operations
        .into_iter()
        .map(|operation| {
            let cells = columns.iter().map(|(provider, _)| {
                let mut of = figures.iter();
                cell(
                    of.find(|f| f.operation == operation && f.place.provider == *provider)
                        .copied(),
                )
            });
            let name = title(operation).unwrap_or_else(|| operation.to_owned());
            (name, cells.collect())
        })
        .collect();
    Table {
        title: format!("{machine}, {config}"),
        columns: columns.iter().map(|(_, column)| *column).collect(),
        rows,
    }
}

impl Table {
    /// Returns the table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "## {}\n\n| operation | {} |\n",
            self.title,
            self.columns.join(" | ")
        );
        text += &"| --- ".repeat(self.columns.len() + 1);
        text += "|\n";
        for (name, cells) in &self.rows {
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }

    /// Returns the table in reStructuredText, as a section.
    pub fn rst(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.title, "-".repeat(self.title.len()));
        text += ".. list-table::\n   :header-rows: 1\n\n   * - operation\n";
        for column in &self.columns {
            let _ = writeln!(text, "     - {column}");
        }
        for (name, cells) in &self.rows {
            let _ = writeln!(text, "   * - {name}");
            for cell in cells {
                let _ = writeln!(text, "     - {cell}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Place;

    #[test]
    fn numbers_have_thousands() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.4, "1,000"),
            (1234567.0, "1,234,567"),
            (-12345.0, "-12,345"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn each_machine_has_its_table() {
        let figure = |machine: &str, provider: &str, max| Figure {
            operation: "exit_idle".into(),
            place: Place {
                machine: machine.into(),
                config: "lab".into(),
                provider: provider.into(),
            },
            instructions: 1046.0,
            min: 1046.0,
            max,
            exits: 1.0,
            msr_accesses: 0.0,
            bitmap_flips: 0.0,
        };
        let tables = tables(&[
            figure("skylake", "builtin", 1046.0),
            figure("skylake", "guest_lbr", 2000.0),
            figure("haswell", "guest_lbr", 1046.0),
        ]);
        assert_eq!(tables.len(), 2);
        assert_eq!(
            tables[0].markdown(),
            "## skylake, lab\n\n| operation | built-in | guest_lbr |\n| --- | --- | --- |\n\
             | CPUID exit, LBR not used | 1,046; 1 exit | 1,046 (1,046 to 2,000); 1 exit |\n"
        );
        assert!(tables[1]
            .rst()
            .contains("   * - CPUID exit, LBR not used\n     - 1,046; 1 exit\n"));
    }
}
