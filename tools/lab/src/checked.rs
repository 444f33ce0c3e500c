// SPDX-License-Identifier: GPL-2.0-only
//! Kernels that check themselves as they run, and what runs on them.
//!
//! They are ours with scripts/kernel/config/checkers/ on top, and have builds of the
//! module and of test modules of their own.  Guests in them boot the ordinary kernel: what is
//! checked is the host.

use crate::suite::{Part, Suite, SECONDS};

/// The kernel that the others are made of.
pub const OURS: &str = "kernel";

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its name under `build/`.
    pub name: &'static str,
    /// How many instructions it executes where the ordinary one executes one.
    slowness: u32,
    /// Which level runs suites on it.
    level: Level,
}

#[derive(Debug, PartialEq, Eq)]
enum Level {
    /// Both, `lab check` the short ones.
    Check,
    /// `lab check --full`.
    Full,
    /// None: they are run by hand.
    Hand,
}

static KERNELS: [Checked; 3] = [
    Checked {
        name: "kernel-debug",
        slowness: 4,
        level: Level::Check,
    },
    Checked {
        name: "kernel-kasan",
        slowness: 4,
        level: Level::Full,
    },
    Checked {
        name: "kernel-kcsan",
        slowness: 4,
        level: Level::Hand,
    },
];

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Checked> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

/// How many times as long a suite may take on `kernel` as its head says.
pub fn slowness(kernel: &str) -> u32 {
    named(kernel).map_or(1, |kernel| kernel.slowness)
}

/// The name under `build/` of what is built for `kernel`: another one for each that
/// checks itself.
pub fn product(what: &str, kernel: &str) -> String {
    let suffix = named(kernel).and_then(|kernel| kernel.name.strip_prefix(OURS));
    format!("{what}{}", suffix.unwrap_or_default())
}

/// Whether it has code of the host's kernel do what is new in ours.
fn tests_ours(suite: &Suite) -> bool {
    suite.kernels.iter().any(|kernel| kernel == OURS)
        && (suite.needs(Part::Module) || suite.needs(Part::Selftests))
}

/// Whether it is over in seconds.
fn is_short(suite: &Suite) -> bool {
    !suite.needs(Part::Qemu) && !suite.needs(Part::Perf) && suite.seconds <= SECONDS
}

/// The suites that `lab check` runs on these kernels, with the machines: of those that are for
/// our kernel, all if `full`, else the short ones on the first machine.
pub fn suites(suites: &[Suite], full: bool) -> Vec<(Suite, Vec<String>)> {
    let kernels = KERNELS.iter().filter(|kernel| match kernel.level {
        Level::Check => true,
        Level::Full => full,
        Level::Hand => false,
    });
    kernels
        .flat_map(|kernel| {
            let chosen = suites
                .iter()
                .filter(|suite| suite.check && tests_ours(suite));
            chosen
                .filter(move |suite| full || is_short(suite))
                .map(move |suite| on(suite, kernel))
        })
        .map(|suite| {
            let count = if full { suite.machines.len() } else { 1 };
            let machines = suite.machines.iter().take(count).cloned().collect();
            (suite, machines)
        })
        .collect()
}

fn on(suite: &Suite, kernel: &Checked) -> Suite {
    Suite {
        kernels: vec![kernel.name.into()],
        same: Vec::new(),
        twice: false,
        ..suite.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_built_for_a_kernel_has_its_name() {
        for (kernel, product_of_it) in [
            ("kernel", "module"),
            ("kernel-vanilla", "module"),
            ("kernel-debug", "module-debug"),
            ("kernel-kasan", "module-kasan"),
        ] {
            assert_eq!(product("module", kernel), product_of_it);
        }
    }

    /// A suite with this rest of a head.
    fn suite(name: &str, head: &str) -> Suite {
        Suite::parse(name, &format!("#: about = \"a\"\n{head}")).unwrap()
    }

    /// Kernel, suite and machines of each that runs.
    fn chosen(of: &[Suite], full: bool) -> Vec<String> {
        let chosen = suites(of, full).into_iter();
        chosen
            .map(|(suite, machines)| {
                format!(
                    "{} {} {}",
                    suite.kernels.join("+"),
                    suite.name,
                    machines.join("+")
                )
            })
            .collect()
    }

    #[test]
    fn short_suites_of_what_is_ours_run_on_one_machine_and_all_on_all_if_full() {
        let all = [
            suite("long", "#: parts = [\"module\", \"qemu\"]"),
            suite("longer", "#: parts = [\"module\"]\n#: seconds = 151"),
            suite("none", "#: parts = [\"perf\", \"qemu\"]"),
            suite(
                "old",
                "#: parts = [\"module\"]\n#: kernels = [\"kernel-vanilla\"]",
            ),
            suite("rare", "#: parts = [\"module\"]\n#: full = true"),
            suite(
                "short",
                "#: parts = [\"selftests\"]\n#: machines = [\"a\", \"b\"]\n\
                 #: kernels = [\"kernel\", \"kernel-vanilla\"]\n#: same = [\"x\"]",
            ),
        ];
        assert_eq!(chosen(&all, false), ["kernel-debug short a"]);
        assert_eq!(
            chosen(&all, true),
            [
                "kernel-debug long skylake",
                "kernel-debug longer skylake",
                "kernel-debug short a+b",
                "kernel-kasan long skylake",
                "kernel-kasan longer skylake",
                "kernel-kasan short a+b"
            ]
        );
        assert!(suites(&all, true)
            .iter()
            .all(|(suite, _)| suite.same.is_empty()));
    }

    #[test]
    fn some_of_the_tree_run_on_the_debug_kernel() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
        let tree = crate::suite::all(&tree).unwrap();
        let chosen = chosen(&tree, false);
        for suite in ["event skylake", "register skylake", "selftests haswell"] {
            assert!(
                chosen.contains(&format!("kernel-debug {suite}")),
                "{chosen:?}"
            );
        }
    }
}
