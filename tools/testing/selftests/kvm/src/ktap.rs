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
}

type Run = Box<dyn Fn(&Host) -> Result<Verdict>>;

struct Case {
    name: String,
    run: Run,
    builtin: Option<&'static str>,
    only: fn(Geometry) -> bool,
}

/// A test program: its cases in the order of their output.
#[derive(Default)]
pub struct Suite {
    cases: Vec<Case>,
    without_lbr: bool,
}

impl Suite {
    /// Returns a suite without cases, which needs a host with guest LBR.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a suite that looks for guest LBR itself.
    pub fn without_lbr() -> Self {
        Self {
            without_lbr: true,
            ..Self::default()
        }
    }

    /// Adds a case.
    pub fn case(
        &mut self,
        name: impl Into<String>,
        run: impl Fn(&Host) -> Result<Verdict> + 'static,
    ) -> &mut Self {
        self.cases.push(Case {
            name: name.into(),
            run: Box::new(run),
            builtin: None,
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

    /// Says of the case just added that only LBR of this geometry has what it is about.
    /// With others there is no such case.
    pub fn only(&mut self, only: fn(Geometry) -> bool) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.only = only;
        }
        self
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
            match case.report(number + 1, &host) {
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
    fn report(&self, number: usize, host: &Host) -> Outcome {
        let name = &self.name;
        let expected = self.builtin.filter(|_| host.provider == Provider::Builtin);
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
