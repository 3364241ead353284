//! The files source against files that grow, break, vanish and come back.

mod drain;
mod packed;
mod plain;
mod random;
mod shares;

use super::{FilesFactory, FilesOptions};
use flate2::{Compression, write::GzEncoder};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tidemill_core::source::{
    Polled, RawRecord, RawValue, RecordSink, Source, SourceError, SourceFactory, StreamSpec,
};
use tidemill_types::{Cursors, Partition, Positions};

/// The limit on values in these tests.
const VALUE_BYTES_MAX: u64 = 3_000_000;

/// A record as a test compares it: the value, or the head and the size of one that was too large.
#[derive(Clone, PartialEq, Eq)]
enum Line {
    Whole(Vec<u8>),
    TooLarge(Vec<u8>, u64),
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) if bytes.len() < 100 => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Whole(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::TooLarge(head, bytes) => write!(f, "{bytes} bytes too large, head {}", head.len()),
        }
    }
}

/// What a run has committed, so to speak.
#[derive(Default)]
struct Taken {
    lines: BTreeMap<String, Vec<Line>>,
    positions: Positions,
    cursors: Cursors,
    /// At most so many records a poll; 0: no limit.
    at_most: usize,
    in_poll: usize,
}

impl RecordSink for Taken {
    fn record(&mut self, stream: usize, record: RawRecord<'_>) -> bool {
        let lines = self.lines.entry(record.partition.to_string()).or_default();
        assert_eq!(stream, usize::from(record.partition.to_string().starts_with("calls")));
        assert_eq!(record.offset, lines.len() as u64, "{} goes on without a gap", record.partition);
        assert!(record.key.is_none() && record.timestamp.is_none());
        lines.push(match record.value {
            RawValue::Bytes(bytes) => Line::Whole(bytes.to_vec()),
            RawValue::TooLarge { head, bytes } => Line::TooLarge(head.to_vec(), bytes),
            RawValue::Null => panic!("a file has no null values"),
        });
        self.in_poll += 1;
        self.at_most == 0 || self.in_poll < self.at_most
    }

    fn matters(&mut self) {}

    fn position(&mut self, stream: usize, partition: &Partition, next: u64, cursor: serde_json::Value) {
        let name = ["trajectories", "calls"][stream].to_string();
        let partition = partition.to_string();
        assert_eq!(next, self.lines[&partition].len() as u64);
        self.positions.entry(name.clone()).or_default().insert(partition.clone(), next);
        self.cursors.entry(name).or_default().insert(partition, cursor);
    }
}

/// A folder, a run over it, and what was taken.
struct Bench {
    folder: TempDir,
    clock: Arc<AtomicU64>,
    taken: Taken,
    source: Option<Box<dyn Source>>,
    drain: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
            taken: Taken::default(),
            source: None,
            drain: false,
        }
    }

    fn draining() -> Self {
        Self { drain: true, ..Self::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    fn factory(&self) -> FilesFactory {
        let stream = |name: &str| StreamSpec {
            name: name.into(),
            file_prefixes: vec![name.into()],
            topic: name.into(),
            value_bytes_max: VALUE_BYTES_MAX,
        };
        let clock = self.clock.clone();
        let options = FilesOptions {
            drain: self.drain,
            clock: Arc::new(move || Duration::from_millis(clock.load(Ordering::SeqCst))),
            ..FilesOptions::new(self.folder.path(), vec![stream("trajectories"), stream("calls")])
        };
        FilesFactory::new(options).unwrap()
    }

    /// Starts (again) from what was taken.
    fn start(&mut self) {
        let source = self.factory().open(0, 1, &self.taken.positions, &self.taken.cursors).unwrap();
        self.source = Some(source);
    }

    fn poll(&mut self) -> Result<Polled, SourceError> {
        if self.source.is_none() {
            self.start();
        }
        self.clock.fetch_add(100, Ordering::SeqCst);
        self.taken.in_poll = 0;
        self.source.as_mut().unwrap().poll(&mut self.taken)
    }

    /// Polls until nothing more is there; the last answer.
    fn run(&mut self) -> Result<Polled, SourceError> {
        let mut quiet = 0;
        for _ in 0..1_000_000 {
            match self.poll()? {
                Polled::More => quiet = 0,
                Polled::Drained => return Ok(Polled::Drained),
                Polled::Idle if quiet == 4 => return Ok(Polled::Idle),
                Polled::Idle => quiet += 1,
            }
        }
        panic!("the source never comes to rest");
    }

    /// Runs and gives the lines of a file.
    fn lines(&mut self, name: &str) -> Vec<Line> {
        self.run().unwrap();
        self.taken.lines.get(name).cloned().unwrap_or_default()
    }

    fn settle(&mut self) {
        self.clock.fetch_add(10_000, Ordering::SeqCst);
    }

    /// Runs into an error, which must name the file; the message.
    fn stops(&mut self, name: &str) -> String {
        let message = match self.run() {
            Ok(polled) => panic!("the run must stop, but is {polled:?}"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(&self.path(name).display().to_string()), "{message}");
        self.positions_cover_every_line();
        message
    }

    /// Nothing was handed out that no position covers: it would be committed, and read again later.
    fn positions_cover_every_line(&self) {
        let positions = self.taken.positions.values().flatten();
        let positions: BTreeMap<_, _> =
            positions.map(|(file, next)| (file.clone(), *next as usize)).collect();
        let lines = self.taken.lines.iter().filter(|(_, lines)| !lines.is_empty());
        let lines: BTreeMap<_, _> = lines.map(|(file, lines)| (file.clone(), lines.len())).collect();
        assert_eq!(positions, lines);
    }
}

fn whole(lines: &[&str]) -> Vec<Line> {
    lines.iter().map(|line| Line::Whole(line.as_bytes().to_vec())).collect()
}

/// A gzip member.
fn gz(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// A zstd frame with a checksum.
fn zst(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// A compressed file's suffix and its encoder.
type Encoder = (&'static str, fn(&[u8]) -> Vec<u8>);

const ENCODERS: [Encoder; 2] = [(".jsonl.gz", |text| gz(text)), (".jsonl.zst", |text| zst(text))];

/// Text that does not compress to nothing.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend(random.below(u64::MAX).to_le_bytes().map(|byte| b'a' + byte % 16));
    }
    noise.truncate(bytes);
    noise
}

/// A small seeded generator, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// Lets the file system's clock go on, so that a change that keeps the size shows.
fn wait_for_the_clock() {
    std::thread::sleep(Duration::from_millis(20));
}
