//! Stored rows as the oracle has rows: JSON objects. Numbers do not go through text, so none is
//! rounded on the way.

use crate::json::{COLUMN_DEPTH, Json, parse};
use crate::model::{Row, rfc3339};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Number, Value as JsonValue};
use tidemill_types::{TableSchema, Value};

fn json(value: &Value) -> JsonValue {
    match value {
        Value::Null => JsonValue::Null,
        Value::Str(text) => text.as_str().into(),
        Value::Text(text) => text.digest.to_string().into(),
        Value::Long(number) => (*number).into(),
        Value::Int(number) => (*number).into(),
        Value::Double(number) => Number::from_f64(*number).map_or(JsonValue::Null, JsonValue::Number),
        Value::Bool(truth) => (*truth).into(),
        Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Value::Micros(at) => rfc3339(*at).into(),
        Value::Floats(items) => items.iter().map(|item| JsonValue::from(f64::from(*item))).collect(),
    }
}

/// A stored row as a JSON object.
pub fn row(schema: &TableSchema, values: &[Value]) -> Row {
    let names = schema.columns.iter().map(|column| column.name.clone());
    names.zip(values.iter().map(json)).collect()
}

/// Lines of JSON objects, as `show --format json` prints them.
pub fn rows_of_lines(text: &str) -> Vec<Row> {
    let line = |line: &str| match parse(line.as_bytes(), COLUMN_DEPTH).map(|json| exact(&json)) {
        Ok(JsonValue::Object(row)) => row,
        other => panic!("no row: {line}: {other:?}"),
    };
    text.lines().map(line).collect()
}

/// A JSON tree with correctly rounded numbers.
fn exact(json: &Json) -> JsonValue {
    match json {
        Json::Null => JsonValue::Null,
        Json::Bool(truth) => (*truth).into(),
        Json::Str(text) => text.as_str().into(),
        Json::Number(text) => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.parse::<f64>().expect("a number").into(),
        },
        Json::Array(items) => items.iter().map(exact).collect(),
        Json::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), exact(value))).collect(),
    }
}
