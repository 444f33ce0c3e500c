// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Test cases and their output in KTAP, the kernel's Test Anything Protocol.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::host::{Host, Provider, Random};
use crate::msr::Geometry;

/// How a case ended, if not by an error.
#[derive(Debug)]
pub enum Verdict {
    /// All that the case claims was seen.
    Pass,
    /// The case makes no sense here, and why.
    Skip(String),
}

/// The verdict of a case that ran to its end.
pub const PASS: Result<Verdict> = Ok(Verdict::Pass);

/// The verdict of a case that makes no sense here.
pub fn skip(reason: impl Into<String>) -> Result<Verdict> {
    Ok(Verdict::Skip(reason.into()))
}

/// Runs a case that sees by the provider's tracepoints what it does, if there are such.
pub fn if_traced(host: &Host, run: fn(&Host) -> Result<Verdict>) -> Result<Verdict> {
    match host.has_tracepoints() {
        true => run(host),
        false => skip("the provider has no tracepoints to see it by"),
    }
}

/// What a run of a suite depends on.
#[derive(Debug)]
pub struct Options {
    /// Run only the cases whose name contains this.
    pub filter: Option<String>,
    /// Who provides guest LBR; found out if not given.
    pub provider: Option<Provider>,
    /// The file of guest_lbr.ko.
    pub module: PathBuf,
    /// How tests go that take random steps.
    pub random: Random,
    /// Print each case's rule, and what is known of the built-in provider, but expect no
    /// failure of it.
    pub rules: bool,
}

type Run = Box<dyn Fn(&Host) -> Result<Verdict>>;

struct Case {
    name: String,
    rule: String,
    source: &'static str,
    run: Run,
    builtin: Option<&'static str>,
    at_times: Option<&'static str>,
    only: fn(Geometry) -> bool,
}

/// What a case demands, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule<'a> {
    /// The case.
    pub case: &'a str,
    /// One sentence.
    pub rule: &'a str,
    /// A chapter of a manual, or a page of documentation.
    pub source: &'a str,
}

/// A test program: its cases in the order of their output.
pub struct Suite {
    cases: Vec<Case>,
    source: &'static str,
    without_lbr: bool,
}

impl Suite {
    /// Returns a suite without cases, which needs a host with guest LBR. The rules of
    /// its cases come from this source, one of [`crate::rules`].
    pub fn new(source: &'static str) -> Self {
        Self {
            cases: Vec::new(),
            source,
            without_lbr: false,
        }
    }

    /// Returns a suite that looks for guest LBR itself.
    pub fn without_lbr(source: &'static str) -> Self {
        Self {
            without_lbr: true,
            ..Self::new(source)
        }
    }

    /// Names another source, of the rules of the cases that are added from now on.
    pub fn by(&mut self, source: &'static str) -> &mut Self {
        self.source = source;
        self
    }

    /// Adds a case, with the rule that it holds a provider to.
    pub fn case(
        &mut self,
        name: impl Into<String>,
        rule: impl Into<String>,
        run: impl Fn(&Host) -> Result<Verdict> + 'static,
    ) -> &mut Self {
        self.cases.push(Case {
            name: name.into(),
            rule: rule.into(),
            source: self.source,
            run: Box::new(run),
            builtin: None,
            at_times: None,
            only: |_| true,
        });
        self
    }

    /// Says of the case just added that the built-in provider is known to
    /// fail it, and why. It still runs; its failure is then an expected one.
    pub fn builtin_fails(&mut self, why: &'static str) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.builtin = Some(why);
        }
        self
    }

    /// Says the same of what the built-in provider fails by chance. With
    /// [`Suite::builtin_fails`] that is so on a kernel that has our fixes.
    pub fn builtin_may_fail(&mut self, why: &'static str) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.at_times = Some(why);
        }
        self
    }

    /// Says of the case just added that only LBR of this geometry has what it is about.
    /// With others there is no such case.
    pub fn only(&mut self, only: fn(Geometry) -> bool) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.only = only;
        }
        self
    }

    /// Returns the rules of the cases, in order; those of one facility if it is given.
    pub fn rules(&self, lbr: Option<Geometry>) -> impl Iterator<Item = Rule<'_>> {
        self.cases
            .iter()
            .filter(move |case| lbr.is_none_or(|lbr| (case.only)(lbr)))
            .map(|case| Rule {
                case: &case.name,
                rule: &case.rule,
                source: case.source,
            })
    }

    /// Runs the cases and prints what came of them.
    pub fn run(&self, options: &Options) -> ExitCode {
        println!("TAP version 13");
        match self.run_chosen(options) {
            Ok(code) => code,
            Err(error) => {
                println!("Bail out! {error:#}");
                ExitCode::from(1)
            }
        }
    }

    fn run_chosen(&self, options: &Options) -> Result<ExitCode> {
        let host = match Host::probe(options.provider, &options.module) {
            Ok(host) => Host {
                random: options.random,
                ..host
            },
            Err(error) => return Ok(skip_all(&format!("{error:#}"))),
        };
        if !self.without_lbr {
            if let Err(error) = host.lbr() {
                return Ok(skip_all(&format!("{error:#}")));
            }
        }
        let lbr = host.lbr().ok();
        let there: Vec<&Case> = self
            .cases
            .iter()
            .filter(|case| lbr.is_none_or(|lbr| (case.only)(lbr)))
            .collect();
        if there.is_empty() {
            return Ok(skip_all("guests of this host have another LBR facility"));
        }
        let chosen: Vec<&Case> = there
            .into_iter()
            .filter(|case| {
                options
                    .filter
                    .as_ref()
                    .is_none_or(|f| case.name.contains(f))
            })
            .collect();
        if chosen.is_empty() {
            anyhow::bail!("no case's name contains {:?}", options.filter);
        }
        println!("1..{}", chosen.len());
        println!("# {host}");
        let (mut failed, mut passed) = (0, 0);
        for (number, case) in chosen.iter().enumerate() {
            let expected = match options.rules {
                true => {
                    case.explain();
                    None
                }
                false if host.provider == Provider::Builtin => case.builtin.or(case.at_times),
                false => None,
            };
            match case.report(number + 1, &host, expected) {
                Outcome::Passed => passed += 1,
                Outcome::Failed => failed += 1,
                Outcome::Neither => {}
            }
        }
        Ok(ExitCode::from(match (failed, passed) {
            (0, 0) => 4,
            (0, _) => 0,
            _ => 1,
        }))
    }
}

enum Outcome {
    Passed,
    Failed,
    Neither,
}

impl Case {
    /// Prints what the case is about, as diagnostics of its result.
    fn explain(&self) {
        println!("# rule: {}", self.rule);
        println!("# source: {}", self.source);
        if let Some(why) = self.builtin {
            println!("# known: {why}");
        }
        if let Some(why) = self.at_times {
            println!("# at times: {why}");
        }
    }

    fn report(&self, number: usize, host: &Host, expected: Option<&str>) -> Outcome {
        let name = &self.name;
        let result = (self.run)(host).with_context(|| format!("case {name}"));
        match (result, expected) {
            (Ok(Verdict::Pass), _) => {
                println!("ok {number} {name}");
                Outcome::Passed
            }
            (Ok(Verdict::Skip(reason)), _) => {
                println!("ok {number} {name} # SKIP {reason}");
                Outcome::Neither
            }
            (Err(error), Some(why)) => {
                diagnose(&error);
                println!("ok {number} {name} # XFAIL built-in: {why}");
                Outcome::Neither
            }
            (Err(error), None) => {
                diagnose(&error);
                println!("not ok {number} {name}");
                Outcome::Failed
            }
        }
    }
}

fn diagnose(error: &anyhow::Error) {
    for line in format!("{error:#}").lines() {
        println!("# {line}");
    }
}

fn skip_all(reason: &str) -> ExitCode {
    println!("1..0 # SKIP {reason}");
    ExitCode::from(4)
}
