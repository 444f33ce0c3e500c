// SPDX-License-Identifier: GPL-2.0-only
//! What a person gets wrong ends in one line that says so: on the command line, or, seen
//! by booting it, in a kernel or a suite.

use std::fs;
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::pty::openpty;

/// Runs `lab`, which must fail, and gives the lines that it prints.
fn lab(arguments: &[&str], stdin: Stdio) -> Vec<String> {
    let logs = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(arguments)
        .arg("--log")
        .arg(logs.path())
        .stdin(stdin)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    for line in text.split('\n') {
        // The kernel's log is passed on as it is.
        let of_kernel = arguments[0] == "boot" && line.starts_with('[');
        assert!(
            of_kernel || !line.contains(char::is_control),
            "{arguments:?}: {line:?}"
        );
    }
    text.lines().map(str::to_owned).collect()
}

/// A good description of a machine.
fn skylake() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../emu/machines/skylake.toml");
    fs::read_to_string(path).unwrap()
}

/// That exactly one line says `what`.
fn says(arguments: &[&str], what: &str) {
    says_with(Stdio::null(), arguments, what);
}

/// The same with this standard input.
fn says_with(stdin: Stdio, arguments: &[&str], what: &str) {
    says_each(&lab(arguments, stdin), &[what]);
}

/// That exactly one of the lines says each of `whats`.
fn says_each(lines: &[String], whats: &[&str]) {
    for what in whats {
        let found = lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(found, 1, "{what}: {lines:#?}");
    }
}

#[test]
fn an_unknown_machine() {
    let what = "no machine nosuch; `lab list` names them";
    says(&["boot", "nosuch"], what);
    says(&["run", "nosuch", "--suite", "lab"], what);
    says(&["conform", "nosuch"], what);
    says(&["bench-emu", "nosuch"], what);
    says(&["demo", "nosuch"], what);
    says(&["spread", "nosuch"], what);
}

#[test]
fn an_unknown_suite() {
    let arguments = ["run", "skylake", "--suite", "nosuch"];
    says(&arguments, "nosuch.sh; `lab list` names them");
}

#[test]
fn a_disk_that_another_machine_has() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    fs::write(&image, vec![0; 1008 * 512]).unwrap();
    let left_behind = folder.path().join("disk.img.lock");
    fs::write(&left_behind, "").unwrap();
    let arguments = ["system", image.to_str().unwrap(), "--vmlinuz=/none"];
    let arguments = [&arguments[..], &["--initrd=/none"]].concat();

    let other = fs::File::open(&image).unwrap();
    let other = Flock::lock(other, FlockArg::LockExclusive).unwrap();
    says(&arguments, "disk.img is the disk of a machine that runs");
    assert!(left_behind.exists());

    drop(other);
    says(&arguments, "/none does not exist");
    assert!(!left_behind.exists());
}

#[test]
fn programs_of_which_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        format!("/bin/sh {}", path.display())
    };
    let good = program("good", "echo 'ok 1 a'; echo 'ok 2 b'; echo 1..2");
    let bad = program("bad", "echo 'ok 1 c'; echo 1..1; exit 7");
    let none = "scripts/nosuch";
    let arguments = ["levels", "t", &good, &bad, none];
    says(&arguments, "ended with exit status: 7");
    says(&arguments, "scripts/nosuch does not run: No such file");
    says(&arguments, "3 passed, 2 failed, 0 skipped");
    let idle = program("idle", "echo '1..0 # SKIP no time'");
    says(&["levels", "t", &idle], "FAILED  nothing passed");
}

#[test]
fn a_wrong_key_in_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let good = skylake();
    let path = path.to_str().unwrap();
    for (machine, what) in [
        (
            good.replace("ips =", "isp ="),
            "bad.toml: line 8: unknown field `isp`",
        ),
        (good.replace("count = 1", "count = 9"), "cpu.count"),
        (good.replace("[memory]", "[memory"), "bad.toml: line 12: "),
    ] {
        fs::write(path, machine).unwrap();
        says(&["boot", path], what);
        says(&["run", path, "--suite", "lab"], what);
    }
}

#[test]
fn a_size_that_no_machine_has() {
    for (size, what) in [
        (["--cpus", "9"], "cpu.count is 9, must be 1 to 4"),
        (["--memory", "1"], "memory.mib is 1, must be 64 to 16384"),
    ] {
        let arguments = ["boot", "skylake"];
        says(&[&arguments[..], &size].concat(), what);
        let arguments = ["run", "skylake", "--suite", "lab"];
        says(&[&arguments[..], &size].concat(), what);
    }
}

/// That one line says `what` of a suite with this script, `append` being on the kernel's
/// command line.
fn suite_says(script: &str, append: &str, what: &str) {
    says_each(&suite(script, append), &[what]);
}

/// What is said of a suite with this script, which must fail.
fn suite(script: &str, append: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.sh");
    fs::write(&path, script).unwrap();
    let arguments = ["run", "skylake", "--suite", path.to_str().unwrap()];
    let arguments = [&arguments[..], &["--append", append]].concat();
    lab(&arguments, Stdio::null())
}

#[test]
fn a_wrong_head_of_a_suite() {
    suite_says(
        "#: about = \"x\"\n#: part = []\n",
        "",
        "unknown field `part`",
    );
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn a_machine_that_the_emulator_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let good = skylake();
    let path = path.to_str().unwrap();
    for (key, value, what) in [
        (
            "corei7_skylake_x",
            "corei7_skylake_y",
            "FAILED  the emulator knows no such cpu.model; `build/emu/bochs -help cpu` lists them",
        ),
        (
            "linear_address_bits = 48",
            "linear_address_bits = 57",
            "FAILED  the emulator gave up: bochs: cpu.linear_address_bits of the machine file",
        ),
    ] {
        fs::write(path, good.replace(key, value)).unwrap();
        says(&["conform", path], what);
        let what = what.trim_start_matches("FAILED  ");
        says(&["boot", path], what);
        let terminal = openpty(None, None).unwrap();
        says_with(terminal.slave.into(), &["shell", path], what);
    }
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn a_kernel_that_comes_to_no_init() {
    // A panic ends a run long before the limit, also on a slow build machine.
    suite_says(
        "#: about = \"x\"\n#: seconds = 60\n",
        "rdinit=/nosuch init=/nosuch",
        "the host's kernel panicked; nothing came from its userland, and the console's \
         last line is: [",
    );
    // Then the kernel starts a shell, which waits for somebody to type.
    suite_says(
        "#: about = \"x\"\n#: seconds = 6\n",
        "rdinit=/nosuch",
        "not done in 6 s of CPU time; nothing came from its userland, and the console's \
         last line is: ",
    );
    let append = "--append=rdinit=/nosuch init=/nosuch";
    let what = "FAILED  the host's kernel panicked; logs: ";
    says(&["boot", "skylake", append], what);
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn a_kernel_whose_machine_shuts_down() {
    let script = "#: about = \"x\"\n#: seconds = 20\nok a\nreboot -f\nsleep 60\n";
    let what = "FAILED  the host's CPU shut down, by a triple fault";
    suite_says(script, "reboot=triple", what);
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn a_suite_that_hangs() {
    let script = "#: about = \"x\"\n#: seconds = 6\nok a\nwhile :; do :; done\n";
    suite_says(script, "", "FAILED  not done in 6 s of CPU time");
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn noise_on_serial_ports() {
    let head = "#: about = \"x\"\nnoise() { head -c 3000 /dev/urandom; }\n";
    // A fault of the kernel is found in it.
    let script = format!(
        "{head}ok a; noise >/dev/ttyS0\n\
         printf '\\n<0>BUG: bad page\\n' >/dev/kmsg; noise >/dev/ttyS0\n"
    );
    suite_says(&script, "", "FAILED  kernel fault: host: ");
    // A result that is part of it is missed.
    suite_says(
        &format!("{head}ok a; noise; ok b\n"),
        "",
        "FAILED  2 tests planned, 1 ran",
    );
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn a_suite_in_which_nothing_passes() {
    let script = "#: about = \"x\"\nskip a 'no such CPU'\nskip b 'no such CPU'\n";
    let what = "FAILED  nothing passed: 0 passed, 0 failed, 2 skipped";
    suite_says(script, "", what);
}

#[test]
fn a_suite_that_no_shell_can_read() {
    let script = "#: about = \"x\"\nok a\nif true; then\n\tok b\n";
    let what = "mine.sh: line 5: syntax error: unexpected end of file";
    suite_says(script, "", what);
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn checks_that_test_nothing() {
    let script = "#: about = \"x\"
        check good true
        check_fails 'good refusal' false
        check_fails 'good search' grep nosuch /proc/version
        check_silent 'good silence' true
        none=
        check 'no command'
        check 'an empty command' $none
        check_fails 'a wrong test' [ \"$none\" -lt 5 ]
        check_fails 'a wrong search' grep x /nosuch
        check_fails 'a crash' sh -c 'kill -SEGV $$'
        check_fails 'no module' insmod /nosuch.ko
        check_fails 'none to unload' rmmod nosuch
        check_silent 'a failed silence' false
        check_silent 'a noise' echo x
        check_same 'two nothings' \"$none\" \"$(false)\"
        check_same 'too little' $none $none
        subtests 'no program' $none
        subtests 'no tests' echo 1..0
        subtests 'no plan' echo ok 1 a
        subtests 'no end of a line' printf '1..1\\nnot ok 1 a'
        check_same 'many lines' 'a\nok 99 b' c
        artifact missing /nosuch
        x=$(check 'a hidden failure' false)
        ok end
    ";
    says_each(
        &suite(script, ""),
        &[
            "FAILED  no command",
            "FAILED  an empty command",
            "FAILED  a wrong test",
            "FAILED  a wrong search",
            "FAILED  a crash",
            "FAILED  no module",
            "FAILED  none to unload",
            "FAILED  a failed silence",
            "FAILED  a noise",
            "FAILED  two nothings",
            "FAILED  too little",
            "FAILED  no program",
            "FAILED  no tests: no test ran",
            "FAILED  no plan: no plan (cut off?)",
            "FAILED  no end of a line: a",
            "FAILED  a hidden failure",
            "FAILED  many lines",
            "FAILED  the artifact missing is missing: there is no file /nosuch",
        ],
    );
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn commands_that_are_not_there() {
    let script = "#: about = \"x\"
        ok a
        chek_same b 1 2
        f() { nosuch_in_function 2>/dev/null; }
        f
        (nosuch_in_subshell) >/dev/null 2>&1
        x=$(nosuch_in_substitution 2>&1)
        nosuch_in_pipe 2>&1 | cat >/dev/null
        check 'within a shell' sh -c 'nosuch_in_shell | true'
        check_fails 'by its absence' nosuch_to_fail
        check_fails 'by an absence' sh -c 'nosuch_to_fail_in_shell | grep x'
        sh -c 'nosuch_in_naked_shell; true'
        /nosuch/program
        ok z
    ";
    says_each(
        &suite(script, ""),
        &[
            "FAILED  mine.sh: line 3: chek_same: not found",
            "FAILED  mine.sh: line 4: nosuch_in_function: not found",
            "FAILED  mine.sh: line 6: nosuch_in_subshell: not found",
            "FAILED  mine.sh: line 7: nosuch_in_substitution: not found",
            "FAILED  mine.sh: line 8: nosuch_in_pipe: not found",
            "FAILED  within a shell",
            "FAILED  by its absence",
            "FAILED  mine.sh: line 10: nosuch_to_fail: not found",
            "FAILED  by an absence",
            "FAILED  a shell complains: sh: nosuch_in_naked_shell: not found",
            "FAILED  a shell complains: /lab/lib.sh: /tmp/mine.sh: line 13: /nosuch/program: ",
            "2 passed, 11 failed, 0 skipped",
        ],
    );
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn suites_that_end_early() {
    for (line, what) in [
        ("exit 0", "at line 3, with status 0"),
        (
            "f() { return 0; }; f && return 0",
            "at line 3, with status 0",
        ),
        ("x=$mistyped", "at line 3, with status 2"),
        ("cat <<END", "with status 0"),
    ] {
        let script = format!("#: about = \"x\"\nok a\n{line}\nnot_ok b\n");
        let lines = suite(&script, "");
        says_each(&lines, &["FAILED  mine.sh: it ended early", what]);
        let all = lines.concat();
        assert!(
            all.contains(" 1 passed, ") && !all.contains("FAILED  b"),
            "{all}"
        );
    }
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn modules_that_do_not_load() {
    let script = "#: about = \"x\"\nload_guest_lbr\nload_kvm\nload_kvm lbr=off\nok a\n";
    says_each(
        &suite(script, ""),
        &[
            "FAILED  guest_lbr loads",
            "FAILED  kvm_intel loads with lbr=off",
            "2 passed, 2 failed, 0 skipped",
        ],
    );
}

#[test]
#[ignore = "boots machines; lab check has it run"]
fn guests_that_are_not_there() {
    let script = "#: about = \"x\"
        #: parts = [\"qemu\"]
        load_kvm
        guest_start -- -nosuch-option
        ok 'what follows'
        check 'it starts' guest_start -- -nosuch-option
        check_fails 'it does not' guest_start -- -nosuch-option
        x=$(guest_run true)
        check 'another starts' guest_start other
        x=$(guest_run -g other nosuch_in_guest)
        guest_sh -g other 'nosuch_in_line 2>/dev/null | true'
        guest_sh -g other 'echo \"<0>BUG: bad page\" >/dev/kmsg'
        check 'it stops' guest_stop other
        check 'a third starts' guest_start third
        guest_seconds=3
        guest_run -g third sleep 99 | cat
        check_fails 'a command fails' guest_run -g third false
        check 'it stops as well' guest_stop third
        ok end
    "
    .replace("        ", "");
    says_each(
        &suite(&script, ""),
        &[
            "    # qemu: qemu-system-x86_64: -nosuch-option",
            "FAILED  guest guest starts",
            "FAILED  it starts",
            "FAILED  guest guest is gone",
            "FAILED  guest other: nosuch_in_guest: not found",
            "FAILED  guest other: nosuch_in_line: not found",
            "FAILED  guest third does not answer",
            "FAILED  a command fails",
            "FAILED  it stops as well",
            "FAILED  kernel fault: other: [",
            "7 passed, 9 failed, 0 skipped",
        ],
    );
}
