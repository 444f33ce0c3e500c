// SPDX-License-Identifier: GPL-2.0-only
//! The page of the documentation.
//!
//! A row has all cases of one rule that were answered alike.  The selftests' unit tests read
//! it, and want each case of theirs on it with its rule.
//!
//! How a provider fails depends on when a vCPU is scheduled out, hence on each byte of the
//! boot medium; whether it does, hardly: two pages say the same if that is the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::discriminant;

use super::answer::{self, Answer};
use super::{sum_text, Compared, Machine, Provider, PROVIDERS};
use crate::table::{escape, row, row_of};

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0-only
.. This page is written by: make compare

======================
Guest LBR by the rules
======================

What three providers of guest LBR do on the emulated host: the built-in one of the unpatched
kernel, that of the patched kernel without the module, which has the fixes of the series, and
guest_lbr.  ``make compare`` boots each machine with each of them, runs the behaviour tests of
``tools/testing/selftests/kvm`` and writes this page; ``make check-full`` fails if it would
write another.

A row is a rule and the cases that hold a provider to it.  Its answers are *yes*, or what
happened instead when the page was written, to the first case.

How many cases are answered with yes; those that a provider fails at times are not counted:

";

fn table(page: &mut String, head: &[&str], widths: &str) -> std::fmt::Result {
    writeln!(page, ".. list-table::\n   :header-rows: 1")?;
    writeln!(page, "   :widths: {widths}\n")?;
    row(page, head.iter().copied())
}

/// Cases of one rule with answers that differ in figures alone.
fn groups(rows: &[&Compared]) -> Vec<Vec<Compared>> {
    let alike = |one: &Answer, other: &Answer| match (one, other) {
        (Answer::Wrong(one), Answer::Wrong(other)) => {
            answer::without_figures(one) == answer::without_figures(other)
        }
        _ => one == other,
    };
    let mut groups: Vec<Vec<Compared>> = Vec::new();
    for row in rows {
        let group = groups.iter_mut().find(|group| {
            let first = &group[0];
            let answers = first.answers.iter().zip(&row.answers);
            first.case.rule == row.case.rule && answers.into_iter().all(|(a, b)| alike(a, b))
        });
        match group {
            Some(group) => group.push((*row).clone()),
            None => groups.push(vec![(*row).clone()]),
        }
    }
    groups
}

fn names(group: &[Compared]) -> String {
    let names: Vec<_> = group
        .iter()
        .map(|row| format!("``{}``", row.case.name.1))
        .collect();
    names.join(", ")
}

const YES: &str = "yes";
const AT_TIMES: &str = "*at times not:*";
const NEITHER: &str = "*not applicable:*";

fn cell(answer: &Answer) -> String {
    match answer {
        Answer::Right => YES.into(),
        Answer::Wrong(how) => escape(how),
        Answer::AtTimes(why) => format!("{AT_TIMES} {}", escape(why)),
        Answer::Neither(why) => format!("{NEITHER} {}", escape(why)),
    }
}

/// What a cell says, without how it came.
fn kind(cell: &str) -> &str {
    match cell {
        YES => YES,
        _ if cell.starts_with(AT_TIMES) => AT_TIMES,
        _ if cell.starts_with(NEITHER) => NEITHER,
        _ => "no",
    }
}

/// A page read back: rule and kinds of answers by heading, source and case.
fn read(page: &str) -> BTreeMap<[&str; 3], Vec<&str>> {
    let mut cases = BTreeMap::new();
    let (mut heading, mut source, mut before) = ("", "", "");
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.is_empty() && line.bytes().all(|b| b == b'-' || b == b'=') {
            (heading, source) = (before, "");
        }
        before = line;
        if line.starts_with("By ") {
            source = line;
        }
        let Some(names) = line.strip_prefix("   * - ").filter(|l| l.contains("``")) else {
            continue;
        };
        let mut row = Vec::new();
        while let Some(cell) = lines.next_if(|line| line.starts_with("     - ")) {
            let cell = &cell[7..];
            row.push(if row.is_empty() { cell } else { kind(cell) });
        }
        // What all do right has no more than a rule.
        row.resize(4, YES);
        let (test, names) = names.split_once(": ").unwrap_or((heading, names));
        // On a machine that is not the first the rows name the test.
        let place = if test == heading { source } else { heading };
        for name in names.split(", ") {
            cases.insert([place, test, name], row.clone());
        }
    }
    cases
}

/// Whether two pages have the same cases and rules, done right or not by the same providers,
/// and the same words about them.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.starts_with(HEAD) && other.starts_with(HEAD) && read(one) == read(other)
}

/// The rules of one source in one test.
fn write_rules(page: &mut String, rows: &[&Compared]) -> std::fmt::Result {
    let all_right = |row: &&Compared| row.answers.iter().all(|a| *a == Answer::Right);
    let (right, rest): (Vec<&Compared>, Vec<&Compared>) = rows.iter().copied().partition(all_right);
    if !rest.is_empty() {
        let [unpatched, builtin, guest_lbr] = PROVIDERS.map(Provider::title);
        table(
            page,
            &["cases", "rule", unpatched, builtin, guest_lbr],
            "20 30 20 20 10",
        )?;
        for group in groups(&rest) {
            let [unpatched, builtin, guest_lbr] = group[0].answers.each_ref().map(cell);
            let rule = escape(&group[0].case.rule);
            row_of(
                page,
                [
                    names(&group).as_str(),
                    &rule,
                    &unpatched,
                    &builtin,
                    &guest_lbr,
                ],
            )?;
        }
        writeln!(page)?;
    }
    if !right.is_empty() {
        writeln!(page, "All three do these:\n")?;
        table(page, &["cases", "rule"], "40 60")?;
        for group in groups(&right) {
            row_of(page, [names(&group).as_str(), &escape(&group[0].case.rule)])?;
        }
        writeln!(page)?;
    }
    Ok(())
}

/// The cases of one machine, test by test.
fn write_tests(page: &mut String, compared: &[Compared]) -> std::fmt::Result {
    for rows in compared.chunk_by(|a, b| a.case.name.0 == b.case.name.0) {
        let test = &rows[0].case.name.0;
        writeln!(page, "{test}\n{}\n", "-".repeat(test.len()))?;
        let mut sources: Vec<&str> = Vec::new();
        for row in rows {
            if !sources.contains(&row.case.source.as_str()) {
                sources.push(&row.case.source);
            }
        }
        for source in sources {
            writeln!(page, "By {}:\n", escape(source))?;
            let rows: Vec<_> = rows.iter().filter(|r| r.case.source == source).collect();
            write_rules(page, &rows)?;
        }
    }
    Ok(())
}

/// The cases of a machine that some provider does right there alone, or not there.
fn write_others(page: &mut String, first: &[Compared], machine: &Machine) -> std::fmt::Result {
    let others: Vec<_> = machine
        .compared()
        .into_iter()
        .filter(|row| {
            let known = first.iter().find(|known| known.case.name == row.case.name);
            known.is_none_or(|known| {
                let mut answers = known.answers.iter().zip(&row.answers);
                answers.any(|(one, other)| discriminant(one) != discriminant(other))
            })
        })
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "{}\n{}\n",
        machine.name,
        "=".repeat(machine.name.len())
    )?;
    writeln!(page, "Where this machine's answers are others:\n")?;
    let [unpatched, builtin, guest_lbr] = PROVIDERS.map(Provider::title);
    table(
        page,
        &["cases", "rule", unpatched, builtin, guest_lbr],
        "20 30 20 20 10",
    )?;
    let others: Vec<_> = others.iter().collect();
    for group in groups(&others) {
        let [unpatched, builtin, guest_lbr] = group[0].answers.each_ref().map(cell);
        let cases = format!("{}: {}", group[0].case.name.0, names(&group));
        let rule = escape(&group[0].case.rule);
        row_of(
            page,
            [cases.as_str(), &rule, &unpatched, &builtin, &guest_lbr],
        )?;
    }
    writeln!(page)
}

/// Writes the page: the first machine's cases, and of the others what is different there.
pub(super) fn page(machines: &[Machine]) -> Result<String, std::fmt::Error> {
    let mut page = String::from(HEAD);
    let [unpatched, builtin, guest_lbr] = PROVIDERS.map(Provider::title);
    table(
        &mut page,
        &["machine", unpatched, builtin, guest_lbr],
        "25 25 25 25",
    )?;
    for machine in machines {
        let compared = machine.compared();
        let [unpatched, builtin, guest_lbr] = PROVIDERS.map(|p| sum_text(machine, &compared, p));
        row(
            &mut page,
            [machine.name.as_str(), &unpatched, &builtin, &guest_lbr],
        )?;
    }
    writeln!(page)?;
    let Some((first, others)) = machines.split_first() else {
        return Ok(page);
    };
    writeln!(page, "{}\n{}\n", first.name, "=".repeat(first.name.len()))?;
    let compared = first.compared();
    write_tests(&mut page, &compared)?;
    for machine in others {
        // Of one that none but guest_lbr gives LBR on, the number says it all.
        let nobody_else = PROVIDERS[..2]
            .iter()
            .all(|p| machine.answers[*p as usize].nothing().is_some());
        if !nobody_else {
            write_others(&mut page, &compared, machine)?;
        }
    }
    Ok(page.trim_end().to_owned() + "\n")
}
