// SPDX-License-Identifier: GPL-2.0-only
//! Streams as they come, good and bad, and what must be made of them.

use super::*;
use proptest::prelude::*;

fn sum(passed: usize, failed: usize, skipped: usize) -> Sum {
    Sum {
        passed,
        failed,
        skipped,
    }
}

#[test]
fn streams_and_their_sums() {
    let table: &[(&str, &str, Sum, &[&str])] = &[
        ("plain", "TAP version 13\n1..2\nok 1 a\nok 2 - b\n", sum(2, 0, 0), &[]),
        ("plan at the end", "ok 1 a\nnot ok 2 b\n1..2\n", sum(1, 1, 0), &[]),
        ("carriage returns", "1..1\r\nok 1 a\r\n", sum(1, 0, 0), &[]),
        (
            "nested",
            "KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: s\n  1..2\n  ok 1 a\n  ok 2 b\n\
             ok 1 s\nok 2 t\n",
            sum(3, 0, 0),
            &[],
        ),
        (
            "nested twice",
            "1..1\n    # Subtest: s\n    1..1\n        # Subtest: u\n        1..1\n        ok 1 a\n    \
             ok 1 u\nok 1 s\n",
            sum(1, 0, 0),
            &[],
        ),
        (
            "failed child and parent count once",
            "1..1\n  1..2\n  ok 1 a\n  not ok 2 b\nnot ok 1 s\n",
            sum(1, 1, 0),
            &[],
        ),
        (
            "parent failed for a reason of its own",
            "1..1\n  1..1\n  ok 1 a\nnot ok 1 s\n",
            sum(1, 1, 0),
            &[],
        ),
        (
            "parent hides a failed child",
            "1..1\n  1..1\n  not ok 1 a\nok 1 s\n",
            sum(0, 2, 0),
            &["s: reported ok, but a test in it failed"],
        ),
        (
            "skip with and without a reason",
            "1..2\nok 1 a # SKIP no hardware\nok 2 b # SKIP\n",
            sum(0, 1, 2),
            &["b: skipped without a reason"],
        ),
        (
            "expected failures, and one that passed",
            "1..3\nok 1 a # XFAIL known\nnot ok 2 b # XFAIL known\nok 3 c # TODO done\n",
            sum(1, 0, 2),
            &[],
        ),
        (
            "expected failure",
            "1..1\nnot ok 1 a # TODO later\n",
            sum(0, 0, 1),
            &[],
        ),
        (
            "a hash in a name is no directive",
            "1..1\nok 1 vector #GP raised\n",
            sum(1, 0, 0),
            &[],
        ),
        ("timeout", "1..1\nok 1 a # TIMEOUT 45 seconds\n", sum(0, 1, 0), &[]),
        ("all skipped", "TAP version 13\n1..0 # SKIP no KVM\n", sum(0, 0, 1), &[]),
        (
            "subtest all skipped",
            "1..1\n    # Subtest: s\n    1..0 # SKIP no KVM\nok 1 s\n",
            sum(0, 0, 1),
            &[],
        ),
        ("nothing", "", sum(0, 1, 0), &["no test ran"]),
        ("no test", "1..0\n", sum(0, 1, 0), &["no test ran"]),
        (
            "subtest without a test",
            "1..1\n    # Subtest: s\nok 1 s\n",
            sum(1, 1, 0),
            &["s: no test ran"],
        ),
        (
            "subtest with a plan of nothing",
            "1..1\n    1..0\nok 1 s\n",
            sum(1, 1, 0),
            &["s: no test ran"],
        ),
        (
            "subtest of a subtest without a test",
            "1..1\n    # Subtest: s\n    1..1\n        1..0\n    ok 1 u\nok 1 s\n",
            sum(1, 1, 0),
            &["u: no test ran"],
        ),
        (
            "subtest without a plan",
            "1..1\n    # Subtest: s\n    ok 1 a\nok 1 s\n",
            sum(1, 1, 0),
            &["s: no plan"],
        ),
        (
            "some skipped by the plan",
            "1..3 # SKIP no KVM\nok 1 a\n",
            sum(1, 1, 0),
            &["3 tests planned, 1 ran"],
        ),
        (
            "all skipped by the plan, but one that ran",
            "ok 1 a\n1..0 # SKIP no KVM\n",
            sum(1, 1, 0),
            &["0 tests planned, 1 ran"],
        ),
        (
            "cut off after a test",
            "1..3\nok 1 a\nok 2 b\nok",
            sum(2, 1, 0),
            &["3 tests planned, 2 ran"],
        ),
        (
            "cut off in a subtest",
            "1..1\n    # Subtest: s\n    1..2\n    ok 1 a\n",
            sum(1, 2, 0),
            &["s: 2 tests planned, 1 ran", "ends inside a subtest"],
        ),
        ("no plan", "ok 1 a\n", sum(1, 1, 0), &["no plan"]),
        (
            "two plans",
            "1..1\nok 1 a\n1..1\n",
            sum(1, 1, 0),
            &["second plan"],
        ),
        (
            "a number is missing",
            "1..2\nok 1 a\nok 3 c\n",
            sum(2, 1, 0),
            &["c: result number 3 where 2 was due"],
        ),
        (
            "a gap is one fault",
            "1..3\nok 1 a\nok 3 c\nok 4 d\n",
            sum(3, 1, 0),
            &["c: result number 3 where 2 was due"],
        ),
        (
            "a test runs twice",
            "1..2\nok 1 a\nok 1 a\n",
            sum(2, 1, 0),
            &["result number 1 where 2 was due"],
        ),
        (
            "bail out",
            "1..1\nok 1 a\nBail out! no memory\n",
            sum(1, 1, 0),
            &["bail out: no memory"],
        ),
        (
            "noise",
            "\0\0\u{1b}[1;31m1..2\nok then, prose\nokay 1\n\u{7}ok 1 a\x1b[0m\n\0not ok 2 b\n",
            sum(1, 1, 0),
            &[],
        ),
        ("failure without a number", "1..1\nnot ok\n", sum(0, 1, 0), &[]),
    ];
    for (what, stream, expected, problems) in table {
        let report = parse(stream.as_bytes());
        assert_eq!(report.sum(), *expected, "{what}: {report:#?}");
        assert_eq!(report.problems.len(), problems.len(), "{what}: {report:#?}");
        for (problem, part) in report.problems.iter().zip(*problems) {
            assert!(problem.contains(part), "{what}: {problem}");
        }
    }
}

#[test]
fn success_is_that_something_passed() {
    for (stream, success) in [
        ("1..2\nok 1 a\nok 2 b # SKIP why\n", true),
        ("1..1\nok 1 a # SKIP why\n", false),
        ("1..0 # SKIP why\n", false),
        ("1..1\nnot ok 1 a # TODO why\n", false),
    ] {
        let report = parse(stream.as_bytes());
        assert_eq!(report.sum().is_success(), success, "{stream}");
    }
}

#[test]
fn output_belongs_to_the_next_result() {
    let report = parse(b"1..2\nhello\n# why\nnot ok 1 a\nok 2 b\nbye\n");
    assert_eq!(report.tests[0].output, ["hello", "# why"]);
    assert!(report.tests[1].output.is_empty());
    assert_eq!(report.trailing, ["bye"]);
}

#[test]
fn bytes_that_are_no_text_lose_no_result() {
    let report = parse(b"1..1\n\xff\xfe\x80junk\n\xc3ok 1 a\n");
    assert_eq!(report.sum(), sum(1, 0, 0));
}

#[test]
fn leaves_carry_their_path() {
    let report = parse(b"1..1\n  1..1\n    1..1\n    not ok 1 c\n  not ok 1 b\nnot ok 1 a\n");
    let mut paths = Vec::new();
    report.tests[0].leaves("", &mut |path, _| paths.push(path.to_owned()));
    assert_eq!(paths, ["a: b: c"]);
}

/// A tree of tests, written as a producer would.
fn tree() -> impl Strategy<Value = Vec<Test>> {
    let status = prop_oneof![
        Just(Status::Passed),
        Just(Status::Failed),
        "[a-z]{1,8}".prop_map(Status::Skipped)
    ];
    let leaf = ("[a-z][a-z ]{0,10}[a-z]", status).prop_map(|(name, status)| Test {
        name,
        status,
        output: Vec::new(),
        children: Vec::new(),
    });
    let node = leaf.prop_recursive(3, 30, 5, |inner| {
        ("[a-z]{1,8}", prop::collection::vec(inner, 1..5)).prop_map(|(name, children)| Test {
            status: if children.iter().any(Test::failed) {
                Status::Failed
            } else {
                Status::Passed
            },
            name,
            output: Vec::new(),
            children,
        })
    });
    prop::collection::vec(node, 1..6)
}

fn write(tests: &[Test], indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    out.push_str(&format!("{pad}1..{}\n", tests.len()));
    for (index, test) in tests.iter().enumerate() {
        if !test.children.is_empty() {
            out.push_str(&format!("{pad}    # Subtest: {}\n", test.name));
            write(&test.children, indent + 4, out);
        }
        let verdict = if test.status == Status::Failed {
            "not ok"
        } else {
            "ok"
        };
        let skip = match &test.status {
            Status::Skipped(reason) => format!(" # SKIP {reason}"),
            _ => String::new(),
        };
        out.push_str(&format!(
            "{pad}{verdict} {} {}{skip}\n",
            index + 1,
            test.name
        ));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(tests in tree()) {
        let mut stream = String::new();
        write(&tests, 0, &mut stream);
        let report = parse(stream.as_bytes());
        prop_assert_eq!(report.problems, Vec::<String>::new());
        prop_assert_eq!(report.tests, tests);
    }

    #[test]
    fn a_stream_cut_short_is_no_success(tests in tree(), keep in 0.0..1.0f64) {
        let mut stream = String::new();
        write(&tests, 0, &mut stream);
        let lines: Vec<_> = stream.lines().collect();
        let kept = (lines.len() as f64 * keep) as usize;
        let report = parse(lines[..kept].join("\n").as_bytes());
        prop_assert!(!report.sum().is_success());
    }

    #[test]
    fn no_stream_is_too_odd(stream in prop::collection::vec(any::<u8>(), 0..400)) {
        parse(&stream);
    }

    #[test]
    fn no_text_is_too_odd(stream in "(( {0,8})(ok|not ok|1\\.\\.|# Subtest:|Bail out!|#)?[ 0-9a-z#-]{0,9}\n){0,30}") {
        parse(stream.as_bytes());
    }
}
