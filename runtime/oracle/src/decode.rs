//! From records to the rows that count: rejects, words and the current row of every key.

use super::json::{Json, RECORD_DEPTH, parse};
use super::model::Record;
use std::collections::BTreeMap;

/// A reject's code.
pub type Code = &'static str;

/// A decoded row: its named fields that are there, and where it came from.
#[derive(Clone, Debug)]
pub struct Live {
    /// Every named field of the stream that was present, null or not.
    pub fields: BTreeMap<&'static str, Json>,
    /// The value as it was received.
    pub body: String,
    /// Where it stood.
    pub partition: String,
    /// Where it stood.
    pub offset: u64,
    /// The record's timestamp, in microseconds.
    pub timestamp: Option<i64>,
}

impl Live {
    /// A string field; `None` if absent or null.
    pub fn str(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// A number field as f64.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.fields.get(name)? {
            Json::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A field that is there and not null.
    pub fn some(&self, name: &str) -> Option<&Json> {
        self.fields.get(name).filter(|value| **value != Json::Null)
    }
}

/// The current rows of a stream by identity.
pub type Rows = BTreeMap<String, Live>;

/// What came of all records.
#[derive(Default)]
pub struct Decoded {
    /// By stream.
    pub rows: BTreeMap<String, Rows>,
    /// The records that were rejected, with their codes.
    pub rejects: Vec<(Record, Code)>,
}

enum Kind {
    Text,
    Number,
    Integer,
    Objects,
    Ref,
    Any,
}

struct Field {
    name: &'static str,
    required: bool,
    nullable: bool,
    kind: Kind,
}

const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, required: true, nullable: false, kind }
}

const fn must_or_null(name: &'static str, kind: Kind) -> Field {
    Field { name, required: true, nullable: true, kind }
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, required: false, nullable: true, kind }
}

const TRAJECTORIES: &[Field] = &[
    must("id", Kind::Text),
    must("task_id", Kind::Text),
    must("messages", Kind::Objects),
    may("agent", Kind::Text),
    may("model", Kind::Text),
    may("outcome", Kind::Text),
    may("tenant", Kind::Text),
    may("user_id", Kind::Text),
    may("ts", Kind::Text),
    may("reward", Kind::Number),
    may("tools", Kind::Any),
];

const CALLS: &[Field] = &[
    must("request_id", Kind::Text),
    must_or_null("prompt", Kind::Objects),
    must_or_null("response", Kind::Text),
    may("model", Kind::Text),
    may("session_id", Kind::Text),
    may("tenant", Kind::Text),
    may("user_id", Kind::Text),
    may("ts", Kind::Text),
    may("reasoning", Kind::Text),
    may("status", Kind::Integer),
    may("response_tool_calls", Kind::Objects),
    may("tools", Kind::Any),
];

const SCORES: &[Field] = &[
    must("row_id", Kind::Text),
    must("metric", Kind::Text),
    may("score", Kind::Number),
    may("ref", Kind::Ref),
    may("judge", Kind::Text),
    may("judge_type", Kind::Text),
];

fn fields_of(stream: &str) -> &'static [Field] {
    match stream {
        "trajectories" => TRAJECTORIES,
        "calls" => CALLS,
        "scores" => SCORES,
        other => panic!("{other} is no stream of the flywheel"),
    }
}

/// What one record says of its key.
enum Said {
    Row(Vec<u8>, Live),
    Deleted(Vec<u8>),
}

fn located<'a>(settings: &serde_json::Value, stream: &str, name: &str, value: &'a Json) -> Option<&'a Json> {
    match settings["fields"][stream][name].as_str() {
        Some(pointer) => value.pointer(pointer),
        None => value.get(name),
    }
}

fn missing(field: &Field, value: Option<&Json>) -> bool {
    match value {
        None => field.required,
        Some(Json::Object(members)) if matches!(field.kind, Kind::Ref) => {
            !members.contains_key("file") || !members.contains_key("id")
        }
        Some(_) => false,
    }
}

fn right_type(field: &Field, value: &Json) -> bool {
    if *value == Json::Null && !matches!(field.kind, Kind::Any) {
        return field.nullable;
    }
    match (&field.kind, value) {
        (Kind::Any, _) | (Kind::Text, Json::Str(_)) => true,
        (Kind::Number, Json::Number(text)) => text.parse::<f64>().is_ok_and(f64::is_finite),
        (Kind::Integer, Json::Number(text)) => text.parse::<i32>().is_ok(),
        (Kind::Objects, Json::Array(items)) => items.iter().all(|item| item.as_object().is_some()),
        (Kind::Ref, Json::Object(members)) => {
            matches!(members["file"].as_str(), Some("trajectories" | "calls" | "chat_logs"))
                && members["id"].as_str().is_some()
        }
        _ => false,
    }
}

/// The key that must be the identity; `None` where the value alone names it.
fn key_is_identity(settings: &serde_json::Value, record: &Record) -> bool {
    record.kafka && settings["key"][&record.stream] == "kafka"
}

fn read(settings: &serde_json::Value, record: &Record) -> Result<Said, Code> {
    let by_key = key_is_identity(settings, record);
    let Some(bytes) = &record.value else {
        return match &record.key {
            Some(key) if by_key => Ok(Said::Deleted(key.clone())),
            _ => Err("key_missing"),
        };
    };
    if bytes.len() as u64 > settings["record_bytes_max"].as_u64().expect("record_bytes_max is a number") {
        return Err("too_large");
    }
    let value = parse(bytes, RECORD_DEPTH).map_err(|_| "not_json")?;
    if value.as_object().is_none() {
        return Err("not_object");
    }
    let deletes = !by_key && value.get("_deleted") == Some(&Json::Bool(true));
    let all = fields_of(&record.stream);
    let named = if deletes { &all[..1] } else { all };
    let found: Vec<_> =
        named.iter().map(|field| (field, located(settings, &record.stream, field.name, &value))).collect();
    if found.iter().any(|(field, value)| missing(field, *value)) {
        return Err("missing_field");
    }
    if found.iter().any(|(field, value)| value.is_some_and(|value| !right_type(field, value))) {
        return Err("wrong_type");
    }
    let fields: BTreeMap<_, _> =
        found.into_iter().filter_map(|(field, value)| Some((field.name, value?.clone()))).collect();
    let identity = fields[all[0].name].as_str().expect("an identity is a string").as_bytes().to_vec();
    if by_key {
        let key = record.key.as_ref().ok_or("key_missing")?;
        if *key != identity {
            return Err("key_mismatch");
        }
    }
    if deletes {
        return Ok(Said::Deleted(identity));
    }
    let body = String::from_utf8(bytes.clone()).expect("JSON is UTF-8");
    let Record { partition, offset, timestamp, .. } = record.clone();
    Ok(Said::Row(identity, Live { fields, body, partition, offset, timestamp }))
}

/// A partition's rank: Kafka's by number, a file's by its name, bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(i64),
    Name(Vec<u8>),
}

fn place(record: &Record) -> Place {
    if record.kafka {
        Place::Number(record.partition.parse().expect("a Kafka partition is a number"))
    } else {
        Place::Name(record.partition.clone().into_bytes())
    }
}

/// Of each partition the greatest offset, with its timestamp; `None` is a deletion.
type Words = BTreeMap<Place, (u64, Option<i64>, Option<Live>)>;

/// Decodes all records and settles which row of every key is the current one.
pub fn decode(records: &[Record], settings: &serde_json::Value) -> Decoded {
    let mut decoded = Decoded::default();
    let mut keys: BTreeMap<(String, Vec<u8>), Words> = BTreeMap::new();
    for record in records {
        let (identity, row) = match read(settings, record) {
            Ok(Said::Row(identity, row)) => (identity, Some(row)),
            Ok(Said::Deleted(identity)) => (identity, None),
            Err(code) => {
                decoded.rejects.push((record.clone(), code));
                continue;
            }
        };
        let words = keys.entry((record.stream.clone(), identity)).or_default();
        let newest = words.get(&place(record)).is_none_or(|(offset, ..)| *offset < record.offset);
        if newest {
            words.insert(place(record), (record.offset, record.timestamp, row));
        }
    }
    for ((stream, identity), words) in keys {
        let winner = words.into_iter().max_by_key(|(place, (_, timestamp, _))| (*timestamp, place.clone()));
        if let Some((_, (_, _, Some(row)))) = winner {
            let identity = String::from_utf8(identity).expect("the identity of a row is a JSON string");
            decoded.rows.entry(stream).or_default().insert(identity, row);
        }
    }
    decoded
}
