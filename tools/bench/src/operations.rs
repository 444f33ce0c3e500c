// SPDX-License-Identifier: GPL-2.0-only
//! All operations, in the order of the tables.

/// What of a section is the operation's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// What the host does from VM exits for these reasons to the next VM entry.
    Exits(&'static [&'static str]),
    /// The same of all reasons but that of the exit to userspace at the end.
    Run,
    /// All that the host does, but for what an empty section costs.
    All,
    /// The same beyond that of another operation.
    Beyond(&'static str),
}

/// An operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name, that of its sections.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// What it costs.
    pub cost: Cost,
    /// Whether `make check` guards it.
    pub guarded: bool,
}

const fn guarded(name: &'static str, title: &'static str, cost: Cost) -> Operation {
    Operation {
        name,
        title,
        cost,
        guarded: true,
    }
}

const fn shown(name: &'static str, title: &'static str, cost: Cost) -> Operation {
    Operation {
        guarded: false,
        ..guarded(name, title, cost)
    }
}

const CPUID: Cost = Cost::Exits(&["CPUID"]);
const READ: Cost = Cost::Exits(&["MSR_READ"]);
const WRITE: Cost = Cost::Exits(&["MSR_WRITE"]);
const BEYOND: Cost = Cost::Beyond("switch_without");

/// Single operations.
pub const OPERATIONS: &[Operation] = &[
    guarded("exit_without", "CPUID exit, guest without LBR", CPUID),
    guarded("exit_idle", "CPUID exit, LBR not used", CPUID),
    guarded("exit_granted", "CPUID exit, guest records", CPUID),
    guarded("exit_reclaimed", "CPUID exit, the host has the LBR", CPUID),
    guarded(
        "debugctl_read_without",
        "RDMSR DEBUGCTL, guest without LBR",
        READ,
    ),
    guarded("debugctl_read_idle", "RDMSR DEBUGCTL, LBR not used", READ),
    guarded(
        "debugctl_read_granted",
        "RDMSR DEBUGCTL, guest records",
        READ,
    ),
    guarded(
        "control_read_granted",
        "RDMSR of the control, guest records",
        READ,
    ),
    guarded(
        "control_write_granted",
        "WRMSR of the control, guest records",
        WRITE,
    ),
    guarded(
        "record_read_granted",
        "RDMSR of a record, guest records",
        READ,
    ),
    guarded(
        "record_write_granted",
        "WRMSR of a record, guest records",
        WRITE,
    ),
    guarded(
        "control_read_reclaimed",
        "RDMSR of the control, the host has the LBR",
        READ,
    ),
    guarded(
        "record_read_reclaimed",
        "RDMSR of a record, the host has the LBR",
        READ,
    ),
    guarded(
        "record_write_reclaimed",
        "WRMSR of a record, the host has the LBR",
        WRITE,
    ),
    guarded(
        "first_use",
        "a vCPU's first use: WRMSR of the control, RDMSR of a record",
        Cost::Exits(&["MSR_READ", "MSR_WRITE"]),
    ),
    guarded(
        "first_access_after_release",
        "first access after the release",
        READ,
    ),
    guarded(
        "filter_granted",
        "all intercepts set anew (MSR filter replaced), guest records",
        Cost::Beyond("filter_idle"),
    ),
    guarded(
        "pmi",
        "a PMI of the guest's, up to the end of its handler",
        Cost::Run,
    ),
    guarded(
        "host_event_granted",
        "a host event takes the LBR from a recording guest and gives it back",
        Cost::Beyond("host_event_idle"),
    ),
    guarded("get_msrs", "KVM_GET_MSRS of all LBR MSRs", Cost::All),
    shown(
        "switch_idle",
        "context switch away and back, LBR not used",
        BEYOND,
    ),
    shown(
        "switch_same",
        "context switch away and back, guest records",
        BEYOND,
    ),
    shown(
        "switch_other",
        "the same, another VM records meanwhile",
        BEYOND,
    ),
    shown(
        "exit_beside_1",
        "CPUID exit of the only VM that records",
        CPUID,
    ),
    shown("exit_beside_2", "CPUID exit, 2 VMs record", CPUID),
    shown("exit_beside_8", "CPUID exit, 8 VMs record", CPUID),
    shown("exit_beside_32", "CPUID exit, 32 VMs record", CPUID),
    shown(
        "switch_beside_1",
        "context switch away and back, the only VM that records",
        BEYOND,
    ),
    shown(
        "switch_beside_2",
        "context switch away and back, 2 VMs record",
        BEYOND,
    ),
    shown(
        "switch_beside_8",
        "context switch away and back, 8 VMs record",
        BEYOND,
    ),
    shown(
        "switch_beside_32",
        "context switch away and back, 32 VMs record",
        BEYOND,
    ),
];

/// What is measured only to be taken off others.
pub const BASES: &[&str] = &[
    "empty",
    "run_without",
    "run_granted",
    "filter_idle",
    "host_event_idle",
    "switch_without",
];

/// The first of these in a boot is an operation of its own: the first LBR event.
pub const FIRST: (&str, &str, &str) = ("first_use", "first_use_of_boot", "the first use of a boot");

/// How fixed work is profiled, end to end.
pub const PROFILES: &[(&str, &str)] = &[
    ("record", "perf record"),
    ("branches", "perf record -b"),
    ("callgraph", "perf record --call-graph lbr"),
];

/// Returns what an operation is, for people.
pub fn title(name: &str) -> Option<String> {
    if name == FIRST.1 {
        return Some(FIRST.2.into());
    }
    if let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == name) {
        return Some(operation.title.into());
    }
    PROFILES.iter().find_map(|(how, command)| {
        let rest = name.strip_prefix("sample_")?;
        (rest == *how).then(|| format!("one sample of {command}"))
    })
}
