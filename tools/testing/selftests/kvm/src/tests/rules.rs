// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Each case has a rule, and Documentation/compare.rst says what providers do by it.

use std::collections::BTreeSet;

use kvm_selftests::msr::Geometry;

use super::{Action, ALL};

/// The emulated Skylake's: the page has all of its cases.
const SKYLAKE: Geometry = Geometry {
    format: 5,
    depth: 32,
};

/// Tests that are not compared: what the others rely on, the life of the module, random lives,
/// which are many or none, and what needs a kernel that suspends to RAM.
const NOT_COMPARED: [&str; 4] = ["harness", "lbr_unload", "lbr_disturb", "lbr_suspend"];

/// Source, test, case and rule.
type Entry = [String; 4];

/// The cases of this program, of one facility or of all.
fn cases(lbr: Option<Geometry>) -> BTreeSet<Entry> {
    let mut all = BTreeSet::new();
    for (test, action) in ALL {
        let Action::Test(suite) = action else {
            continue;
        };
        for rule in suite().rules(lbr) {
            let entry = [rule.source, test, rule.case, rule.rule].map(str::to_owned);
            assert!(all.insert(entry), "{test} has {} twice", rule.case);
        }
    }
    all
}

#[test]
fn each_case_has_a_rule_in_one_sentence() {
    let all = cases(None);
    assert!(all.len() > 200, "{} cases", all.len());
    for [source, test, case, rule] in all {
        let begins = rule.starts_with(|c: char| c.is_ascii_uppercase() || c == '#');
        assert!(
            begins && rule.ends_with('.') && !rule.contains(". ") && !rule.contains('\n'),
            "{test}, {case}: {rule:?} is no sentence"
        );
        assert!(
            (20..=230).contains(&rule.len()),
            "{test}, {case}: the rule has {} characters",
            rule.len()
        );
        assert!(!source.is_empty(), "{test}, {case}: nobody says so");
    }
}

/// What `make compare` wrote, read back: the cases of the first machine, and those of others.
fn page() -> [BTreeSet<Entry>; 2] {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../../Documentation/compare.rst"
    );
    let page = std::fs::read_to_string(path).unwrap();
    let (mut first, mut others) = (BTreeSet::new(), BTreeSet::new());
    let (mut test, mut source, mut before) = ("", String::new(), "");
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if !line.is_empty() && line.bytes().all(|byte| byte == b'-') {
            test = before;
        }
        before = line;
        if let Some(by) = line.strip_prefix("By ") {
            source = by.trim_end_matches(':').replace('\\', "");
        }
        let Some(cell) = line
            .strip_prefix("   * - ")
            .filter(|cell| cell.contains("``"))
        else {
            continue;
        };
        let rule = lines.next().and_then(|line| line.strip_prefix("     - "));
        let rule = rule.unwrap().replace('\\', "");
        // Rows of other machines name the test.
        let (of, cases, all) = match cell.split_once(": ") {
            Some((of, cases)) => (of, cases, &mut others),
            None => (test, cell, &mut first),
        };
        for case in cases.split(", ") {
            let names = [&source, of, case.trim_matches('`'), &rule];
            all.insert(names.map(|text: &str| text.to_owned()));
        }
    }
    [first, others]
}

#[test]
fn the_page_has_the_cases_and_rules_of_the_tree() {
    let [page, others] = page();
    let mut tree = cases(Some(SKYLAKE));
    tree.retain(|[_, test, ..]| !NOT_COMPARED.contains(&test.as_str()));
    let advice = "run `make compare`, which writes Documentation/compare.rst";
    let missing: Vec<_> = tree.difference(&page).collect();
    assert!(
        missing.is_empty(),
        "not on the page: {missing:#?}; {advice}"
    );
    let stale: Vec<_> = page.difference(&tree).collect();
    assert!(stale.is_empty(), "not in the tree: {stale:#?}; {advice}");
    let without_source = |[_, test, case, rule]: Entry| [test, case, rule];
    let tree: BTreeSet<_> = cases(None).into_iter().map(without_source).collect();
    let others: BTreeSet<_> = others.into_iter().map(without_source).collect();
    let stale: Vec<_> = others.difference(&tree).collect();
    assert!(stale.is_empty(), "not in the tree: {stale:#?}; {advice}");
}
