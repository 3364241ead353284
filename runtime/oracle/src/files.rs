//! Reads a folder of JSON-lines files into records, and a root with its `ai.*` tables into what it covers.

use super::model::{Input, Record, Request, Row};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// `{stream: {file: next offset}}`.
pub type Positions = BTreeMap<String, BTreeMap<String, u64>>;

/// The stream that a file belongs to, by its name.
pub fn stream_of(file: &str) -> Option<&'static str> {
    if ![".jsonl", ".jsonl.gz", ".jsonl.zst"].iter().any(|suffix| file.ends_with(suffix)) {
        return None;
    }
    let prefixes = [
        ("trajectories", "trajectories"),
        ("calls", "calls"),
        ("chat_logs", "calls"),
        ("scores", "scores"),
        ("evals", "scores"),
    ];
    prefixes.iter().find(|(prefix, _)| file.starts_with(prefix)).map(|(_, stream)| *stream)
}

/// All that can be had of a file: of a compressed one that is cut short, what stands before the cut.
/// The second part says whether the end was reached.
fn contents(path: &Path, file: &str) -> (Vec<u8>, bool) {
    let open = || File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader: Box<dyn Read> = if file.ends_with(".gz") {
        Box::new(flate2::read::MultiGzDecoder::new(open()))
    } else if file.ends_with(".zst") {
        Box::new(zstd::Decoder::new(open()).expect("a zstd decoder"))
    } else {
        Box::new(open())
    };
    let mut bytes = Vec::new();
    let whole = reader.read_to_end(&mut bytes).is_ok();
    (bytes, whole)
}

/// The lines of a file that are records.
fn lines(path: &Path, file: &str) -> Vec<Vec<u8>> {
    let (bytes, whole) = contents(path, file);
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let rest = lines.pop().unwrap_or_default();
    if whole && !file.ends_with(".jsonl") && !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// All records of a folder, in the order of names and lines.
pub fn read_all(folder: &Path) -> Vec<Record> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path()).filter(|path| path.is_file());
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect();
    names.sort();
    let mut records = Vec::new();
    for file in names {
        if let Some(stream) = stream_of(&file) {
            let lines = lines(&folder.join(&file), &file).into_iter().enumerate();
            records.extend(lines.map(|(offset, line)| Record {
                stream: stream.to_string(),
                partition: file.clone(),
                offset: offset as u64,
                timestamp: None,
                key: None,
                value: Some(line),
                kafka: false,
            }));
        }
    }
    records
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_else(|| panic!("no text in column {column} of {row:?}"))
}

fn request(row: &Row) -> Request {
    (text(row, "text_digest").to_string(), text(row, "model").to_string(), text(row, "version").to_string())
}

/// What a commit covers, from its root, the records below its positions and its `ai.*` tables.
pub fn input_of(root: &Value, records: Vec<Record>, embeddings: &[Row], failures: &[Row]) -> Input {
    let models = root["models"].as_array().expect("models of a root").iter();
    let name = |model: &Value, field: &str| model[field].as_str().expect("a model of a root").to_string();
    let vector = |row: &Row| {
        let numbers = row["vector"].as_array().expect("a vector is a list");
        numbers.iter().map(|number| number.as_f64().expect("a number") as f32).collect::<Vec<f32>>()
    };
    let input = Input {
        records,
        settings: root["program"]["settings"].clone(),
        models: models.map(|model| (name(model, "model"), name(model, "version"))).collect(),
        embeddings: embeddings.iter().map(|row| (request(row), vector(row))).collect(),
        failures: failures.iter().map(request).collect(),
    };
    assert_eq!(input.embeddings.len(), embeddings.len(), "a request stands twice in ai.embeddings");
    assert_eq!(input.failures.len(), failures.len(), "a request stands twice in ai.failures");
    input
}
