// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The host's own use of the LBR, through perf; and tracepoints, counted.

use anyhow::{Context, Result};
use perf_event::data::Record;
use perf_event::events::{Hardware, Tracepoint};
use perf_event::{Builder, Counter, SampleBranchFlag, SampleFlag, Sampler};

use crate::msr::Branch;

/// A prime number of branches between two samples.
pub const PERIOD: u64 = 20_011;
/// Bytes of the ring that samples are read from.
const RING: usize = 1 << 18;

/// A branch-stack event on one CPU, whatever runs there, as of
/// `perf record -b -C cpu`.
pub struct HostLbr {
    sampler: Sampler,
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
    /// Opens an event pinned to the CPU, which takes the LBR from everybody.
    pub fn pinned(cpu: usize) -> Result<Self> {
        Self::open(cpu, true, PERIOD)
    }

    /// Opens an event that has to wait for pinned ones, with so many branches
    /// from sample to sample.
    pub fn flexible(cpu: usize, period: u64) -> Result<Self> {
        Self::open(cpu, false, period)
    }

    fn open(cpu: usize, pinned: bool, period: u64) -> Result<Self> {
        let mut sampler = Builder::new(Hardware::BRANCH_INSTRUCTIONS)
            .any_pid()
            .one_cpu(cpu)
            .pinned(pinned)
            .exclude_kernel(false)
            .exclude_hv(false)
            .sample_period(period)
            .sample(SampleFlag::IP | SampleFlag::BRANCH_STACK)
            .branch_sample_type(SampleBranchFlag::ANY)
            .build()
            .with_context(|| format!("perf_event_open for branch stacks on CPU {cpu}"))?
            .sampled(RING)
            .context("the event's ring cannot be mapped")?;
        sampler.enable().context("PERF_EVENT_IOC_ENABLE")?;
        Ok(Self { sampler })
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

impl Samples {
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
