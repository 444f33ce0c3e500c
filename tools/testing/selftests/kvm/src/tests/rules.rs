// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Each case has a rule.

use std::collections::BTreeSet;

use kvm_selftests::msr::Geometry;

use super::{Action, ALL};

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
