//! Real logs, where they are at hand: everything decodes, and texts are made again as measured.

use super::extract::{Measured, check_facts};
use crate::flywheel::{
    decode::{Decoder, StreamRow},
    extract::Extractor,
    rows::{CallRow, ScoreRow, TrajectoryRow},
    settings::FlywheelSettings,
};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};
use tidemill_core::source::{Decode, Decoded, RawRecord, RawValue};
use tidemill_types::Partition;

/// Every how many rows their texts are made again.
const CHECKED_EVERY: usize = 37;

/// The lines of a file of real logs, if it is here.
fn lines(name: &str) -> Option<impl Iterator<Item = Vec<u8>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let file = File::open(folder.join(name)).ok()?;
    let reader = BufReader::new(flate2::read::MultiGzDecoder::new(file));
    Some(reader.split(b'\n').map(|line| line.expect("a readable file")))
}

/// Decodes a file; gives its rows to `seen` and returns how many there were.
fn decode_all<R: StreamRow>(name: &str, mut seen: impl FnMut(usize, R, &[u8])) -> usize {
    let Some(lines) = lines(name) else { return 0 };
    let mut decoder = Decoder::<R>::new(&FlywheelSettings::default());
    let partition = Partition::Name(name.into());
    let mut rows = 0;
    for (place, line) in lines.enumerate() {
        let value = RawValue::Bytes(&line);
        let record =
            RawRecord { partition: &partition, offset: place as u64, timestamp: None, key: None, value };
        match decoder.decode(&record) {
            Decoded::Row(row) => seen(place, row, &line),
            other => panic!("{name} line {place}: {other:?}"),
        }
        rows += 1;
    }
    rows
}

fn samples<R: Measured>(name: &str, stream: u8) -> (usize, usize) {
    let extractor = Extractor::new(&FlywheelSettings::default());
    let mut samples = 0;
    let rows = decode_all::<R>(name, |place, row, body| {
        samples += usize::from(row.facts().is_some());
        if place % CHECKED_EVERY == 0 {
            check_facts(&extractor, row.facts(), body, stream);
        }
    });
    (rows, samples)
}

#[test]
fn real_trajectories_decode_and_most_have_a_sample() {
    let (rows, samples) = samples::<TrajectoryRow>("trajectories.jsonl.gz", 0);
    assert!(rows == 0 || samples * 10 > rows * 9, "{samples} of {rows}");
}

#[test]
fn real_calls_decode_and_most_have_a_sample() {
    let (rows, samples) = samples::<CallRow>("chat_logs.jsonl.gz", 1);
    assert!(rows == 0 || samples * 10 > rows * 5, "{samples} of {rows}");
}

#[test]
fn real_scores_decode() {
    let mut referring = 0;
    let rows =
        decode_all::<ScoreRow>("evals.jsonl.gz", |_, row, _| referring += usize::from(row.subject.is_some()));
    assert!(rows == 0 || referring > 0, "{referring} of {rows}");
}
