//! The hard traffic of files as records for topics: keyed, stamped, spread over partitions, and spoilt in
//! the ways that only keys and timestamps can be.

use super::files::stream_of;
use super::json::{Json, RECORD_DEPTH, parse};
use super::noise::{once_in, pick};
use super::traffic;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::Read;

/// A record that is to be produced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Its stream.
    pub stream: &'static str,
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

/// When the traffic begins.
const BEGIN: i64 = 1_767_225_600_000;

/// About `records` records for topics of so many partitions, in the order in which they are sent.
pub fn records(seed: u64, records: usize, partitions: i32) -> Vec<Sent> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x70_91c5);
    let lines = lines(&traffic::steps(seed, records));
    let of_line = |(at, (stream, line)): (usize, (&'static str, Vec<u8>))| {
        let (key, value) = keyed(&mut rng, stream, line);
        // Mostly where its key belongs; now and then elsewhere, as after a change of the partitioner.
        let home = key
            .as_deref()
            .map_or(0, |key| key.iter().fold(7u32, |sum, byte| sum * 31 % 9973 + u32::from(*byte)));
        let partition = match once_in(&mut rng, 120) {
            true => rng.random_range(0..partitions),
            false => (home % partitions.unsigned_abs()) as i32,
        };
        // Times stand still, leap, and go back.
        let timestamp = BEGIN + (at as i64 / 5) * 10 + pick(&mut rng, &[0, 0, 0, 0, 7, -400, 2500]);
        Sent { stream, partition, key, value, timestamp }
    };
    lines.into_iter().enumerate().map(of_line).collect()
}

/// All whole lines of all files, in the order in which their ends were appended.
fn lines(steps: &[traffic::Step]) -> Vec<(&'static str, Vec<u8>)> {
    let mut open: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut lines = Vec::new();
    for step in steps {
        let Some(stream) = stream_of(&step.file) else { continue };
        let mut bytes = Vec::new();
        let read = if step.file.ends_with(".gz") {
            flate2::read::MultiGzDecoder::new(&step.append[..]).read_to_end(&mut bytes)
        } else if step.file.ends_with(".zst") {
            zstd::Decoder::new(&step.append[..]).and_then(|mut decoder| decoder.read_to_end(&mut bytes))
        } else {
            bytes.clone_from(&step.append);
            Ok(0)
        };
        read.expect("the traffic's own files can be read");
        let waiting = open.entry(&step.file).or_default();
        waiting.extend(bytes);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).take(end).collect();
            lines.push((stream, line));
        }
    }
    lines
}

/// Key and value of a line; some keys are missing or wrong, and most deletions are null values.
fn keyed(rng: &mut ChaCha8Rng, stream: &str, line: Vec<u8>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let name = match stream {
        "trajectories" => "id",
        "calls" => "request_id",
        _ => "row_id",
    };
    let value = parse(&line, RECORD_DEPTH).ok();
    let identity =
        value.as_ref().and_then(|value| value.get(name)?.as_str().map(|id| id.as_bytes().to_vec()));
    let deletes = value.as_ref().and_then(|value| value.get("_deleted")) == Some(&Json::Bool(true));
    match rng.random_range(0..200) {
        0 => (None, Some(line)),
        1 => (Some(b"another".to_vec()), Some(line)),
        2 => (None, None),
        3 => (Some(vec![0xff, 0xfe]), None),
        4 => (identity, Some(Vec::new())),
        5 => (Some(Vec::new()), Some(line)),
        _ if deletes => (identity, None),
        _ => (identity, Some(line)),
    }
}
