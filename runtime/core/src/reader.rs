//! A source's thread: polls, decodes, and hands batches to the worker through a bounded channel.
//!
//! Decoding happens here, off the timely worker, so the worker sees typed words only. The channel is
//! what holds a fast source back: when the worker takes no more, sending waits, and the source is not
//! polled. Nor is it polled while memory is short.

use crate::bodies::BodyCache;
use crate::source::{
    ErasedDecode, Polled, RawRecord, RecordSink, RejectRow, Source, SourceBatch, SourceError,
};
use crate::worker::FromSource;
use crossbeam_channel::{Sender, TrySendError};
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
    /// Hands a batch on if there is room for it; else gives it back.
    fn offer(&self, batch: SourceBatch) -> Offered {
        let (bytes, waiting) = (batch.bytes, self.waiting.load(Ordering::Acquire));
        if waiting > 0 && waiting + bytes > WAITING_BYTES {
            return Offered::Full(Box::new(batch));
        }
        self.waiting.fetch_add(bytes, Ordering::AcqRel);
        match self.batches.try_send(FromSource::Batch(Box::new(batch))) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(FromSource::Batch(batch))) => {
                self.waiting.fetch_sub(bytes, Ordering::AcqRel);
                Offered::Full(batch)
            }
            Err(_) => Offered::Left,
        }
    }
}

enum Offered {
    Taken,
    /// Not yet.
    Full(Box<SourceBatch>),
    /// Nobody takes it any more.
    Left,
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

/// One source on its way to one worker.
pub struct Reader<'a> {
    source: Box<dyn Source>,
    batching: Batching,
    bodies: &'a BodyCache,
    took: &'a dyn Fn(&Taken<'_>),
    out: &'a ToWorker,
    ends: &'a Ends,
    /// A batch that waits for room.
    full: Option<SourceBatch>,
    /// What the last poll said.
    polled: Result<Polled, SourceError>,
    idle: u32,
    draining: bool,
    says_drained: bool,
}

/// What a reader wants after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Another turn at once.
    Again,
    /// Another turn after a rest.
    Rest(Duration),
    /// None: it is drained, it has failed, the worker has left, or it was told to stop.
    Left,
}

impl<'a> Reader<'a> {
    /// A reader before its first turn. `took` is told of each batch just before the worker has it.
    pub fn new(
        source: Box<dyn Source>,
        decoders: Vec<Box<dyn ErasedDecode>>,
        bodies: &'a BodyCache,
        took: &'a dyn Fn(&Taken<'_>),
        out: &'a ToWorker,
        ends: &'a Ends,
    ) -> Self {
        Self {
            source,
            batching: Batching::new(decoders),
            bodies,
            took,
            out,
            ends,
            full: None,
            polled: Ok(Polled::More),
            idle: 0,
            draining: false,
            says_drained: false,
        }
    }

    /// Polls once, or hands on what the last poll gave.
    pub fn turn(&mut self) -> Next {
        if self.ends.stop.load(Ordering::Relaxed) {
            return Next::Left;
        }
        if self.full.is_none() && matches!(self.polled, Ok(Polled::More | Polled::Idle)) {
            if self.ends.hold.load(Ordering::Relaxed) {
                return Next::Rest(IDLE);
            }
            self.poll();
        }
        match self.full.take().map(|batch| self.out.offer(batch)) {
            None | Some(Offered::Taken) => {}
            Some(Offered::Left) => return Next::Left,
            Some(Offered::Full(batch)) => {
                self.full = Some(*batch);
                return Next::Rest(SHORT);
            }
        }
        let last = match &self.polled {
            Ok(Polled::More) => {
                self.idle = 0;
                return Next::Again;
            }
            Ok(Polled::Idle) if self.idle >= IDLE_POLLS_LAST => FromSource::Drained,
            Ok(Polled::Idle) => return Next::Rest(IDLE),
            Ok(Polled::Drained) => FromSource::Drained,
            Err(error) => FromSource::Failed(error.to_string()),
        };
        match self.out.batches.try_send(last) {
            Err(TrySendError::Full(_)) => Next::Rest(SHORT),
            // The worker has left if this fails, and then nobody waits for it.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Next::Left,
        }
    }

    fn poll(&mut self) {
        if !self.draining && self.ends.drain.load(Ordering::Acquire) {
            (self.draining, self.says_drained) = (true, self.source.drain());
        }
        self.idle = if self.draining && !self.says_drained { self.idle + 1 } else { 0 };
        self.polled = self.source.poll(&mut self.batching);
        let (batch, streams) = self.batching.take();
        for (digest, body) in &batch.bodies {
            self.bodies.insert(*digest, body.clone());
        }
        if batch.records > 0 || !batch.positions.is_empty() {
            (self.took)(&Taken::of(&batch, &streams));
            self.full = Some(batch);
        }
    }
}

/// Reads a source on a thread of its own until it is drained, it fails, the worker has left, or it is told to
/// stop. `took` is told of each batch just before the worker has it.
pub fn read(
    source: Box<dyn Source>,
    decoders: Vec<Box<dyn ErasedDecode>>,
    bodies: &BodyCache,
    took: &dyn Fn(&Taken<'_>),
    out: &ToWorker,
    ends: &Ends,
) {
    let mut reader = Reader::new(source, decoders, bodies, took, out, ends);
    loop {
        match reader.turn() {
            Next::Again => {}
            Next::Rest(time) => std::thread::sleep(time),
            Next::Left => return,
        }
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
