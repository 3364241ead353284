//! Texts made again from bodies.

use super::{StreamRow, row, settings};
use crate::flywheel::{
    extract::{ANSWER, COMPLETION, Extractor, MESSAGES, PROMPT, TOOLS, USER, identity},
    facts::{SampleFacts, TextFact},
    rows::{CallRow, TrajectoryRow},
    settings::FlywheelSettings,
};
use serde_json::{Value, json};

/// A row that may have facts.
pub trait Measured: StreamRow {
    /// Its facts.
    fn facts(&self) -> Option<SampleFacts>;
}

impl Measured for TrajectoryRow {
    fn facts(&self) -> Option<SampleFacts> {
        self.facts
    }
}

impl Measured for CallRow {
    fn facts(&self) -> Option<SampleFacts> {
        self.facts
    }
}

/// Checks that every part of a body, made again, is what its facts say.
pub fn check<R: Measured>(body: &str, stream: u8) {
    let extractor = Extractor::new(&FlywheelSettings::default());
    check_facts(&extractor, row::<R>(body).facts(), body.as_bytes(), stream);
}

/// As [`check`], for facts at hand.
pub fn check_facts(extractor: &Extractor, facts: Option<SampleFacts>, body: &[u8], stream: u8) {
    let text = |part| extractor.text(stream, part, body);
    let Some(facts) = facts else {
        assert!([MESSAGES, PROMPT, COMPLETION, USER, ANSWER].iter().all(|part| text(*part).is_err()));
        return;
    };
    let json = |part| text(part).expect("a part of a sample");
    assert_eq!(identity(&json(MESSAGES)), facts.conversation());
    assert_eq!(identity(&json(PROMPT)), facts.prompt());
    assert_eq!(identity(&json(COMPLETION)), facts.completion());
    assert_eq!(json(MESSAGES).len(), facts.messages_len as usize);
    assert!(json(PROMPT).len() <= facts.messages_len as usize);
    assert!(json(COMPLETION).len() <= facts.messages_len as usize);
    assert_eq!(text(TOOLS).ok().as_deref().map(identity), facts.tools());
    assert_eq!(text(TOOLS).map_or(0, |tools| tools.len()), facts.tools_len as usize);
    assert_eq!(text(USER).ok().as_deref().map(TextFact::of), facts.user);
    assert_eq!(text(ANSWER).ok().as_deref().map(TextFact::of), facts.answer);
}

#[test]
fn messages_are_rendered_with_what_is_kept_as_it_was() {
    let body = r#"{"id":"t","task_id":"k","tools":[{"b":1.50, "a":"\u00e9"}],"messages":[
        {"content":"q\u0031","role":"human","extra":1},
        {"role":"bot","tool_call_id":"","tool_calls":[ {"y":1e2,"x":1} ],"name":"n","reasoning_content":{"r" : 1}},
        {"role":"function","content":["a",{"type":"x"}],"tool_call_id":"i"},
        {"role":"assistant","function_call":{"name":"f"},"content":null},
        {"content":"dropped"}]}"#;
    let extractor = Extractor::new(&FlywheelSettings::default());
    let text = |part| extractor.text(0, part, body.as_bytes()).expect("a part");
    let user = r#"{"role":"user","content":"q\u0031"}"#;
    let rest = concat!(
        r#"{"role":"assistant","content":"","name":"n","reasoning_content":{"r" : 1},"tool_calls":[ {"y":1e2,"x":1} ]},"#,
        r#"{"role":"tool","content":"a\n[x]","tool_call_id":"i"},"#,
        r#"{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f"}}]}"#
    );
    assert_eq!(text(MESSAGES), format!("[{user},{rest}]"));
    assert_eq!((text(PROMPT), text(COMPLETION)), (format!("[{user}]"), format!("[{rest}]")));
    assert_eq!(text(TOOLS), r#"[{"b":1.50, "a":"\u00e9"}]"#);
    check::<TrajectoryRow>(body, 0);
}

#[test]
fn the_exchange_is_plain_text() {
    let body =
        json!({"request_id": "c", "prompt": [{"content": ["a\"b", "c"]}], "response": "é\n"}).to_string();
    let extractor = Extractor::new(&FlywheelSettings::default());
    let text = |part| extractor.text(1, part, body.as_bytes());
    assert_eq!((text(USER).as_deref(), text(ANSWER).as_deref()), (Ok("a\"b\nc"), Ok("é\n")));
    check::<CallRow>(&body, 1);
}

#[test]
fn the_deepest_body_is_measured_and_made_again() {
    let deep = format!("{}\"leaf\"{}", "[".repeat(123), "]".repeat(123));
    let body = format!(
        r#"{{"id":"t","task_id":"k","messages":[{{"role":"assistant","function_call":{{"a":{deep}}}}}],"tools":{deep}}}"#
    );
    check::<TrajectoryRow>(&body, 0);
    let deep = format!("{}\"leaf\"{}", "[".repeat(124), "]".repeat(124));
    let body = format!(
        r#"{{"request_id":"c","prompt":[{{}}],"response":null,"response_tool_calls":[{{"a":{deep}}}]}}"#
    );
    check::<CallRow>(&body, 1);
    let messages = Extractor::new(&FlywheelSettings::default()).text(1, MESSAGES, body.as_bytes());
    assert!(
        serde_json::from_str::<Value>(&messages.expect("a sample")).is_err(),
        "deeper than a body may be"
    );
}

#[test]
fn parts_that_a_body_does_not_have_are_errors() {
    let extractor = Extractor::new(&FlywheelSettings::default());
    let body = br#"{"id":"t","task_id":"k","messages":[],"tools":[]}"#;
    for part in [MESSAGES, TOOLS, PROMPT, COMPLETION, USER, ANSWER, 6, 255] {
        assert!(extractor.text(0, part, body).is_err(), "part {part}");
    }
    let score = br#"{"row_id":"s","metric":"m","tools":[1],"messages":[]}"#;
    assert!(extractor.text(2, TOOLS, score).is_err() && extractor.text(2, MESSAGES, score).is_err());
    assert!(extractor.text(3, MESSAGES, body).is_err());
    assert!(extractor.text(0, MESSAGES, b"{").is_err());
}

#[test]
fn mapped_fields_are_followed() {
    let settings =
        settings(json!({"fields": {"trajectories": {"messages": "/log/turns", "tools": "/log/tools"}}}));
    let body =
        r#"{"id":"t","task_id":"k","messages":5,"log":{"tools":[1],"turns":[{"role":"gpt","content":"a"}]}}"#;
    let extractor = Extractor::new(&settings);
    let text = |part| extractor.text(0, part, body.as_bytes());
    assert_eq!(text(MESSAGES).as_deref(), Ok(r#"[{"role":"assistant","content":"a"}]"#));
    assert_eq!(text(TOOLS).as_deref(), Ok("[1]"));
}

#[test]
fn a_text_that_is_not_json_is_known_by_its_bytes() {
    assert_eq!(identity("not json"), tidemill_types::Digest::of(b"not json"));
    assert_eq!(identity(" [1, 2] "), identity("[1,2]"));
}
