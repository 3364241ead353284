//! Reading up to the ends that were taken at the start.

use super::*;
use crate::files::read_file;

#[test]
fn nothing_beyond_the_ends_is_read() {
    let mut bench = Bench::draining();
    bench.write("calls.jsonl", "one\ntwo\nhal");
    bench.write("calls.jsonl.gz", gz("one\ntwo"));
    bench.write("calls.jsonl.zst", zst("one\n"));
    bench.write("calls-empty.jsonl", "");
    bench.write("calls-empty.jsonl.gz", "");
    bench.start();
    bench.append("calls.jsonl", "f\nthree\n");
    bench.append("calls.jsonl.gz", gz("\nthree\n"));
    bench.append("calls.jsonl.zst", zst("two\n"));
    bench.write("calls-new.jsonl", "new\n");
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    assert_eq!(bench.poll().unwrap(), Polled::Drained);
    assert_eq!(bench.taken.lines["calls.jsonl"], whole(&["one", "two"]));
    assert_eq!(bench.taken.lines["calls.jsonl.gz"], whole(&["one", "two"]));
    assert_eq!(bench.taken.lines["calls.jsonl.zst"], whole(&["one"]));
    assert_eq!(bench.taken.lines.len(), 3);

    bench.start();
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    assert_eq!(bench.taken.lines["calls.jsonl"], whole(&["one", "two", "half", "three"]));
    assert_eq!(bench.taken.lines["calls.jsonl.gz"], whole(&["one", "two", "three"]));
    assert_eq!(bench.taken.lines["calls.jsonl.zst"], whole(&["one", "two"]));
    assert_eq!(bench.taken.lines["calls-new.jsonl"], whole(&["new"]));
}

#[test]
fn what_was_read_already_is_verified_and_not_read_again() {
    let mut bench = Bench::draining();
    for (suffix, encode) in ENCODERS {
        bench.write(&format!("calls{suffix}"), encode(b"one\ntwo"));
    }
    bench.write("calls.jsonl", "one\n");
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    bench.start();
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    assert_eq!(bench.taken.lines["calls.jsonl.gz"], whole(&["one", "two"]));
    bench.write("calls.jsonl.zst", zst("one\nTwo"));
    bench.start();
    bench.stops("calls.jsonl.zst");
}

#[test]
fn an_incomplete_or_corrupt_end_stops_the_run() {
    for (suffix, encode) in ENCODERS {
        let name = format!("calls{suffix}");
        let packed = encode(&[b"one\ntwo\n".to_vec(), noise(9000, 1)].concat());
        for cut in [1, 5, packed.len() / 2, packed.len() - 1] {
            let mut bench = Bench::draining();
            bench.write(&name, &packed[..cut]);
            let message = bench.stops(&name);
            assert!(message.contains("is incomplete"), "{message}");
        }
        let mut bench = Bench::draining();
        bench.write(&name, [packed.clone(), packed[..7].to_vec()].concat());
        assert!(bench.stops(&name).contains("is incomplete"));
        let mut bench = Bench::draining();
        bench.write(&name, [packed, b"rubbish".to_vec()].concat());
        assert!(bench.stops(&name).contains("is corrupt"));
    }
}

#[test]
fn what_was_read_of_an_incomplete_file_is_not_read_again_when_it_is_whole() {
    for (suffix, encode) in ENCODERS {
        let name = format!("calls{suffix}");
        let packed = encode(&[b"one\ntwo\n".to_vec(), noise(600_000, 1), b"\nend\n".to_vec()].concat());
        let mut bench = Bench::draining();
        bench.write(&name, &packed[..packed.len() - 6]);
        bench.stops(&name);
        assert!(bench.taken.positions["calls"][&name] >= 2, "whole lines were handed out before the cut");
        bench.write(&name, &packed);
        bench.start();
        assert_eq!(bench.run().unwrap(), Polled::Drained);
        assert_eq!(bench.taken.lines[&name].len(), 4);
    }
}

#[test]
fn a_file_that_goes_or_shrinks_before_its_end_was_read_stops_the_run() {
    let mut bench = Bench::draining();
    bench.write("calls.jsonl", "one\ntwo\n");
    bench.start();
    fs::remove_file(bench.path("calls.jsonl")).unwrap();
    assert!(bench.stops("calls.jsonl").contains("is gone before it was read to its end"));

    let mut bench = Bench::draining();
    bench.write("calls.jsonl", "one\ntwo\n");
    bench.start();
    bench.write("calls.jsonl", "one\n");
    bench.stops("calls.jsonl");

    let mut bench = Bench::draining();
    bench.write("calls-1.jsonl", "one\n");
    bench.write("calls-2.jsonl", "one\n");
    bench.taken.at_most = 1;
    bench.poll().unwrap();
    bench.poll().unwrap();
    bench.taken.at_most = 0;
    fs::remove_file(bench.path("calls-1.jsonl")).unwrap();
    bench.poll().unwrap_err();
}

#[test]
fn a_file_that_goes_after_it_was_read_is_no_error() {
    let mut bench = Bench::draining();
    bench.write("calls-1.jsonl", "one\n");
    bench.write("calls-2.jsonl", "one\n");
    bench.start();
    bench.run().unwrap();
    fs::remove_file(bench.path("calls-1.jsonl")).unwrap();
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    bench.start();
    assert_eq!(bench.run().unwrap(), Polled::Drained);
    assert_eq!(bench.taken.positions["calls"]["calls-1.jsonl"], 1);
}

#[test]
fn an_empty_folder_is_drained_at_once_and_a_missing_one_is_an_error() {
    let mut bench = Bench::draining();
    assert_eq!(bench.poll().unwrap(), Polled::Drained);
    for drain in [false, true] {
        let options = FilesOptions { drain, ..FilesOptions::new(bench.path("missing"), Vec::new()) };
        let error = FilesFactory::new(options).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the input folder") && error.contains("missing"), "{error}");
    }
}

#[test]
fn one_file_can_be_read_whatever_its_name() {
    let bench = Bench::new();
    bench.write("some.log", "one\ntwo\npart");
    bench.write("some.log.gz", gz("one\ntwo\npart"));
    bench.write("cut.log.zst", &zst("one\ntwo\npart")[..9]);
    let count = |name: &str| {
        let mut lines = 0;
        read_file(&bench.path(name), 10, &mut |line, value| {
            assert_eq!(line, lines);
            assert!(matches!(value, RawValue::Bytes(_)));
            lines += 1;
        })
        .map(|()| lines)
    };
    assert_eq!(count("some.log").unwrap(), 2);
    assert_eq!(count("some.log.gz").unwrap(), 3);
    assert!(count("cut.log.zst").unwrap_err().to_string().contains("is incomplete"));
    assert!(count("none").unwrap_err().to_string().contains("cannot read"));
}
