//! A source's thread: polls, decodes, and hands batches to the worker through a bounded channel.
//!
//! Decoding happens here, off the timely worker, so the worker sees typed words only. The channel is
//! what holds a fast source back: when the worker takes no more, sending waits, and the source is not
//! polled.

use crate::bodies::BodyCache;
use crate::source::{ErasedDecode, Polled, RawRecord, RecordSink, Source, SourceBatch};
use crate::worker::FromSource;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_types::Partition;

/// Records of one batch at most.
const BATCH_RECORDS: u64 = 4096;
/// Bytes of values after which a batch is full.
const BATCH_BYTES: u64 = 1 << 20;
/// How long an idle source rests between polls.
const IDLE: Duration = Duration::from_millis(5);

struct Batching {
    decoders: Vec<Box<dyn ErasedDecode>>,
    batch: SourceBatch,
}

impl RecordSink for Batching {
    fn record(&mut self, stream: usize, record: RawRecord<'_>) -> bool {
        self.decoders[stream].decode(&record, &mut self.batch);
        self.batch.records < BATCH_RECORDS && self.batch.bytes < BATCH_BYTES
    }

    fn position(&mut self, stream: usize, partition: &Partition, next: u64, cursor: serde_json::Value) {
        self.batch.positions.push((stream, partition.clone(), next, cursor));
    }
}

impl Batching {
    fn take(&mut self) -> SourceBatch {
        let mut batch = std::mem::take(&mut self.batch);
        for (stream, decoder) in self.decoders.iter_mut().enumerate() {
            batch.words.extend(decoder.take().map(|words| (stream, words)));
        }
        batch
    }
}

/// Idle polls in a row after which a source that was asked to drain is drained: long enough for a source
/// to look for new partitions.
const IDLE_POLLS_LAST: u32 = 120;

/// When a thread stops reading.
#[derive(Clone, Default, Debug)]
pub struct Ends {
    /// At once.
    pub stop: Arc<AtomicBool>,
    /// When nothing more comes.
    pub drain: Arc<AtomicBool>,
}

/// What a batch holds that goes to the worker.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Bytes of the bodies that are pinned until their segment is durable.
    pub pinned: u64,
}

impl Taken {
    fn of(batch: &SourceBatch) -> Self {
        let pinned = batch.bodies.iter().map(|(_, body)| body.len() as u64).sum();
        Self { records: batch.records, bytes: batch.bytes, pinned }
    }
}

/// Reads a source until it is drained, it fails, the worker has left, or it is told to stop. `took` is
/// told of each batch just before the worker has it.
pub fn read(
    mut source: Box<dyn Source>,
    decoders: Vec<Box<dyn ErasedDecode>>,
    bodies: &BodyCache,
    took: &dyn Fn(Taken),
    out: &Sender<FromSource>,
    ends: &Ends,
) {
    let mut batching = Batching { decoders, batch: SourceBatch::default() };
    let (mut idle, mut draining, mut says_drained) = (0, false, false);
    while !ends.stop.load(Ordering::Relaxed) {
        if !draining && ends.drain.load(Ordering::Acquire) {
            (draining, says_drained) = (true, source.drain());
        }
        idle = if draining && !says_drained { idle + 1 } else { 0 };
        let polled = source.poll(&mut batching);
        let batch = batching.take();
        let has_news = batch.records > 0 || !batch.positions.is_empty();
        for (digest, body) in &batch.bodies {
            bodies.insert(*digest, body.clone());
        }
        let taken = Taken::of(&batch);
        took(taken);
        if has_news && out.send(FromSource::Batch(Box::new(batch))).is_err() {
            return;
        }
        let last = match polled {
            Ok(Polled::More) => {
                idle = 0;
                continue;
            }
            Ok(Polled::Idle) if idle >= IDLE_POLLS_LAST => FromSource::Drained,
            Ok(Polled::Idle) => {
                std::thread::sleep(IDLE);
                continue;
            }
            Ok(Polled::Drained) => FromSource::Drained,
            Err(error) => FromSource::Failed(error.to_string()),
        };
        // The worker has left if this fails, and then nobody waits for it.
        let _ = out.send(last);
        return;
    }
}
