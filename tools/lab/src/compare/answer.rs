// SPDX-License-Identifier: GPL-2.0-only
//! What the providers did by each rule, read from what the behaviour tests printed.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::ktap::{Report, Status, Test};

/// What a provider did by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the rule says.
    Right,
    /// Something else.
    Wrong(String),
    /// The one or the other by chance, and why.
    AtTimes(String),
    /// The rule is about something that is not there.
    Neither(String),
}

/// One case, and what became of it with one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The test and the case.
    pub name: (String, String),
    /// What the case demands.
    pub rule: String,
    /// Who says so.
    pub source: String,
    /// Why the built-in provider is expected to fail.
    pub known: Option<String>,
    /// Why it may fail.
    pub at_times: Option<String>,
    /// What the provider did.
    pub answer: Answer,
}

/// All that one provider did on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The cases in their order.
    pub cases: Vec<Case>,
    /// Tests that have no case here, and why.
    pub skipped: Vec<(String, String)>,
    /// Tests that did not come to their end, and how.
    pub broken: Vec<(String, String)>,
}

/// The longest answer, in characters.
const LONGEST: usize = 200;

static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("0x[0-9a-f]{5,16}").expect("a pattern"));
static FIGURE: LazyLock<Regex> = LazyLock::new(|| {
    let number = "0x[0-9a-f]+|[0-9a-f]*[0-9][0-9a-f]*";
    Regex::new(&format!(r"ADDRESS|\b({number})\b")).expect("a pattern")
});

/// The number of digits that are not alike: an address has many, a mask has few.
fn is_address(number: &str) -> bool {
    let mut digits: Vec<_> = number.bytes().skip(2).collect();
    digits.dedup();
    digits.len() > 4
}

/// One line without what differs from one build to the next.
fn shorten(message: &str) -> String {
    let text = ADDRESS.replace_all(message, |found: &regex::Captures<'_>| {
        let number = found.get(0).map_or("", |number| number.as_str());
        if is_address(number) {
            "ADDRESS".to_owned()
        } else {
            number.to_owned()
        }
    });
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.into_owned(),
    }
}

/// A text in which all figures are alike.
pub fn without_figures(text: &str) -> Cow<'_, str> {
    FIGURE.replace_all(text, "0")
}

/// The value of a diagnostic `# KEY: VALUE` among those of a result.
fn diagnostic<'a>(output: &'a [String], key: &str) -> Option<&'a str> {
    output.iter().rev().find_map(|line| {
        let line = line.strip_prefix("# ")?;
        line.strip_prefix(key)?.strip_prefix(": ")
    })
}

fn case(test: &str, case: &Test) -> Case {
    let say = |key: &str| diagnostic(&case.output, key).unwrap_or_default().to_owned();
    let failure = || match say(&format!("case {}", case.name)) {
        message if message.is_empty() => "it failed, and did not say how".to_owned(),
        message => shorten(&message),
    };
    let answer = match &case.status {
        Status::Passed => Answer::Right,
        Status::Failed => Answer::Wrong(failure()),
        Status::Skipped(why) => Answer::Neither(why.clone()),
    };
    Case {
        name: (test.to_owned(), case.name.clone()),
        rule: say("rule"),
        source: say("source"),
        known: diagnostic(&case.output, "known").map(str::to_owned),
        at_times: diagnostic(&case.output, "at times").map(str::to_owned),
        answer,
    }
}

/// Whether it is a behaviour test, and not what prepares for these.
pub fn is_asked(test: &Test) -> bool {
    test.name.starts_with("lbr_")
}

/// Reads what the behaviour tests printed.
pub fn read(report: &Report) -> Answers {
    let mut answers = Answers::default();
    for test in report.tests.iter().filter(|test| is_asked(test)) {
        let cases = test.children.iter().map(|child| case(&test.name, child));
        answers.cases.extend(cases);
        match &test.status {
            Status::Skipped(why) if test.children.is_empty() => {
                answers.skipped.push((test.name.clone(), why.clone()));
            }
            // 1 is the status of a test of which a case failed.
            Status::Failed => {
                let said = test.output.iter().rev();
                let mut status = said.filter_map(|line| line.split_once(" ended with status "));
                match status.next() {
                    Some((_, "1")) if !test.children.is_empty() => {}
                    Some((_, "137")) => answers
                        .broken
                        .push((test.name.clone(), "it does not end".into())),
                    Some((_, status)) => answers
                        .broken
                        .push((test.name.clone(), format!("it ends with status {status}"))),
                    None => answers
                        .broken
                        .push((test.name.clone(), "nobody knows how it ended".into())),
                }
            }
            _ => {}
        }
    }
    answers
}

impl Answers {
    /// What the provider did by a rule that another was asked about.
    pub fn answer(&self, (test, case): &(String, String)) -> Answer {
        let found = self
            .cases
            .iter()
            .find(|found| found.name.0 == *test && found.name.1 == *case);
        if let Some(found) = found {
            return found.answer.clone();
        }
        let of_test = |list: &[(String, String)]| {
            let found = list.iter().find(|(name, _)| name == test);
            found.map(|(_, why)| why.clone())
        };
        match (of_test(&self.broken), of_test(&self.skipped)) {
            (Some(how), _) => Answer::Wrong(format!("the test says nothing of it: {how}")),
            (None, Some(why)) => Answer::Neither(why),
            (None, None) => Answer::Wrong("the machine stopped before it".into()),
        }
    }

    /// Why the provider answers nothing, if that is so.
    pub fn nothing(&self) -> Option<&str> {
        let first = self.skipped.first().map(|(_, why)| why.as_str());
        let answers = |case: &Case| !matches!(case.answer, Answer::Neither(_));
        first.filter(|_| !self.cases.iter().any(answers) && self.broken.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap;

    const STREAM: &[u8] = b"\
ok 1 kvm_intel loads
    # Subtest: lbr_one
    TAP version 13
    1..5
    # provider Builtin
    # rule: One is so.
    # source: A book
    ok 1 a
    # rule: Two is so.
    # source: A book
    # known: it is not
    # something else: b
    # case b: two is 0x1c9 at 0xffffffff81234567, 17 times
    not ok 2 b
    # rule: Three is so.
    # source: A book
    ok 3 c # SKIP no such thing
    # rule: Four is so.
    # source: Another book
    # case d: four is 0x8000000000000000
    not ok 4 d
# lbr_one ended with status 137
not ok 2 lbr_one
    # Subtest: lbr_two
    TAP version 13
    1..0 # SKIP nobody has it
ok 3 lbr_two
1..3
";

    fn name(test: &str, case: &str) -> (String, String) {
        (test.to_owned(), case.to_owned())
    }

    #[test]
    fn answers_are_what_the_tests_say() {
        let answers = read(&ktap::parse(STREAM));
        let said: Vec<_> = answers
            .cases
            .iter()
            .map(|case| (case.name.1.as_str(), case.answer.clone()))
            .collect();
        let wrong = |text: &str| Answer::Wrong(text.to_owned());
        assert_eq!(
            said,
            [
                ("a", Answer::Right),
                ("b", wrong("two is 0x1c9 at ADDRESS, 17 times")),
                ("c", Answer::Neither("no such thing".into())),
                ("d", wrong("four is 0x8000000000000000")),
            ]
        );
        assert_eq!(answers.cases[1].known.as_deref(), Some("it is not"));
        assert_eq!(answers.cases[2].known, None);
        assert_eq!(answers.cases[3].rule, "Four is so.");
        assert_eq!(answers.cases[3].source, "Another book");
    }

    #[test]
    fn what_is_missing_has_an_answer() {
        let answers = read(&ktap::parse(STREAM));
        let hung = "the test says nothing of it: it does not end";
        for (case, answer) in [
            (name("lbr_one", "a"), Answer::Right),
            (name("lbr_one", "e"), Answer::Wrong(hung.into())),
            (
                name("lbr_two", "a"),
                Answer::Neither("nobody has it".into()),
            ),
            (
                name("lbr_three", "a"),
                Answer::Wrong("the machine stopped before it".into()),
            ),
        ] {
            assert_eq!(answers.answer(&case), answer, "{case:?}");
        }
        assert_eq!(answers.nothing(), None);
        let none = b"    1..0 # SKIP nobody has it\nok 1 lbr_two\n1..1\n";
        assert_eq!(read(&ktap::parse(none)).nothing(), Some("nobody has it"));
    }

    #[test]
    fn a_failed_case_alone_breaks_no_test() {
        let stream = b"    1..1\n    # case a: x\n    not ok 1 a\n# t ended with status 1\n\
                       not ok 1 lbr_one\n1..1\n";
        let answers = read(&ktap::parse(stream));
        assert_eq!(answers.broken, []);
        assert_eq!(answers.cases[0].answer, Answer::Wrong("x".into()));
    }

    #[test]
    fn figures_make_no_difference() {
        for (one, other) in [
            (
                "ran 17.5 % of 0x1c9, 3 times",
                "ran 2.0 % of 0xff, 400 times",
            ),
            ("gave Ok(feff0000) from 0x0", "gave Ok(1) from ADDRESS"),
        ] {
            assert_eq!(without_figures(one), without_figures(other));
        }
        assert_ne!(without_figures("a 1"), without_figures("b 1"));
    }
}
