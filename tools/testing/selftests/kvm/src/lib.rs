// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! KVM selftests for guest LBR (Last Branch Records).
//!
//! Each file in `src/tests` is one test in the manner of the kernel's own KVM
//! selftests: it prints KTAP and exits with 0, 1 or 4 (passed, failed, skipped).
//! What they have in common is here:
//!
//! * [`ktap`]: cases, verdicts, output, command line;
//! * [`rules`]: who says what cases demand;
//! * [`host`]: what this host is: LBR depth and format, provider, CPUs;
//! * [`cpuid`]: the leaves that say which LBR a vCPU has;
//! * [`msr`]: the registers and a snapshot of the whole LBR state;
//! * [`guest`]: the code that runs inside and the commands that it obeys;
//! * [`block`]: how it gets them;
//! * [`vm`]: a virtual machine in 64-bit mode without any device but the APIC;
//! * [`vcpu`]: its vCPUs;
//! * [`nested`]: a guest of the guest's;
//! * [`thread`]: a vCPU on a thread of its own;
//! * [`process`]: a vCPU in a process of its own;
//! * [`stats`]: how often a vCPU exited;
//! * [`perf`]: the host's own use of the LBR, and tracepoints;
//! * [`hardware`]: the host's MSRs, behind the kernel's back;
//! * [`module`]: loading and unloading guest_lbr.ko.

pub mod block;
pub mod cpuid;
pub mod guest;
pub mod hardware;
pub mod host;
pub mod ktap;
pub mod module;
pub mod msr;
pub mod nested;
pub mod perf;
pub mod process;
pub mod rules;
pub mod stats;
pub mod thread;
pub mod vcpu;
pub mod vm;
