// SPDX-License-Identifier: GPL-2.0-only
//! Each checker of a kernel finds a fault that is made for it, and the lab fails the boot in
//! which it did.

use std::fs;
use std::process::{Command, Stdio};

const MODULE: &str = "guest_lbr_fault_test";

/// Runs `script` on `machine` with the kernel `kernel`, and gives what the lab calls faults of
/// that kernel.
fn faults(machine: &str, kernel: &str, script: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.sh");
    let head = "#: about = \"x\"\n#: parts = [\"selftests\"]\n";
    fs::write(&path, format!("{head}{script}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", machine, "--kernel", kernel, "--suite"])
        .arg(&path)
        .arg("--log")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let faults: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once("FAILED  kernel fault: host: "))
        .map(|(_, fault)| fault.to_owned())
        .collect();
    assert!(!faults.is_empty(), "{text}");
    faults
}

/// That the kernel finds exactly these: for each the kind of fault to make, and the lines that
/// are said of it.
fn finds(machine: &str, kernel: &str, planted: &[(&str, &[&str])]) {
    let make = |(kind, _): &(&str, &[&str])| {
        format!(
            "check {kind} insmod /selftests/{MODULE}.ko kind={kind}\n\
             check 'it is unloaded' rmmod {MODULE}\n"
        )
    };
    let script: String = planted.iter().map(make).collect();
    let faults = faults(machine, kernel, &script);
    let mut expected = 0;
    for (kind, lines) in planted {
        for said in *lines {
            let found = faults.iter().filter(|fault| fault.contains(said));
            assert_eq!(found.count(), 1, "{kind}: {said}: {faults:#?}");
            expected += 1;
        }
    }
    assert_eq!(faults.len(), expected, "{faults:#?}");
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn debug_finds_sleep_objects_lists_rcu_and_leaks() {
    finds(
        "skylake",
        "kernel-debug",
        &[
            (
                "sleep_in_atomic",
                &["BUG: sleeping function called from invalid context"],
            ),
            (
                "cpu_while_preemptible",
                &["BUG: using smp_processor_id() in preemptible"],
            ),
            ("rcu_without_lock", &["WARNING: suspicious RCU usage"]),
            (
                "free_armed_timer",
                &["ODEBUG: free active", "lib/debugobjects.c:"],
            ),
            ("list_twice", &["list_add double add", "lib/list_debug.c:"]),
            ("leak", &["kmemleak: 10 new suspected memory leaks"]),
        ],
    );
}

// The first thing that lockdep finds is its last.
#[test]
#[ignore = "boots machines; lab check has it run"]
fn debug_finds_locks_in_the_wrong_order() {
    let said = "WARNING: possible circular locking dependency detected";
    finds("skylake", "kernel-debug", &[("lock_order", &[said])]);
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn debug_finds_a_lock_that_may_not_be_inside_another() {
    let said = "[ BUG: Invalid wait context ]";
    finds("skylake", "kernel-debug", &[("lock_nesting", &[said])]);
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn debug_finds_what_rust_asserts() {
    for module in ["guest_lbr_overflow_test", "guest_lbr_assert_test"] {
        let script = format!("check loaded insmod /selftests/{module}.ko\n");
        let faults = faults("skylake", "kernel-debug", &script);
        let place = format!("/{module}.rs:");
        let found = faults
            .iter()
            .filter(|fault| fault.contains("rust_kernel: panicked at ") && fault.contains(&place));
        assert_eq!(found.count(), 1, "{module}: {faults:#?}");
    }
}

// KASAN tells of the first fault only.
#[test]
#[ignore = "boots machines; lab check --full has it run"]
fn kasan_finds_wrong_accesses() {
    for (kind, said) in [
        ("use_after_free", "BUG: KASAN: slab-use-after-free in "),
        ("out_of_bounds", "BUG: KASAN: slab-out-of-bounds in "),
        (
            "vmalloc_out_of_bounds",
            "BUG: KASAN: vmalloc-out-of-bounds in ",
        ),
    ] {
        finds("skylake", "kernel-kasan", &[(kind, &[said])]);
    }
}

#[test]
#[ignore = "boots machines; nothing has it run yet"]
fn kcsan_finds_a_race() {
    let said = "BUG: KCSAN: data-race in race_main";
    finds("skylake-smp", "kernel-kcsan", &[("race", &[said])]);
}
