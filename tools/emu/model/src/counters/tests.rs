// SPDX-License-Identifier: GPL-2.0-only
//! Counting, against what the manual and the documentation say.

use proptest::prelude::*;

use super::door::Door;
use super::report::{Cpu as CpuReport, Exit, Msr};
use super::{Counters, MsrAccess, SectionError, BITMAPS, PAGE, SECTIONS, TOTAL};

const CPUID: u16 = 10;
const HLT: u16 = 12;

fn counted(counters: &Counters, section: &str) -> CpuReport {
    let report = counters.report(Some(section)).unwrap();
    report.sections[0].cpus[0].clone()
}

fn say(door: &mut Door, counters: &mut Counters, text: &[u8]) -> String {
    for byte in text {
        door.write(*byte, counters, &[0]);
    }
    hear(door)
}

fn hear(door: &mut Door) -> String {
    let bytes = std::iter::from_fn(|| Some(door.read()).filter(|byte| *byte != 0));
    String::from_utf8(bytes.collect()).unwrap()
}

#[test]
fn instructions_belong_to_the_mode_and_to_the_exit() {
    let mut counters = Counters::new(1);
    counters.entry(0, 100);
    counters.exit(0, CPUID, 0, 130);
    counters.entry(0, 137);
    counters.exit(0, HLT, 0, 140);
    counters.advance(&[1140]);
    let cpu = counted(&counters, TOTAL);
    assert_eq!(cpu.root_instructions, 100 + 7 + 1000);
    assert_eq!(cpu.guest_instructions, 30 + 3);
    assert_eq!(cpu.entries, 2);
    let exit = |count, returns, instructions| Exit {
        count,
        returns,
        instructions,
    };
    assert_eq!(cpu.exits[&CPUID], exit(1, 1, 7));
    assert_eq!(cpu.exits[&HLT], exit(1, 0, 0));
}

#[test]
fn a_section_counts_what_passes_in_it() {
    let mut counters = Counters::new(1);
    counters.entry(0, 10);
    counters.msr(0, 0x1d9, MsrAccess::Write);
    counters.advance(&[15]);
    counters.start("a").unwrap();
    counters.exit(0, 31, 0x1d9, 20);
    counters.msr(0, 0x1d9, MsrAccess::Read);
    counters.stop("a").unwrap();
    counters.msr(0, 0x1d9, MsrAccess::Read);
    counters.advance(&[99]);
    let cpu = counted(&counters, "a");
    assert_eq!((cpu.guest_instructions, cpu.root_instructions), (5, 0));
    assert_eq!(cpu.entries, 0);
    let only = Msr {
        root_read: 1,
        exit_read: 1,
        ..Msr::default()
    };
    assert_eq!(cpu.msrs.into_iter().collect::<Vec<_>>(), [(0x1d9, only)]);
    assert!(!counters.report(Some("a")).unwrap().sections[0].running);
    assert!(counters.report(Some(TOTAL)).unwrap().sections[0].running);
}

#[test]
fn accesses_are_told_apart() {
    let mut counters = Counters::new(1);
    let all = [
        MsrAccess::Read,
        MsrAccess::Write,
        MsrAccess::Store,
        MsrAccess::Load,
    ];
    for (n, access) in (0..).zip(all) {
        assert_eq!(MsrAccess::from_number(n), Some(access));
        for _ in 0..=n {
            counters.msr(0, 5, access);
        }
    }
    assert_eq!(MsrAccess::from_number(4), None);
    counters.entry(0, 0);
    for _ in 0..5 {
        counters.msr(0, 5, MsrAccess::Read);
    }
    for _ in 0..6 {
        counters.msr(0, 5, MsrAccess::Write);
    }
    for (times, reason) in [(7, 31), (8, 32), (9, CPUID)] {
        for _ in 0..times {
            counters.exit(0, reason, 5, 0);
        }
    }
    let msr = Msr {
        root_read: 1,
        root_write: 2,
        store: 3,
        load: 4,
        guest_read: 5,
        guest_write: 6,
        exit_read: 7,
        exit_write: 8,
        bitmap_flips: 0,
    };
    assert_eq!(counted(&counters, TOTAL).msrs[&5], msr);
}

#[test]
fn a_reset_starts_anew_and_loses_nothing() {
    let mut counters = Counters::new(1);
    counters.entry(0, 10);
    counters.exit(0, HLT, 0, 30);
    counters.entry(0, 31);
    counters.reset(0, 50);
    counters.advance(&[7]);
    counters.entry(0, 8);
    let cpu = counted(&counters, TOTAL);
    assert_eq!(cpu.guest_instructions, 20 + 19);
    assert_eq!(cpu.root_instructions, 10 + 1 + 8);
    // The exit before the reset had its entry; the next entry has none.
    assert_eq!(cpu.exits[&HLT].returns, 1);
}

#[test]
fn a_bitmap_has_four_parts() {
    let mut counters = Counters::new(1);
    let mut page = [0; PAGE];
    counters.bitmap(0, 0x1000, &page);
    // Bit 1 of byte 59 (0x1d9 / 8) is 0x1d9's read, of the third KiB its write.
    page[0x1d9 / 8] |= 1 << (0x1d9 % 8);
    page[2048 + 0x1d9 / 8] |= 1 << (0x1d9 % 8);
    page[1024 + 0x80 / 8] |= 1;
    page[3072 + 0x1fff / 8] |= 0x80;
    counters.bitmap(0, 0x1000, &page);
    counters.bitmap(0, 0x1000, &page);
    // Another bitmap is no change of this one, whatever it holds.
    counters.bitmap(0, 0x2000, &[0; PAGE]);
    counters.bitmap(0, 0x1000, &page);
    let cpu = counted(&counters, TOTAL);
    assert_eq!(cpu.bitmap_changes, 1);
    let flips: Vec<_> = cpu
        .msrs
        .iter()
        .map(|(index, msr)| (*index, msr.bitmap_flips))
        .collect();
    assert_eq!(flips, [(0x1d9, 2), (0xc000_0080, 1), (0xc000_1fff, 1)]);
    counters.bitmap(0, 0x1000, &[0; PAGE]);
    assert_eq!(counted(&counters, TOTAL).bitmap_changes, 2);
}

#[test]
fn bitmaps_that_are_not_used_are_forgotten() {
    let mut counters = Counters::new(1);
    for n in 0..BITMAPS as u64 {
        counters.bitmap(0, n << 12, &[0; PAGE]);
    }
    // The first is used again, so the second is the one to go.
    counters.bitmap(0, 0, &[0; PAGE]);
    counters.bitmap(0, 1 << 40, &[0; PAGE]);
    assert_eq!(counters.bitmaps.len(), BITMAPS);
    counters.bitmap(0, 0, &[1; PAGE]);
    counters.bitmap(0, 1 << 12, &[1; PAGE]);
    assert_eq!(counted(&counters, TOTAL).bitmap_changes, 1);
}

#[test]
fn sections_have_names_of_their_own() {
    let mut counters = Counters::new(1);
    let taken = |name: &str| Err(SectionError::Taken(name.into()));
    assert_eq!(counters.start("a"), Ok(()));
    assert_eq!(counters.start("a"), taken("a"));
    assert_eq!(counters.stop("a"), Ok(()));
    assert_eq!(counters.start("a"), taken("a"));
    assert_eq!(
        counters.stop("a"),
        Err(SectionError::NotRunning("a".into()))
    );
    assert_eq!(
        counters.stop(TOTAL),
        Err(SectionError::NotRunning(TOTAL.into()))
    );
    assert_eq!(counters.stop("b"), Err(SectionError::Unknown("b".into())));
    assert_eq!(
        counters.report(Some("b")),
        Err(SectionError::Unknown("b".into()))
    );
    for n in 2..SECTIONS {
        assert_eq!(counters.start(&n.to_string()), Ok(()));
    }
    assert_eq!(counters.start("b"), Err(SectionError::TooMany));
    assert_eq!(counters.report(None).unwrap().sections.len(), SECTIONS);
}

#[test]
fn cpus_that_do_not_exist_count_nothing() {
    let mut counters = Counters::new(1);
    counters.reset(1, 5);
    counters.entry(1, 5);
    counters.exit(1, HLT, 0, 5);
    counters.msr(1, 5, MsrAccess::Read);
    counters.bitmap(1, 0, &[0; PAGE]);
    assert_eq!(counted(&counters, TOTAL), CpuReport::default());
}

#[test]
fn the_door_answers_each_line() {
    let (mut door, mut counters) = (Door::default(), Counters::new(1));
    let mut say = |text: &str| say(&mut door, &mut counters, text.as_bytes());
    assert_eq!(say("start a"), "");
    assert_eq!(say("\n"), "ok\n");
    assert_eq!(say("stop a\n"), "ok\n");
    assert_eq!(
        say("stop b\n"),
        "error: there is no section b; start it first\n"
    );
    let empty = r#"{"root_instructions":0,"guest_instructions":0,"entries":0,"exits":{},"bitmap_changes":0,"msrs":{}}"#;
    let a = format!(r#"{{"name":"a","running":false,"cpus":[{empty}]}}"#);
    let total = format!(r#"{{"name":"total","running":true,"cpus":[{empty}]}}"#);
    assert_eq!(say("read a\n"), format!("{{\"sections\":[{a}]}}\n"));
    assert_eq!(say("read\n"), format!("{{\"sections\":[{total},{a}]}}\n"));
    for line in ["", "start", "start a b", "stop", "halt a", "read a b"] {
        assert_eq!(
            say(&format!("{line}\n")),
            "error: unknown line; say start NAME, stop NAME, read or read NAME\n"
        );
    }
    let longest = "n".repeat(64);
    assert_eq!(say(&format!("start {longest}\n")), "ok\n");
    for name in [format!("{longest}n"), "a/b".into(), "\u{e4}".into()] {
        assert!(say(&format!("start {name}\n")).starts_with("error: a section's name"));
    }
    // 80 characters are a line, 81 are not; nothing of them is a part of the next.
    assert_eq!(say(&format!("start b{}\n", " ".repeat(73))), "ok\n");
    assert!(say(&format!("start c{}\n", " ".repeat(74))).starts_with("error: a line"));
    assert_eq!(say(&format!("{}\nstart c\n", "x".repeat(5000))), "ok\n");
}

#[test]
fn the_door_takes_any_byte() {
    let (mut door, mut counters) = (Door::default(), Counters::new(1));
    assert_eq!(door.read(), 0);
    assert_eq!(
        say(&mut door, &mut counters, b"start \xff\n"),
        "error: a line is ASCII text\n"
    );
    // A new line drops what was not read.
    for byte in b"start a\n" {
        door.write(*byte, &mut counters, &[0]);
    }
    assert_eq!(door.read(), b'o');
    assert_eq!(say(&mut door, &mut counters, b"stop a\n"), "ok\n");
}

#[test]
fn registers_and_reasons_have_their_names() {
    let mut counters = Counters::new(1);
    counters.exit(0, CPUID, 0, 0);
    counters.exit(0, 900, 0, 0);
    counters.msr(0, 0xc000_0080, MsrAccess::Load);
    let report = serde_json::to_value(counters.report(Some(TOTAL)).unwrap()).unwrap();
    let cpu = &report["sections"][0]["cpus"][0];
    assert_eq!(cpu["exits"]["CPUID"]["count"], 1);
    assert_eq!(cpu["exits"]["900"]["count"], 1);
    assert_eq!(cpu["msrs"]["0xc0000080"]["load"], 1);
}

/// A step of a CPU: how many instructions retire, then what happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Entry,
    Exit(u16),
    Start,
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        4 => Just(Step::Entry),
        4 => (0u16..3).prop_map(Step::Exit),
        1 => Just(Step::Start),
        1 => Just(Step::Stop),
    ];
    proptest::collection::vec((0u64..50, step), 0..60)
}

proptest! {
    /// Retires instructions one by one, and looks at each where it belongs.
    #[test]
    fn every_instruction_is_counted_once(steps in steps()) {
        let mut counters = Counters::new(1);
        let (mut now, mut guest, mut last) = (0, false, None);
        let (mut root, mut inside) = (0, 0);
        let mut trips: Vec<(u16, u64)> = Vec::new();
        let mut running = false;
        let mut stopped = false;
        for (instructions, step) in steps {
            for _ in 0..instructions {
                now += 1;
                if running {
                    *(if guest { &mut inside } else { &mut root }) += 1;
                }
                last = last.map(|(reason, since)| (reason, since + 1));
            }
            counters.advance(&[now]);
            match step {
                Step::Entry => {
                    counters.entry(0, now);
                    guest = true;
                    trips.extend(last.take().filter(|_| running));
                }
                Step::Exit(reason) => {
                    counters.exit(0, reason, 0, now);
                    guest = false;
                    last = Some((reason, 0));
                }
                Step::Start if !running && !stopped => {
                    counters.start("s").unwrap();
                    running = true;
                }
                Step::Stop if running => {
                    counters.stop("s").unwrap();
                    running = false;
                    stopped = true;
                }
                Step::Start | Step::Stop => {}
            }
        }
        if running || stopped {
            let cpu = counted(&counters, "s");
            prop_assert_eq!(cpu.root_instructions, root);
            prop_assert_eq!(cpu.guest_instructions, inside);
            for reason in 0..3 {
                let exit = cpu.exits.get(&reason).copied().unwrap_or_default();
                let mine = trips.iter().filter(|trip| trip.0 == reason);
                prop_assert_eq!(exit.returns, mine.clone().count() as u64);
                prop_assert_eq!(exit.instructions, mine.map(|trip| trip.1).sum::<u64>());
            }
        }
    }
}
