//! A source's thread: polls, decodes, and hands batches to the worker through a bounded channel.
//!
//! Decoding happens here, off the timely worker, so the worker sees typed words only. The channel is
//! what holds a fast source back: when the worker takes no more, sending waits, and the source is not
//! polled. Nor is it polled while memory is short.

use crate::bodies::BodyCache;
use crate::source::{ErasedDecode, Polled, RawRecord, RecordSink, RejectRow, Source, SourceBatch};
use crate::worker::FromSource;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill_types::Partition;

/// Records of one batch at most.
const BATCH_RECORDS: u64 = 4096;
/// Bytes of values after which a batch is full.
pub const BATCH_BYTES: u64 = 1 << 20;
/// Bytes of values that wait for a worker, at most; but one batch always may.
const WAITING_BYTES: u64 = 4 * BATCH_BYTES;
/// How long an idle source rests between polls.
const IDLE: Duration = Duration::from_millis(5);
/// How long a reader rests while a worker has enough to do.
const SHORT: Duration = Duration::from_millis(1);

struct Batching {
    decoders: Vec<Box<dyn ErasedDecode>>,
    batch: SourceBatch,
    /// What the open batch holds of each stream, without the run of records that is going on.
    streams: Vec<Counted>,
    /// The stream of that run.
    stream: usize,
    /// What the batch held before that run.
    settled: Counted,
}

impl RecordSink for Batching {
    fn record(&mut self, stream: usize, record: RawRecord<'_>) -> bool {
        if stream != self.stream {
            self.settle();
            self.stream = stream;
        }
        self.decoders[stream].decode(&record, &mut self.batch);
        self.batch.records < BATCH_RECORDS && self.batch.bytes < BATCH_BYTES
    }

    fn position(&mut self, stream: usize, partition: &Partition, next: u64, cursor: serde_json::Value) {
        self.batch.positions.push((stream, partition.clone(), next, cursor));
    }

    fn matters(&mut self) {
        self.batch.matters = true;
    }
}

impl Batching {
    fn new(decoders: Vec<Box<dyn ErasedDecode>>) -> Self {
        let streams = vec![Counted::default(); decoders.len()];
        Self { decoders, batch: SourceBatch::default(), streams, stream: 0, settled: Counted::default() }
    }

    /// Counts the run of records that is going on for its stream.
    fn settle(&mut self) {
        let now = Counted { records: self.batch.records, bytes: self.batch.bytes };
        if let Some(stream) = self.streams.get_mut(self.stream) {
            stream.records += now.records - self.settled.records;
            stream.bytes += now.bytes - self.settled.bytes;
        }
        self.settled = now;
    }

    /// The batch, and what it holds of each stream.
    fn take(&mut self) -> (SourceBatch, Vec<Counted>) {
        self.settle();
        self.settled = Counted::default();
        let streams = self.streams.clone();
        self.streams.fill(Counted::default());
        let mut batch = std::mem::take(&mut self.batch);
        for (stream, decoder) in self.decoders.iter_mut().enumerate() {
            batch.words.extend(decoder.take().map(|words| (stream, words)));
        }
        (batch, streams)
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
    /// While it is set nothing is read, and no worker takes anything in: memory of this process is short.
    pub hold: Arc<AtomicBool>,
}

/// The way of batches to one worker, at the reader's end.
pub struct ToWorker {
    /// The channel.
    pub batches: Sender<FromSource>,
    /// Bytes of values that are on it.
    pub waiting: Arc<AtomicU64>,
}

impl ToWorker {
    /// Hands a batch on as soon as there is room. `false`: nobody takes it, or nobody shall.
    fn send(&self, batch: SourceBatch, stop: &AtomicBool) -> bool {
        let (bytes, waiting) = (batch.bytes, || self.waiting.load(Ordering::Acquire));
        while waiting() > 0 && waiting() + bytes > WAITING_BYTES {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(SHORT);
        }
        self.waiting.fetch_add(bytes, Ordering::AcqRel);
        self.batches.send(FromSource::Batch(Box::new(batch))).is_ok()
    }
}

/// Records, and the bytes of their values.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

/// What a batch holds that goes to the worker.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Of all streams.
    pub all: Counted,
    /// Of each stream, in the program's order.
    pub streams: &'a [Counted],
    /// What was rejected.
    pub rejects: &'a [RejectRow],
    /// The positions after it: `(stream, partition, next offset, the source's own)`.
    pub positions: &'a [(usize, Partition, u64, serde_json::Value)],
    /// Bytes of the bodies that are pinned until their segment is durable.
    pub pinned: u64,
}

impl<'a> Taken<'a> {
    fn of(batch: &'a SourceBatch, streams: &'a [Counted]) -> Self {
        let pinned = batch.bodies.iter().map(|(_, body)| body.len() as u64).sum();
        let all = Counted { records: batch.records, bytes: batch.bytes };
        Self { all, streams, rejects: &batch.rejects, positions: &batch.positions, pinned }
    }
}

/// Reads a source until it is drained, it fails, the worker has left, or it is told to stop. `took` is
/// told of each batch just before the worker has it.
pub fn read(
    mut source: Box<dyn Source>,
    decoders: Vec<Box<dyn ErasedDecode>>,
    bodies: &BodyCache,
    took: &dyn Fn(&Taken<'_>),
    out: &ToWorker,
    ends: &Ends,
) {
    let mut batching = Batching::new(decoders);
    let (mut idle, mut draining, mut says_drained) = (0, false, false);
    while !ends.stop.load(Ordering::Relaxed) {
        if ends.hold.load(Ordering::Relaxed) {
            std::thread::sleep(IDLE);
            continue;
        }
        if !draining && ends.drain.load(Ordering::Acquire) {
            (draining, says_drained) = (true, source.drain());
        }
        idle = if draining && !says_drained { idle + 1 } else { 0 };
        let polled = source.poll(&mut batching);
        let (batch, streams) = batching.take();
        for (digest, body) in &batch.bodies {
            bodies.insert(*digest, body.clone());
        }
        if batch.records > 0 || !batch.positions.is_empty() {
            took(&Taken::of(&batch, &streams));
            if !out.send(batch, &ends.stop) {
                return;
            }
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
        let _ = out.batches.send(last);
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::RawValue;
    use std::any::Any;

    /// Takes every record and makes nothing of it.
    struct Counting;

    impl ErasedDecode for Counting {
        fn decode(&mut self, record: &RawRecord<'_>, out: &mut SourceBatch) {
            out.records += 1;
            if let RawValue::Bytes(value) = record.value {
                out.bytes += value.len() as u64;
            }
        }
        fn take(&mut self) -> Option<Box<dyn Any + Send>> {
            None
        }
    }

    #[test]
    fn a_batch_is_counted_by_stream_and_each_batch_anew() {
        let mut batching = Batching::new(vec![Box::new(Counting), Box::new(Counting)]);
        let partition = Partition::number(0);
        for records in [&[0, 0, 1, 0][..], &[1], &[]] {
            for stream in records {
                let value = RawValue::Bytes(b"abc");
                let record =
                    RawRecord { partition: &partition, offset: 0, timestamp: None, key: None, value };
                batching.record(*stream, record);
            }
            let (batch, streams) = batching.take();
            let of = |stream| records.iter().filter(|of| **of == stream).count() as u64;
            let expected = [0, 1].map(|stream| Counted { records: of(stream), bytes: 3 * of(stream) });
            assert_eq!((batch.records, streams), (records.len() as u64, expected.to_vec()));
        }
    }
}
