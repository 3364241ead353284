//! The demo's records as JSON, and the files that they stand in.

use crate::cli::rfc3339;
use serde::Serialize;
use serde_json::Value as Json;

/// A file of the demo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum File {
    /// What agents did.
    Trajectories,
    /// Calls of models.
    Calls,
    /// What judges said.
    Scores,
    /// What agents did in another region; it appears while the demo runs.
    TrajectoriesEu,
}

/// All files.
pub const FILES: [File; 4] = [File::Trajectories, File::Calls, File::Scores, File::TrajectoriesEu];

impl File {
    /// Its name in the folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectories => "trajectories.jsonl",
            Self::Calls => "calls.jsonl",
            Self::Scores => "scores.jsonl",
            Self::TrajectoriesEu => "trajectories-eu.jsonl",
        }
    }
}

/// A line and when it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Microseconds since the demo began.
    pub at: u64,
    /// Where it is written.
    pub file: File,
    /// What is written, without the line's end.
    pub line: String,
}

/// The moment at which the demo's own time begins: 2026-03-02T08:00:00Z in microseconds.
const BEGINS: i64 = 1_772_438_400_000_000;

/// A time of the demo as its records say it.
pub fn timestamp(at: u64) -> String {
    rfc3339(BEGINS + at as i64).unwrap_or_default()
}

/// A message, with the fields that it has.
#[derive(Clone, Serialize, Debug, Default)]
pub struct Message {
    /// Who speaks.
    pub role: &'static str,
    /// A text, parts, or null.
    pub content: Json,
    /// The calls of an assistant message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Json>,
    /// The one call of an assistant message, as older clients log it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Json>,
    /// Which call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The tool's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message that is only text.
    pub fn text(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, content: Json::String(content.into()), ..Self::default() }
    }
}

/// A record of the stream `trajectories`.
#[derive(Clone, Serialize, Debug)]
pub struct Trajectory {
    /// The identity.
    pub id: String,
    /// Tries at the same thing share it.
    pub task_id: String,
    /// Who tried.
    pub agent: &'static str,
    /// With which model.
    pub model: &'static str,
    /// How the agent says it ended.
    pub outcome: &'static str,
    /// What the agent says it was worth.
    pub reward: Option<f64>,
    /// Whose data it is.
    pub tenant: &'static str,
    /// Which user asked.
    pub user_id: String,
    /// When it ended.
    pub ts: String,
    /// What was said.
    pub messages: Vec<Message>,
    /// What the agent could use.
    pub tools: Json,
}

/// A record of the stream `calls`.
#[derive(Clone, Serialize, Debug)]
pub struct CallRecord {
    /// The identity.
    pub request_id: String,
    /// Calls of one conversation share it.
    pub session_id: String,
    /// The model that was called.
    pub model: &'static str,
    /// HTTP's status.
    pub status: u32,
    /// Whose data it is.
    pub tenant: &'static str,
    /// Which user asked.
    pub user_id: String,
    /// When it was answered.
    pub ts: String,
    /// What the model was given.
    pub prompt: Vec<Message>,
    /// What it answered.
    pub response: Option<String>,
    /// The tools that it called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_tool_calls: Option<Json>,
    /// What it thought first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools that it could call.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub tools: Json,
}

/// What a score is of.
#[derive(Clone, Serialize, Debug)]
pub struct Ref {
    /// Which stream.
    pub file: &'static str,
    /// Which record.
    pub id: String,
}

/// A record of the stream `scores`.
#[derive(Clone, Serialize, Debug)]
pub struct Score {
    /// The identity.
    pub row_id: String,
    /// In which respect.
    pub metric: &'static str,
    /// How well; null where the judge gave up.
    pub score: Option<f64>,
    /// What was judged.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub subject: Option<Ref>,
    /// Who judged.
    pub judge: String,
    /// What kind of judge that is.
    pub judge_type: &'static str,
    /// When.
    pub ts: String,
    /// What the judge wrote beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<&'static str>,
}

/// A record as a line.
pub fn line(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("records have string keys and finite numbers")
}

/// The deletion of a key.
pub fn deletion(identity: &str, key: &str) -> String {
    let mut record = serde_json::Map::new();
    record.insert(identity.to_string(), Json::from(key));
    record.insert("_deleted".to_string(), Json::from(true));
    Json::Object(record).to_string()
}
