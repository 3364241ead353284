//! Normalisation, what has a sample, and the facts, sentence by sentence.

use super::{call, row, trajectory};
use crate::flywheel::{extract::identity, facts::TextFact, rows::TrajectoryRow};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The digest of the conversation of these messages.
fn conversation(messages: &str) -> tidemill_types::Digest {
    trajectory(messages).expect("a sample").conversation()
}

/// A message that lets every conversation have a sample.
const END: &str = r#"{"role":"assistant","content":"end"}"#;

fn bucket(text: &str) -> Option<u16> {
    let hash = Sha256::digest(text.as_bytes());
    let head = u64::from_be_bytes(hash[..8].try_into().expect("8 bytes"));
    Some((head % 10_000) as u16)
}

#[test]
fn roles_have_one_name() {
    for (given, role) in [
        ("\"human\"", "user"),
        ("\"model\"", "assistant"),
        ("\"gpt\"", "assistant"),
        ("\"bot\"", "assistant"),
        ("\"developer\"", "system"),
        ("\"function\"", "tool"),
        ("null", "user"),
        ("\"user\"", "user"),
        ("\"assistant\"", "assistant"),
        ("\"system\"", "system"),
        ("\"t\\u006fol\"", "tool"),
        ("\"Human\",\"role\":\"human\"", "user"),
    ] {
        let normal = format!(r#"[{{"role":"{role}","content":"x"}},{END}]"#);
        let messages = format!(r#"[{{"role":{given},"content":"x"}},{END}]"#);
        assert_eq!(conversation(&messages), identity(&normal), "{given}");
    }
    let missing = format!(r#"[{{"content":"x"}},{END}]"#);
    assert_eq!(conversation(&missing), identity(&format!(r#"[{{"role":"user","content":"x"}},{END}]"#)));
}

#[test]
fn any_other_role_means_no_sample_even_in_a_dropped_message() {
    for role in ["\"User\"", "\"\"", "\"ai\"", "1", "{}", "[]", "true"] {
        assert!(trajectory(&format!(r#"[{{"role":{role}}},{END}]"#)).is_none(), "{role}");
        assert!(trajectory(&format!(r#"[{END},{{"role":{role}}}]"#)).is_none(), "{role}");
        let prompt: Value = serde_json::from_str(&format!(r#"[{{"role":{role}}}]"#)).expect("JSON");
        assert!(call(json!({"prompt": prompt, "response": "a"})).is_none(), "{role}");
    }
}

#[test]
fn content_becomes_one_text() {
    for (content, text, text_only) in [
        (r#""a\u0062""#, "ab", true),
        ("null", "", true),
        ("[]", "", true),
        (r#"["a","b"]"#, "a\nb", true),
        (r#"[{"type":"text","text":"a"},{"text":""},"c"]"#, "a\n\nc", true),
        (r#"[{"type":"image","text":null},{"type":"input_audio"}]"#, "[image]\n[input_audio]", false),
        (
            r#"["a",{"image":1},7,null,["x"],{"type":5},{"type":""}]"#,
            "a\n[part]\n[part]\n[part]\n[part]\n[part]\n[]",
            false,
        ),
        (r#"[{"text":1,"type":"a","text":"last"}]"#, "last", true),
        (r#"[{"text":"first","type":"a","text":2}]"#, "[a]", false),
    ] {
        let facts = trajectory(&format!(r#"[{{"content":{content}}},{END}]"#)).expect("a sample");
        let normal = json!([{"role": "user", "content": text}, {"role": "assistant", "content": "end"}]);
        assert_eq!(facts.conversation(), identity(&normal.to_string()), "{content}");
        assert_eq!(facts.text_only, text_only, "{content}");
        assert_eq!(facts.tokens, (text.len() as u64 + 3).div_ceil(4), "{content}");
    }
    let absent = conversation(&format!("[{{}},{END}]"));
    assert_eq!(absent, identity(&format!(r#"[{{"role":"user","content":""}},{END}]"#)));
}

#[test]
fn content_of_any_other_type_means_no_sample_even_in_a_dropped_message() {
    for content in ["1", "true", "{}", r#"{"text":"a"}"#] {
        assert!(trajectory(&format!(r#"[{{"content":{content}}},{END}]"#)).is_none(), "{content}");
        assert!(trajectory(&format!(r#"[{END},{{"content":{content}}}]"#)).is_none(), "{content}");
    }
    let repeated = trajectory(&format!(r#"[{{"content":1,"content":"a"}},{END}]"#));
    assert!(repeated.is_some());
}

#[test]
fn a_part_that_is_not_text_counts_in_a_dropped_message_too() {
    let facts = trajectory(&format!(r#"[{END},{{"content":["a",{{"type":"image"}}]}}]"#)).expect("a sample");
    assert!(!facts.text_only);
    assert_eq!(facts.messages, 1);
}

#[test]
fn four_fields_are_kept_unless_empty_and_nothing_else_is() {
    for field in ["name", "tool_calls", "tool_call_id", "reasoning_content"] {
        for empty in ["null", "\"\"", "[]", "[ ]", "7,\"X\":null"] {
            let messages = format!(r#"[{{"content":"x","{field}":{empty}}},{END}]"#).replace('X', field);
            assert_eq!(
                conversation(&messages),
                conversation(&format!(r#"[{{"content":"x"}},{END}]"#)),
                "{field} {empty}"
            );
        }
        for kept in ["{}", "0", "false", "\" \"", "[[]]", r#"{"b":1.0,"a":[null]}"#] {
            let messages = format!(r#"[{{"role":"tool","content":"x","{field}":{kept},"other":1}},{END}]"#);
            let normal = format!(r#"[{{"{field}":{kept},"role":"tool","content":"x"}},{END}]"#);
            assert_eq!(conversation(&messages), identity(&normal), "{field} {kept}");
        }
    }
}

#[test]
fn a_function_call_becomes_a_tool_call_where_there_is_none() {
    let call = r#"{"name":"f","arguments":"{}"}"#;
    let normal = format!(
        r#"[{{"role":"assistant","content":"","tool_calls":[{{"type":"function","function":{call}}}]}}]"#
    );
    for calls in ["", r#""tool_calls":null,"#, r#""tool_calls":[],"#, r#""tool_calls":"","#] {
        let messages = format!(r#"[{{"role":"gpt",{calls}"function_call":{call}}}]"#);
        assert_eq!(conversation(&messages), identity(&normal), "{calls}");
    }
    let both = format!(r#"[{{"role":"gpt","tool_calls":[1],"function_call":{call}}}]"#);
    assert_eq!(conversation(&both), identity(r#"[{"role":"assistant","content":"","tool_calls":[1]}]"#));
    assert!(trajectory(r#"[{"role":"gpt","function_call":{}}]"#).is_some());
    for other in ["\"f\"", "null", "[{}]", "1"] {
        assert!(trajectory(&format!(r#"[{{"role":"gpt","function_call":{other}}}]"#)).is_none(), "{other}");
    }
}

#[test]
fn messages_after_the_last_answer_are_dropped() {
    let kept = format!(r#"[{{"content":"q"}},{END}]"#);
    for dropped in [
        r#"{"role":"user","content":"bye"}"#,
        r#"{"role":"assistant","content":""},{"role":"tool","content":"x"}"#,
        r#"{"role":"assistant","content":null,"reasoning_content":"hm"}"#,
        r#"{"role":"user","tool_calls":[1]}"#,
        r#"{"role":"assistant","tool_calls":[]}"#,
    ] {
        let facts = trajectory(&kept.replace(']', &format!(",{dropped}]"))).expect("a sample");
        assert_eq!(facts.conversation(), conversation(&kept), "{dropped}");
        assert_eq!((facts.messages, facts.tokens), (2, 1), "{dropped}");
    }
    let calls = r#"[{"content":"q"},{"role":"assistant","tool_calls":[{"a":"bcde"}]}]"#;
    let facts = trajectory(calls).expect("a sample");
    assert_eq!((facts.messages, facts.tokens), (2, 2));
}

#[test]
fn without_an_answer_there_is_no_sample() {
    for messages in [
        "[]",
        r#"[{"content":"q"}]"#,
        r#"[{"role":"assistant","content":""}]"#,
        r#"[{"role":"tool","tool_calls":[1]}]"#,
    ] {
        assert!(trajectory(messages).is_none(), "{messages}");
    }
}

#[test]
fn a_call_is_its_prompt_and_one_answer() {
    let facts = call(json!({
        "prompt": [{"role": "human", "content": "q"}],
        "response": "a", "response_tool_calls": [{"id": "x"}], "reasoning": "r", "tools": [],
    }))
    .expect("a sample");
    let normal = json!([{"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}], "reasoning_content": "r"}]);
    assert_eq!(facts.conversation(), identity(&normal.to_string()));
    assert_eq!(facts.prompt(), identity(r#"[{"role":"user","content":"q"}]"#));
    assert_eq!(facts.completion(), identity(&json!([normal[1]]).to_string()));
    assert_eq!((facts.prompt_messages, facts.messages, facts.tokens, facts.tools()), (1, 2, 1, None));
    let calls_only =
        call(json!({"prompt": [{}], "response_tool_calls": [{}], "reasoning": ""})).expect("a sample");
    let normal = r#"[{"role":"user","content":""},{"role":"assistant","content":"","tool_calls":[{}]}]"#;
    assert_eq!(calls_only.conversation(), identity(normal));
}

#[test]
fn calls_without_prompt_or_answer_or_with_an_error_have_no_sample() {
    let prompt = json!([{"content": "q"}]);
    for fields in [
        json!({"prompt": null, "response": "a"}),
        json!({"prompt": [], "response": "a"}),
        json!({"prompt": prompt, "response": null}),
        json!({"prompt": prompt, "response": ""}),
        json!({"prompt": prompt, "response": "", "response_tool_calls": []}),
        json!({"prompt": prompt, "response": null, "response_tool_calls": null, "reasoning": "r"}),
        json!({"prompt": prompt, "response": "a", "status": 400}),
        json!({"prompt": prompt, "response": "a", "status": 503}),
    ] {
        assert!(call(fields.clone()).is_none(), "{fields}");
    }
    for status in [json!(null), json!(399), json!(-1), json!(0)] {
        assert!(call(json!({"prompt": prompt, "response": "a", "status": status})).is_some());
    }
}

#[test]
fn an_assistant_in_a_calls_prompt_belongs_to_the_prompt() {
    let prompt = json!([{"content": "q"}, {"role": "gpt", "content": "a"}, {"content": "again"}]);
    let facts = call(json!({"prompt": prompt, "response": "b"})).expect("a sample");
    assert_eq!((facts.prompt_messages, facts.messages), (3, 4));
    assert_eq!((facts.assistant_turns, facts.prompt_turns, facts.completion_turns()), (2, 1, 1));
    assert_eq!(facts.opening_bucket, bucket("q"));
}

#[test]
fn a_trajectorys_prompt_ends_before_its_first_assistant() {
    let messages = r#"[{"role":"system","content":"s"},{"content":"q"},{"role":"assistant","content":""},
        {"role":"tool","content":"r"},{"role":"assistant","content":"a"}]"#;
    let facts = trajectory(messages).expect("a sample");
    assert_eq!((facts.prompt_messages, facts.messages), (2, 5));
    assert_eq!(
        facts.prompt(),
        identity(r#"[{"role":"system","content":"s"},{"role":"user","content":"q"}]"#)
    );
    assert_eq!((facts.assistant_turns, facts.prompt_turns), (2, 0));
    assert_eq!(facts.opening_bucket, bucket("s\nq"));
    let facts = trajectory(&format!("[{END}]")).expect("a sample");
    assert_eq!((facts.prompt(), facts.completion()), (identity("[]"), facts.conversation()));
}

#[test]
fn without_an_opening_the_task_decides_the_bucket_and_of_a_call_nothing_does() {
    let facts =
        row::<TrajectoryRow>(&format!(r#"{{"id":"t","task_id":"the task","messages":[{END}]}}"#)).facts;
    assert_eq!(facts.expect("a sample").opening_bucket, bucket("the task"));
    let facts = call(json!({"prompt": [{"role": "bot"}], "response": "a"})).expect("a sample");
    assert_eq!(facts.opening_bucket, None);
    let empty = trajectory(&format!("[{{}},{END}]")).expect("a sample");
    assert_eq!(empty.opening_bucket, bucket(""));
}

#[test]
fn equal_conversations_have_equal_facts_however_they_are_spelled() {
    let plain = r#"[{"role":"user","content":"é/"},{"role":"assistant","content":"a","tool_calls":[{"x":1.0,"y":{}}]}]"#;
    let odd = r#" [ {"content" : ["\u00e9\/"], "thought":1, "role":"human"} ,
        {"tool_calls":[{"y":{ },"x":2,"x":1.0}],"name":null,"role":"gpt","content":"\u0061"} ] "#;
    let (plain, odd) = (trajectory(plain).expect("a sample"), trajectory(odd).expect("a sample"));
    assert_eq!(plain.conversation(), odd.conversation());
    assert_eq!((plain.prompt(), plain.completion()), (odd.prompt(), odd.completion()));
    let other = r#"[{"role":"user","content":"é/"},{"role":"assistant","content":"a","tool_calls":[{"x":1,"y":{}}]}]"#;
    assert_ne!(plain.conversation(), conversation(other));
}

#[test]
fn tokens_are_bytes_of_content_and_of_strings_in_reasoning_and_calls() {
    let messages = r#"[{"role":"user","content":"\u00e9é","name":"not counted"},
        {"role":"assistant","content":["ab",1],"reasoning_content":{"k":"12","l":["3"],"k":"4"},"tool_call_id":"not",
         "tool_calls":[{"name":"567","arguments":{"key":"8\n"},"n":100,"name":"9"}]}]"#;
    let counted = 4 + "ab\n[part]".len() as u64 + "4".len() as u64 + "3".len() as u64 + 2 + 1;
    assert_eq!(trajectory(messages).expect("a sample").tokens, counted.div_ceil(4));
    let converted = r#"[{"role":"assistant","function_call":{"name":"abcd"}}]"#;
    assert_eq!(trajectory(converted).expect("a sample").tokens, 3);
    let text = |length: usize| format!(r#"[{{"role":"assistant","content":"{}"}}]"#, "x".repeat(length));
    assert_eq!([1, 4, 5, 8].map(|length| trajectory(&text(length)).expect("a sample").tokens), [1, 1, 2, 2]);
}

#[test]
fn tools_count_as_absent_when_empty() {
    let tools = |tools: &str| {
        let value = format!(r#"{{"id":"t","task_id":"k","tools":{tools},"messages":[{END}]}}"#);
        let facts = row::<TrajectoryRow>(&value).facts.expect("a sample");
        (facts.tools(), facts.tools_len)
    };
    for empty in ["null", "\"\"", "[]", "{}", "{ }", "[1],\"tools\":null"] {
        assert_eq!(tools(empty), (None, 0), "{empty}");
    }
    for there in ["0", "false", "[{}]", "\"x\"", r#"{"b":1,"a":2}"#] {
        assert_eq!(tools(there), (Some(identity(there)), there.len() as u32), "{there}");
    }
    assert_eq!(tools(r#"{"b":1,"a":2}"#).0, tools(r#"{ "a":2, "b":1 }"#).0);
}

fn exchange(messages: &str) -> (Option<TextFact>, Option<TextFact>) {
    let facts = trajectory(messages).expect("a sample");
    (facts.user, facts.answer)
}

#[test]
fn the_exchange_is_the_last_answer_and_the_last_user_text_before_it() {
    let fact = |text: &str| Some(TextFact::of(text));
    let messages = r#"[{"content":"q1"},{"content":["q2","q3"]},{"content":""},{"role":"system","content":"s"},
        {"role":"assistant","content":"a\u0031"},{"content":"late"},{"role":"assistant","tool_calls":[1]}]"#;
    assert_eq!(exchange(messages), (fact("q2\nq3"), fact("a1")));
    assert_eq!(exchange(&format!("[{END}]")), (None, fact("end")));
    assert_eq!(exchange(r#"[{"content":"q"},{"role":"assistant","tool_calls":[1]}]"#), (None, None));
    let fact = TextFact::of("abc");
    assert_eq!((fact.digest, fact.len), (*blake3::hash(b"abc").as_bytes(), 3));
}

/// One message, as logs may spell it.
fn message() -> impl Strategy<Value = Value> {
    let value = prop::sample::select(vec![
        json!(null),
        json!(""),
        json!([]),
        json!({}),
        json!("text \"é\n"),
        json!(["a", {"type": "image"}, {"text": "b\u{1}"}]),
        json!([{"id": "1", "function": {"name": "f", "arguments": "{\"x\": 1.50}"}}]),
        json!({"name": "g", "b": [1.0, 2], "a": {"z": null, "y": "w"}}),
    ]);
    let fields =
        ["content", "name", "reasoning_content", "tool_calls", "tool_call_id", "function_call", "other"];
    let field = (prop::sample::select(fields.to_vec()), value);
    let role = prop::sample::select(vec!["user", "human", "assistant", "gpt", "tool", "system"]);
    (role, prop::collection::vec(field, 0..6)).prop_map(|(role, fields)| {
        let mut message = json!({"role": role});
        for (name, value) in fields {
            if name != "content" || !value.is_object() {
                message[name] = value;
            }
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_text_made_again_is_the_one_that_was_measured(
        messages in prop::collection::vec(message(), 0..6),
        tools in prop::sample::select(vec![json!(null), json!([{"b": 1, "a": "x"}])]),
    ) {
        let body = json!({"id": "t", "task_id": "k", "messages": messages, "tools": tools}).to_string();
        super::extract::check::<TrajectoryRow>(&body, 0);
        let body = json!({"request_id": "c", "prompt": messages, "response": "r", "tools": tools}).to_string();
        super::extract::check::<crate::flywheel::rows::CallRow>(&body, 1);
    }
}
