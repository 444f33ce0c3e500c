// SPDX-License-Identifier: GPL-2.0-only
//! What a person gets wrong on the command line ends in one line that says so.

use std::fs;
use std::process::Command;

/// Runs `lab`, which must fail, and gives the lines that it prints.
fn lab(arguments: &[&str]) -> Vec<String> {
    let logs = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(arguments)
        .arg("--log")
        .arg(logs.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// That exactly one line says `what`.
fn says(arguments: &[&str], what: &str) {
    let lines = lab(arguments);
    let found = lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(found, 1, "{arguments:?}, {what}: {lines:?}");
}

#[test]
fn an_unknown_machine() {
    let what = "no machine nosuch; `lab list` names them";
    says(&["boot", "nosuch"], what);
    says(&["run", "nosuch", "--suite", "lab"], what);
    says(&["conform", "nosuch"], what);
}

#[test]
fn an_unknown_suite() {
    let arguments = ["run", "skylake", "--suite", "nosuch"];
    says(&arguments, "nosuch.sh; `lab list` names them");
}

#[test]
fn a_wrong_key_in_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/../emu/machines/skylake.toml");
    let good = fs::read_to_string(good).unwrap();
    let path = path.to_str().unwrap();
    for (machine, what) in [
        (
            good.replace("ips =", "isp ="),
            "bad.toml: line 8: unknown field `isp`",
        ),
        (good.replace("count = 1", "count = 9"), "cpu.count"),
        (good.replace("[memory]", "[memory"), "bad.toml: line 11: "),
    ] {
        fs::write(path, machine).unwrap();
        says(&["boot", path], what);
        says(&["run", path, "--suite", "lab"], what);
    }
}

#[test]
fn a_wrong_head_of_a_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.sh");
    fs::write(&path, "#: about = \"x\"\n#: part = []\n").unwrap();
    let suite = path.to_str().unwrap();
    says(
        &["run", "skylake", "--suite", suite],
        "unknown field `part`",
    );
}

#[test]
fn modules_of_no_kernel() {
    let arguments = ["boot", "skylake", "--modules", "/tmp"];
    says(&arguments, "--modules goes with --kernel");
}
