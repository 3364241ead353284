//! From current rows to samples: conversations, copies, tokens and the texts that are embedded.

use super::decode::{Live, Rows};
use super::json::Json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A normalised message.
#[derive(Clone, Debug)]
pub struct Message {
    /// `user`, `assistant`, `system` or `tool`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// What else is kept.
    pub kept: BTreeMap<String, Json>,
}

impl Message {
    fn json(&self) -> Json {
        let mut fields = self.kept.clone();
        fields.insert("role".into(), Json::str(self.role));
        fields.insert("content".into(), Json::str(&self.content));
        Json::Object(fields)
    }

    fn is_answer(&self) -> bool {
        self.role == "assistant" && (!self.content.is_empty() || self.kept.contains_key("tool_calls"))
    }
}

/// Messages as the JSON of a column.
pub fn json_of(messages: &[Message]) -> Json {
    Json::Array(messages.iter().map(Message::json).collect())
}

/// A trajectory or a call that has a sample; also the sample itself, for the first among copies.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `trajectory:<id>` or `call:<request_id>`.
    pub id: String,
    /// `trajectory` or `call`.
    pub kind: &'static str,
    /// The task, or for a call a digest of its prompt.
    pub task: String,
    /// As in the row.
    pub tenant: Option<String>,
    /// As in the row.
    pub user_id: Option<String>,
    /// As in the row.
    pub model: Option<String>,
    /// As in the row.
    pub ts: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// How many of `messages` are the prompt.
    pub prompt_len: usize,
    /// Absent when it says nothing.
    pub tools: Option<Json>,
    /// Whether every part was text, in dropped messages too.
    pub text_only: bool,
}

/// A sample: the subject that names it, and how many subjects are copies of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The subject with the smallest name.
    pub subject: Subject,
    /// The subjects that it stands for, itself included.
    pub copies: usize,
}

/// All samples.
#[derive(Default)]
pub struct Samples {
    /// By sample_id.
    pub samples: BTreeMap<String, Sample>,
    /// From a subject to its sample_id.
    pub sample_of: BTreeMap<String, String>,
}

/// Null, `""` and `[]` say nothing.
fn says_something(value: &Json) -> bool {
    !matches!(value, Json::Null) && *value != Json::str("") && *value != Json::Array(vec![])
}

fn role_of(message: &Json) -> Option<&'static str> {
    match message.get("role") {
        None | Some(Json::Null) => Some("user"),
        Some(Json::Str(role)) => match role.as_str() {
            "user" | "human" => Some("user"),
            "assistant" | "model" | "gpt" | "bot" => Some("assistant"),
            "system" | "developer" => Some("system"),
            "tool" | "function" => Some("tool"),
            _ => None,
        },
        Some(_) => None,
    }
}

/// The text of a content and whether it was text only; `None`: the subject has no sample.
fn content_of(message: &Json) -> Option<(String, bool)> {
    match message.get("content") {
        None | Some(Json::Null) => Some((String::new(), true)),
        Some(Json::Str(text)) => Some((text.clone(), true)),
        Some(Json::Array(parts)) => {
            let mut texts = Vec::new();
            let mut text_only = true;
            for part in parts {
                let text = part.as_str().or_else(|| part.get("text")?.as_str());
                text_only &= text.is_some();
                let kind = part.get("type").and_then(Json::as_str).unwrap_or("part");
                texts.push(text.map_or_else(|| format!("[{kind}]"), str::to_string));
            }
            Some((texts.join("\n"), text_only))
        }
        Some(_) => None,
    }
}

fn kept_of(message: &Json) -> BTreeMap<String, Json> {
    let mut kept = BTreeMap::new();
    for name in ["name", "tool_calls", "tool_call_id", "reasoning_content"] {
        if let Some(value) = message.get(name).filter(|value| says_something(value)) {
            kept.insert(name.to_string(), value.clone());
        }
    }
    if let Some(call @ Json::Object(_)) = message.get("function_call")
        && !kept.contains_key("tool_calls")
    {
        let wrapped = Json::object([("type", Json::str("function")), ("function", call.clone())]);
        kept.insert("tool_calls".into(), Json::Array(vec![wrapped]));
    }
    kept
}

/// The normalised conversation and whether it is text only; `None`: the subject has no sample.
fn conversation(raw: &[Json]) -> Option<(Vec<Message>, bool)> {
    let mut messages = Vec::new();
    let mut text_only = true;
    for message in raw {
        let role = role_of(message)?;
        let (content, only) = content_of(message)?;
        text_only &= only;
        messages.push(Message { role, content, kept: kept_of(message) });
    }
    let last = messages.iter().rposition(Message::is_answer)?;
    messages.truncate(last + 1);
    Some((messages, text_only))
}

fn before_first_assistant(messages: &[Message]) -> usize {
    messages.iter().position(|message| message.role == "assistant").unwrap_or(messages.len())
}

fn hex_sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn subject(row: &Live, kind: &'static str, id: &str, messages: Vec<Message>, text_only: bool) -> Subject {
    let own = |name: &str| row.str(name).map(str::to_string);
    let prompt_len = before_first_assistant(&messages);
    let tools =
        row.some("tools").filter(|tools| says_something(tools) && **tools != Json::Object(BTreeMap::new()));
    Subject {
        id: format!("{kind}:{id}"),
        kind,
        task: own("task_id").unwrap_or_default(),
        tenant: own("tenant"),
        user_id: own("user_id"),
        model: own("model"),
        ts: own("ts"),
        messages,
        prompt_len,
        tools: tools.cloned(),
        text_only,
    }
}

fn of_trajectory(id: &str, row: &Live) -> Option<Subject> {
    let (messages, text_only) = conversation(row.fields["messages"].as_array()?)?;
    Some(subject(row, "trajectory", id, messages, text_only))
}

fn of_call(id: &str, row: &Live) -> Option<Subject> {
    let prompt = row.fields["prompt"].as_array().filter(|prompt| !prompt.is_empty())?;
    if row.number("status").is_some_and(|status| status >= 400.0) {
        return None;
    }
    let response = row.str("response").unwrap_or("");
    let mut answer =
        BTreeMap::from([("role".into(), Json::str("assistant")), ("content".into(), Json::str(response))]);
    for (from, to) in [("response_tool_calls", "tool_calls"), ("reasoning", "reasoning_content")] {
        if let Some(value) = row.some(from) {
            answer.insert(to.to_string(), value.clone());
        }
    }
    if response.is_empty() && !answer.get("tool_calls").is_some_and(says_something) {
        return None;
    }
    let mut raw = prompt.to_vec();
    raw.push(Json::Object(answer));
    let (messages, text_only) = conversation(&raw)?;
    let mut call = subject(row, "call", id, messages, text_only);
    call.prompt_len = call.messages.len() - 1;
    call.task = format!("call:{}", hex_sha256(&json_of(&call.messages[..call.prompt_len]).text()));
    Some(call)
}

/// The samples of the current trajectories and calls.
pub fn samples(trajectories: &Rows, calls: &Rows) -> Samples {
    let subjects = trajectories
        .iter()
        .filter_map(|(id, row)| of_trajectory(id, row))
        .chain(calls.iter().filter_map(|(id, row)| of_call(id, row)));
    let mut groups: BTreeMap<_, Vec<Subject>> = BTreeMap::new();
    for subject in subjects {
        let alone = (!subject.text_only).then(|| subject.id.clone());
        let conversation = json_of(&subject.messages).text();
        let group = (alone, conversation, subject.tools.clone(), subject.tenant.clone());
        groups.entry(group).or_default().push(subject);
    }
    let mut out = Samples::default();
    for copies in groups.into_values() {
        let first =
            copies.iter().min_by_key(|subject| subject.id.as_bytes()).expect("a group has a member").clone();
        for copy in &copies {
            out.sample_of.insert(copy.id.clone(), first.id.clone());
        }
        out.samples.insert(first.id.clone(), Sample { subject: first, copies: copies.len() });
    }
    out
}

fn string_bytes(value: &Json) -> usize {
    match value {
        Json::Str(text) => text.len(),
        Json::Array(items) => items.iter().map(string_bytes).sum(),
        Json::Object(fields) => fields.values().map(string_bytes).sum(),
        _ => 0,
    }
}

impl Subject {
    /// A quarter of the bytes of what was said, thought and called, rounded up.
    pub fn tokens(&self) -> u64 {
        let bytes: usize = self
            .messages
            .iter()
            .map(|message| {
                let inside = ["reasoning_content", "tool_calls"]
                    .map(|name| message.kept.get(name).map_or(0, string_bytes));
                message.content.len() + inside[0] + inside[1]
            })
            .sum();
        bytes.div_ceil(4) as u64
    }

    /// The last question before the last answer with content, and that answer; both must be there.
    pub fn texts(&self) -> Option<(&str, &str)> {
        let spoken = |role: &'static str| move |m: &Message| m.role == role && !m.content.is_empty();
        let answer = self.messages.iter().rposition(spoken("assistant"))?;
        let question = self.messages[..answer].iter().rposition(spoken("user"))?;
        Some((&self.messages[question].content, &self.messages[answer].content))
    }

    /// Of 10,000 buckets the one that decides the hold-out; `None`: no bucket, not held out by it.
    pub fn holdout_bucket(&self) -> Option<u64> {
        let opening = &self.messages[..before_first_assistant(&self.messages)];
        let hashed = match (opening, self.kind) {
            ([], "trajectory") => self.task.clone(),
            ([], _) => return None,
            _ => opening.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n"),
        };
        let digest = Sha256::digest(hashed.as_bytes());
        let head: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
        Some(u64::from_be_bytes(head) % 10_000)
    }
}
