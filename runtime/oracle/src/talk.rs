//! Made-up conversations and how one and the same may stand in a trajectory or in a call.

use super::json::Json;
use super::noise::{deep, number, once_in, pick};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The fields of a record or a message.
pub type Fields = std::collections::BTreeMap<String, Json>;

const TASKS: &[&str] =
    &["book/1", "book/2", "trip", "sql-7", "eval/held-1", "eval/held-2", "задача", "call:fake", ""];
const QUESTIONS: &[&str] = &[
    "Which tide turns the wheel?",
    "Sum 2 and 3.",
    "Say \"hello\"\tin\nJapanese: こんにちは",
    "List files / folders 📁",
    "Why?",
    "A much longer question, with a list: one, two, three, four, five, six, seven; and then: which of these is prime?",
];
const ANSWERS: &[&str] = &[
    "The tide that was kept.",
    "5",
    "hello, こんにちは 🌊",
    "I do not know.",
    "one two three",
    "two, three, five, seven are prime",
    "The wheel turns by the tide that was kept behind the gate.",
    "ls -la /",
    "\u{1f}\u{7f}\u{0}odd\u{2028}",
    "Why not?",
];
const TOOLS: &[&str] = &["lookup", "sum", "shell"];
/// Numbers that are equal as numbers and different as texts, and some that few keep.
const NUMBERS: &[&str] = &[
    "1",
    "1.0",
    "1e0",
    "1E0",
    "-0.0",
    "0",
    "0.30000000000000004",
    "0.3",
    "123456789012345678901234567890",
    "1e400",
    "5e-324",
];

/// One use of a tool in a conversation.
#[derive(Clone, Debug)]
struct Use {
    tool: &'static str,
    argument: Json,
    result: String,
}

/// What was said, apart from how it is written down.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Its task, if it is written as a trajectory.
    pub task: &'static str,
    /// Its tenant; the outer `None` leaves the field away.
    pub tenant: Option<Json>,
    /// Its tools; `None` leaves the field away.
    pub tools: Option<Json>,
    system: Option<&'static str>,
    question: String,
    uses: Vec<Use>,
    reasoning: Option<&'static str>,
    answer: String,
}

impl Talk {
    /// A new one from small pools, so that tasks, prompts and whole conversations recur.
    pub fn any(rng: &mut ChaCha8Rng) -> Talk {
        let uses = if once_in(rng, 250) { rng.random_range(1..3) } else { 0 };
        // Some tasks are tried often, and a task has few questions, so that its tries can be compared.
        let place = rng.random_range(0..TASKS.len()).min(rng.random_range(0..TASKS.len()));
        let other = usize::from(once_in(rng, 250));
        let question = QUESTIONS[(place + other) % QUESTIONS.len()].to_string();
        Talk {
            task: TASKS[place],
            tenant: any_tenant(rng),
            tools: any_tools(rng),
            system: once_in(rng, 120).then_some("You are a miller."),
            question: if once_in(rng, 8) { question.repeat(200) } else { question },
            uses: (0..uses).map(|_| Use::any(rng)).collect(),
            reasoning: once_in(rng, 80).then_some("let me think"),
            answer: any_answer(rng),
        }
    }

    /// As the messages of a trajectory.
    pub fn messages(&self, rng: &mut ChaCha8Rng) -> Vec<Json> {
        let mut messages = self.history(rng);
        let mut answer = spoken(rng, &["assistant", "assistant", "model", "gpt", "bot"], &self.answer);
        if let Some(reasoning) = self.reasoning {
            answer.insert("reasoning_content".into(), Json::str(reasoning));
        }
        messages.push(garnished(rng, answer));
        if once_in(rng, 150) {
            messages.extend(aftermath(rng));
        }
        if once_in(rng, 100) {
            spoil(rng, &mut messages);
        }
        messages
    }

    /// As the fields of a call.
    pub fn call(&self, rng: &mut ChaCha8Rng) -> Fields {
        let mut fields = Fields::from([
            ("prompt".to_string(), Json::Array(self.history(rng))),
            ("response".to_string(), Json::str(&self.answer)),
        ]);
        if let Some(reasoning) = self.reasoning {
            fields.insert("reasoning".into(), Json::str(reasoning));
        }
        if once_in(rng, 120) {
            spoil_call(rng, &mut fields);
        }
        fields
    }

    fn history(&self, rng: &mut ChaCha8Rng) -> Vec<Json> {
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            let message = spoken(rng, &["system", "developer"], system);
            messages.push(garnished(rng, message));
        }
        let mut question = spoken(rng, &["user", "user", "human", "-"], &self.question);
        if once_in(rng, 20) {
            question.insert("role".into(), Json::Null);
        }
        messages.push(garnished(rng, question));
        for (place, used) in self.uses.iter().enumerate() {
            messages.extend(used.messages(rng, place));
        }
        messages
    }
}

impl Use {
    fn any(rng: &mut ChaCha8Rng) -> Use {
        // The deepest that a function call may nest in a record: its object is at level 4 of 127.
        let argument = if once_in(rng, 30) { deep(123) } else { number(pick(rng, NUMBERS)) };
        Use { tool: pick(rng, TOOLS), argument, result: pick(rng, &["ok", "42", ""]).to_string() }
    }

    fn messages(&self, rng: &mut ChaCha8Rng, place: usize) -> [Json; 2] {
        let call = Json::object([("name", Json::str(self.tool)), ("arguments", self.argument.clone())]);
        let too_deep_in_a_list = self.argument.as_array().is_some();
        let mut asks = Fields::from([("role".to_string(), Json::str("assistant"))]);
        match rng.random_range(0..3) {
            0 => drop(asks.insert("content".into(), Json::str(""))),
            1 => drop(asks.insert("content".into(), Json::Null)),
            _ => {}
        }
        if too_deep_in_a_list || once_in(rng, 300) {
            asks.insert("function_call".into(), call);
            if once_in(rng, 300) {
                asks.insert(
                    "tool_calls".into(),
                    pick_json(rng, &[Json::Null, Json::Array(vec![]), Json::str("")]),
                );
            }
        } else {
            let list = Json::Array(vec![Json::object([("type", Json::str("function")), ("function", call)])]);
            asks.insert("tool_calls".into(), list);
            if once_in(rng, 200) {
                asks.insert("function_call".into(), Json::object([("name", Json::str("ignored"))]));
            }
        }
        let mut answers = spoken(rng, &["tool", "function"], &self.result);
        answers.insert("tool_call_id".into(), Json::str(&format!("c{place}")));
        [garnished(rng, asks), garnished(rng, answers)]
    }
}

/// One of some values.
pub fn pick_json(rng: &mut ChaCha8Rng, from: &[Json]) -> Json {
    from[rng.random_range(0..from.len())].clone()
}

fn any_answer(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..80) {
        0 => "long answer, ".repeat(rng.random_range(300..2500)),
        1..40 => format!("{} ({})", pick(rng, ANSWERS), rng.random_range(0..200)),
        _ => pick(rng, ANSWERS).to_string(),
    }
}

fn any_tenant(rng: &mut ChaCha8Rng) -> Option<Json> {
    match rng.random_range(0..20) {
        0..11 => None,
        11..13 => Some(Json::Null),
        13 => Some(Json::str("")),
        14..18 => Some(Json::str("acme")),
        _ => Some(Json::str("globex")),
    }
}

fn any_tools(rng: &mut ChaCha8Rng) -> Option<Json> {
    let named = |number_text: &str| {
        Json::Array(vec![Json::object([
            ("name", Json::str("lookup")),
            ("limit", number(number_text)),
            ("strict", Json::Bool(true)),
        ])])
    };
    match rng.random_range(0..40) {
        0..28 => None,
        28 => Some(Json::Null),
        29 => Some(Json::str("")),
        30 => Some(Json::Array(vec![])),
        31 => Some(Json::object([])),
        32 => Some(deep(126)),
        33 => Some(Json::str("free text")),
        34 => Some(named("1.0")),
        35 => Some(number("0")),
        _ => Some(named("1")),
    }
}

fn text_part(text: &str) -> Json {
    Json::object([("type", Json::str("text")), ("text", Json::str(text))])
}

/// A message with that text, in one of the shapes that say it.
fn spoken(rng: &mut ChaCha8Rng, roles: &[&str], text: &str) -> Fields {
    let content = match rng.random_range(0..10) {
        0 => Json::Array(vec![text_part(text)]),
        1 => Json::Array(text.split('\n').map(Json::str).collect()),
        2 => Json::Array(text.split('\n').map(text_part).collect()),
        _ => Json::str(text),
    };
    let mut fields = Fields::from([("content".to_string(), content)]);
    let role = pick(rng, roles);
    if role != "-" {
        fields.insert("role".into(), Json::str(role));
    }
    fields
}

/// Adds fields that change nothing.
fn garnished(rng: &mut ChaCha8Rng, mut fields: Fields) -> Json {
    let empty = [Json::Null, Json::str(""), Json::Array(vec![])];
    for name in ["name", "reasoning_content", "tool_call_id", "tool_calls"] {
        if once_in(rng, 40) && !fields.contains_key(name) {
            fields.insert(name.into(), pick_json(rng, &empty));
        }
    }
    if once_in(rng, 80) {
        fields.insert("thought".into(), Json::Array(vec![number(pick(rng, NUMBERS)), Json::str("unseen")]));
    }
    if once_in(rng, 40) && !fields.contains_key("function_call") {
        fields.insert(
            "function_call".into(),
            pick_json(rng, &[Json::Null, Json::str("no object"), Json::Array(vec![])]),
        );
    }
    Json::Object(fields)
}

/// What stands after the last answer and is dropped.
fn aftermath(rng: &mut ChaCha8Rng) -> Vec<Json> {
    let mut after = vec![Json::object([("role", Json::str("user")), ("content", Json::str("thanks"))])];
    if once_in(rng, 400) {
        after.push(Json::object([
            ("role", Json::str("assistant")),
            ("content", Json::str("")),
            ("name", Json::str("late")),
        ]));
    }
    match rng.random_range(0..8) {
        0 => after.push(Json::object([("role", Json::str("tool")), ("content", image())])),
        1 => after.push(Json::object([("role", Json::str("narrator"))])),
        2 => after.push(Json::object([("content", Json::Bool(true))])),
        _ => {}
    }
    after
}

fn image() -> Json {
    Json::Array(vec![
        text_part("look"),
        Json::object([("type", Json::str("image_url")), ("url", Json::str("data:"))]),
        Json::object([("type", number("3"))]),
        Json::Null,
    ])
}

/// Makes a conversation that has no sample, or one that differs in kind.
fn spoil(rng: &mut ChaCha8Rng, messages: &mut Vec<Json>) {
    let place = rng.random_range(0..messages.len());
    let change = |message: &mut Json, name: &str, value: Json| {
        if let Json::Object(fields) = message {
            fields.insert(name.to_string(), value);
        }
    };
    match rng.random_range(0..9) {
        0 => messages.clear(),
        1 => messages.retain(|message| message.get("role") != Some(&Json::str("assistant"))),
        2 => change(&mut messages[place], "role", Json::str("narrator")),
        3 => change(&mut messages[place], "role", number("5")),
        4 => change(
            &mut messages[place],
            "content",
            pick_json(rng, &[number("1"), Json::object([]), Json::Bool(false)]),
        ),
        5 | 6 => change(&mut messages[place], "content", image()),
        7 => drop(messages.drain(..messages.len() - 1)),
        _ => change(&mut messages[place], "name", Json::object([("first", Json::str("Ann"))])),
    }
}

fn spoil_call(rng: &mut ChaCha8Rng, fields: &mut Fields) {
    let mut set = |name: &str, value: Json| fields.insert(name.to_string(), value);
    // The deepest that a response's tool call may nest: its object is at level 3 of 127.
    let wanted = Json::Array(vec![Json::object([("name", Json::str("lookup")), ("arguments", deep(124))])]);
    match rng.random_range(0..8) {
        0 => set("prompt", Json::Null),
        1 => set("prompt", Json::Array(vec![])),
        2 => set("response", Json::Null),
        3 => set("response", Json::str("")),
        4 => {
            set("response", Json::Null);
            set("response_tool_calls", wanted)
        }
        5 => set("response_tool_calls", wanted),
        6 => set("response_tool_calls", Json::Array(vec![])),
        _ => set(
            "prompt",
            Json::Array(vec![Json::object([
                ("role", Json::str("assistant")),
                ("content", Json::str("first")),
            ])]),
        ),
    };
}
