// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What this host is.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use kvm_bindings::{kvm_msr_entry, CpuId, Msrs, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::unistd::Pid;

use crate::cpuid;
use crate::msr::{Control, Geometry, LBR_FMT, LBR_FMT_ARCHITECTURAL, PERF_CAPABILITIES};

/// Who gives guests LBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// The module.
    #[value(name = "guest_lbr")]
    GuestLbr,
    /// The kernel's own.
    Builtin,
    /// Nobody.
    None,
}

/// How tests go that take random steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random {
    /// What the steps follow from.
    pub seed: u64,
    /// How many.
    pub steps: u64,
}

/// This host, with `/dev/kvm` open.
#[derive(Debug)]
pub struct Host {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// Who gives LBR to VMs that are created now.
    pub provider: Provider,
    /// Records per CPU as perf found out, 0 if the host has no LBR.
    pub depth: u32,
    /// The CPUs that this program may use, at least one.
    pub cpus: Vec<usize>,
    /// The file of guest_lbr.ko.
    pub module: PathBuf,
    /// How tests go that take random steps.
    pub random: Random,
}

impl Host {
    /// Opens `/dev/kvm` and looks at the host; an error says why no test can
    /// run here.
    pub fn probe(provider: Option<Provider>, module: &Path) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm cannot be opened; load kvm-intel, be root")?;
        if parameter("kvm", "ignore_msrs").as_deref() == Some("Y") {
            bail!("kvm.ignore_msrs is on, no access to an MSR can fail; turn it off");
        }
        Ok(Self {
            provider: match provider {
                Some(provider) => provider,
                None => provider_now(&kvm)?,
            },
            kvm,
            depth: read_number("/sys/bus/event_source/devices/cpu/caps/branches").unwrap_or(0),
            cpus: cpus()?,
            module: module.to_path_buf(),
            random: Random::default(),
        })
    }

    /// Returns the CPU that tests use if one is enough.
    pub fn cpu(&self) -> Result<usize> {
        self.cpus.first().copied().context("there is no CPU")
    }

    /// Returns two CPUs, if there are so many.
    pub fn two_cpus(&self) -> Option<(usize, usize)> {
        match self.cpus[..] {
            [first, second, ..] => Some((first, second)),
            _ => None,
        }
    }

    /// Returns IA32_PERF_CAPABILITIES as a VM created now would have it.
    pub fn perf_capabilities(&self) -> Result<u64> {
        perf_capabilities(&self.kvm)
    }

    /// Returns the CPUID that KVM supports for VMs created now.
    pub fn cpuid(&self) -> Result<CpuId> {
        let cpuid = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        cpuid.context("KVM_GET_SUPPORTED_CPUID")
    }

    /// Returns LBR_FMT as VMs created now have it, 0 without LBR.
    fn format(&self) -> Result<u64> {
        let format = self.perf_capabilities()? & LBR_FMT;
        let architectural = cpuid::has_arch_lbr(&self.cpuid()?);
        match (format, architectural) {
            (LBR_FMT_ARCHITECTURAL, false) => bail!("LBR_FMT without CPUID.7.0:EDX[19]"),
            (LBR_FMT_ARCHITECTURAL, true) | (_, false) => Ok(format),
            (_, true) => bail!("CPUID.7.0:EDX[19], and LBR_FMT is {format}"),
        }
    }

    /// Returns the geometry of the LBR facility of VMs created now.
    pub fn lbr(&self) -> Result<Geometry> {
        if self.depth == 0 {
            bail!("the host has no LBR that perf knows");
        }
        match self.format()? {
            0 => bail!("no provider of guest LBR; load guest_lbr or use kvm_intel.lbr=builtin"),
            format => Ok(Geometry {
                format,
                depth: self.depth,
            }),
        }
    }

    /// Returns whether the provider has tracepoints, which say what it does.
    pub fn has_tracepoints(&self) -> bool {
        self.provider == Provider::GuestLbr
    }

    /// Returns how guests of VMs created now switch recording.
    pub fn control(&self) -> Control {
        self.lbr().map_or(Control::LEGACY, |lbr| lbr.control(0))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format().unwrap_or(0);
        let Self {
            provider, depth, ..
        } = self;
        write!(
            f,
            "provider {provider:?}, LBR depth {depth}, guest LBR_FMT {format}"
        )
    }
}

fn perf_capabilities(kvm: &Kvm) -> Result<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: PERF_CAPABILITIES,
        ..Default::default()
    }])?;
    match kvm.get_msrs(&mut msrs) {
        Ok(1) => Ok(msrs.as_slice()[0].data),
        _ => Ok(0),
    }
}

fn provider_now(kvm: &Kvm) -> Result<Provider> {
    Ok(if module_loaded() {
        Provider::GuestLbr
    } else if perf_capabilities(kvm)? & LBR_FMT != 0 {
        Provider::Builtin
    } else {
        Provider::None
    })
}

/// Returns whether guest_lbr is loaded.
pub fn module_loaded() -> bool {
    Path::new("/sys/module/guest_lbr").exists()
}

/// Returns the value of a module's parameter, if there are such.
pub fn parameter(module: &str, name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/sys/module/{module}/parameters/{name}")).ok()?;
    Some(value.trim_end().to_owned())
}

fn read_number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let all = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    Ok(all)
}

/// Lets this thread run on one CPU only.
pub fn pin_to(cpu: usize) -> Result<()> {
    move_to(Pid::from_raw(0), &[cpu])
}

/// Lets a thread, 0 for this one, run on these CPUs only.
pub fn move_to(thread: Pid, cpus: &[usize]) -> Result<()> {
    let mut only = CpuSet::new();
    for cpu in cpus {
        only.set(*cpu)?;
    }
    sched_setaffinity(thread, &only)
        .with_context(|| format!("a thread cannot be moved to CPUs {cpus:?}"))
}

/// Returns how many function call interrupts a CPU has got so far.
pub fn function_calls(cpu: usize) -> Result<u64> {
    let all = fs::read_to_string("/proc/interrupts").context("/proc/interrupts")?;
    let mut lines = all.lines();
    let column = lines
        .next()
        .and_then(|head| {
            let name = format!("CPU{cpu}");
            head.split_whitespace().position(|cpu| cpu == name)
        })
        .with_context(|| format!("/proc/interrupts has no CPU {cpu}"))?;
    lines
        .find_map(|line| line.trim_start().strip_prefix("CAL:"))
        .and_then(|counts| counts.split_whitespace().nth(column)?.parse().ok())
        .context("/proc/interrupts has no function call interrupts")
}

const POWER_STATE: &str = "/sys/power/state";

/// Returns whether the host can suspend to RAM.
pub fn can_suspend() -> bool {
    fs::read_to_string(POWER_STATE)
        .is_ok_and(|states| states.split_whitespace().any(|s| s == "mem"))
}

/// Suspends the host to RAM, and returns when it runs again: after some seconds if it has a
/// clock that wakes it up, else when somebody does. The emulated host wakes up at once.
pub fn suspend() -> Result<()> {
    let alarm = Path::new("/sys/class/rtc/rtc0/wakealarm");
    if alarm.exists() {
        fs::write(alarm, "+5").context("the clock is not to be set to wake the host up")?;
    }
    fs::write(POWER_STATE, "mem").context("the host does not suspend to RAM")
}

const FREEZE_ON_SMI: &str = "/sys/devices/cpu/freeze_on_smi";

/// Whether the host's counters and LBR stop in SMM, for as long as this lives. Then the host
/// has a bit set in IA32_DEBUGCTL that no guest may see.
#[derive(Debug)]
pub struct FreezeOnSmi {
    before: String,
}

impl FreezeOnSmi {
    /// Says whether.
    pub fn set(on: bool) -> Result<Self> {
        let before = fs::read_to_string(FREEZE_ON_SMI)
            .with_context(|| format!("{FREEZE_ON_SMI} cannot be read"))?;
        fs::write(FREEZE_ON_SMI, if on { "1" } else { "0" })
            .with_context(|| format!("{FREEZE_ON_SMI} cannot be written"))?;
        Ok(Self { before })
    }
}

impl Drop for FreezeOnSmi {
    fn drop(&mut self) {
        if let Err(error) = fs::write(FREEZE_ON_SMI, self.before.trim_end()) {
            eprintln!(
                "# {FREEZE_ON_SMI} is not {} again: {error}",
                self.before.trim_end()
            );
        }
    }
}

fn online_file(cpu: usize) -> PathBuf {
    format!("/sys/devices/system/cpu/cpu{cpu}/online").into()
}

/// Returns whether this CPU can be taken offline; the first one mostly cannot.
pub fn can_offline(cpu: usize) -> bool {
    online_file(cpu).exists()
}

/// A CPU that is offline for as long as this lives.
#[derive(Debug)]
pub struct Offline(usize);

impl Offline {
    /// Takes the CPU offline; its threads move to others.
    pub fn new(cpu: usize) -> Result<Self> {
        fs::write(online_file(cpu), "0")
            .with_context(|| format!("CPU {cpu} cannot be taken offline"))?;
        Ok(Self(cpu))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        if let Err(error) = fs::write(online_file(self.0), "1") {
            eprintln!("# CPU {} stays offline: {error}", self.0);
        }
    }
}
