// SPDX-License-Identifier: GPL-2.0-only
//! Judges and shows the demo: the host's profiles against the guest's, and guest_lbr against
//! what the kernel itself gives to guests.

use anyhow::{anyhow, bail, Context, Result};
use clap::ValueEnum;
use emu_model::machine::Machine;

use crate::checked::OURS;
use crate::ktap::{Status, Test};
use crate::outcome::Outcome;
use crate::places::Places;
use crate::profile::compare::{self, FLOOR};
use crate::profile::{table, Profile};
use crate::protocol::Transcript;
use crate::run::{self, Options};
use crate::suite::Suite;

/// Who gives guests their LBR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// The module.
    #[default]
    #[value(name = "guest_lbr")]
    GuestLbr,
    /// The C code in KVM (kvm_intel.lbr=builtin).
    #[value(name = "builtin")]
    Builtin,
}

impl Provider {
    fn name(self) -> &'static str {
        match self {
            Self::GuestLbr => "guest_lbr",
            Self::Builtin => "builtin",
        }
    }
}

/// Branch filters of perf record that the demo uses: none, and two that between
/// them use every filter bit of LBR_SELECT but CPL_NEQ_0.
const FILTERS: [&str; 3] = ["any", "cond", "any_call"];

fn read(transcript: &Transcript, name: &str) -> Result<Profile> {
    let text = transcript
        .file(name)
        .with_context(|| format!("there is no profile {name}"))?;
    Profile::parse(&text).with_context(|| format!("profile {name}"))
}

fn both(transcript: &Transcript, what: &str) -> Result<(Profile, Profile)> {
    let host = read(transcript, &format!("host-{what}"))?;
    let guest = read(transcript, &format!("guest-{what}"))?;
    Ok((host, guest))
}

fn test(name: String, objections: Vec<String>) -> Test {
    Test {
        name,
        status: if objections.is_empty() {
            Status::Passed
        } else {
            Status::Failed
        },
        output: objections,
        children: Vec::new(),
    }
}

/// Share of all samples, in percent, that have `symbol` in their call chain,
/// from the `# callers:` part of a call-graph report.
fn in_chain(report: &str, symbol: &str) -> Option<f64> {
    let (_, callers) = report.split_once("# callers:")?;
    callers.lines().find_map(|line| {
        let mut fields = line.split(crate::profile::SEPARATOR).map(str::trim);
        let share = fields.next()?;
        let name = fields.next_back()?;
        (name.split_whitespace().last()? == symbol)
            .then(|| share.trim_end_matches('%').parse().ok())?
    })
}

/// The workload's main function is below everything that is sampled, so nearly
/// every call chain must reach it.
fn call_graph(transcript: &Transcript, side: &str) -> Vec<String> {
    let Some(report) = transcript.file(&format!("{side}-callgraph")) else {
        return vec![format!("there is no call graph of the {side}")];
    };
    match in_chain(&report, "main") {
        Some(share) if share >= 90.0 => Vec::new(),
        Some(share) => vec![format!(
            "only {share:.2} % of the {side}'s call chains reach main"
        )],
        None => vec![format!("no call chain of the {side} reaches main")],
    }
}

/// The tests that the lab itself adds to a suite with `verdict = "profile"` on a
/// machine with `depth` records, where chance explains differences up to `bound`.
pub fn verdicts(transcript: &Transcript, depth: u8, bound: f64) -> Vec<Test> {
    let mut tests = Vec::new();
    for filter in FILTERS {
        for side in ["host", "guest"] {
            let objections = match read(transcript, &format!("{side}-{filter}")) {
                Ok(profile) => compare::shallow(side, &profile, depth),
                Err(error) => vec![format!("{error:#}")],
            };
            let name = format!("{side}, filter {filter}: enough samples, each full");
            tests.push(test(name, objections));
        }
    }
    let objections = match both(transcript, FILTERS[0]) {
        Ok((host, guest)) => compare::apart(&host, &guest, bound),
        Err(error) => vec![format!("{error:#}")],
    };
    tests.push(test("the guest's profile is the host's".into(), objections));
    for side in ["host", "guest"] {
        let objections = call_graph(transcript, side);
        tests.push(test(
            format!("call graph of the {side} reaches main"),
            objections,
        ));
    }
    tests
}

fn heading(text: &str) {
    println!("\n--- {text}");
}

fn show_file(transcript: &Transcript, name: &str, end: &str) {
    if let Some(text) = transcript.file(name) {
        for line in text.lines().take_while(|line| !line.starts_with(end)) {
            println!("  {line}");
        }
    }
}

/// Prints what was seen of guest_lbr; returns the verdict.
fn show(outcome: &Outcome, bound: f64) -> Result<String> {
    let transcript = &outcome.transcript;
    heading("kvm_intel.lbr=off, in the guest: perf record -b");
    show_file(transcript, "refused", "# none");
    let (host, guest) = both(transcript, "any")?;
    heading("host: perf record -b -e cycles:u -- br_instr");
    print!("{}", table::profile(&host, FLOOR));
    heading("guest, LBR by guest_lbr: the same command");
    print!("{}", table::profile(&guest, FLOOR));
    heading(&format!(
        "differences, in percentage points, of branches over {FLOOR} %"
    ));
    let rows = compare::compare(&host, &guest, FLOOR);
    print!("{}", table::differences(&rows));
    for side in ["host", "guest"] {
        heading(&format!("{side}: perf record --call-graph lbr -- br_instr"));
        show_file(transcript, &format!("{side}-callgraph"), "# callers:");
    }
    Ok(format!(
        "{}: host {} samples, guest {} samples; largest difference {:.2} percentage points, bound {bound}",
        if outcome.sum().is_success() { "PASS" } else { "FAIL" },
        host.samples,
        guest.samples,
        compare::largest(&rows)
    ))
}

fn variables(options: &Options, provider: Provider, more: &[(&str, String)]) -> Options {
    let mut options = options.clone();
    options
        .variables
        .push(("PROVIDER".into(), provider.name().into()));
    for (name, value) in more {
        options.variables.push(((*name).into(), value.clone()));
    }
    options
}

/// What no profile shows, by the case of the selftests that does.
const PROPERTIES: [(&str, &str); 4] = [
    (
        "lbr_isolation two_vms_and_host_share_a_cpu",
        "VMs and the host's profiler on a CPU see their own branches only",
    ),
    (
        "lbr_reclaim coming_and_going",
        "a guest's records are kept while the host has the LBR",
    ),
    (
        "lbr_host_events flexible_runs_beside_a_long_slice",
        "perf record -b on the host records all of its time",
    ),
    (
        "lbr_threads get_and_set_same_cpu",
        "a VMM saves and loads records on any thread",
    ),
];

/// What is seen of one provider.
fn answers(outcome: &Outcome) -> Vec<String> {
    let transcript = &outcome.transcript;
    let guest = |what: &str| read(transcript, &format!("guest-{what}"));
    let mut answers: Vec<_> = FILTERS
        .iter()
        .map(|what| guest(what).map_or("none".into(), |guest| format!("{:.2}", guest.depth())))
        .collect();
    answers.push(
        both(transcript, FILTERS[0]).map_or("none".into(), |(host, guest)| {
            let rows = compare::compare(&host, &guest, FLOOR);
            format!("{:.2} points", compare::largest(&rows))
        }),
    );
    answers.extend(PROPERTIES.iter().map(|(case, _)| {
        let test = outcome.report.tests.iter().find(|test| test.name == *case);
        let Some(test) = test else {
            return "not run".into();
        };
        let mut holds = true;
        test.leaves("", &mut |_, leaf| holds &= leaf.status == Status::Passed);
        if holds { "yes" } else { "no" }.into()
    }));
    answers
}

/// Prints what is seen of guest_lbr and, if the machine has it, of the built-in provider.
fn show_both(ours: &Outcome, builtin: Option<&Outcome>) {
    heading("the LBR of a guest, by the kernel's own provider (lbr=builtin) and by guest_lbr");
    let host = FILTERS.iter().map(|what| {
        read(&ours.transcript, &format!("host-{what}"))
            .map_or("none".into(), |host| format!("{:.2}", host.depth()))
    });
    let host = host.chain(std::iter::repeat(String::new()));
    let names = FILTERS
        .map(|filter| match filter {
            "any" => "records in a sample of perf record -b".into(),
            _ => format!("records in a sample of perf record -b -j {filter}"),
        })
        .into_iter()
        .chain(["largest difference from the host's profile".into()])
        .chain(PROPERTIES.iter().map(|(_, name)| (*name).into()));
    let builtin = builtin.map(answers).unwrap_or_default().into_iter();
    let builtin = builtin.chain(std::iter::repeat("no LBR".into()));
    let rows: Vec<_> = names
        .zip(host)
        .zip(builtin)
        .zip(answers(ours))
        .map(|(((name, host), builtin), ours)| vec![name, host, builtin, ours])
        .collect();
    print!(
        "{}",
        table::table(&["", "host", "built-in", "guest_lbr"], &rows)
    );
}

/// Runs the demo on `machine`, once with each provider that it has, and shows it.  Returns whether
/// all went well with guest_lbr.
///
/// # Errors
///
/// If it cannot be run at all.
pub fn demo(places: &Places, options: &Options, machine: &str, seed: u32) -> Result<bool> {
    let has_builtin = !Machine::load(places.machine(machine)?)?
        .lbr
        .is_architectural();
    let run = |provider| -> Result<Outcome> {
        let suite = for_provider(Suite::load(&places.suites(), "demo")?, provider);
        let options = variables(options, provider, &[("SEED", seed.to_string())]);
        run::suite(places, &options, &suite, machine, OURS)
    };
    let (ours, builtin) = std::thread::scope(|scope| {
        let builtin = has_builtin.then(|| scope.spawn(|| run(Provider::Builtin)));
        let panicked = |_| Err(anyhow!("the thread of the built-in provider panicked"));
        let ours = run(Provider::GuestLbr);
        (
            ours,
            builtin.map(|thread| thread.join().unwrap_or_else(panicked)),
        )
    });
    let (ours, builtin) = (ours?, builtin.transpose()?);
    let shown = show(&ours, compare::bound(machine));
    show_both(&ours, builtin.as_ref());
    print!("{}", ours.details());
    match shown {
        Ok(verdict) => println!("\n{verdict}"),
        Err(error) => println!("\nFAIL: {error:#}"),
    }
    Ok(ours.sum().is_success())
}

/// The built-in provider needs no module, and has logs of its own.
fn for_provider(mut suite: Suite, provider: Provider) -> Suite {
    if provider == Provider::Builtin {
        suite.name.push_str("-builtin");
        suite
            .parts
            .retain(|&part| part != crate::suite::Part::Module);
    }
    suite
}

/// Measures the spread over the seeds 1 to `seeds` and shows it, with the bound
/// that follows.
///
/// # Errors
///
/// If it cannot be run, or one of the profiles is missing.
pub fn spread(
    places: &Places,
    options: &Options,
    machine: &str,
    provider: Provider,
    seeds: u32,
) -> Result<bool> {
    if seeds < 2 {
        bail!("a spread needs 2 seeds or more");
    }
    let suite = for_provider(Suite::load(&places.suites(), "spread")?, provider);
    let names: Vec<_> = (1..=seeds).map(|seed| seed.to_string()).collect();
    let options = variables(options, provider, &[("SEEDS", names.join(" "))]);
    let outcome = run::suite(places, &options, &suite, machine, OURS)?;
    print!("{}", outcome.details());
    let pairs = names
        .iter()
        .map(|seed| both(&outcome.transcript, seed))
        .collect::<Result<Vec<_>>>()?;
    let rows = compare::spread(&pairs);
    print!("{}", table::spread(&rows));
    for (seed, (host, guest)) in names.iter().zip(&pairs) {
        let largest = compare::largest(&compare::compare(host, guest, FLOOR));
        println!(
            "seed {seed:>3}: host {} samples of {:.2} records, guest {} of {:.2}, largest difference {largest:.3}",
            host.samples,
            host.depth(),
            guest.samples,
            guest.depth()
        );
    }
    let sigma = rows.iter().map(|row| row.deviation).fold(0.0, f64::max);
    println!(
        "sigma {sigma:.3}, four sigma {:.3} percentage points; the bound in use is {}",
        4.0 * sigma,
        compare::bound(machine)
    );
    Ok(outcome.sum().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(main: &str) -> String {
        format!(
            "60%|x\n# callers:\n99.90%|0.00%|[.] _start\n{main}|0.10%|[.] main\n55.00%|55.00%|[.] lfsr_cond\n"
        )
    }

    #[test]
    fn the_share_of_call_chains_is_found() {
        assert_eq!(in_chain(&report("99.80%"), "main"), Some(99.8));
        assert_eq!(in_chain(&report("99.80%"), "mix"), None);
        assert_eq!(in_chain("99.80%|1|[.] main", "main"), None);
    }

    #[test]
    fn what_is_missing_or_broken_fails_its_own_verdict() {
        let callgraph = |share: &str| report(share).into_bytes();
        let rows = |count: u32| {
            format!(
                "# lab-samples: 1000\n# Samples|Source Symbol|Target Symbol|Basic Block Cycles\n\
                 {count}|[.] a|[.] b|1\n16000|[.] b|[.] a|1\n"
            )
            .into_bytes()
        };
        let mut good = Transcript::default();
        for side in ["host", "guest"] {
            for filter in FILTERS {
                good.files.push((format!("{side}-{filter}"), rows(16000)));
            }
            good.files
                .push((format!("{side}-callgraph"), callgraph("99.80%")));
        }
        let failed = |transcript: &Transcript| -> Vec<String> {
            let tests = verdicts(transcript, 32, compare::bound("skylake")).into_iter();
            tests.filter(Test::failed).map(|test| test.name).collect()
        };
        assert_eq!(failed(&good), Vec::<String>::new());
        let full = |what: &str| format!("{what}: enough samples, each full");
        let same = "the guest's profile is the host's".to_owned();
        for (file, content, verdicts) in [
            ("guest-any", rows(17000), vec![same.clone()]),
            (
                "guest-any",
                rows(14000),
                vec![full("guest, filter any"), same],
            ),
            ("guest-cond", rows(14000), vec![full("guest, filter cond")]),
            (
                "host-any_call",
                Vec::new(),
                vec![full("host, filter any_call")],
            ),
            (
                "guest-callgraph",
                callgraph("40.00%"),
                vec!["call graph of the guest reaches main".into()],
            ),
        ] {
            let files = good.files.iter().map(|(name, data)| {
                let data = if name == file { &content } else { data };
                (name.clone(), data.clone())
            });
            let bad = Transcript {
                files: files.collect(),
                ..Transcript::default()
            };
            assert_eq!(failed(&bad), verdicts);
        }
        assert_eq!(failed(&Transcript::default()).len(), 9);
    }
}
