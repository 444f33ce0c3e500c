// SPDX-License-Identifier: GPL-2.0-only
//! Writes outcomes as JUnit XML, for CI systems.

use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::ktap::Status;
use crate::outcome::Outcome;

fn failure(message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message);
    status
}

/// One report with a test suite for each outcome.
///
/// # Errors
///
/// If a name cannot be written as XML.
pub fn write(outcomes: &[&Outcome]) -> Result<String> {
    let mut report = Report::new("lab");
    for outcome in outcomes {
        let mut suite = TestSuite::new(outcome.title.as_str());
        suite.set_time(outcome.time);
        for test in &outcome.report.tests {
            test.leaves("", &mut |path, leaf| {
                let status = match &leaf.status {
                    Status::Passed => TestCaseStatus::success(),
                    Status::Failed => failure(&leaf.output.join("\n")),
                    Status::Skipped(reason) => {
                        let mut status = TestCaseStatus::skipped();
                        status.set_message(reason.as_str());
                        status
                    }
                };
                suite.add_test_case(TestCase::new(path, status));
            });
        }
        for problem in &outcome.report.problems {
            suite.add_test_case(TestCase::new(problem.as_str(), failure(problem)));
        }
        report.add_test_suite(suite);
    }
    Ok(report.to_string()?)
}
