//! Lines that must be rejected, and lines that look as if they must but are rows.

use super::json::Json;
use super::noise::{Style, deep, number, once_in, pick, render};
use super::talk::{Fields, pick_json};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Lines that are not JSON, whatever else.
const NOT_JSON: &[&[u8]] = &[
    b"",
    b" ",
    b"{",
    b"{\"id\":\"t1\",}",
    b"\xef\xbb\xbf{}",
    b"{} x",
    b"{'id':1}",
    b"{\"id\":01}",
    b"{\"id\":1.}",
    b"{\"id\":.5}",
    b"{\"id\":+1}",
    b"{\"id\":NaN}",
    b"{\"id\":\"a\tb\"}",
    b"{\"id\":\"\\x41\"}",
    b"{\"id\":\"\\u12g4\"}",
    b"{\"id\":\"\\ud800\"}",
    b"{\"id\":\"t1\",\"x\":\"\\udc00\\ud800\"}",
    b"{\"\\ud83d\":1}",
    b"{\"id\":\"\\ud83d\\u0041\"}",
    b"{\"id\":\"\xff\"}",
    b"{\"id\":\"\xed\xa0\x80\"}",
    b"[1 2]",
    b"nul",
    b"{\"x\":\"\\ud800\",\"x\":1}",
    b"\"t1",
    b"\x00",
    b"{\"a\":1}{\"a\":1}",
    b"-",
];
const NOT_OBJECT: &[&[u8]] = &[b"[]", b"\"t1\"", b"3", b"null", b"true", b" [{\"id\":\"t1\"}] ", b"-0"];

/// A line that is rejected, made from the fields of a good record of that stream.
pub fn line(rng: &mut ChaCha8Rng, stream: &str, mut fields: Fields, bytes_max: usize) -> Vec<u8> {
    let style = Style::any(rng);
    match rng.random_range(0..10) {
        0 | 1 => return pick(rng, NOT_JSON).to_vec(),
        2 => return pick(rng, NOT_OBJECT).to_vec(),
        3 => drop(fields.insert("meta".into(), deep(127))),
        4 | 5 => unfield(rng, stream, &mut fields),
        6 => {
            let mut line = render(rng, style, &Json::Object(fields)).into_bytes();
            line.resize(bytes_max.max(line.len()) + 1, b' ');
            return line;
        }
        7 => {
            unfield(rng, stream, &mut fields);
            mistype(rng, stream, &mut fields);
        }
        _ => mistype(rng, stream, &mut fields),
    }
    render(rng, style, &Json::Object(fields)).into_bytes()
}

fn unfield(rng: &mut ChaCha8Rng, stream: &str, fields: &mut Fields) {
    let names: &[&str] = match stream {
        "trajectories" => &["id", "task_id", "messages"],
        "calls" => &["request_id", "prompt", "response"],
        _ => &["row_id", "metric", "ref"],
    };
    match pick(rng, names) {
        "ref" => {
            let whole = Json::object([("file", Json::str("calls")), ("id", Json::str("c1"))]);
            let Json::Object(mut part) = whole else { return };
            part.remove(pick(rng, &["file", "id"]));
            fields.insert("ref".into(), Json::Object(part));
        }
        name => drop(fields.remove(name)),
    }
    if once_in(rng, 100) {
        fields.insert("_deleted".into(), Json::Bool(true));
        fields.remove(names[0]);
    }
}

fn reference(file: Json, id: Json) -> Json {
    Json::object([("file", file), ("id", id)])
}

fn mistype(rng: &mut ChaCha8Rng, stream: &str, fields: &mut Fields) {
    let not_text = [number("7"), Json::Null, Json::Bool(true), Json::Array(vec![])];
    let not_objects =
        [Json::object([]), Json::Array(vec![number("1")]), Json::str("x"), Json::Array(vec![Json::Null])];
    let (name, value) = match (stream, rng.random_range(0..6)) {
        ("trajectories", 0) => ("id", pick_json(rng, &not_text)),
        ("trajectories", 1) => ("task_id", pick_json(rng, &not_text)),
        ("trajectories", 2) => ("messages", pick_json(rng, &not_objects)),
        ("trajectories", 3) => ("messages", Json::Null),
        ("trajectories", 4) => {
            ("reward", pick_json(rng, &[Json::str("1"), number("1e999"), number("-1e400"), Json::Bool(true)]))
        }
        ("calls", 0) => ("request_id", pick_json(rng, &not_text)),
        ("calls", 1) => ("prompt", pick_json(rng, &not_objects)),
        ("calls", 2) => ("response", Json::Array(vec![])),
        ("calls", 3) => ("status", number(pick(rng, &["200.0", "2e2", "2147483648", "-2147483649", "1E0"]))),
        ("calls", 4) => ("response_tool_calls", pick_json(rng, &not_objects)),
        ("scores", 0) => ("row_id", pick_json(rng, &not_text)),
        ("scores", 1) => ("metric", pick_json(rng, &not_text)),
        ("scores", 2) => ("score", pick_json(rng, &[Json::str("1"), number("1e309"), Json::Bool(true)])),
        ("scores", 3) => ("ref", reference(Json::str("evals"), Json::str("t1"))),
        ("scores", 4) => ("ref", reference(Json::str("calls"), Json::Null)),
        ("scores", _) => ("ref", pick_json(rng, &[Json::Array(vec![]), Json::str("t1"), number("1")])),
        _ => ("tenant", pick_json(rng, &[number("7"), Json::Bool(false), Json::object([])])),
    };
    fields.insert(name.to_string(), value);
}

/// Adds what looks wrong and is not.
pub fn disguise(rng: &mut ChaCha8Rng, fields: &mut Fields) {
    match rng.random_range(0..6) {
        0 => drop(fields.insert(
            "_deleted".into(),
            pick_json(rng, &[Json::str("true"), Json::Bool(false), number("1"), Json::Null]),
        )),
        1 => drop(fields.insert("meta".into(), number("1e999"))),
        2 => drop(fields.insert("meta".into(), deep(126))),
        3 => drop(fields.insert("\u{0}odd \"name\"".into(), Json::str("\u{10ffff}"))),
        4 => drop(
            fields
                .insert("usage".into(), Json::object([("id", number("1")), ("_deleted", Json::Bool(true))])),
        ),
        _ => {}
    }
}
