// SPDX-License-Identifier: GPL-2.0-only
//! Finds faults in a kernel log.
//!
//! A fault is a *head* line (WARNING, BUG, a stall, ...) and what the kernel
//! prints under it (call trace, registers).  A suite may expect a head, with a
//! reason; then all of that fault is expected.  A call trace with no head above
//! it is a fault of its own.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

/// A fault that a suite expects.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// A part of the fault's head line.
    pub line: String,
    /// Why it is no defect of what is tested.
    pub reason: String,
}

static HEAD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&[
        r"WARNING: (CPU|PID)",
        // A subsystem's own warning has its name in front ("RETBleed: WARNING: ").
        r"(^|[\]>] ?)WARNING: .*(lock|RCU|context|irq|recursive|dependency|stack|leak)",
        r"\bBUG: ",
        // SLUB's: "BUG kmalloc-64 (Not tainted): Poison overwritten".
        r"\bBUG \S+ \(",
        r"kernel BUG at",
        r"rust_kernel: panicked at",
        r"Oops: |Oops\[",
        r"general protection fault",
        r"[Uu]nable to handle",
        r"Kernel panic",
        r"unchecked MSR access error",
        r"rcu: INFO: |rcu_\w+ .*stall",
        r"INFO: (task|trying|possible|suspicious|lockdep)",
        r"(soft|hard) (lockup|LOCKUP)",
        r"DEBUG_LOCKS_WARN_ON",
        r"(KASAN|KCSAN|KFENCE|UBSAN): ",
        r"UBSAN|kmemleak: [1-9][0-9]* new suspected",
        // A checker that has given up checks nothing any more.
        r"kmemleak: (Cannot|Memory pool empty|Kernel memory leak detector disabled)",
        r"ODEBUG: [^s]|turning off the locking correctness validator",
        r"(list_add|list_del) (corruption|double add)",
        r"exited with (preempt_count|irqs disabled)",
        r"refcount_t: ",
        r"sysfs: cannot create duplicate|debugfs: .* already present",
        r"segfault at |traps: ",
        r"Out of memory: ",
        r"kvm\S*: .*(emulation failed|unexpected exit|VMREAD error|vmwrite failed|vmread failed)",
        r"VM-(entry|Entry) failed|dump_invalid_vmcs=1|kvm: no hardware support",
        r"NMI received for unknown reason|perfevents: irq loop stuck",
    ])
});

static BODY: LazyLock<Regex> =
    LazyLock::new(|| pattern(&[r"Call Trace:", r"---\[ end trace", r"RIP: 0"]));

/// How far below its head a fault's own lines may be.
const REACH: usize = 120;

fn pattern(alternatives: &[&str]) -> Regex {
    // The patterns are constants, and a test compiles them.
    Regex::new(&alternatives.join("|")).expect("a constant pattern")
}

/// Faults of one or more logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Splats {
    /// Heads that nothing allows.
    pub found: Vec<String>,
    /// Heads that are allowed, with the reason.
    pub allowed: Vec<(String, String)>,
    seen: BTreeSet<String>,
}

impl Splats {
    /// Looks through `log`.  A line that was met before, in another copy of the
    /// same log, is not reported again.
    pub fn scan(&mut self, source: &str, log: &str, allow: &[Allow]) {
        let mut head = None;
        for (number, line) in log.lines().enumerate() {
            let line = line.trim();
            let is_head = HEAD.is_match(line);
            let covered = head.is_some_and(|head| number - head <= REACH);
            if !is_head && (covered || !BODY.is_match(line)) {
                continue;
            }
            head = Some(number);
            // Heads inside a fault ("RIP: ...", "Oops") follow the first one's
            // fate only if they are body lines; another head stands alone.
            if !self.seen.insert(format!("{source}: {}", strip(line))) {
                continue;
            }
            let shown = format!("{source}: {line}");
            match allow.iter().find(|allow| line.contains(&allow.line)) {
                Some(allow) => self.allowed.push((shown, allow.reason.clone())),
                None => self.found.push(shown),
            }
        }
    }
}

/// A printk line without the level that `dmesg -r` puts in front.
fn strip(line: &str) -> &str {
    match line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((level, rest)) if level.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(log: &str) -> Vec<String> {
        let mut splats = Splats::default();
        splats.scan("host", log, &[]);
        splats.found
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        for line in [
            "[    1.2] WARNING: CPU: 0 PID: 7 at arch/x86/kvm/x86.c:1 kvm_foo+0x1/0x2",
            "[    1.2] WARNING: possible circular locking dependency detected",
            "[    1.2] WARNING: suspicious RCU usage",
            "[    1.2] WARNING: inconsistent lock state",
            "<4>[    1.2] WARNING: possible recursive locking detected",
            "WARNING: stack recursion",
            "[    1.2] WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
            "[    1.2] WARNING: possible irq lock inversion dependency detected",
            "[    1.2] WARNING: held lock freed!",
            "[    1.2] WARNING: bad unlock balance detected!",
            "[    1.2] WARNING: insmod/9 still has locks held!",
            "[    1.2] WARNING: lock held when returning to user space!",
            "[    1.2] [ BUG: Invalid wait context ]",
            "[    1.2] BUG: MAX_LOCKDEP_CHAINS too low!",
            "[    1.2] turning off the locking correctness validator.",
            "[    1.2] INFO: trying to register non-static key.",
            "[    1.2] BUG: sleeping function called from invalid context at mm/slab.c:1",
            "[    1.2] BUG: scheduling while atomic: insmod/9/0x00000002",
            "[    1.2] BUG: using smp_processor_id() in preemptible [00000000] code: insmod/9",
            "[    1.2] note: insmod[9] exited with preempt_count 1",
            "[    1.2] BUG: spinlock bad magic on CPU#0, insmod/9",
            "[    1.2] BUG kmalloc-64 (Tainted: G           O      ): Poison overwritten",
            "[    1.2] ODEBUG: free active (active state 0) object: x object type: timer_list",
            "[    1.2] ODEBUG: Out of memory. ODEBUG disabled",
            "[    1.2] list_add double add: new=x, prev=x, next=x.",
            "[    1.2] kmemleak: Kernel memory leak detector disabled",
            "[    1.2] BUG: KCSAN: data-race in foo / bar",
            "[    1.2] rust_kernel: panicked at x.rs:1:2:",
            "[    1.2] BUG: KASAN: slab-out-of-bounds in foo+0x1/0x2",
            "[    1.2] BUG: kernel NULL pointer dereference, address: 0",
            "[    1.2] kernel BUG at kernel/events/core.c:1!",
            "[    1.2] Oops: general protection fault, 0000 [#1] SMP",
            "[    1.2] Kernel panic - not syncing: Attempted to kill init!",
            "[    1.2] unchecked MSR access error: WRMSR to 0x1c9 (tried to write 0x20)",
            "[    1.2] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[    1.2] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
            "[    1.2] INFO: task init:1 blocked for more than 120 seconds.",
            "[    1.2] kmemleak: 3 new suspected memory leaks",
            "[    1.2] perf[7]: segfault at 0 ip 0 sp 0 error 4",
            "[    1.2] Call Trace:",
            "[    1.2] perfevents: irq loop stuck!",
        ] {
            assert_eq!(found(line), [format!("host: {line}")]);
        }
    }

    #[test]
    fn ordinary_lines_are_no_faults() {
        for line in [
            "[    0.0] Linux version 6.12.117",
            "[    0.0] DEBUG: nothing",
            "[    0.0] rcu: Hierarchical RCU implementation.",
            "[    0.0] rcu: \tRCU lockdep checking is enabled.",
            "[    0.0] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar",
            "[    0.0] Running RCU self tests",
            "[    0.0] ODEBUG: selftest passed",
            "[    0.0] kmemleak: Kernel memory leak detector initialized (mem pool available: 9999)",
            "[    0.0] kasan: KernelAddressSanitizer initialized",
            "[    0.0] kcsan: enabled early",
            "[    0.0] Performance Events: Skylake events, 32-deep LBR",
            "[    0.0] ACPI: Early table checksum verification disabled",
            "[    0.0] process: using mwait in idle threads",
            "[    0.0] reboot: Power down",
            "[    0.8] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable, leaks possible!",
        ] {
            assert_eq!(found(line), Vec::<String>::new());
        }
    }

    #[test]
    fn a_trace_belongs_to_its_head_and_a_second_copy_to_the_first() {
        let log = "[1.0] WARNING: CPU: 0 PID: 7 at x\n[1.0] RIP: 0010:x\n[1.0] Call Trace:\n";
        let mut splats = Splats::default();
        splats.scan("host", log, &[]);
        splats.scan("host", &log.replace("[1", "<4>[1"), &[]);
        splats.scan("host", log, &[]);
        assert_eq!(splats.found, ["host: [1.0] WARNING: CPU: 0 PID: 7 at x"]);
    }

    #[test]
    fn an_allowed_fault_is_kept_apart_with_its_reason() {
        let allow = [Allow {
            line: "WRMSR to 0x1c9".into(),
            reason: "upstream".into(),
        }];
        let log =
            "[1] unchecked MSR access error: WRMSR to 0x1c9\n[1] Call Trace:\n[2] BUG: other\n";
        let mut splats = Splats::default();
        splats.scan("host", log, &allow);
        assert_eq!(splats.found, ["host: [2] BUG: other"]);
        assert_eq!(splats.allowed.len(), 1);
        assert_eq!(splats.allowed[0].1, "upstream");
    }
}
