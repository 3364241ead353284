//! Records of many megabytes: accepted up to the limit, rejected above it, at their places among small
//! ones, in plain and in compressed files, with little memory.

mod support;

use serde_json::json;
use std::io::Write;
use support::held::{Held, rows};
use support::mill::Mill;
use tidemill_oracle::traffic::Step;

const LIMIT: usize = 16 << 20;

/// A conversation whose record has exactly so many bytes.
fn conversation(id: &str, bytes: usize) -> String {
    let record = |text: &str| {
        let messages = json!([{"role": "user", "content": "go on"}, {"role": "assistant", "content": text}]);
        json!({"id": id, "task_id": "long", "reward": 1, "messages": messages}).to_string()
    };
    record(&"tide ".repeat(bytes / 5 + 1)[..bytes - record("").len()])
}

fn compressed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn lines(sizes: &[(&str, usize)]) -> String {
    sizes.iter().map(|(id, bytes)| conversation(id, *bytes) + "\n").collect()
}

#[test]
fn records_of_many_megabytes_are_taken_up_to_the_limit_and_rejected_beyond() {
    let mut mill = Mill::new(&json!({"tokens_max": 100_000_000, "holdout": {"tasks": [], "per_10k": 0}}));
    mill.set("memory-bytes-max", "256MiB");
    let step = |file: &str, append: Vec<u8>| Step { file: file.to_string(), append };
    let plain =
        lines(&[("a", 200), ("b", LIMIT), ("c", LIMIT + 1), ("d", 17_000_000), ("e", 300)]).into_bytes();
    let half = plain.len() / 2;
    mill.write(&[step("trajectories.jsonl", plain[..half].to_vec())]);
    mill.drain(2);
    mill.write(&[
        step("trajectories.jsonl", plain[half..].to_vec()),
        step(
            "trajectories-packed.jsonl.gz",
            compressed(&lines(&[("a", 200), ("f", LIMIT + 1), ("g", 1 << 20), ("h", 300)])),
        ),
    ]);
    mill.drain(1);
    let held = Held::of(&mill);
    held.hold_log();
    held.hold_drained();
    let tables = rows(&held.at(held.reader.newest.epoch));
    assert_eq!((tables["raw.trajectories"].len(), tables["ops.rejects"].len()), (5, 3));
    assert!(tables["ops.rejects"].iter().all(|row| row["code"] == "too_large"));
}
