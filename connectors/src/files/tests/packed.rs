//! Compressed files.

use super::*;
use crate::files::DECODERS_MAX;

fn both(test: impl Fn(&str, fn(&[u8]) -> Vec<u8>)) {
    for (suffix, encode) in ENCODERS {
        test(&format!("calls{suffix}"), encode);
    }
}

#[test]
fn whole_lines_are_read_while_the_file_is_copied() {
    both(|name, encode| {
        let text: String = (0..60).map(|n| format!("{n} {}\n", "ab".repeat(n))).collect();
        let members =
            [encode(b"first\n"), encode(text.as_bytes()), encode(b""), encode(b"x"), encode(b"y\nlast")];
        let expected: Vec<_> =
            format!("first\n{text}xy\nlast").lines().map(|line| Line::Whole(line.into())).collect();
        let mut bench = Bench::new();
        bench.write(name, "");
        for byte in members.concat() {
            bench.append(name, [byte]);
            bench.run().unwrap();
        }
        assert_eq!(bench.lines(name).len(), expected.len() - 1, "the last line may still grow");
        bench.settle();
        assert_eq!(bench.lines(name), expected);
    });
}

#[test]
fn a_file_goes_on_from_every_line() {
    both(|name, encode| {
        let lines: Vec<String> = (0..30).map(|n| format!("{n} {}", "z".repeat(n * 31))).collect();
        let parts: Vec<_> =
            lines.chunks(7).map(|chunk| encode((chunk.join("\n") + "\n").as_bytes())).collect();
        for stop in 1..=lines.len() {
            let mut bench = Bench::new();
            bench.write(name, parts.concat());
            bench.taken.at_most = stop;
            assert_eq!(bench.poll().unwrap(), Polled::More);
            assert_eq!(bench.taken.positions["calls"][name], stop as u64);
            bench.source = None;
            let expected: Vec<_> = lines.iter().map(|line| Line::Whole(line.clone().into())).collect();
            assert_eq!(bench.lines(name), expected);
            bench.source = None;
            bench.append(name, encode(b"more\n"));
            assert_eq!(bench.lines(name).len(), expected.len() + 1);
        }
    });
}

#[test]
fn the_same_lines_compressed_otherwise_go_on() {
    both(|name, encode| {
        let mut bench = Bench::new();
        bench.write(name, encode(b"one\ntwo\n"));
        bench.run().unwrap();
        bench.write(name, [encode(b"one\n"), encode(b"two\nthree\n")].concat());
        assert_eq!(bench.lines(name), whole(&["one", "two", "three"]));
    });
}

#[test]
fn a_file_that_was_replaced_or_cut_stops_the_run() {
    both(|name, encode| {
        let original = encode(b"one\ntwo\nthree\n");
        let others = [
            encode(b"one\ntwo\nthrex\n"),
            encode(b"one\ntwo\n"),
            original[..original.len() / 2].to_vec(),
            Vec::new(),
        ];
        for other in others {
            for restart in [false, true] {
                let mut bench = Bench::new();
                bench.write(name, &original);
                bench.run().unwrap();
                wait_for_the_clock();
                bench.write(name, &other);
                if restart {
                    bench.source = None;
                }
                let message = bench.stops(name);
                assert!(message.contains("truncated or replaced below its position (line 3)"), "{message}");
            }
        }
    });
}

#[test]
fn a_copy_that_begins_anew_before_a_line_was_read_is_no_error() {
    both(|name, encode| {
        let packed = encode(&[noise(5000, 1), b"\n".to_vec()].concat());
        let mut bench = Bench::new();
        bench.write(name, &packed[..packed.len() / 2]);
        bench.run().unwrap();
        bench.write(name, &packed[..packed.len() / 3]);
        bench.run().unwrap();
        bench.write(name, &packed);
        assert_eq!(bench.lines(name).len(), 1);
    });
}

#[test]
fn a_corrupt_file_stops_the_run() {
    both(|name, encode| {
        let mut packed = encode(&[noise(50_000, 1), b"\nend\n".to_vec()].concat());
        let middle = packed.len() / 2;
        packed[middle] ^= 0x55;
        packed[middle + 1] ^= 0x55;
        let mut bench = Bench::new();
        bench.write(name, &packed);
        assert!(bench.stops(name).contains("is corrupt after line"));
        let mut bench = Bench::new();
        bench.write(name, [encode(b"one\n"), b"rubbish behind it".to_vec()].concat());
        assert!(bench.stops(name).contains("is corrupt after line 1"));
        let mut bench = Bench::new();
        bench.write(name, "{\"not\": \"compressed\"}\n");
        assert!(bench.stops(name).contains("is corrupt after line 0"));
    });
}

#[test]
fn zeros_behind_a_gzip_member_are_padding() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl.gz", [gz("one\n"), vec![0; 1000]].concat());
    assert_eq!(bench.lines("calls.jsonl.gz"), whole(&["one"]));
    bench.append("calls.jsonl.gz", [vec![0; 5], gz("two\n")].concat());
    assert_eq!(bench.lines("calls.jsonl.gz"), whole(&["one", "two"]));
}

#[test]
fn a_last_line_without_its_lf_may_get_it_later_but_may_not_go_on() {
    both(|name, encode| {
        for restart in [false, true] {
            let mut bench = Bench::new();
            bench.write(name, encode(b"one\ntwo"));
            assert_eq!(bench.lines(name), whole(&["one"]));
            bench.settle();
            assert_eq!(bench.lines(name), whole(&["one", "two"]));
            if restart {
                bench.source = None;
            }
            bench.append(name, encode(b"\nthree\n"));
            assert_eq!(bench.lines(name), whole(&["one", "two", "three"]));
        }
        for restart in [false, true] {
            let mut bench = Bench::new();
            bench.write(name, encode(b"one\ntwo"));
            bench.run().unwrap();
            bench.settle();
            bench.run().unwrap();
            if restart {
                bench.source = None;
            }
            bench.append(name, encode(b"+\n"));
            let message = bench.stops(name);
            assert!(message.contains("ended in a line without LF"), "{message}");
        }
    });
}

#[test]
fn a_line_over_the_limit_is_told_by_head_and_size() {
    both(|name, encode| {
        let max = VALUE_BYTES_MAX as usize;
        let lines =
            [b"first".to_vec(), noise(max, 2), noise(max + 1, 3), b"mid".to_vec(), noise(7_000_000, 4)];
        let packed = encode(&lines.join(&b'\n'));
        let expected: Vec<_> = lines
            .iter()
            .map(|line| match line.len() {
                size if size > max => Line::TooLarge(line[..4096].to_vec(), size as u64),
                _ => Line::Whole(line.clone()),
            })
            .collect();
        for at_most in [0, 1] {
            let mut bench = Bench::new();
            bench.taken.at_most = at_most;
            for part in packed.chunks(1_000_000) {
                bench.append(name, part);
                bench.run().unwrap();
            }
            bench.source = None;
            bench.run().unwrap();
            bench.settle();
            assert_eq!(bench.lines(name), expected);
            bench.source = None;
            bench.append(name, encode(b"\nafter\n"));
            assert_eq!(bench.lines(name).last(), Some(&Line::Whole(b"after".to_vec())));
        }
    });
}

#[test]
fn what_decompresses_to_very_much_takes_little_memory() {
    both(|name, encode| {
        let mut bench = Bench::new();
        bench.write(name, encode(&vec![b'x'; 64 << 20]));
        bench.run().unwrap();
        bench.settle();
        assert_eq!(bench.lines(name), [Line::TooLarge(vec![b'x'; 4096], 64 << 20)]);
    });
}

#[test]
fn more_files_than_decoders_are_copied_at_once() {
    both(|name, encode| {
        let count = DECODERS_MAX * 2 + 3;
        let text = [noise(3000, 9), b"\nmiddle\n".to_vec(), noise(30_000, 10), b"\nend\n".to_vec()].concat();
        let packed = encode(&text);
        let mut bench = Bench::new();
        for part in packed.chunks(packed.len() / 3) {
            for n in 0..count {
                bench.append(&name.replace("calls", &format!("calls-{n}")), part);
            }
            bench.run().unwrap();
        }
        assert_eq!(bench.taken.lines.len(), count);
        assert!(bench.taken.lines.values().all(|lines| lines.len() == 4));
    });
}

#[test]
fn a_file_that_disappears_goes_on_when_it_is_back() {
    both(|name, encode| {
        let mut bench = Bench::new();
        bench.write(name, encode(b"one\ntwo\n"));
        bench.run().unwrap();
        fs::remove_file(bench.path(name)).unwrap();
        assert_eq!(bench.run().unwrap(), Polled::Idle);
        bench.write(name, encode(b"one\ntwo\nthree\n"));
        assert_eq!(bench.lines(name), whole(&["one", "two", "three"]));
    });
}

/// Seen by a change in the middle, which only decompression can notice.
#[test]
fn a_file_that_was_read_whole_is_not_decompressed_again_at_a_start() {
    both(|name, encode| {
        let mut packed = encode(&[noise(50_000, 1), b"\nend\n".to_vec()].concat());
        let mut bench = Bench::new();
        bench.write(name, &packed);
        assert_eq!(bench.lines(name).len(), 2);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x55;
        packed[middle + 1] ^= 0x55;
        bench.write(name, &packed);
        bench.source = None;
        assert_eq!(bench.lines(name).len(), 2);
        bench.append(name, encode(b"more\n"));
        let message = bench.stops(name);
        assert!(message.contains("corrupt") || message.contains("replaced"), "{message}");
    });
}

/// The taker was full in the middle of each, so that none was at rest when it went.
#[test]
fn files_that_disappear_half_read_give_their_decoders_to_others() {
    both(|name, encode| {
        let packed = encode(b"one\ntwo\nthree\n");
        let numbered = |n: usize| name.replace("calls", &format!("calls-{n}"));
        let mut bench = Bench::new();
        for n in 0..DECODERS_MAX {
            bench.write(&numbered(n), &packed);
        }
        bench.taken.at_most = 1;
        for _ in 0..DECODERS_MAX {
            assert_eq!(bench.poll().unwrap(), Polled::More);
        }
        assert!((0..DECODERS_MAX).all(|n| bench.taken.lines[&numbered(n)].len() == 1));
        for n in 0..DECODERS_MAX {
            fs::remove_file(bench.path(&numbered(n))).unwrap();
        }
        bench.taken.at_most = 0;
        bench.write(&numbered(DECODERS_MAX), &packed);
        assert_eq!(bench.lines(&numbered(DECODERS_MAX)), whole(&["one", "two", "three"]));
    });
}
