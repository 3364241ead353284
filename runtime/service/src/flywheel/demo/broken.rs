//! Records that went wrong on their way: one kind for each reason that files can give for a rejection.

use super::records::File;
use serde_json::Value as Json;

/// A record spoilt in the `n`th way; the ways take turns, so that all come up soon.
pub fn spoilt(file: File, line: &str, n: usize) -> String {
    match n % 5 {
        0 => cut(line),
        1 => changed(line, |record| without(record, required(file)[n / 5 % 2])),
        2 => changed(line, |record| mistyped(record, file)),
        3 => Json::from(vec!["heartbeat", file.name()]).to_string(),
        _ => format!("WARN {}: writer restarted, {} bytes lost", file.name(), line.len()),
    }
}

/// Fields that must be there, and whose type is not free.
fn required(file: File) -> [&'static str; 2] {
    match file {
        File::Trajectories | File::TrajectoriesEu => ["task_id", "messages"],
        File::Calls => ["response", "prompt"],
        File::Scores => ["metric", "row_id"],
    }
}

/// A writer that died in the middle of a line.
fn cut(line: &str) -> String {
    let mut end = line.len() * 2 / 3;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_string()
}

fn changed(line: &str, change: impl FnOnce(&mut serde_json::Map<String, Json>)) -> String {
    match serde_json::from_str(line) {
        Ok(Json::Object(mut record)) => {
            // A deletion would be one however it is spoilt.
            record.remove("_deleted");
            change(&mut record);
            Json::Object(record).to_string()
        }
        _ => cut(line),
    }
}

fn without(record: &mut serde_json::Map<String, Json>, field: &str) {
    record.remove(field);
}

fn mistyped(record: &mut serde_json::Map<String, Json>, file: File) {
    let (field, value) = match file {
        File::Trajectories | File::TrajectoriesEu => ("messages", Json::from("see attachment")),
        File::Calls => ("prompt", Json::from("hello")),
        File::Scores => ("metric", Json::from(7)),
    };
    record.insert(field.to_string(), value);
}
