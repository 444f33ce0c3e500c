// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The host's own use of the LBR, through perf; and tracepoints, counted.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::unistd::Pid;
use perf_event::data::Record;
use perf_event::events::{Hardware, Tracepoint};
use perf_event::{Builder, Counter, SampleBranchFlag, SampleFlag, Sampler};

use crate::msr::Branch;
use crate::vcpu::Vcpu;

/// A prime number of branches between two samples.
pub const PERIOD: u64 = 20_011;
/// Bytes of the ring that samples are read from.
const RING: usize = 1 << 18;

/// An event of the host's that samples, with branch stacks, as of
/// `perf record -b`, or without.
pub struct HostLbr {
    sampler: Sampler,
}

/// Whether an event of the host's counts while a guest runs, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It does.
    Counted,
    /// It does not (`:H`).
    Excluded,
}

/// What [`HostLbr`] saw.
#[derive(Debug, Default)]
pub struct Samples {
    /// How many samples.
    pub count: usize,
    /// All their records.
    pub branches: Vec<Branch>,
}

impl HostLbr {
    /// Opens a branch-stack event on one CPU, whatever runs there, to which perf
    /// never prefers another (`-b -C cpu -e EVENT:D`).
    pub fn pinned(cpu: usize) -> Result<Self> {
        Self::on_cpu(cpu, PERIOD, true, Guest::Counted)
    }

    /// Opens a branch-stack event on one CPU, with so many branches from sample
    /// to sample (`-b -C cpu`).
    pub fn flexible(cpu: usize, period: u64) -> Result<Self> {
        Self::on_cpu(cpu, period, false, Guest::Counted)
    }

    /// Opens a branch-stack event of the calling thread (`-b -t thread`).
    pub fn of_this_thread(period: u64) -> Result<Self> {
        Self::start(branch_stacks(period).observe_self().any_cpu())
    }

    /// Opens a branch-stack event of another thread (`-b -t thread`).
    pub fn of_thread(thread: Pid, period: u64, guest: Guest) -> Result<Self> {
        Self::start(
            branch_stacks(period)
                .observe_pid(thread.as_raw())
                .any_cpu()
                .exclude_guest(guest == Guest::Excluded),
        )
    }

    /// Opens a branch-stack event on one CPU, pinned or flexible.
    pub fn on_cpu(cpu: usize, period: u64, pinned: bool, guest: Guest) -> Result<Self> {
        Self::start(
            branch_stacks(period)
                .any_pid()
                .one_cpu(cpu)
                .pinned(pinned)
                .exclude_guest(guest == Guest::Excluded),
        )
    }

    /// Opens an event on one CPU that samples branches of guests only, without
    /// their stacks.
    pub fn of_guests(cpu: usize, period: u64) -> Result<Self> {
        Self::start(
            branches(period)
                .any_pid()
                .one_cpu(cpu)
                .exclude_host(true)
                .sample(SampleFlag::IP),
        )
    }

    fn start(builder: &Builder<'_>) -> Result<Self> {
        let mut sampler = builder
            .build()
            .context("perf_event_open")?
            .sampled(RING)
            .context("the event's ring cannot be mapped")?;
        sampler.enable().context("PERF_EVENT_IOC_ENABLE")?;
        Ok(Self { sampler })
    }

    /// Takes no more samples.
    pub fn stop(&mut self) -> Result<()> {
        self.sampler.disable().context("PERF_EVENT_IOC_DISABLE")
    }

    /// Takes samples again. perf does not clear the LBR for an event that ran before.
    pub fn go_on(&mut self) -> Result<()> {
        self.sampler.enable().context("PERF_EVENT_IOC_ENABLE")
    }

    /// Returns how long the event was enabled, and for how much of that it ran.
    pub fn times(&mut self) -> Result<(Duration, Duration)> {
        let data = self
            .sampler
            .read_full()
            .context("the event cannot be read")?;
        let enabled = data.time_enabled().context("no time_enabled")?;
        let running = data.time_running().context("no time_running")?;
        Ok((enabled, running))
    }

    /// Returns for how many percent of the time in which it should the event ran.
    pub fn percent(&mut self) -> Result<f64> {
        let (enabled, running) = self.times()?;
        println!("# the host's event ran {running:?} of {enabled:?}");
        ensure!(!enabled.is_zero(), "the event was never enabled");
        Ok(100.0 * running.as_secs_f64() / enabled.as_secs_f64())
    }

    /// Returns the samples since the last call.
    pub fn drain(&mut self) -> Result<Samples> {
        let mut samples = Samples::default();
        while let Some(raw) = self.sampler.next_record() {
            let Record::Sample(sample) = raw.parse_record().context("perf record")? else {
                continue;
            };
            samples.count += 1;
            for entry in sample.lbr().unwrap_or_default() {
                samples.branches.push(Branch {
                    from: entry.from(),
                    to: entry.to(),
                });
            }
        }
        Ok(samples)
    }
}

fn branches<'a>(period: u64) -> Builder<'a> {
    let mut builder = Builder::new(Hardware::BRANCH_INSTRUCTIONS);
    builder
        .exclude_kernel(false)
        .exclude_hv(false)
        .sample_period(period);
    builder
}

fn branch_stacks<'a>(period: u64) -> Builder<'a> {
    let mut builder = branches(period);
    // The crate cannot parse a record that ends with an empty stack, hence WEIGHT.
    builder
        .sample(SampleFlag::IP | SampleFlag::BRANCH_STACK | SampleFlag::WEIGHT)
        .branch_sample_type(SampleBranchFlag::ANY);
    builder
}

impl Samples {
    /// Fails if the host recorded a branch of a guest.
    pub fn expect_none_of(&self, vcpu: &Vcpu) -> Result<()> {
        for branch in &self.branches {
            ensure!(
                !vcpu.owns(branch.from) && !vcpu.owns(branch.to),
                "the host recorded the guest's {branch}"
            );
        }
        Ok(())
    }

    /// Adds the samples of a later call.
    pub fn extend(&mut self, later: Samples) {
        self.count += later.count;
        self.branches.extend(later.branches);
    }
}

/// A tracepoint of guest_lbr, counted on a set of CPUs.
#[derive(Debug)]
pub struct TraceCount {
    counters: Vec<Counter>,
}

impl TraceCount {
    /// Starts to count `guest_lbr:NAME`.
    pub fn start(name: &str, cpus: &[usize]) -> Result<Self> {
        let path = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .map(|root| format!("{root}/events/guest_lbr/{name}/id"));
        let id = path
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .with_context(|| format!("no tracepoint guest_lbr:{name}; mount tracefs"))?;
        let event = Tracepoint::with_id(id.trim().parse()?);
        let counters = cpus.iter().map(|cpu| {
            let mut counter = Builder::new(event)
                .any_pid()
                .one_cpu(*cpu)
                .exclude_kernel(false)
                .exclude_hv(false)
                .build()?;
            counter.enable()?;
            Ok(counter)
        });
        Ok(Self {
            counters: counters
                .collect::<std::io::Result<_>>()
                .with_context(|| format!("tracepoint guest_lbr:{name} cannot be counted"))?,
        })
    }

    /// Returns how often it fired since it was started.
    pub fn count(&mut self) -> Result<u64> {
        let mut sum = 0;
        for counter in &mut self.counters {
            sum += counter.read()?;
        }
        Ok(sum)
    }
}
