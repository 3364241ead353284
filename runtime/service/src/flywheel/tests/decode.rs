//! Records into rows, deletions and rejects: every code, and their order.

use super::{code, kafka, line, row, settings};
use crate::flywheel::{
    decode::Decoder,
    rows::{CallRow, Real, ScoreRow, TrajectoryRow},
    settings::FlywheelSettings,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tidemill_core::source::{Decode, Decoded, RawRecord, RawValue, SourceRow, Word, identity_digest};
use tidemill_core::words::{StateRow, WordReader};
use tidemill_types::{Cell, CellReader, Digest, Origin, Partition, Row, Text};

const TRAJECTORY: &str = r#"{"id":"t1","task_id":"k","messages":[{"role":"assistant","content":"hi"}]}"#;
const CALL: &str = r#"{"request_id":"c1","prompt":[{"content":"q"}],"response":"a"}"#;
const SCORE: &str = r#"{"row_id":"s1","metric":"m"}"#;

/// A valid record with some fields replaced (or, by `"absent"`, taken out).
fn with(base: &str, fields: Value) -> String {
    let mut value: Value = serde_json::from_str(base).expect("JSON");
    let object = value.as_object_mut().expect("an object");
    for (name, field) in fields.as_object().expect("an object") {
        match field == "absent" {
            true => drop(object.remove(name)),
            false => drop(object.insert(name.clone(), field.clone())),
        }
    }
    value.to_string()
}

fn trajectory_code(fields: Value) -> &'static str {
    code::<TrajectoryRow>(line(&FlywheelSettings::default(), with(TRAJECTORY, fields).as_bytes()))
}

fn call_code(fields: Value) -> &'static str {
    code::<CallRow>(line(&FlywheelSettings::default(), with(CALL, fields).as_bytes()))
}

fn score_code(fields: Value) -> &'static str {
    code::<ScoreRow>(line(&FlywheelSettings::default(), with(SCORE, fields).as_bytes()))
}

#[test]
fn what_json_does_not_allow_is_not_json() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(127), "]".repeat(127));
    let values: [&[u8]; 9] = [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        br#"{"row_id":"s","metric":"m","ignored":"\ud800"}"#,
        br#"{"row_id":"s","metric":"\udfff","metric":"m"}"#,
        br#"{"row_id":"s","metric":"m","x":01}"#,
        br#"{"row_id":"s","metric":"m"} {}"#,
        deep.as_bytes(),
    ];
    for value in values {
        assert_eq!(code::<ScoreRow>(line(&FlywheelSettings::default(), value)), "not_json");
    }
}

#[test]
fn what_is_not_an_object_is_not_object() {
    for value in ["[]", "null", "\"x\"", " 1 ", "true"] {
        assert_eq!(code::<ScoreRow>(line(&FlywheelSettings::default(), value.as_bytes())), "not_object");
    }
}

#[test]
fn a_line_may_end_in_cr_and_hold_numbers_of_any_size() {
    let value = "{\"row_id\":\"s\",\"metric\":\"m\",\"x\":1e999}\r";
    assert_eq!(code::<ScoreRow>(line(&FlywheelSettings::default(), value.as_bytes())), "row");
}

#[test]
fn required_fields_must_be_there() {
    for field in ["id", "task_id", "messages"] {
        assert_eq!(trajectory_code(json!({field: "absent"})), "missing_field", "{field}");
        assert_eq!(trajectory_code(json!({field: null})), "wrong_type", "{field}");
    }
    for field in ["request_id", "prompt", "response"] {
        assert_eq!(call_code(json!({field: "absent"})), "missing_field", "{field}");
    }
    assert_eq!(call_code(json!({"request_id": null})), "wrong_type");
    assert_eq!(call_code(json!({"prompt": null, "response": null})), "row");
    for field in ["row_id", "metric"] {
        assert_eq!(score_code(json!({field: "absent"})), "missing_field", "{field}");
        assert_eq!(score_code(json!({field: null})), "wrong_type", "{field}");
    }
    for reference in [json!({}), json!({"file": "calls"}), json!({"id": "x"}), json!({"file": 1})] {
        assert_eq!(score_code(json!({"ref": reference})), "missing_field");
    }
}

#[test]
fn optional_fields_may_be_null() {
    let nulls =
        |fields: &[&str]| Value::Object(fields.iter().map(|name| (name.to_string(), Value::Null)).collect());
    let trajectory = ["agent", "model", "outcome", "tenant", "user_id", "ts", "reward", "tools"];
    assert_eq!(trajectory_code(nulls(&trajectory)), "row");
    let call = [
        "model",
        "session_id",
        "tenant",
        "user_id",
        "ts",
        "reasoning",
        "status",
        "response_tool_calls",
        "tools",
    ];
    assert_eq!(call_code(nulls(&call)), "row");
    assert_eq!(score_code(nulls(&["score", "ref", "judge", "judge_type"])), "row");
}

#[test]
fn fields_of_another_type_are_wrong_type() {
    for field in ["id", "task_id", "agent", "model", "outcome", "tenant", "user_id", "ts"] {
        assert_eq!(trajectory_code(json!({field: 1})), "wrong_type", "{field}");
    }
    for value in [json!({}), json!("x"), json!(["x"]), json!([{}, null]), json!([[]])] {
        assert_eq!(trajectory_code(json!({"messages": value})), "wrong_type");
        assert_eq!(call_code(json!({"prompt": value})), "wrong_type");
        assert_eq!(call_code(json!({"response_tool_calls": value})), "wrong_type");
    }
    assert_eq!(trajectory_code(json!({"reward": "1"})), "wrong_type");
    for field in ["request_id", "response", "model", "session_id", "tenant", "user_id", "ts", "reasoning"] {
        assert_eq!(call_code(json!({field: []})), "wrong_type", "{field}");
    }
    for field in ["row_id", "metric", "judge", "judge_type"] {
        assert_eq!(score_code(json!({field: true})), "wrong_type", "{field}");
    }
    assert_eq!(score_code(json!({"score": false})), "wrong_type");
    for value in [
        json!("x"),
        json!([]),
        json!({"file": "scores", "id": "x"}),
        json!({"file": null, "id": "x"}),
        json!({"file": "calls", "id": null}),
        json!({"file": "calls", "id": 1}),
        json!({"file": 1, "id": "x"}),
    ] {
        assert_eq!(score_code(json!({"ref": value})), "wrong_type", "{value}");
    }
}

#[test]
fn tools_and_unnamed_fields_may_be_anything() {
    for value in [json!(1), json!("x"), json!({"a": []}), json!([null]), json!(false)] {
        assert_eq!(trajectory_code(json!({"tools": value, "other": value})), "row");
        assert_eq!(call_code(json!({"tools": value, "reward": value, "_deleted": "true"})), "row");
    }
}

fn number_code(field: &str, number: &str) -> &'static str {
    let settings = FlywheelSettings::default();
    match field {
        "status" => code::<CallRow>(line(
            &settings,
            CALL.replace("{\"", &format!("{{\"status\":{number},\"")).as_bytes(),
        )),
        _ => code::<ScoreRow>(line(
            &settings,
            SCORE.replace("{\"", &format!("{{\"score\":{number},\"")).as_bytes(),
        )),
    }
}

#[test]
fn a_status_is_an_integer_of_32_bits() {
    // (The base's only `{"` at the top level is its start; the prompt's is replaced too and stays valid.)
    for number in ["0", "-0", "200", "2147483647", "-2147483648"] {
        assert_eq!(number_code("status", number), "row", "{number}");
    }
    for number in ["2147483648", "-2147483649", "200.0", "2e2", "-0.0", "\"200\"", "1e999"] {
        assert_eq!(number_code("status", number), "wrong_type", "{number}");
    }
}

#[test]
fn a_score_is_finite() {
    for number in ["0", "-0.0", "1e308", "1e-999", "0.30000000000000004", "123456789012345678901234567890"] {
        assert_eq!(number_code("score", number), "row", "{number}");
    }
    for number in ["1e309", "-1e999", "1.8e308"] {
        assert_eq!(number_code("score", number), "wrong_type", "{number}");
    }
    let row: ScoreRow = row(r#"{"row_id":"s","metric":"m","score":1e999,"score":0.1}"#);
    assert_eq!(row.score, Some(Real::from(0.1)));
}

#[test]
fn a_missing_field_anywhere_comes_before_a_wrong_type_anywhere() {
    assert_eq!(trajectory_code(json!({"id": 1, "messages": "absent"})), "missing_field");
    assert_eq!(score_code(json!({"row_id": 1, "ref": {"file": "nonsense"}})), "missing_field");
    assert_eq!(call_code(json!({"request_id": 1, "response": "absent", "status": 1.5})), "missing_field");
}

#[test]
fn messages_name_the_field_and_what_was_found() {
    let settings = settings(json!({"fields": {"scores": {"metric": "/m/0"}}}));
    let message = |value: &str| match line::<ScoreRow>(&settings, value.as_bytes()) {
        Decoded::Reject(reject) => reject.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message(r#"{"row_id":null,"m":["x"]}"#), "field \"row_id\" must be a string, found null");
    assert_eq!(message(r#"{"row_id":"s","metric":"x"}"#), "field \"metric\" (mapped to \"/m/0\") is missing");
    assert_eq!(message(r#"{"m":["x"]}"#), "field \"row_id\" is missing");
    assert_eq!(message("[]"), "the value must be an object, found an array");
    assert!(message("{\"a\":1,}").ends_with("at byte 7"));
}

#[test]
fn rows_hold_their_columns() {
    let value = r#"{"id":"t","task_id":"k","agent":"a","model":"m","reward":0.5,"outcome":"o","tenant":"n",
                    "user_id":"u","ts":"2024","messages":[],"id":"t2","x":{"id":"t3"}}"#;
    let trajectory: TrajectoryRow = row(value);
    assert_eq!((&*trajectory.id, &*trajectory.task_id), ("t2", "k"));
    let columns = [&trajectory.agent, &trajectory.model, &trajectory.outcome, &trajectory.tenant];
    assert_eq!(columns.map(|column| column.as_deref()), ["a", "m", "o", "n"].map(Some));
    assert_eq!(
        [&trajectory.user_id, &trajectory.ts].map(|column| column.as_deref()),
        ["u", "2024"].map(Some)
    );
    assert_eq!(trajectory.reward.map(Real::get), Some(0.5));
    assert_eq!(trajectory.body, Text::body(value.as_bytes()));
    let call: CallRow =
        row(r#"{"request_id":"c","prompt":null,"response":null,"session_id":"s","status":-0,"model":null}"#);
    assert_eq!((call.session_id.as_deref(), call.status, &call.model), (Some("s"), Some(0), &None));
}

#[test]
fn a_reference_names_its_subject() {
    for (reference, subject) in [
        (r#"{"file":"trajectories","id":"a"}"#, Some("trajectory:a")),
        (r#"{"file":"calls","id":"a"}"#, Some("call:a")),
        (r#"{"file":"chat_logs","id":"\u00e9"}"#, Some("call:é")),
        (r#"{"file":"x","id":1,"\u0066ile":"calls","id":"b","more":1}"#, Some("call:b")),
        ("null", None),
    ] {
        let score: ScoreRow = row(&format!(r#"{{"row_id":"s","metric":"m","ref":{reference}}}"#));
        assert_eq!(score.subject.as_deref(), subject, "{reference}");
    }
    assert_eq!(row::<ScoreRow>(SCORE).subject, None);
}

fn deletion<R: super::StreamRow>(decoded: Decoded<R>) -> Option<String> {
    match decoded {
        Decoded::Delete(identity) => Some(identity),
        _ => None,
    }
}

#[test]
fn in_files_a_true_deleted_deletes_whatever_else_stands_there() {
    let settings = FlywheelSettings::default();
    let decoded = |value: &str| line::<CallRow>(&settings, value.as_bytes());
    for value in [
        r#"{"request_id":"c","_deleted":true}"#,
        r#"{"request_id":"c","_deleted":false,"prompt":7,"_deleted":true}"#,
        r#"{"request_id":"c","\u005fdeleted":true}"#,
    ] {
        assert_eq!(deletion(decoded(value)).as_deref(), Some("c"), "{value}");
    }
    assert_eq!(code(decoded(r#"{"_deleted":true}"#)), "missing_field");
    assert_eq!(code(decoded(r#"{"request_id":null,"_deleted":true}"#)), "wrong_type");
    for other in ["false", "\"true\"", "1", "null", "[true]", "true,\"_deleted\":1"] {
        assert_eq!(
            code(decoded(&CALL.replacen('{', &format!("{{\"_deleted\":{other},"), 1))),
            "row",
            "{other}"
        );
    }
    assert_eq!(code(decoded(r#"{"request_id":"c","x":{"_deleted":true}}"#)), "missing_field");
}

#[test]
fn a_kafka_key_must_be_the_identity_byte_for_byte() {
    let settings = FlywheelSettings::default();
    assert_eq!(code::<ScoreRow>(kafka(&settings, Some(b"s1"), Some(SCORE))), "row");
    assert_eq!(code::<ScoreRow>(kafka(&settings, None, Some(SCORE))), "key_missing");
    for key in [&b"s2"[..], b"", b"s1 ", b"\xff", b"S1"] {
        assert_eq!(code::<ScoreRow>(kafka(&settings, Some(key), Some(SCORE))), "key_mismatch");
    }
    assert_eq!(code::<ScoreRow>(kafka(&settings, None, Some("{"))), "not_json");
    assert_eq!(code::<ScoreRow>(kafka(&settings, None, Some(r#"{"row_id":1,"metric":"m"}"#))), "wrong_type");
}

#[test]
fn a_null_value_deletes_its_kafka_key() {
    let settings = FlywheelSettings::default();
    assert_eq!(deletion::<ScoreRow>(kafka(&settings, Some(b"any"), None)).as_deref(), Some("any"));
    assert_eq!(deletion::<ScoreRow>(kafka(&settings, Some(b""), None)).as_deref(), Some(""));
    assert_eq!(code::<ScoreRow>(kafka(&settings, None, None)), "key_missing");
    // No row can have such a key: nothing to delete, and no error.
    assert_eq!(code::<ScoreRow>(kafka(&settings, Some(b"\xff"), None)), "nothing");
}

#[test]
fn under_key_mode_kafka_deleted_is_an_unnamed_field() {
    let settings = FlywheelSettings::default();
    let value = SCORE.replacen('{', "{\"_deleted\":true,", 1);
    assert_eq!(code::<ScoreRow>(kafka(&settings, Some(b"s1"), Some(&value))), "row");
    assert_eq!(code::<ScoreRow>(line(&settings, value.as_bytes())), "delete");
}

#[test]
fn under_key_mode_value_the_kafka_key_is_ignored() {
    let settings = settings(json!({"key": {"scores": "value"}}));
    for key in [None, Some(&b"other"[..]), Some(b"\xff")] {
        assert_eq!(code::<ScoreRow>(kafka(&settings, key, Some(SCORE))), "row");
        assert_eq!(code::<ScoreRow>(kafka(&settings, key, None)), "key_missing");
        let value = r#"{"_deleted":true,"row_id":"x"}"#;
        assert_eq!(deletion::<ScoreRow>(kafka(&settings, key, Some(value))).as_deref(), Some("x"));
    }
}

#[test]
fn a_value_that_was_not_kept_is_too_large() {
    let partition = Partition::Name("scores.jsonl".into());
    let value = RawValue::TooLarge { head: b"{", bytes: 99 };
    let record = RawRecord { partition: &partition, offset: 0, timestamp: None, key: None, value };
    assert_eq!(code(Decoder::<ScoreRow>::new(&FlywheelSettings::default()).decode(&record)), "too_large");
}

#[test]
fn a_mapped_field_is_read_only_at_its_pointer() {
    let settings = settings(json!({"fields": {
        "calls": {"request_id": "/response/id", "response": "/response/choices/0/text", "prompt": "/a~1b", "tools": ""},
        "scores": {"ref": "/about"},
    }}));
    let value =
        r#"{"request_id":"no","a/b":[{"content":"q"}],"response":{"id":"yes","choices":[{"text":"a"}]}}"#;
    let Decoded::Row(call) = line::<CallRow>(&settings, value.as_bytes()) else { panic!("no row") };
    assert_eq!(&*call.request_id, "yes");
    let facts = call.facts.expect("a sample");
    assert_eq!((facts.messages, facts.tools().is_some()), (2, true));
    let value = r#"{"request_id":"no","prompt":[],"response":{"choices":[{"text":"a"}]},"a/b":null}"#;
    assert_eq!(code::<CallRow>(line(&settings, value.as_bytes())), "missing_field");
    let value = r#"{"_deleted":true,"request_id":"no","response":{"id":"yes"}}"#;
    assert_eq!(deletion::<CallRow>(line(&settings, value.as_bytes())).as_deref(), Some("yes"));
    let value = r#"{"row_id":"s","metric":"m","ref":7,"about":{"file":"calls","id":"x"}}"#;
    let Decoded::Row(score) = line::<ScoreRow>(&settings, value.as_bytes()) else { panic!("no row") };
    assert_eq!(score.subject.as_deref(), Some("call:x"));
}

/// Writes a row as cells and reads it back.
fn round_trip<R: SourceRow>(row: &R) {
    let mut values = Vec::new();
    row.cells(&mut |cell| values.push(cell.to_value()));
    assert_eq!(values.len(), R::columns().len());
    row.fact_cells(&mut |cell| values.push(cell.to_value()));
    assert_eq!(values.len(), R::columns().len() + R::facts().len());
    let cells: Vec<Cell<'_>> = values.iter().map(|value| value.cell()).collect();
    let read = R::read(&mut CellReader::new(&cells)).expect("what was written");
    assert_eq!(&read, row);
    assert_eq!(row.identity(), read.identity());
    for place in 0..cells.len() {
        let mut broken = cells.clone();
        broken[place] = Cell::Floats(&[]);
        assert!(R::read(&mut CellReader::new(&broken)).is_err(), "column {place}");
    }
}

/// Writes words of a row, of one without facts and of a deletion as rows of a state table, and reads them back.
fn words_round_trip<R: SourceRow>(rows: Vec<R>) {
    let mut reader = WordReader::<R>::default();
    let values = rows.into_iter().map(|row| Some(Arc::new(row))).chain([None]);
    for (offset, value) in (0..).zip(values) {
        let identity: Arc<str> = value.as_ref().map_or("gone", |row| row.identity()).into();
        for partition in [Partition::number(0), Partition::in_life(0, 2), Partition::Name("a.jsonl".into())] {
            for (current, timestamp) in [(true, None), (false, Some(-5))] {
                let (identity, value) = (identity.clone(), value.clone());
                let word = Word { timestamp, partition: partition.clone(), offset, identity, value };
                let row = StateRow { word: Arc::new(word), current };
                let mut values = Vec::new();
                row.cells(&mut |cell| values.push(cell.to_value()));
                let cells: Vec<_> = reader.columns().into_iter().map(|place| values[place].cell()).collect();
                let (key, word) = reader.read(&cells).expect("what was written");
                assert_eq!(key, identity_digest(&row.word.identity));
                assert_eq!(word, *row.word);
            }
        }
    }
    assert!(reader.read(&[]).is_err());
}

#[test]
fn words_are_restored_exactly() {
    let without = r#"{"id":"u","task_id":"k","messages":[]}"#;
    words_round_trip::<TrajectoryRow>(vec![row(TRAJECTORY), row(without), row(TRAJECTORY)]);
    words_round_trip::<CallRow>(vec![row(CALL), row(&with(CALL, json!({"model": "m", "status": 200})))]);
    words_round_trip::<ScoreRow>(vec![row(SCORE), row(&with(SCORE, json!({"score": 0.5})))]);
}

#[test]
fn rows_and_facts_are_restored_exactly() {
    let full = r#"{"id":"t","task_id":"k","agent":"a","model":"m","reward":-0.0,"outcome":"o","tenant":"n",
        "user_id":"u","ts":"2024","tools":[1],"messages":[{"content":"q"},{"role":"gpt","content":[1,"a"]}]}"#;
    round_trip(&row::<TrajectoryRow>(full));
    round_trip(&row::<TrajectoryRow>(TRAJECTORY));
    round_trip(&row::<TrajectoryRow>(r#"{"id":"","task_id":"","messages":[]}"#));
    round_trip(&row::<CallRow>(CALL));
    let only_calls = r#"{"request_id":"c","prompt":[{"role":"assistant"}],"response":null,
        "response_tool_calls":[{}],"status":-1}"#;
    round_trip(&row::<CallRow>(only_calls));
    round_trip(&row::<ScoreRow>(SCORE));
    let mut score =
        row::<ScoreRow>(r#"{"row_id":"s","metric":"m","score":0.1,"judge":"j","judge_type":"llm"}"#);
    score.body.origin = Some(Origin { stream: 2, key: Digest(1), part: 0 });
    round_trip(&score);
}

#[test]
fn floats_are_ordered_and_keep_their_bits() {
    let reals = [f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0].map(Real::from);
    assert!(reals.is_sorted_by(|a, b| a < b));
    assert!(Real::from(-0.0).get().is_sign_negative());
}
