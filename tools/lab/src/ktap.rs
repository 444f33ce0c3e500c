// SPDX-License-Identifier: GPL-2.0-only
//! Reads test results in KTAP (and plain TAP) out of a stream that may hold
//! anything else: program output, binary noise, a sudden end.
//!
//! Source: the kernel's dev-tools/ktap documentation and TAP 13.  What a
//! well-behaved producer never does (a plan that is not kept, numbers out of
//! order, an `ok` parent of a failed child) is collected as a problem, because
//! each of these can hide a test that did not run.

use std::fmt;

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not run, or was expected to fail; with the reason.
    Skipped(String),
}

/// One result line and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The description on the result line.
    pub name: String,
    /// The verdict of the line itself.
    pub status: Status,
    /// Other lines since the result before, without their indentation.
    pub output: Vec<String>,
    /// Nested results.
    pub children: Vec<Test>,
}

/// Everything found in one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Top-level tests in order.
    pub tests: Vec<Test>,
    /// Breaches of the format, each one a reason not to trust the stream.
    pub problems: Vec<String>,
    /// Lines after the last result.
    pub trailing: Vec<String>,
}

/// Numbers of leaf tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and problems.
    pub failed: usize,
    /// Tests that were skipped with a reason.
    pub skipped: usize,
}

impl Sum {
    /// Whether something passed and nothing failed.
    pub fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl Test {
    /// Whether this test or one below it failed.
    pub fn failed(&self) -> bool {
        self.status == Status::Failed || self.children.iter().any(Test::failed)
    }

    /// Calls `visit` with the path of each leaf and the leaf.  A parent that
    /// failed though no child did is a leaf in this sense.
    pub fn leaves<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, &'a Test)) {
        let path = if path.is_empty() {
            self.name.clone()
        } else {
            format!("{path}: {}", self.name)
        };
        for child in &self.children {
            child.leaves(&path, visit);
        }
        let alone = self.status == Status::Failed && !self.children.iter().any(Test::failed);
        if self.children.is_empty() || alone {
            visit(&path, self);
        }
    }
}

impl Report {
    /// Counts leaf tests; each problem counts as a failure.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum {
            failed: self.problems.len(),
            ..Sum::default()
        };
        for test in &self.tests {
            test.leaves("", &mut |_, leaf| match leaf.status {
                Status::Passed => sum.passed += 1,
                Status::Failed => sum.failed += 1,
                Status::Skipped(_) => sum.skipped += 1,
            });
        }
        sum
    }
}

/// What one line says, its indentation taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Version,
    /// The number of tests; none of them with a reason if all are skipped.
    Plan(usize, Option<String>),
    Subtest(String),
    Result {
        number: Option<usize>,
        name: String,
        status: Status,
        /// A skip that gives no reason.
        unexplained: bool,
    },
    BailOut(String),
    Other,
}

/// Splits `text` at the first ` # ` or at a leading `# ` and gives the
/// directive, upper case, with its argument.
fn directive(text: &str) -> (&str, Option<(String, String)>) {
    let known = ["SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"];
    for (at, _) in text.match_indices('#') {
        if at > 0 && !text[..at].ends_with(char::is_whitespace) {
            continue;
        }
        let rest = text[at + 1..].trim();
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let word = rest[..end].to_ascii_uppercase();
        // "skipped" is what some producers write.
        let word = if word == "SKIPPED" {
            "SKIP".into()
        } else {
            word
        };
        if known.contains(&word.as_str()) {
            let reason = rest[end..].trim_start_matches([':', ' ']).trim();
            return (text[..at].trim_end(), Some((word, reason.to_owned())));
        }
    }
    (text, None)
}

fn result(passed: bool, rest: &str) -> Option<Line> {
    // "okay" is not a result line.
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let rest = rest.trim();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, text) = match rest[..digits].parse() {
        Ok(number) if rest[digits..].is_empty() || rest[digits..].starts_with(' ') => {
            (Some(number), rest[digits..].trim_start())
        }
        _ => (None, rest),
    };
    // Prose may start with "ok"; a result says which one it is.  A failure is
    // believed anyway.
    if passed && number.is_none() {
        return None;
    }
    let text = match text.strip_prefix('-') {
        Some(after) if after.is_empty() || after.starts_with(' ') => after.trim_start(),
        _ => text,
    };
    let (name, directive) = directive(text);
    let mut unexplained = false;
    let status = match directive {
        Some((word, reason)) if word == "SKIP" => {
            unexplained = reason.is_empty();
            Status::Skipped(reason)
        }
        // The kernel's selftests say "ok" and XFAIL of what failed as expected.
        Some((word, reason)) if word == "XFAIL" || (word == "TODO" && !passed) => {
            unexplained = reason.is_empty();
            Status::Skipped(format!("expected to fail: {reason}"))
        }
        Some((word, _)) if word == "TIMEOUT" || word == "ERROR" => Status::Failed,
        _ if passed => Status::Passed,
        _ => Status::Failed,
    };
    Some(Line::Result {
        number,
        name: name.to_owned(),
        status,
        unexplained,
    })
}

fn classify(text: &str) -> Line {
    if let Some(rest) = text.strip_prefix("ok") {
        return result(true, rest).unwrap_or(Line::Other);
    }
    if let Some(rest) = text.strip_prefix("not ok") {
        return result(false, rest).unwrap_or(Line::Other);
    }
    if let Some(rest) = text.strip_prefix("1..") {
        let (count, directive) = directive(rest);
        return match (count.trim().parse(), directive) {
            (Ok(0), Some((word, reason))) if word == "SKIP" => Line::Plan(0, Some(reason)),
            (Ok(count), _) => Line::Plan(count, None),
            _ => Line::Other,
        };
    }
    if let Some(rest) = text.strip_prefix("Bail out!") {
        return Line::BailOut(rest.trim().to_owned());
    }
    let version = text
        .strip_prefix("KTAP version ")
        .or_else(|| text.strip_prefix("TAP version "));
    if version.is_some_and(|v| v.trim().parse::<u32>().is_ok()) {
        return Line::Version;
    }
    match text.strip_prefix("# Subtest:") {
        Some(name) => Line::Subtest(name.trim().to_owned()),
        None => Line::Other,
    }
}

/// Results at one indentation that wait for their parent's line.
#[derive(Debug, Default)]
struct Level {
    indent: usize,
    name: Option<String>,
    plan: Option<usize>,
    all_skipped: Option<String>,
    tests: Vec<Test>,
    /// The number of the last result.
    number: usize,
}

#[derive(Default)]
struct Parser {
    /// From the outermost inwards; the first is the top level.
    levels: Vec<Level>,
    output: Vec<String>,
    problems: Vec<String>,
}

impl Parser {
    fn place(level: &Level) -> String {
        match &level.name {
            Some(name) => format!("{name}: "),
            None => String::new(),
        }
    }

    /// Checks a finished level against its plan.
    fn close(&mut self, level: &Level) {
        let place = Self::place(level);
        let ran = level.tests.len();
        match level.plan {
            Some(plan) if plan != ran => self
                .problems
                .push(format!("{place}{plan} tests planned, {ran} ran")),
            None if ran != 0 => self.problems.push(format!("{place}no plan (cut off?)")),
            _ if ran == 0 && level.all_skipped.is_none() => {
                self.problems.push(format!("{place}no test ran"));
            }
            _ => (),
        }
    }

    /// The level for lines at `indent`.
    fn level(&mut self, indent: usize) -> &mut Level {
        let at = self.levels.partition_point(|level| level.indent < indent);
        if self
            .levels
            .get(at)
            .is_none_or(|level| level.indent != indent)
        {
            let level = Level {
                indent,
                ..Level::default()
            };
            self.levels.insert(at, level);
        }
        &mut self.levels[at]
    }

    /// Takes all levels deeper than `indent` and gives them, innermost folded
    /// into the next, as children for the result `parent` at `indent`.
    fn fold(&mut self, indent: usize, parent: &str) -> (Vec<Test>, Option<String>) {
        let mut children = Vec::new();
        let mut skipped = None;
        while self.levels.last().is_some_and(|last| last.indent > indent) {
            let Some(mut level) = self.levels.pop() else {
                break;
            };
            level.name.get_or_insert_with(|| parent.to_owned());
            self.close(&level);
            skipped = level.all_skipped.take();
            // Results without a parent of their own join the next level out.
            level.tests.append(&mut children);
            children = level.tests;
        }
        (children, skipped)
    }

    fn line(&mut self, raw: &str) {
        let text = raw.trim_start_matches(' ');
        let indent = raw.len() - text.len();
        match classify(text) {
            Line::Version => (),
            Line::Plan(count, skip) => {
                let level = self.level(indent);
                if level.plan.is_some() {
                    let problem = format!("{}second plan 1..{count}", Self::place(level));
                    self.problems.push(problem);
                    return;
                }
                level.plan = Some(count);
                level.all_skipped = skip.clone();
                if skip.is_some_and(|reason| reason.is_empty()) {
                    self.problems
                        .push("all tests skipped without a reason".into());
                }
            }
            Line::Subtest(name) => {
                // KTAP announces among the nested lines; others may at the
                // parent's indentation, where there is nothing to name.
                let level = self.level(indent);
                if indent > 0 && level.name.is_none() && level.tests.is_empty() {
                    level.name = Some(name);
                }
            }
            Line::BailOut(why) => self.problems.push(format!("bail out: {why}")),
            Line::Result {
                number,
                name,
                mut status,
                unexplained,
            } => {
                let (children, skipped) = self.fold(indent, &name);
                if let (Status::Passed, Some(reason)) = (&status, skipped) {
                    status = Status::Skipped(reason);
                }
                if unexplained {
                    self.problems
                        .push(format!("{name}: skipped without a reason"));
                }
                if status == Status::Passed && children.iter().any(Test::failed) {
                    self.problems
                        .push(format!("{name}: reported ok, but a test in it failed"));
                }
                let output = std::mem::take(&mut self.output);
                let level = self.level(indent);
                let expected = level.number.saturating_add(1);
                let number = number.unwrap_or(expected);
                level.number = number;
                if number != expected {
                    let problem = format!(
                        "{}{name}: result number {number} where {expected} was due",
                        Self::place(level),
                    );
                    self.problems.push(problem);
                }
                self.level(indent).tests.push(Test {
                    name,
                    status,
                    output,
                    children,
                });
            }
            Line::Other if text.is_empty() => (),
            Line::Other => self.output.push(text.to_owned()),
        }
    }

    fn finish(mut self) -> Report {
        let (orphans, _) = self.fold(0, "the last subtest");
        let mut top = self.levels.pop().unwrap_or_default();
        if !orphans.is_empty() {
            self.problems
                .push("the stream ends inside a subtest (cut off?)".into());
        }
        top.tests.extend(orphans);
        self.close(&top);
        if let Some(reason) = top.all_skipped.take().filter(|_| top.tests.is_empty()) {
            top.tests.push(Test {
                name: "all".into(),
                status: Status::Skipped(reason),
                output: Vec::new(),
                children: Vec::new(),
            });
        }
        Report {
            tests: top.tests,
            problems: self.problems,
            trailing: self.output,
        }
    }
}

/// Removes terminal escapes and control characters, which noise on a serial line
/// puts in front of good text; tabs become spaces.
fn clean(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.clone().next() == Some('[') {
                    // Through the final byte of the sequence.
                    for c in chars.by_ref().skip(1) {
                        if ('@'..='~').contains(&c) {
                            break;
                        }
                    }
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() || c == char::REPLACEMENT_CHARACTER => (),
            c => out.push(c),
        }
    }
    out
}

/// Reads a whole stream.
pub fn parse(stream: &[u8]) -> Report {
    let text = String::from_utf8_lossy(stream);
    let mut parser = Parser::default();
    for line in text.split('\n') {
        parser.line(clean(line).trim_end());
    }
    parser.finish()
}

#[cfg(test)]
mod tests;
