//! Tests of decoding, normalisation, extraction and settings on hand-written records.

mod conversation;
mod data;
mod decode;
mod extract;
mod keying;
mod settings;

use super::{
    decode::{Decoder, StreamRow},
    facts::SampleFacts,
    rows::{CallRow, TrajectoryRow},
    settings::FlywheelSettings,
};
use serde_json::{Value, json};
use tidemill_core::source::{Decode, Decoded, RawRecord, RawValue};
use tidemill_types::Partition;

/// Settings from what a configuration gives.
fn settings(given: Value) -> FlywheelSettings {
    FlywheelSettings::parse(&given).expect("right settings")
}

/// What a decoder makes of a line of a file.
fn line<R: StreamRow>(settings: &FlywheelSettings, value: &[u8]) -> Decoded<R> {
    record(settings, Partition::Name("a.jsonl".into()), None, RawValue::Bytes(value))
}

/// What a decoder makes of a record of a Kafka partition.
fn kafka<R: StreamRow>(settings: &FlywheelSettings, key: Option<&[u8]>, value: Option<&str>) -> Decoded<R> {
    let value = value.map_or(RawValue::Null, |value| RawValue::Bytes(value.as_bytes()));
    record(settings, Partition::number(3), key, value)
}

fn record<R: StreamRow>(
    settings: &FlywheelSettings,
    partition: Partition,
    key: Option<&[u8]>,
    value: RawValue<'_>,
) -> Decoded<R> {
    let record = RawRecord { partition: &partition, offset: 7, timestamp: None, key, value };
    Decoder::<R>::new(settings).decode(&record)
}

fn row<R: StreamRow>(value: &str) -> R {
    match line(&FlywheelSettings::default(), value.as_bytes()) {
        Decoded::Row(row) => row,
        other => panic!("{value} gave {other:?}"),
    }
}

fn code<R: StreamRow>(decoded: Decoded<R>) -> &'static str {
    match decoded {
        Decoded::Reject(reject) => reject.code,
        Decoded::Row(_) => "row",
        Decoded::Delete(_) => "delete",
        Decoded::Nothing => "nothing",
    }
}

/// The facts of a trajectory with these messages (JSON text).
fn trajectory(messages: &str) -> Option<SampleFacts> {
    row::<TrajectoryRow>(&format!(r#"{{"id":"t","task_id":"task","messages":{messages}}}"#)).facts
}

/// The facts of a call with these fields.
fn call(fields: Value) -> Option<SampleFacts> {
    let mut value = json!({"request_id": "c", "prompt": null, "response": null});
    let fields = fields.as_object().expect("an object").clone();
    value.as_object_mut().expect("an object").extend(fields);
    row::<CallRow>(&value.to_string()).facts
}
