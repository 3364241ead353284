//! Sources and decoders: how records come in.
//!
//! A [`Source`] lives on a thread of its own at the edge, one for each worker, and owns that worker's
//! share of the partitions. It hands out raw records; the program's [`Decode`] turns each into a row,
//! a deletion or a reject, on the same thread, so that the timely worker sees typed values only.

use crate::commit::Beginning;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{any::Any, fmt::Debug, hash::Hash, sync::Arc, sync::LazyLock, sync::atomic::AtomicBool};
use tidemill_types::{
    Cell, CellReader, Cursors, Digest, Kind, Partition, Positions, Row, RowError, TableSchema, Text,
};

/// A record as it was received.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Where it stands.
    pub partition: &'a Partition,
    /// Its number there.
    pub offset: u64,
    /// Microseconds since 1970 in UTC; files have none.
    pub timestamp: Option<i64>,
    /// The record's key; files have none.
    pub key: Option<&'a [u8]>,
    /// The record's value.
    pub value: RawValue<'a>,
}

/// A record's value.
#[derive(Clone, Copy, Debug)]
pub enum RawValue<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// A null value (Kafka: a deletion).
    Null,
    /// It is over the limit and was not kept: its first bytes (at most 4 KiB) and its size.
    TooLarge {
        /// The first bytes.
        head: &'a [u8],
        /// The whole size.
        bytes: u64,
    },
}

/// What a decoder makes of a record.
#[derive(Clone, Debug)]
pub enum Decoded<T> {
    /// A row under its identity.
    Row(T),
    /// The identity is deleted.
    Delete(String),
    /// The record changes nothing at all: it deletes what no row can be.
    Nothing,
    /// The record changes nothing but `ops.rejects`.
    Reject(Reject),
}

/// Why a record was rejected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reject {
    /// The first code that applies.
    pub code: &'static str,
    /// What is wrong, for a person: names the field and what was found.
    pub message: String,
}

/// A typed row of a source table: the columns that outsiders see, and the facts: what was read out of
/// the body when it arrived, and is committed beside it.
pub trait SourceRow:
    Clone + Ord + Hash + Debug + Serialize + DeserializeOwned + Send + Sync + Sized + 'static
{
    /// The source table's columns, in order, before `source_partition`, `source_offset` and
    /// `source_timestamp`. The first is the identity (`"id*"`); exactly one is [`Kind::Text`], the body;
    /// `?` marks those that may be null.
    fn columns() -> Vec<(&'static str, Kind)>;
    /// The facts' columns (none may be [`Kind::Text`]); each may be null.
    fn facts() -> Vec<(&'static str, Kind)>;
    /// One cell for each of `columns`.
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>));
    /// One cell for each of `facts`.
    fn fact_cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>));
    /// The row whose cells these are: those of `columns`, then those of `facts`.
    fn read(cells: &mut CellReader<'_>) -> Result<Self, RowError>;
    /// The key's text.
    fn identity(&self) -> &str;
    /// The body.
    fn body(&self) -> Text;
}

/// A partition's word on a key: the last record there that was a row or a deletion.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Word<T> {
    /// Microseconds; null is the smallest. (First, so that words compare by timestamp, partition.)
    pub timestamp: Option<i64>,
    /// Where it stands.
    pub partition: Partition,
    /// The record's number there.
    pub offset: u64,
    /// The key's text.
    pub identity: Arc<str>,
    /// The row; `None` deletes.
    pub value: Option<Arc<T>>,
}

/// The digest under which a key travels: of the source table's key column.
pub fn identity_digest(identity: &str) -> Digest {
    static KEY: LazyLock<TableSchema> = LazyLock::new(|| TableSchema::new("", [("key*", Kind::String)]));
    tidemill_types::key_digest(&KEY, [Cell::Str(identity)])
}

/// A decoder of one stream.
pub trait Decode: Send {
    /// The rows that it makes.
    type Row: SourceRow;
    /// Decodes a record whose value is not over the size limit.
    fn decode(&mut self, record: &RawRecord<'_>) -> Decoded<Self::Row>;
}

/// A decoder whose row type is forgotten, so that one thread can serve many streams.
pub trait ErasedDecode: Send {
    /// Decodes a record into the open batch.
    fn decode(&mut self, record: &RawRecord<'_>, out: &mut SourceBatch);
    /// Takes the open batch's words: a `Vec<(Digest, Word<Row>)>` (see [`identity_digest`]).
    fn take(&mut self) -> Option<Box<dyn Any + Send>>;
}

/// A row of `ops.rejects`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RejectRow {
    /// The stream's name.
    pub stream: String,
    /// Where the record stands.
    pub partition: Partition,
    /// Its number there.
    pub offset: u64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The code.
    pub code: String,
    /// What was wrong.
    pub message: String,
    /// The first 4 KiB of the value.
    pub value_head: Vec<u8>,
    /// The value's size.
    pub value_bytes: u64,
}

/// The schema of a table of rejects.
pub fn rejects_schema(table: &str) -> TableSchema {
    TableSchema::new(
        table,
        [
            ("stream*", Kind::String),
            ("source_partition*", Kind::String),
            ("source_offset*", Kind::Long),
            ("key?", Kind::Binary),
            ("code", Kind::String),
            ("message", Kind::String),
            ("value_head", Kind::Binary),
            ("value_bytes", Kind::Long),
        ],
    )
}

impl Row for RejectRow {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.stream));
        out(Cell::Str(self.partition.text()));
        out(Cell::Long(self.offset as i64));
        out(self.key.as_deref().map_or(Cell::Null, Cell::Bytes));
        out(Cell::Str(&self.code));
        out(Cell::Str(&self.message));
        out(Cell::Bytes(&self.value_head));
        out(Cell::Long(self.value_bytes as i64));
    }
}

/// What a source thread hands to its worker: decoded records of all streams.
#[derive(Default)]
pub struct SourceBatch {
    /// `(stream, words)`; see [`ErasedDecode::take`].
    pub words: Vec<(usize, Box<dyn Any + Send>)>,
    /// The bodies of the rows among them.
    pub bodies: Vec<(Digest, Bytes)>,
    /// What was rejected.
    pub rejects: Vec<RejectRow>,
    /// The positions after this batch: `(stream, partition, next offset, the source's own)`.
    pub positions: Vec<(usize, Partition, u64, serde_json::Value)>,
    /// How many records.
    pub records: u64,
    /// How many bytes of values.
    pub bytes: u64,
    /// Whether its positions are worth a commit although it may hold no record; see [`RecordSink::matters`].
    pub matters: bool,
}

/// The longest part of a rejected value that is kept.
pub const VALUE_HEAD_BYTES: usize = 4096;

struct Eraser<D: Decode> {
    stream: String,
    decode: D,
    value_bytes_max: u64,
    words: Vec<(Digest, Word<D::Row>)>,
}

/// Forgets the row type of a decoder. Values over `value_bytes_max` are rejected as `too_large`
/// without being looked at.
pub fn erase<D: Decode + 'static>(stream: &str, value_bytes_max: u64, decode: D) -> Box<dyn ErasedDecode> {
    Box::new(Eraser { stream: stream.to_string(), decode, value_bytes_max, words: Vec::new() })
}

impl<D: Decode> Eraser<D> {
    fn reject(&self, record: &RawRecord<'_>, reject: Reject, out: &mut SourceBatch) {
        let (head, bytes) = match record.value {
            RawValue::Bytes(value) => (value, value.len() as u64),
            RawValue::Null => (&[][..], 0),
            RawValue::TooLarge { head, bytes } => (head, bytes),
        };
        out.rejects.push(RejectRow {
            stream: self.stream.clone(),
            partition: record.partition.clone(),
            offset: record.offset,
            key: record.key.map(<[u8]>::to_vec),
            code: reject.code.to_string(),
            message: reject.message,
            value_head: head[..head.len().min(VALUE_HEAD_BYTES)].to_vec(),
            value_bytes: bytes,
        });
    }

    fn word(&mut self, record: &RawRecord<'_>, identity: Arc<str>, value: Option<Arc<D::Row>>) {
        let word = Word {
            timestamp: record.timestamp,
            partition: record.partition.clone(),
            offset: record.offset,
            identity,
            value,
        };
        self.words.push((identity_digest(&word.identity), word));
    }
}

impl<D: Decode> ErasedDecode for Eraser<D> {
    fn decode(&mut self, record: &RawRecord<'_>, out: &mut SourceBatch) {
        out.records += 1;
        let size = match record.value {
            RawValue::Bytes(value) => value.len() as u64,
            RawValue::Null => 0,
            RawValue::TooLarge { bytes, .. } => bytes,
        };
        out.bytes += size;
        if size > self.value_bytes_max {
            let message = format!("the value has {size} bytes; at most {} are read", self.value_bytes_max);
            return self.reject(record, Reject { code: "too_large", message }, out);
        }
        match self.decode.decode(record) {
            Decoded::Row(row) => {
                if let RawValue::Bytes(value) = record.value {
                    out.bodies.push((row.body().digest, Bytes::copy_from_slice(value)));
                }
                self.word(record, row.identity().into(), Some(Arc::new(row)));
            }
            Decoded::Delete(identity) => self.word(record, identity.into(), None),
            Decoded::Nothing => {}
            Decoded::Reject(reject) => self.reject(record, reject, out),
        }
    }

    fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        (!self.words.is_empty()).then(|| Box::new(std::mem::take(&mut self.words)) as Box<dyn Any + Send>)
    }
}

/// What a source found when it was polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// It handed out records, and more may be there at once.
    More,
    /// Nothing more is there now.
    Idle,
    /// Everything up to the ends that were taken at the start has been handed out.
    Drained,
}

/// Where a source puts what it reads.
pub trait RecordSink {
    /// Takes a record of a stream. `false`: the batch is full, hand out no more in this poll.
    fn record(&mut self, stream: usize, record: RawRecord<'_>) -> bool;
    /// All records of the partition below `next` have been handed out; `cursor` is what the source
    /// needs to go on from there. Called at least once in a poll for each partition that it read from.
    fn position(&mut self, stream: usize, partition: &Partition, next: u64, cursor: serde_json::Value);
    /// The positions of this poll are worth a commit although no record came with them: one is the first of a
    /// partition.
    fn matters(&mut self);
}

/// A source stopped; the message says what happened, where, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// One worker's share of a source.
pub trait Source: Send {
    /// Reads on where it stands, without waiting for more than is there.
    fn poll(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError>;

    /// From now on nothing that comes later need be read. `true`: the source takes the ends that it has now
    /// and will say [`Polled::Drained`]; `false`: it cannot, and is drained when it stays idle.
    fn drain(&mut self) -> bool {
        false
    }
}

/// A stream of the program, as sources need to know it.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// The beginnings of the names of its files.
    pub file_prefixes: Vec<String>,
    /// Its Kafka topic, unless the settings name another.
    pub topic: String,
    /// Values over this are not kept, only reported as [`RawValue::TooLarge`].
    pub value_bytes_max: u64,
}

/// How far behind its end a partition is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lag {
    /// The stream.
    pub stream: String,
    /// The partition.
    pub partition: String,
    /// The first record that is not committed.
    pub position: u64,
    /// The end that readers can see.
    pub end: u64,
}

/// How a source stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Of each partition that has an end.
    pub lag: Vec<Lag>,
    /// What it waits for, and since when.
    pub waiting: Option<String>,
}

/// Opens a source's shares.
pub trait SourceFactory: Send + Sync {
    /// Makes sure that the source can be read on from `positions`; waits for it where it is only away, until
    /// `stop` is set, and then gives `None`. Else what is gone and was allowed to be, and where
    /// partitions without a position begin. Called before a store is
    /// claimed, so that a run that cannot begin changes nothing, and again after it, with what was claimed.
    fn begin(
        &self,
        _positions: &Positions,
        _cursors: &Cursors,
        _stop: &AtomicBool,
    ) -> Result<Option<Beginning>, SourceError> {
        Ok(Some(Beginning::default()))
    }

    /// Makes sure that what lies between the positions of an earlier commit and those of a later one can be read
    /// again, as far as that can be told before it is read. Asked before a commit goes back; [`Self::begin`] is
    /// asked too.
    fn holds(
        &self,
        _earlier: (&Positions, &Cursors),
        _later: (&Positions, &Cursors),
    ) -> Result<(), SourceError> {
        Ok(())
    }

    /// The share of worker `worker` of `workers`, going on from `positions`.
    fn open(
        &self,
        worker: usize,
        workers: usize,
        positions: &Positions,
        cursors: &Cursors,
    ) -> Result<Box<dyn Source>, SourceError>;

    /// These positions are committed.
    fn committed(&self, _positions: &Positions) {}

    /// How it stands now.
    fn standing(&self) -> Standing {
        Standing::default()
    }
}
