//! Records into rows, deletions and rejects.
//!
//! ```text
//!  null value ─────────────────────────────> key_missing │ Delete(key)
//!  bytes ─ find ─> not_json │ not_object
//!            └ "_deleted": true (files, key mode value) ─ identity ─> Delete
//!            └ check ─> missing_field, then wrong_type
//!                └ key is the identity? ─> key_missing │ key_mismatch
//!                    └ Row: columns and facts
//! ```
//!
//! The order of the arrows is the order of the reject codes: the first that applies is given. A
//! record that comes from a Kafka partition under key mode `kafka` is *keyed*: its key is its
//! identity and only a null value deletes. Of all other records identity and deletion stand in the
//! value.

use super::{
    conversation::{CallParts, Conversation},
    facts::SampleFacts,
    fields::{FieldMap, Found, Stream, referenced},
    rows::{CallRow, Real, ScoreRow, TrajectoryRow},
    settings::{FlywheelSettings, KeyMode},
};
use hashbrown::HashSet;
use std::{marker::PhantomData, sync::Arc};
use tidemill_core::source::{Decode, Decoded, RawRecord, RawValue, Reject, SourceRow};
use tidemill_operators::json::{Canonical, Json};
use tidemill_types::{Partition, Text};

/// Strings that repeat, each kept once. Forgets all when it is full, so that it stays small.
#[derive(Default)]
struct Interner(HashSet<Arc<str>>);

impl Interner {
    const STRINGS_MAX: usize = 16_384;
    const BYTES_MAX: usize = 64;

    fn shared(&mut self, text: &str) -> Arc<str> {
        if text.len() > Self::BYTES_MAX {
            return text.into();
        }
        if self.0.len() >= Self::STRINGS_MAX && !self.0.contains(text) {
            self.0.clear();
        }
        self.0.get_or_insert_with(text, |text| text.into()).clone()
    }
}

/// What a decoder keeps from record to record: memory to work in, nothing that changes an outcome.
#[derive(Default)]
pub struct Workbench {
    interner: Interner,
    canonical: Canonical,
}

impl Workbench {
    fn shared(&mut self, found: &Found<'_, '_>, field: &str) -> Option<Arc<str>> {
        found.string(field).map(|text| self.interner.shared(&text))
    }
}

fn own(found: &Found<'_, '_>, field: &str) -> Option<Arc<str>> {
    found.string(field).map(|text| Arc::from(&*text))
}

fn real(found: &Found<'_, '_>, field: &str) -> Option<Real> {
    found.value(field).and_then(Json::number).map(Real::from)
}

/// A row that is made of a record's fields.
pub trait StreamRow: SourceRow {
    /// Its stream.
    const STREAM: Stream;
    /// Makes the row; the fields have been checked.
    fn build(found: &Found<'_, '_>, body: Text, bench: &mut Workbench) -> Self;
}

/// The conversation of a trajectory's fields; `None`: it has no sample.
pub fn trajectory_conversation<'a>(found: &Found<'a, '_>) -> Option<Conversation<'a>> {
    Conversation::of_trajectory(found.value("messages")?)
}

/// The conversation of a call's fields; `None`: it has no sample.
pub fn call_conversation<'a>(found: &Found<'a, '_>) -> Option<Conversation<'a>> {
    Conversation::of_call(CallParts {
        prompt: found.value("prompt"),
        response: found.value("response"),
        tool_calls: found.value("response_tool_calls"),
        reasoning: found.value("reasoning"),
        status: found.value("status").and_then(Json::int),
    })
}

impl StreamRow for TrajectoryRow {
    const STREAM: Stream = Stream::Trajectories;

    fn build(found: &Found<'_, '_>, body: Text, bench: &mut Workbench) -> Self {
        let task_id = bench.shared(found, "task_id").unwrap_or_default();
        let conversation = trajectory_conversation(found);
        let tools = found.value("tools");
        let facts = conversation
            .map(|conversation| SampleFacts::of(&conversation, tools, Some(&task_id), &mut bench.canonical));
        Self {
            id: own(found, "id").unwrap_or_default(),
            agent: bench.shared(found, "agent"),
            model: bench.shared(found, "model"),
            reward: real(found, "reward"),
            outcome: bench.shared(found, "outcome"),
            tenant: bench.shared(found, "tenant"),
            user_id: bench.shared(found, "user_id"),
            ts: own(found, "ts"),
            task_id,
            body,
            facts,
        }
    }
}

impl StreamRow for CallRow {
    const STREAM: Stream = Stream::Calls;

    fn build(found: &Found<'_, '_>, body: Text, bench: &mut Workbench) -> Self {
        let tools = found.value("tools");
        let facts = call_conversation(found)
            .map(|conversation| SampleFacts::of(&conversation, tools, None, &mut bench.canonical));
        Self {
            request_id: own(found, "request_id").unwrap_or_default(),
            model: bench.shared(found, "model"),
            session_id: bench.shared(found, "session_id"),
            status: found.value("status").and_then(Json::int),
            tenant: bench.shared(found, "tenant"),
            user_id: bench.shared(found, "user_id"),
            ts: own(found, "ts"),
            body,
            facts,
        }
    }
}

/// The subject that a checked `ref` means.
fn subject(reference: Json<'_>) -> Option<Arc<str>> {
    let [file, id] = reference.pick(["file", "id"]);
    let kind = match referenced(&file?.string()?)? {
        Stream::Calls => "call",
        _ => "trajectory",
    };
    Some(format!("{kind}:{}", id?.string()?).into())
}

impl StreamRow for ScoreRow {
    const STREAM: Stream = Stream::Scores;

    fn build(found: &Found<'_, '_>, body: Text, bench: &mut Workbench) -> Self {
        Self {
            row_id: own(found, "row_id").unwrap_or_default(),
            subject: found.value("ref").and_then(subject),
            metric: bench.shared(found, "metric").unwrap_or_default(),
            score: real(found, "score"),
            judge: bench.shared(found, "judge"),
            judge_type: bench.shared(found, "judge_type"),
            body,
        }
    }
}

/// A decoder of one stream.
pub struct Decoder<R> {
    fields: FieldMap,
    mode: KeyMode,
    bench: Workbench,
    rows: PhantomData<fn() -> R>,
}

impl<R: StreamRow> Decoder<R> {
    /// A decoder under checked settings.
    pub fn new(settings: &FlywheelSettings) -> Self {
        Self {
            fields: FieldMap::new(R::STREAM, settings),
            mode: settings.key_mode(R::STREAM),
            bench: Workbench::default(),
            rows: PhantomData,
        }
    }

    fn try_decode(&mut self, record: &RawRecord<'_>) -> Result<Decoded<R>, Reject> {
        let keyed = matches!(record.partition, Partition::Number(..)) && self.mode == KeyMode::Kafka;
        let value = match record.value {
            RawValue::Bytes(value) => value,
            RawValue::Null => return null_value(record.key.filter(|_| keyed), keyed),
            RawValue::TooLarge { bytes, .. } => return Err(too_large(bytes)),
        };
        let found = self.fields.find(value)?;
        if !keyed && found.is_deleted() {
            return Ok(Decoded::Delete(found.identity()?.into_owned()));
        }
        found.check()?;
        if keyed {
            check_key(record.key, &found.identity()?)?;
        }
        Ok(Decoded::Row(R::build(&found, Text::body(value), &mut self.bench)))
    }
}

impl<R: StreamRow> Decode for Decoder<R> {
    type Row = R;

    fn decode(&mut self, record: &RawRecord<'_>) -> Decoded<R> {
        self.try_decode(record).unwrap_or_else(Decoded::Reject)
    }
}

fn too_large(bytes: u64) -> Reject {
    Reject { code: "too_large", message: format!("the value has {bytes} bytes, more than are read") }
}

fn key_missing(message: &str) -> Reject {
    Reject { code: "key_missing", message: message.to_string() }
}

fn key_mismatch(message: String) -> Reject {
    Reject { code: "key_mismatch", message }
}

/// A null value deletes its key. A key that is not UTF-8 is no identity that any row can have, and to delete
/// what is not there is no error.
fn null_value<R>(key: Option<&[u8]>, keyed: bool) -> Result<Decoded<R>, Reject> {
    let key = key.ok_or_else(|| {
        key_missing(match keyed {
            true => "a null value without a key: there is nothing to delete",
            false => "a null value: in this stream the identity stands in the value",
        })
    })?;
    Ok(std::str::from_utf8(key).map_or(Decoded::Nothing, |identity| Decoded::Delete(identity.to_string())))
}

fn check_key(key: Option<&[u8]>, identity: &str) -> Result<(), Reject> {
    match key {
        None => Err(key_missing("the record has no key; its key must be the identity")),
        Some(key) if key == identity.as_bytes() => Ok(()),
        Some(key) => {
            let key = String::from_utf8_lossy(&key[..key.len().min(200)]);
            Err(key_mismatch(format!("the key {key:?} is not the identity {:?}", short(identity))))
        }
    }
}

/// The beginning of a text, for messages.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(200)]
}
