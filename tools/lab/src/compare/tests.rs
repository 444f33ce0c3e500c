// SPDX-License-Identifier: GPL-2.0-only
//! Three providers, of which two are wrong at times.

use super::*;

fn case(test: &str, name: &str, rule: &str, known: bool, answer: Answer) -> Case {
    Case {
        name: (test.into(), name.into()),
        rule: rule.into(),
        source: "A book".into(),
        known: known.then(|| "for a reason".into()),
        at_times: None,
        answer,
    }
}

fn wrong(how: &str) -> Answer {
    Answer::Wrong(how.into())
}

/// Name, rule, mark, and what the providers do.
type Row<'a> = (&'a str, &'a str, bool, [Answer; 3]);

fn machine(name: &str, rows: &[Row<'_>]) -> Machine {
    let answers = [0, 1, 2].map(|provider| Answers {
        cases: rows
            .iter()
            .map(|(name, rule, known, answers)| {
                case("lbr_a", name, rule, *known, answers[provider].clone())
            })
            .collect(),
        ..Answers::default()
    });
    Machine {
        name: name.into(),
        answers,
    }
}

const RIGHT: [Answer; 3] = [Answer::Right, Answer::Right, Answer::Right];

fn failed(tests: &[Test]) -> Vec<&str> {
    let failed = tests.iter().filter(|test| test.status == Status::Failed);
    failed.flat_map(|t| &t.output).map(String::as_str).collect()
}

#[test]
fn guest_lbr_must_do_all() {
    let good = machine("m", &[("one", "One_.", false, RIGHT)]);
    assert_eq!(failed(&judge(&good)), [""; 0]);
    let answers = [Answer::Right, Answer::Right, wrong("it is 0x2")];
    let bad = machine("m", &[("one", "One.", true, answers)]);
    assert_eq!(failed(&judge(&bad)), ["lbr_a, one: it is 0x2"]);
    let nothing = machine("m", &[]);
    let tests = judge(&nothing);
    assert_eq!(tests[0].status, Status::Failed);
}

#[test]
fn a_test_that_hangs_is_a_failure_of_all_its_cases() {
    let mut machine = machine("m", &[("one", "One.", true, RIGHT)]);
    let answers = &mut machine.answers[Provider::GuestLbr as usize];
    answers.cases.clear();
    answers.broken = vec![("lbr_a".into(), "it does not end".into())];
    let tests = judge(&machine);
    assert_eq!(
        failed(&tests),
        ["lbr_a, one: the test says nothing of it: it does not end"]
    );
}

#[test]
fn marks_are_held_to_what_happens() {
    let fails = || [wrong("x"), Answer::Right, Answer::Right];
    let unmarked = machine("m", &[("one", "One.", false, fails())]);
    assert_eq!(
        failed(&judge(&unmarked)),
        ["lbr_a, one is no known failure: x"]
    );
    let marked = machine("m", &[("one", "One.", true, fails())]);
    assert_eq!(failed(&judge(&marked)), [""; 0]);
    assert!(wrong_marks(&[marked]).is_empty());
    let passes = || machine("m", &[("one", "One.", true, RIGHT)]);
    assert_eq!(wrong_marks(&[passes()]), ["lbr_a, one"]);
    // It is of another machine.
    let elsewhere = machine("n", &[("one", "One.", true, fails())]);
    assert!(wrong_marks(&[passes(), elsewhere]).is_empty());
}

#[test]
fn chance_is_told_as_such() {
    let mut machine = machine("m", &[("one", "One.", false, RIGHT)]);
    for (unpatched, known) in [
        (Answer::Right, false),
        (wrong("x"), false),
        (wrong("x"), true),
    ] {
        for answers in &mut machine.answers {
            answers.cases[0].at_times = Some("why".into());
            answers.cases[0].known = known.then(|| "it stays".into());
        }
        machine.answers[0].cases[0].answer = unpatched.clone();
        let by_chance = Answer::AtTimes("why".into());
        let first = match known {
            true => unpatched,
            false => by_chance.clone(),
        };
        let answers = &machine.compared()[0].answers;
        assert_eq!(*answers, [first, by_chance, Answer::Right]);
        assert_eq!(failed(&judge(&machine)), [""; 0]);
    }
}

#[test]
fn a_page() {
    let neither = || Answer::Neither("no such thing".into());
    let rows = [
        ("one", "One.", false, RIGHT),
        (
            "two_1",
            "Two of A_B.",
            true,
            [wrong("bit 1"), wrong("z"), Answer::Right],
        ),
        (
            "two_2",
            "Two of A_B.",
            true,
            [wrong("bit 2"), wrong("z"), Answer::Right],
        ),
        (
            "three",
            "Three.",
            false,
            [neither(), neither(), Answer::Right],
        ),
    ];
    let first = machine("first", &rows);
    let mut rows = rows;
    rows[0].3 = [wrong("n"), Answer::Right, Answer::Right];
    rows[1].3[0] = wrong("bit 9");
    let second = machine("second", &rows);
    let mut third = machine("third", &[("one", "One.", false, RIGHT)]);
    for answers in &mut third.answers[..2] {
        answers.cases.clear();
        answers.skipped = vec![("lbr_a".into(), "nobody has it".into())];
    }
    let page = page::page(&[first, second, third]).unwrap();
    let (_, page) = page.split_once("not counted:\n\n").unwrap();
    let head = "   :header-rows: 1\n   :widths: 20 30 20 20 10\n\n   * - cases\n     - rule\n     \
                - unpatched kernel\n     - patched kernel, built-in\n     - guest_lbr\n"
        .replace("guest_lbr", "guest\\_lbr");
    let expected = format!(
        "\
.. list-table::
   :header-rows: 1
   :widths: 25 25 25 25

   * - machine
     - unpatched kernel
     - patched kernel, built-in
     - guest\\_lbr
   * - first
     - 1 of 3
     - 1 of 3
     - 4 of 4
   * - second
     - 0 of 3
     - 1 of 3
     - 4 of 4
   * - third
     - none: nobody has it
     - none: nobody has it
     - 1 of 1

first
=====

lbr_a
-----

By A book:

.. list-table::
{head}   * - ``two_1``, ``two_2``
     - Two of A\\_B.
     - bit 1
     - z
     - yes
   * - ``three``
     - Three.
     - *not applicable:* no such thing
     - *not applicable:* no such thing
     - yes

All three do these:

.. list-table::
   :header-rows: 1
   :widths: 40 60

   * - cases
     - rule
   * - ``one``
     - One.

second
======

Where this machine's answers are others:

.. list-table::
{head}   * - lbr_a: ``one``
     - One.
     - n
     - yes
     - yes
"
    );
    assert_eq!(page, expected);
}

#[test]
fn pages_are_the_same_if_the_same_is_done_right() {
    let page = |rows: &[Row<'_>], others: &[Row<'_>]| {
        page::page(&[machine("first", rows), machine("second", others)]).unwrap()
    };
    let rows = |how: Answer| {
        [
            ("one", "One.", false, RIGHT),
            (
                "two",
                "Two.",
                true,
                [how, Answer::Right, Answer::AtTimes("w".into())],
            ),
            (
                "three",
                "Two.",
                true,
                [wrong("x 1"), Answer::Right, Answer::Right],
            ),
        ]
    };
    let first = page(&rows(wrong("x 2")), &rows(wrong("y")));
    assert!(page::same(&first, &first));
    assert!(page::same(
        &first,
        &page(&rows(wrong("z")), &rows(wrong("x")))
    ));
    let mut renamed = rows(wrong("x 2"));
    renamed[0].1 = "Another.";
    for other in [
        page(&rows(Answer::Right), &rows(wrong("y"))),
        page(&rows(wrong("x 2")), &rows(Answer::Right)),
        page(&rows(Answer::Neither("x 2".into())), &rows(wrong("y"))),
        page(&renamed, &renamed),
        page(&rows(wrong("x 2"))[..2], &rows(wrong("y"))),
        first.replacen("guest_lbr", "guest\\_lbr", 1),
        String::new(),
    ] {
        assert!(!page::same(&first, &other), "{other}");
        assert!(!page::same(&other, &first), "{other}");
    }
}
