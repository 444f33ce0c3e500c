// SPDX-License-Identifier: GPL-2.0-only
//! What became of a suite, by what the machine said.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use regex::Regex;

use crate::emulator::End;
use crate::junit;
use crate::ktap::{self, Report, Sum};
use crate::protocol::{self, Transcript};
use crate::splat::{Allow, Splats};

/// What became of a suite.
#[derive(Debug)]
pub struct Outcome {
    /// Suite, machine and kernel, as shown.
    pub title: String,
    /// All results; whatever else went wrong is among its problems.
    pub report: Report,
    /// What came out of the second serial port.
    pub transcript: Transcript,
    /// Faults that the suite allows, with the reasons.
    pub allowed: Vec<(String, String)>,
    /// The emulator's CPU time.
    pub time: Duration,
    /// Where the logs are.
    pub log: PathBuf,
}

impl Outcome {
    /// Numbers of tests; each problem counts as a failed one.
    pub fn sum(&self) -> Sum {
        self.report.sum()
    }

    /// One line with the numbers.
    pub fn summary(&self) -> String {
        format!(
            "{:<40} {:>4} s   {}",
            self.title,
            self.time.as_secs(),
            self.sum()
        )
    }

    /// Failed tests with their diagnostics, problems, skips with reasons.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for test in &self.report.tests {
            test.leaves("", &mut |path, leaf| match &leaf.status {
                ktap::Status::Failed => {
                    for line in last(&leaf.output, 30) {
                        text.push_str(&format!("    {line}\n"));
                    }
                    text.push_str(&format!("  FAILED  {path}\n"));
                }
                ktap::Status::Skipped(reason) => {
                    text.push_str(&format!("  skipped {path}: {reason}\n"));
                }
                ktap::Status::Passed => (),
            });
        }
        if !self.report.problems.is_empty() {
            for line in last(&self.report.trailing, 20) {
                text.push_str(&format!("    {line}\n"));
            }
        }
        for problem in &self.report.problems {
            text.push_str(&format!("  FAILED  {problem}\n"));
        }
        for (line, reason) in &self.allowed {
            text.push_str(&format!("  allowed {line} ({reason})\n"));
        }
        if self.report.problems.len() + self.sum().failed > 0 {
            text.push_str(&format!("  logs: {}\n", self.log.display()));
        }
        text
    }
}

/// What shells say of what they cannot do; initramfs/lib.sh knows it too.
static COMPLAINT: LazyLock<Regex> = LazyLock::new(|| {
    let found = r"^[^ ]+: (line )?([0-9]+: )?[^ ]+: (command )?not found$";
    // A test compiles it.
    Regex::new(&format!(r"^(/lab/lib\.sh|sh): |{found}|: can't execute '"))
        .expect("a constant pattern")
});

/// The most complaints that are shown.
const COMPLAINTS: usize = 5;

/// What shells complained of among the lines that a suite printed: then it did not do what
/// it says.  What it quotes, behind a `#`, it has judged itself.
fn complaints(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut seen = BTreeSet::new();
    text.lines()
        .map(str::trim)
        .filter(|line| COMPLAINT.is_match(line) && seen.insert(line.to_owned()))
        .take(COMPLAINTS)
        .map(|line| format!("a shell complains: {}", line.replace(char::is_control, "")))
        .collect()
}

/// Why a suite without a failure has shown nothing all the same.
fn nothing(report: &Report, transcript: &Transcript) -> Option<String> {
    let sum = report.sum();
    if sum.failed != 0 {
        return None;
    }
    match (sum.passed, transcript.exit) {
        (0, _) => Some(format!("nothing passed: {sum}")),
        (_, Some(0)) => None,
        (_, status) => Some(format!(
            "the suite ended with status {}",
            status.unwrap_or_default()
        )),
    }
}

fn last(lines: &[String], count: usize) -> &[String] {
    &lines[lines.len().saturating_sub(count)..]
}

/// What became of a suite by what the machine said on its two serial ports.
pub(crate) fn judge(
    title: String,
    allow: &[Allow],
    stream: &[u8],
    console: &[u8],
    end: End,
    time: Duration,
    log: PathBuf,
) -> Outcome {
    let transcript = protocol::parse(stream);
    let mut report = ktap::parse(&transcript.text);
    if let End::Failed(mut why) = end {
        if stream.is_empty() {
            // It did not come as far as that; that there are no tests says no more.
            report.problems.clear();
            let line = latest(&[console, b"\n"].concat());
            why += "; nothing came from its userland, and ";
            if line.is_empty() {
                why += "nothing from its kernel";
            } else {
                why += "the console's last line is: ";
                why += &line;
            }
        }
        report.problems.insert(0, why);
    } else if transcript.exit.is_none() {
        report
            .problems
            .insert(0, "the machine went off before the suite's end".into());
    }
    report.problems.extend(transcript.problems.iter().cloned());
    report.problems.extend(complaints(&transcript.text));
    let nothing = nothing(&report, &transcript);
    report.problems.extend(nothing);
    let mut splats = Splats::default();
    splats.scan("host", &String::from_utf8_lossy(console), allow);
    for (name, data) in &transcript.files {
        let source = match name.strip_prefix("console-") {
            Some(guest) => guest,
            None if name == "dmesg" => "host",
            None => continue,
        };
        splats.scan(source, &String::from_utf8_lossy(data), allow);
    }
    let faults = splats
        .found
        .iter()
        .map(|line| format!("kernel fault: {line}"));
    report.problems.extend(faults);
    Outcome {
        title,
        report,
        transcript,
        allowed: splats.allowed,
        time,
        log,
    }
}

/// The last whole line that says something.
pub fn latest(stream: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stream[stream.len().saturating_sub(400)..]).into_owned();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .rsplit('\n')
        .map(|line| line.replace(char::is_control, "").trim().to_owned())
        .find(|line| !line.is_empty())
        .unwrap_or_default()
}

/// Writes artifacts, results and JUnit into the log folder.
///
/// # Errors
///
/// If that fails.
pub fn save(outcome: &Outcome) -> Result<()> {
    let write = |name: &str, data: &[u8]| {
        let path = outcome.log.join(name);
        fs::write(&path, data).with_context(|| format!("writing {}", path.display()))
    };
    write("results.ktap", &outcome.transcript.text)?;
    for (name, data) in &outcome.transcript.files {
        write(name, data)?;
    }
    write("junit.xml", junit::write(&[outcome])?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(stream: &[u8], console: &[u8], end: End) -> Outcome {
        judge(
            "t".into(),
            &[],
            stream,
            console,
            end,
            Duration::ZERO,
            "log".into(),
        )
    }

    const GOOD: &[u8] = b"ok 1 a\nok 2 b\n1..2\n@exit 0\n";
    /// No text in any encoding, and no line.
    const NOISE: &[u8] = b"\xff\xfe\0\x1b[7m\x80\x07";

    #[test]
    fn a_suite_that_came_to_its_end_succeeds() {
        assert!(judged(GOOD, b"", End::PowerOff).sum().is_success());
    }

    #[test]
    fn a_kernel_that_comes_to_no_init_is_told_by_its_last_line() {
        let console = [NOISE, b"\n[1.0] one\n[2.0] two\n", NOISE].concat();
        let outcome = judged(b"", &console, End::Failed("hangs".into()));
        assert!(!outcome.sum().is_success());
        let details = outcome.details();
        let line = details.lines().find(|line| line.contains("FAILED  hangs"));
        assert!(
            line.is_some_and(|line| line.contains("nothing came from its userland")),
            "{details}"
        );
        for end in ["", "\n", "\r\n\r\n"] {
            let console = format!("[1.0] one\n[2.0] two{end}");
            let outcome = judged(b"", console.as_bytes(), End::Failed("hangs".into()));
            assert_eq!(
                outcome.report.problems,
                [
                    "hangs; nothing came from its userland, and the console's last line is: \
                     [2.0] two"
                ]
            );
        }
    }

    #[test]
    fn a_kernel_that_says_nothing_is_told_by_that() {
        let outcome = judged(b"", b"\r\n", End::Failed("hangs".into()));
        assert_eq!(
            outcome.report.problems,
            ["hangs; nothing came from its userland, and nothing from its kernel"]
        );
    }

    #[test]
    fn no_line_of_the_machine_moves_the_cursor() {
        assert_eq!(latest(b"one\n\x1b[2Jt\rwo\x07\n"), "[2Jtwo");
    }

    #[test]
    fn a_suite_that_hangs_fails_by_that_alone() {
        let outcome = judged(b"ok 1 a\nok 2 b\n1..2\n", b"", End::Failed("late".into()));
        assert_eq!(outcome.sum().failed, 1);
        assert_eq!(outcome.report.problems, ["late"]);
    }

    #[test]
    fn a_machine_that_went_off_early_fails() {
        let outcome = judged(b"ok 1 a\n1..1\n", b"", End::PowerOff);
        assert!(outcome.details().contains("before the suite's end"));
        assert!(!outcome.sum().is_success());
    }

    #[test]
    fn a_suite_that_skips_all_fails() {
        for stream in [
            &b"ok 1 a # SKIP why\nok 2 b # SKIP why\n1..2\n@exit 0\n"[..],
            b"1..0 # SKIP why\n@exit 0\n",
        ] {
            let outcome = judged(stream, b"", End::PowerOff);
            assert!(!outcome.sum().is_success());
            assert_eq!(outcome.report.problems.len(), 1);
            let details = outcome.details();
            assert!(details.contains("FAILED  nothing passed: 0 passed, 0 failed, "));
        }
    }

    #[test]
    fn a_suite_that_ends_badly_fails() {
        let outcome = judged(b"ok 1 a\n1..1\n@exit 3\n", b"", End::PowerOff);
        assert_eq!(outcome.report.problems, ["the suite ended with status 3"]);
    }

    #[test]
    fn a_shell_that_complains_fails() {
        let in_shell = COMPLAINT.as_str().replace('$', r"\$");
        let library = include_str!("../initramfs/lib.sh");
        assert!(library.contains(&format!("lab_complaint=\"{in_shell}\"\n")));
        for line in [
            "/lab/lib.sh: /tmp/x.sh: line 3: chek_same: not found",
            "/lab/lib.sh: 3: /tmp/x.sh: chek_same: not found",
            "/lab/lib.sh: /tmp/x.sh: line 3: can't create /sys/x: Permission denied",
            "    sh: dmseg: not found",
            "sh: syntax error: unexpected end of file (expecting \"fi\")",
            "/bin/profile: line 7: prf: not found",
            "bash: line 1: prf: command not found",
            "timeout: can't execute 'nosuch': No such file or directory",
        ] {
            let stream = [GOOD, line.as_bytes(), b"\n", line.as_bytes(), b"\n"].concat();
            let outcome = judged(&stream, b"", End::PowerOff);
            let problem = format!("a shell complains: {}", line.trim());
            assert_eq!(outcome.report.problems, [problem]);
        }
        for line in [
            "# sh: dmseg: not found",
            "#   sh: line 1: python: not found",
            "modprobe: FATAL: Module guest_lbr not found in directory /lib/modules/6.12",
            "insmod: can't insert '/x.ko': unknown symbol in module, or unknown parameter",
        ] {
            let stream = [GOOD, line.as_bytes(), b"\n"].concat();
            assert!(judged(&stream, b"", End::PowerOff).sum().is_success());
        }
        let many: String = (0..99)
            .map(|n| format!("sh: nosuch{n}: not found\n"))
            .collect();
        let outcome = judged(&[GOOD, many.as_bytes()].concat(), b"", End::PowerOff);
        assert_eq!(outcome.report.problems.len(), COMPLAINTS);
    }

    #[test]
    fn a_file_that_is_cut_off_fails() {
        let outcome = judged(&[b"@file x 99\n", GOOD].concat(), b"", End::PowerOff);
        assert_eq!(outcome.report.problems, ["file x is damaged or cut off"]);
        assert!(!outcome.sum().is_success());
    }

    #[test]
    fn noise_between_lines_changes_no_result() {
        let stream = [NOISE, b"\n", GOOD].concat();
        let outcome = judged(&stream, NOISE, End::PowerOff);
        assert_eq!((outcome.sum().passed, outcome.sum().failed), (2, 0));
        let console = [NOISE, b"\n[1.0] BUG: bad page\n", NOISE].concat();
        let outcome = judged(GOOD, &console, End::PowerOff);
        assert!(outcome
            .details()
            .contains("kernel fault: host: [1.0] BUG: bad page"));
    }

    #[test]
    fn noise_in_a_result_fails() {
        // Noise in a name is part of the name.
        for at in (0..GOOD.len()).filter(|&at| !b"ab".contains(&GOOD[at])) {
            let stream = [&GOOD[..at], NOISE, &GOOD[at + 1..]].concat();
            let outcome = judged(&stream, b"", End::PowerOff);
            let details = outcome.details();
            assert!(!outcome.sum().is_success(), "byte {at}: {details}");
        }
    }
}
