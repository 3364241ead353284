//! Lines keyed for Kafka: a decoder makes the same of the record there as of the line in its file.

use super::{code, kafka, line, settings};
use crate::cli::{Keyed, Keying};
use crate::flywheel::{
    decode::StreamRow,
    fields::Stream,
    keying::FlywheelKeying,
    rows::{CallRow, ScoreRow, TrajectoryRow},
    settings::FlywheelSettings,
};
use serde_json::json;
use tidemill_core::source::Decoded;

/// Lines of `scores` and whether they have an identity that can be a key.
const SCORES: &[(&str, Option<&str>)] = &[
    // not_json, not_object
    ("", None),
    (r#"{"row_id":"s","metric":"m""#, None),
    (r#"{"row_id":"s","metric":"m","x":"\ud800"}"#, None),
    (r#"["s"]"#, None),
    ("null", None),
    // missing_field
    ("{}", None),
    (r#"{"metric":"m"}"#, None),
    (r#"{"row_id":"s"}"#, Some("s")),
    (r#"{"row_id":"s","metric":"m","ref":{"file":"calls"}}"#, Some("s")),
    (r#"{"row_id":7}"#, None),
    // wrong_type
    (r#"{"row_id":7,"metric":"m"}"#, None),
    (r#"{"row_id":null,"metric":"m"}"#, None),
    (r#"{"row_id":"s","metric":7}"#, Some("s")),
    (r#"{"row_id":"s","metric":"m","score":"1"}"#, Some("s")),
    // rows
    (r#"{"row_id":"s","metric":"m"}"#, Some("s")),
    (r#"{"row_id":"","metric":"m"}"#, Some("")),
    (r#"{"row_id":"\u00e9\ud83d\ude00","metric":"m"}"#, Some("é😀")),
    (r#"{"row_id":"a","metric":"m","row_id":"b"}"#, Some("b")),
    (r#"{"row_id":"s","metric":"m","_deleted":"true"}"#, Some("s")),
    (r#"{"row_id":"s","metric":"m","_deleted":true,"_deleted":false}"#, Some("s")),
    // deletions
    (r#"{"row_id":"s","_deleted":true}"#, Some("s")),
    (r#"{"row_id":"s","_deleted":true,"metric":7}"#, Some("s")),
    (r#"{"metric":"m","_deleted":true}"#, None),
    (r#"{"row_id":7,"metric":"m","_deleted":true}"#, None),
];

/// What is decoded, without the body's place.
fn outcome<R: StreamRow>(decoded: Decoded<R>) -> String {
    match decoded {
        Decoded::Row(row) => format!("row {:?}", row.identity()),
        Decoded::Delete(identity) => format!("delete {identity:?}"),
        reject => code(reject).to_string(),
    }
}

fn keyed(settings: &FlywheelSettings, stream: Stream, line: &str) -> Keyed {
    FlywheelKeying::new(settings).keyed(usize::from(stream.number()), line.as_bytes())
}

/// Holds a line in a file against its record in Kafka.
fn same<R: StreamRow>(settings: &FlywheelSettings, text: &str) -> (Keyed, String) {
    let keyed = keyed(settings, R::STREAM, text);
    let there = outcome(kafka::<R>(settings, keyed.key.as_deref(), (!keyed.deletes).then_some(text)));
    assert_eq!(there, outcome(line::<R>(settings, text.as_bytes())), "{text}");
    (keyed, there)
}

#[test]
fn every_line_becomes_there_what_it_is_in_a_file() {
    for mode in ["kafka", "value"] {
        let settings = settings(json!({"key": {"scores": mode}}));
        for (text, key) in SCORES {
            let (keyed, outcome) = same::<ScoreRow>(&settings, text);
            assert_eq!(keyed.key.as_deref(), key.map(str::as_bytes), "{mode}: {text}");
            assert_eq!(keyed.deletes, mode == "kafka" && outcome.starts_with("delete"), "{mode}: {text}");
        }
    }
}

#[test]
fn every_stream_is_keyed_by_its_own_identity() {
    let settings = FlywheelSettings::default();
    let (keyed, _) = same::<TrajectoryRow>(&settings, r#"{"id":"t","task_id":"k","messages":[]}"#);
    assert_eq!(keyed.key.as_deref(), Some(&b"t"[..]));
    let (keyed, _) = same::<CallRow>(&settings, r#"{"request_id":"c","prompt":null,"response":"x"}"#);
    assert_eq!(keyed.key.as_deref(), Some(&b"c"[..]));
    let (keyed, said) = same::<CallRow>(&settings, r#"{"id":"t","request_id":"c","_deleted":true}"#);
    assert!(keyed.deletes && said == r#"delete "c""#);
    assert_eq!(FlywheelKeying::new(&settings).keyed(9, b"{}"), Keyed::default());
}

#[test]
fn an_identity_that_stands_elsewhere_is_found_there_alone() {
    for mode in ["kafka", "value"] {
        let settings =
            settings(json!({"key": {"calls": mode}, "fields": {"calls": {"request_id": "/response/id"}}}));
        for (text, key) in [
            (r#"{"request_id":"no","response":{"id":"yes"},"prompt":null}"#, Some("yes")),
            (r#"{"request_id":"no","response":"x","prompt":null}"#, None),
            (r#"{"request_id":"no","response":{"id":"yes"},"_deleted":true}"#, Some("yes")),
            (r#"{"request_id":"no","response":{"id":3},"prompt":null}"#, None),
        ] {
            let (keyed, _) = same::<CallRow>(&settings, text);
            assert_eq!(keyed.key.as_deref(), key.map(str::as_bytes), "{text}");
        }
    }
}

/// The one line whose code is another one there: nothing but its identity is looked at in a file.
#[test]
fn a_deletion_of_no_identity_that_lacks_a_field_too_is_rejected_for_that() {
    let text = r#"{"row_id":7,"_deleted":true}"#;
    for (mode, there) in [("kafka", "missing_field"), ("value", "wrong_type")] {
        let settings = settings(json!({"key": {"scores": mode}}));
        assert_eq!(keyed(&settings, Stream::Scores, text), Keyed::default());
        assert_eq!(code::<ScoreRow>(line(&settings, text.as_bytes())), "wrong_type");
        assert_eq!(code::<ScoreRow>(kafka(&settings, None, Some(text))), there);
    }
}
