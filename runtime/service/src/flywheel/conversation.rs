//! A subject's conversation in its one normal form.
//!
//! Logs spell the same conversation in many ways: roles by other names, content as text or as parts,
//! calls of tools as `function_call` or `tool_calls`. Here each message becomes a [`Message`] of
//! slices of the body, and what cannot be a sample is found out. A message is written in two ways:
//! *rendered*, nested values exactly as they were received, for people and training; and *canonical*,
//! for digests, so that all spellings of one conversation have one digest. Both are the same JSON
//! value, hence the digest of a rendered text is that of its conversation.

use std::borrow::Cow;
use tidemill_operators::json::{Canonical, Json, JsonKind, encode_string, string_bytes};

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `user`
    User,
    /// `assistant`
    Assistant,
    /// `system`
    System,
    /// `tool`
    Tool,
}

impl Role {
    /// The role that a message gives itself; `None` for one that no sample can have.
    fn read(role: Option<Json<'_>>) -> Option<Self> {
        let Some(role) = role.filter(|role| !role.is_null()) else { return Some(Self::User) };
        match role.string()?.as_ref() {
            "user" | "human" => Some(Self::User),
            "assistant" | "model" | "gpt" | "bot" => Some(Self::Assistant),
            "system" | "developer" => Some(Self::System),
            "tool" | "function" => Some(Self::Tool),
            _ => None,
        }
    }

    /// Its name in a normalised message.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
        }
    }
}

/// A message's content.
#[derive(Clone, Debug)]
enum Content<'a> {
    Absent,
    String(Json<'a>),
    Joined(String),
}

impl<'a> Content<'a> {
    /// `None` for content that no sample can have.
    fn read(content: Option<Json<'a>>, text_only: &mut bool) -> Option<Self> {
        let Some(content) = content else { return Some(Self::Absent) };
        match content.kind() {
            JsonKind::Null => Some(Self::Absent),
            JsonKind::String => Some(Self::String(content)),
            JsonKind::Array => Some(Self::Joined(join_parts(content, text_only))),
            _ => None,
        }
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Absent => Cow::Borrowed(""),
            Self::String(value) => value.string().unwrap_or_default(),
            Self::Joined(text) => Cow::Borrowed(text),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::String(value) => value.string_len().unwrap_or_default(),
            Self::Joined(text) => text.len(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::String(value) => value.is_empty(),
            Self::Joined(text) => text.is_empty(),
        }
    }

    fn render(&self, out: &mut dyn FnMut(&str)) {
        match self {
            Self::Absent => out("\"\""),
            Self::String(value) => out(value.text()),
            Self::Joined(text) => encode_string(text, out),
        }
    }

    fn canonical(&self, out: &mut Canonical) {
        match self {
            Self::Absent => out.push("\"\""),
            Self::String(value) => out.value(*value),
            Self::Joined(text) => out.string(text),
        }
    }
}

fn join_parts(parts: Json<'_>, text_only: &mut bool) -> String {
    let mut joined = String::new();
    for (place, part) in parts.elements().enumerate() {
        if place > 0 {
            joined.push('\n');
        }
        let [text, kind] = part.pick(["text", "type"]);
        let own = (part.kind() == JsonKind::String).then_some(part);
        if let Some(text) = own.or(text).and_then(Json::string) {
            joined.push_str(&text);
            continue;
        }
        *text_only = false;
        joined.push('[');
        joined.push_str(kind.and_then(Json::string).as_deref().unwrap_or("part"));
        joined.push(']');
    }
    joined
}

/// What a message called.
#[derive(Clone, Copy, Debug)]
enum Calls<'a> {
    /// `tool_calls` as it was.
    Tools(Json<'a>),
    /// An object `function_call`, to be written as the only element of `tool_calls`.
    Function(Json<'a>),
}

/// A value that counts as present: not null, not `""`, not `[]`.
fn present(value: Option<Json<'_>>) -> Option<Json<'_>> {
    value.filter(|value| !value.is_null() && (value.kind() == JsonKind::Object || !value.is_empty()))
}

/// A normalised message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    role: Role,
    content: Content<'a>,
    name: Option<Json<'a>>,
    reasoning: Option<Json<'a>>,
    calls: Option<Calls<'a>>,
    call_id: Option<Json<'a>>,
}

impl<'a> Message<'a> {
    /// Normalises a message; `None` where its role or content allows no sample. A part that is not
    /// text clears `text_only`.
    fn read(message: Json<'a>, text_only: &mut bool) -> Option<Self> {
        let [role, content, name, reasoning, calls, call_id, function] = message.pick([
            "role",
            "content",
            "name",
            "reasoning_content",
            "tool_calls",
            "tool_call_id",
            "function_call",
        ]);
        let function = function.filter(|function| function.kind() == JsonKind::Object);
        Some(Self {
            role: Role::read(role)?,
            content: Content::read(content, text_only)?,
            name: present(name),
            reasoning: present(reasoning),
            calls: present(calls).map(Calls::Tools).or(function.map(Calls::Function)),
            call_id: present(call_id),
        })
    }

    /// Who speaks.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The content as text.
    pub fn content(&self) -> Cow<'_, str> {
        self.content.text()
    }

    fn is_assistant(&self) -> bool {
        self.role == Role::Assistant
    }

    /// Whether a conversation may end with it.
    fn is_answer(&self) -> bool {
        self.is_assistant() && (self.calls.is_some() || !self.content.is_empty())
    }

    /// Writes it as one JSON object, nested values as they were received.
    pub fn render(&self, out: &mut dyn FnMut(&str)) {
        out("{\"role\":\"");
        out(self.role.name());
        out("\",\"content\":");
        self.content.render(out);
        let mut field = |name: &str, before: &str, value: Option<Json<'_>>, after: &str| {
            if let Some(value) = value {
                for piece in [",\"", name, "\":", before, value.text(), after] {
                    out(piece);
                }
            }
        };
        field("name", "", self.name, "");
        field("reasoning_content", "", self.reasoning, "");
        match self.calls {
            Some(Calls::Tools(calls)) => field("tool_calls", "", Some(calls), ""),
            Some(Calls::Function(call)) => {
                field("tool_calls", "[{\"type\":\"function\",\"function\":", Some(call), "}]")
            }
            None => {}
        }
        field("tool_call_id", "", self.call_id, "");
        out("}");
    }

    /// Writes its canonical text and returns the bytes that count as tokens: of the content and of
    /// the strings inside reasoning and calls.
    pub fn canonical(&self, out: &mut Canonical) -> u64 {
        let mut counted = self.content.len() as u64;
        out.push("{\"content\":");
        self.content.canonical(out);
        canonical_field(out, ",\"name\":", self.name);
        counted += canonical_field(out, ",\"reasoning_content\":", self.reasoning);
        out.push(",\"role\":\"");
        out.push(self.role.name());
        out.push("\"");
        canonical_field(out, ",\"tool_call_id\":", self.call_id);
        counted += self.canonical_calls(out);
        out.push("}");
        counted
    }

    fn canonical_calls(&self, out: &mut Canonical) -> u64 {
        match self.calls {
            None => 0,
            Some(Calls::Tools(calls)) => canonical_field(out, ",\"tool_calls\":", Some(calls)),
            Some(Calls::Function(call)) => {
                let counted = canonical_field(out, ",\"tool_calls\":[{\"function\":", Some(call));
                out.push(",\"type\":\"function\"}]");
                counted + "function".len() as u64
            }
        }
    }
}

/// Writes a field that is there and returns the bytes of the strings inside its value.
fn canonical_field(out: &mut Canonical, name: &str, value: Option<Json<'_>>) -> u64 {
    let Some(value) = value else { return 0 };
    out.push(name);
    let from = out.text().len();
    out.value(value);
    string_bytes(&out.text()[from..])
}

/// The parts of a call that its conversation is made of; each may be absent or null.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallParts<'a> {
    /// What was asked.
    pub prompt: Option<Json<'a>>,
    /// What was answered.
    pub response: Option<Json<'a>>,
    /// What the answer called.
    pub tool_calls: Option<Json<'a>>,
    /// What the model thought.
    pub reasoning: Option<Json<'a>>,
    /// The HTTP status.
    pub status: Option<i32>,
}

/// The two texts of a sample that a model sees; borrowed from the conversation where they can be.
#[derive(Clone, Debug, Default)]
pub struct Exchange<'c> {
    /// What a user said last before the answer; empty contents are passed over.
    pub user: Option<Cow<'c, str>>,
    /// What an assistant said last; empty contents are passed over.
    pub answer: Option<Cow<'c, str>>,
}

/// A sample's conversation: at least one message, the last of which is an assistant's that says or
/// calls something.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    messages: Vec<Message<'a>>,
    opening: usize,
    prompt: usize,
    text_only: bool,
}

impl<'a> Conversation<'a> {
    /// A trajectory's conversation; `None`: it has no sample.
    pub fn of_trajectory(messages: Json<'a>) -> Option<Self> {
        let mut text_only = true;
        let messages = read_all(messages, &mut text_only)?;
        let mut conversation = Self::kept(messages, text_only)?;
        conversation.prompt = conversation.opening;
        Some(conversation)
    }

    /// A call's conversation; `None`: it has no sample.
    pub fn of_call(call: CallParts<'a>) -> Option<Self> {
        if call.status.is_some_and(|status| status >= 400) {
            return None;
        }
        let mut text_only = true;
        let mut messages = read_all(present(call.prompt)?, &mut text_only)?;
        messages.push(Message {
            role: Role::Assistant,
            content: Content::read(call.response, &mut text_only)?,
            name: None,
            reasoning: present(call.reasoning),
            calls: present(call.tool_calls).map(Calls::Tools),
            call_id: None,
        });
        let prompt = messages.len() - 1;
        if !messages[prompt].is_answer() {
            return None;
        }
        let mut conversation = Self::kept(messages, text_only)?;
        conversation.prompt = prompt;
        Some(conversation)
    }

    /// Drops what stands after the last answer; `None` where there is none.
    fn kept(mut messages: Vec<Message<'a>>, text_only: bool) -> Option<Self> {
        let last = messages.iter().rposition(Message::is_answer)?;
        messages.truncate(last + 1);
        let opening = messages.iter().position(Message::is_assistant)?;
        Some(Self { messages, opening, prompt: 0, text_only })
    }

    /// The kept messages.
    pub fn messages(&self) -> &[Message<'a>] {
        &self.messages
    }

    /// All that comes before an assistant's first message.
    pub fn opening(&self) -> &[Message<'a>] {
        &self.messages[..self.opening]
    }

    /// What is given: a call's messages without the last one, a trajectory's opening.
    pub fn prompt(&self) -> &[Message<'a>] {
        &self.messages[..self.prompt]
    }

    /// What follows the prompt; never empty.
    pub fn completion(&self) -> &[Message<'a>] {
        &self.messages[self.prompt..]
    }

    /// Whether all content was text, that of dropped messages included.
    pub fn text_only(&self) -> bool {
        self.text_only
    }

    /// The texts of the last exchange.
    pub fn exchange(&self) -> Exchange<'_> {
        let says =
            |role: Role| move |message: &Message<'_>| message.role == role && !message.content.is_empty();
        let Some(answer) = self.messages.iter().rposition(says(Role::Assistant)) else {
            return Exchange::default();
        };
        let user = self.messages[..answer].iter().rfind(|message| says(Role::User)(message));
        Exchange { user: user.map(Message::content), answer: Some(self.messages[answer].content()) }
    }
}

fn read_all<'a>(messages: Json<'a>, text_only: &mut bool) -> Option<Vec<Message<'a>>> {
    messages.elements().map(|message| Message::read(message, text_only)).collect()
}

/// How many of these messages are an assistant's.
pub fn assistant_turns(messages: &[Message<'_>]) -> u32 {
    messages.iter().filter(|message| message.is_assistant()).count() as u32
}

/// Writes messages as one JSON array.
pub fn render(messages: &[Message<'_>], out: &mut dyn FnMut(&str)) {
    out("[");
    for (place, message) in messages.iter().enumerate() {
        if place > 0 {
            out(",");
        }
        message.render(out);
    }
    out("]");
}
