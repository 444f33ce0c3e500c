// SPDX-License-Identifier: GPL-2.0-only
//! Reads what `cargo test` prints.

use std::collections::BTreeMap;

use crate::ktap::{Report, Status, Test};

/// The verdict in `test NAME ... VERDICT`, with the reason of an ignored test.
fn status(verdict: &str) -> Option<Status> {
    let verdict = verdict.trim();
    match verdict {
        "ok" => Some(Status::Passed),
        "FAILED" => Some(Status::Failed),
        _ => {
            let reason = verdict.strip_prefix("ignored")?;
            Some(Status::Skipped(
                reason.trim_start_matches(',').trim().to_owned(),
            ))
        }
    }
}

/// Makes a report of the output; every test is at the top level.
pub fn parse(output: &[u8]) -> Report {
    let text = String::from_utf8_lossy(output);
    let mut report = Report::default();
    let mut details: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut section = None;
    let mut finished = 0;
    let mut announced = 0;
    for line in text.lines() {
        if let Some(count) = line.strip_prefix("running ") {
            let count = count.split(' ').next().and_then(|n| n.parse().ok());
            announced += count.unwrap_or(0);
        } else if let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            let Some(status) = status(verdict) else {
                continue;
            };
            if status == Status::Skipped(String::new()) {
                report
                    .problems
                    .push(format!("{name}: ignored without a reason"));
            }
            report.tests.push(Test {
                name: name.to_owned(),
                status,
                output: Vec::new(),
                children: Vec::new(),
            });
        } else if let Some(name) = line.strip_prefix("---- ") {
            section = name.split_whitespace().next().map(str::to_owned);
        } else if line.starts_with("failures:") || line.starts_with("test result:") {
            section = None;
            finished += usize::from(line.starts_with("test result:"));
        } else if let Some(name) = &section {
            details
                .entry(name.clone())
                .or_default()
                .push(line.to_owned());
        }
    }
    for test in &mut report.tests {
        if test.status == Status::Failed {
            test.output = details.remove(&test.name).unwrap_or_default();
        }
    }
    if finished == 0 || report.tests.is_empty() {
        report.problems.push("no test ran".into());
    } else if announced != report.tests.len() {
        // A test may end its program, with success.
        report.problems.push(format!(
            "{announced} tests announced, {} ran",
            report.tests.len()
        ));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap::Sum;

    #[test]
    fn verdicts_reasons_and_details_are_read() {
        let report = parse(
            b"\nrunning 3 tests\ntest a::b ... ok\ntest c ... ignored, needs hardware\n\
              test d - should panic ... FAILED\n\nfailures:\n\n---- d stdout ----\n\
              assertion failed\n\nfailures:\n    d\n\ntest result: FAILED. 1 passed; 1 failed\n",
        );
        let sum = Sum {
            passed: 1,
            failed: 1,
            skipped: 1,
        };
        assert_eq!(report.sum(), sum);
        assert_eq!(
            report.tests[1].status,
            Status::Skipped("needs hardware".into())
        );
        assert!(report.problems.is_empty());
    }

    #[test]
    fn a_failed_test_shows_its_output() {
        let report = parse(
            b"running 1 test\ntest d ... FAILED\n\nfailures:\n\n---- d stdout ----\nassertion failed\n\
              left: 1\n\nfailures:\n    d\n\ntest result: FAILED.\n",
        );
        assert_eq!(report.tests[0].output[..2], ["assertion failed", "left: 1"]);
    }

    #[test]
    fn a_program_that_ends_early_is_a_failure() {
        let report = parse(
            b"running 1 test\ntest a ... ok\n\ntest result: ok.\n\nrunning 2 tests\n\
              test b ... ok\nrunning 0 tests\n\ntest result: ok.\n",
        );
        assert_eq!(report.problems, ["3 tests announced, 2 ran"]);
    }

    #[test]
    fn nothing_run_is_a_failure() {
        for text in ["", "error: could not compile\n", "test a ... ok\n"] {
            assert!(!parse(text.as_bytes()).sum().is_success(), "{text}");
        }
        let silent = parse(b"test a ... ignored\ntest result: ok.\n");
        assert!(!silent.sum().is_success());
    }
}
