//! Plain files.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_growing_file_is_read_line_by_line() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "");
    assert_eq!(bench.lines("calls.jsonl"), []);
    let text = "one\n\ntwo\r\n\u{fc}\n last\n";
    for byte in text.as_bytes() {
        bench.append("calls.jsonl", [*byte]);
        bench.run().unwrap();
    }
    let lines = whole(&["one", "", "two\r", "\u{fc}", " last"]);
    assert_eq!(bench.lines("calls.jsonl"), lines);
    bench.append("calls.jsonl", "waits for its end");
    assert_eq!(bench.lines("calls.jsonl"), lines);
    bench.settle();
    assert_eq!(bench.lines("calls.jsonl"), lines);
    assert_eq!(bench.taken.positions["calls"]["calls.jsonl"], 5);
}

#[test]
fn a_file_goes_on_from_every_line() {
    let text: String = (0..40).map(|n| format!("{n}{}\n", "x".repeat(n * 17))).collect();
    let expected: Vec<_> = text.lines().map(|line| Line::Whole(line.into())).collect();
    for stop in 1..=expected.len() {
        let mut bench = Bench::new();
        bench.write("calls.jsonl", &text);
        bench.taken.at_most = stop;
        assert_eq!(bench.poll().unwrap(), Polled::More);
        assert_eq!(bench.taken.positions["calls"]["calls.jsonl"], stop as u64);
        bench.source = None;
        assert_eq!(bench.lines("calls.jsonl"), expected);
    }
}

#[test]
fn a_file_that_was_cut_below_its_position_stops_the_run() {
    for restart in [false, true] {
        let mut bench = Bench::new();
        bench.write("calls.jsonl", "one\ntwo\nthree\nhalf");
        bench.run().unwrap();
        bench.write("calls.jsonl", "one\ntwo\nthree\n");
        assert_eq!(bench.lines("calls.jsonl").len(), 3, "what was cut lay beyond the position");
        bench.write("calls.jsonl", "one\ntwo\n");
        if restart {
            bench.source = None;
        }
        let message = bench.stops("calls.jsonl");
        assert!(message.contains("truncated or replaced below its position (line 3)"), "{message}");
    }
}

#[test]
fn a_file_that_was_replaced_stops_the_run_whatever_its_size() {
    let original = "one\ntwo\nthree\n";
    for replacement in ["One\ntwo\nthree\n", "one\ntwo\nthre \n", "another\nfile\nthat is longer\n"] {
        for (restart, in_place) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bench = Bench::new();
            bench.write("calls.jsonl", original);
            bench.run().unwrap();
            wait_for_the_clock();
            if in_place {
                bench.write("calls.jsonl", replacement);
            } else {
                bench.write("other", replacement);
                fs::rename(bench.path("other"), bench.path("calls.jsonl")).unwrap();
            }
            if restart {
                bench.source = None;
            }
            let message = bench.stops("calls.jsonl");
            assert!(message.contains("truncated or replaced below its position"), "{message}");
        }
    }
}

#[test]
fn a_change_in_the_middle_of_a_long_file_is_beyond_the_promise_but_its_ends_are_not() {
    let mut text = noise(100_000, 1);
    text.push(b'\n');
    for changed in [0, 4095, 100_000 - 4095, 99_999] {
        let mut bench = Bench::new();
        bench.write("calls.jsonl", &text);
        bench.run().unwrap();
        let mut other = text.clone();
        other[changed] ^= 1;
        bench.write("calls.jsonl", &other);
        bench.append("calls.jsonl", "more\n");
        bench.stops("calls.jsonl");
    }
}

#[test]
fn the_same_content_under_another_inode_or_time_goes_on() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "one\ntwo\npart");
    bench.run().unwrap();
    bench.write("other", "one\ntwo\nother part\n");
    fs::rename(bench.path("other"), bench.path("calls.jsonl")).unwrap();
    assert_eq!(bench.lines("calls.jsonl"), whole(&["one", "two", "other part"]));
    wait_for_the_clock();
    bench.write("calls.jsonl", "one\ntwo\nother part\n");
    assert_eq!(bench.lines("calls.jsonl").len(), 3);
}

#[test]
fn a_line_over_the_limit_is_told_by_head_and_size() {
    let mut bench = Bench::new();
    let max = VALUE_BYTES_MAX as usize;
    let (fits, over) = (noise(max, 2), noise(max + 1, 3));
    let far = noise(9_000_000, 4);
    let mut expected = Vec::new();
    for line in [&b"first"[..], &fits, &over, b"between", &far, b"", b"last"] {
        bench.append("calls.jsonl", line);
        bench.append("calls.jsonl", "\n");
        expected.push(if line.len() > max {
            Line::TooLarge(line[..4096].to_vec(), line.len() as u64)
        } else {
            Line::Whole(line.to_vec())
        });
    }
    assert_eq!(bench.lines("calls.jsonl"), expected);
    bench.source = None;
    bench.append("calls.jsonl", "after\n");
    expected.push(Line::Whole(b"after".to_vec()));
    assert_eq!(bench.lines("calls.jsonl"), expected);
}

#[test]
fn a_long_line_may_grow_slowly_and_across_restarts() {
    let mut bench = Bench::new();
    bench.append("calls.jsonl", "first\n");
    let (fits, over) = (noise(2_500_000, 5), noise(3_500_000, 6));
    for (n, part) in fits.chunks(300_000).chain([&b"\n"[..]]).chain(over.chunks(300_000)).enumerate() {
        bench.append("calls.jsonl", part);
        bench.run().unwrap();
        if n % 5 == 4 {
            bench.source = None;
        }
    }
    assert_eq!(bench.lines("calls.jsonl").len(), 2);
    bench.append("calls.jsonl", "\nend\n");
    let expected = [
        Line::Whole(b"first".to_vec()),
        Line::Whole(fits),
        Line::TooLarge(over[..4096].to_vec(), over.len() as u64),
        Line::Whole(b"end".to_vec()),
    ];
    assert_eq!(bench.lines("calls.jsonl"), expected);
}

#[test]
fn a_file_that_disappears_keeps_its_position_and_goes_on_when_it_is_back() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "one\ntwo\n");
    bench.run().unwrap();
    fs::remove_file(bench.path("calls.jsonl")).unwrap();
    assert_eq!(bench.run().unwrap(), Polled::Idle);
    bench.source = None;
    assert_eq!(bench.run().unwrap(), Polled::Idle);
    assert_eq!(bench.taken.positions["calls"]["calls.jsonl"], 2);
    bench.write("calls.jsonl", "one\ntwo\nthree\n");
    assert_eq!(bench.lines("calls.jsonl"), whole(&["one", "two", "three"]));
    fs::remove_file(bench.path("calls.jsonl")).unwrap();
    bench.run().unwrap();
    bench.write("calls.jsonl", "other\nlines\nthan these\n");
    bench.stops("calls.jsonl");
}

#[test]
fn a_file_that_cannot_be_read_stops_the_run() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "one\n");
    fs::set_permissions(bench.path("calls.jsonl"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(bench.path("calls.jsonl")).is_ok() {
        return; // The superuser reads everything.
    }
    let message = bench.stops("calls.jsonl");
    assert!(message.contains("make it readable"), "{message}");
}

#[test]
fn a_position_without_what_it_needs_is_refused() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "one\ntwo\n");
    bench.run().unwrap();
    bench.source = None;
    bench.taken.cursors.clear();
    let message = bench.stops("calls.jsonl");
    assert!(message.contains("cannot be gone on from"), "{message}");
    bench.source = None;
    bench
        .taken
        .cursors
        .entry("calls".into())
        .or_default()
        .insert("calls.jsonl".into(), serde_json::json!({"bytes": 4}));
    let message = bench.stops("calls.jsonl");
    assert!(message.contains("is no cursor of a file"), "{message}");
}
