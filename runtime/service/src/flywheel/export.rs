//! Training sets in the shape that TRL's trainers load without user code.
//!
//! `train.sft` becomes `{messages, tools}` for the `SFTTrainer`, `train.preferences` becomes
//! `{prompt, chosen, rejected, tools}` for the `DPOTrainer`. Loaders infer one type a field and fail on
//! a second, so every message has the same six fields with null for what is absent, every value that a
//! conversation may hold in many shapes is one string, and a tool call is always
//! `{id, type, function: {name, arguments}}` with its arguments as JSON text. A call of another shape
//! stands whole in `arguments`: nothing is lost, nothing changes type.
//!
//! Nested JSON is written in canonical form (members sorted, numbers as they stood), so that the bytes
//! do not depend on how the source spelt it.

use crate::cli::{Exporter, Line};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use std::borrow::Cow;
use std::sync::Arc;
use tidemill_operators::json::{Canonical, Json, JsonKind, encode_string};
use tidemill_types::{TableSchema, Value};

/// Stored texts nest a little deeper than the records that they are made from.
const DEPTH_MAX: usize = 200;

/// The optional fields of one list of messages that [`Line::present`] tells apart.
const BITS_A_LIST: u32 = 6;

/// One table for TRL.
pub struct Trl {
    table: &'static str,
    /// `(column, list of messages or JSON text)`, in order.
    fields: &'static [(&'static str, Shape)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Messages,
    JsonText,
}

/// All exports of the flywheel.
pub fn exporters() -> Vec<Box<dyn Exporter>> {
    use Shape::{JsonText, Messages};
    let sft = Trl { table: "train.sft", fields: &[("messages", Messages), ("tools", JsonText)] };
    let preferences = Trl {
        table: "train.preferences",
        fields: &[("prompt", Messages), ("chosen", Messages), ("rejected", Messages), ("tools", JsonText)],
    };
    vec![Box::new(sft), Box::new(preferences)]
}

fn text_field(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn list_of(name: &str, item: Fields, nullable: bool) -> Field {
    Field::new_list(name, Field::new("item", DataType::Struct(item), true), nullable)
}

fn messages_field(name: &str) -> Field {
    let function = Fields::from(vec![text_field("name", true), text_field("arguments", true)]);
    let call = Fields::from(vec![
        text_field("id", true),
        text_field("type", true),
        Field::new("function", DataType::Struct(function), true),
    ]);
    let message = Fields::from(vec![
        text_field("role", true),
        text_field("content", true),
        text_field("name", true),
        list_of("tool_calls", call, true),
        text_field("tool_call_id", true),
        text_field("reasoning_content", true),
    ]);
    list_of(name, message, true)
}

impl Exporter for Trl {
    fn table(&self) -> &'static str {
        self.table
    }

    fn format(&self) -> &'static str {
        "trl"
    }

    fn schema(&self) -> SchemaRef {
        let field = |(name, shape): &(&str, Shape)| match shape {
            Shape::Messages => messages_field(name),
            Shape::JsonText => text_field(name, true),
        };
        Arc::new(Schema::new(self.fields.iter().map(field).collect::<Vec<_>>()))
    }

    fn line(&self, schema: &TableSchema, row: &[Value]) -> Result<Line, String> {
        let mut writer = Writer { out: String::from("{"), present: 0, list: 0 };
        for (place, (name, shape)) in self.fields.iter().enumerate() {
            writer.out.push_str(if place == 0 { "" } else { "," });
            writer.string(name);
            writer.out.push(':');
            let at = schema.place(name).ok_or_else(|| format!("{} has no column {name}", self.table))?;
            writer.field(*shape, &row[at]).map_err(|e| format!("{} column {name}: {e}", self.table))?;
        }
        writer.out.push('}');
        Ok(Line { json: writer.out, present: writer.present })
    }
}

/// A value as a string: a string's own text, of anything else its canonical JSON.
fn as_text<'a>(value: Json<'a>) -> Cow<'a, str> {
    value.string().unwrap_or_else(|| Cow::Owned(canonical(value)))
}

fn canonical(value: Json<'_>) -> String {
    let mut canonical = Canonical::default();
    canonical.value(value);
    canonical.text().to_string()
}

/// Writes one line.
struct Writer {
    out: String,
    present: u64,
    list: u32,
}

impl Writer {
    fn string(&mut self, text: &str) {
        encode_string(text, &mut |piece| self.out.push_str(piece));
    }

    fn saw(&mut self, bit: u32) {
        self.present |= 1 << ((self.list - 1) * BITS_A_LIST + bit).min(63);
    }

    fn field(&mut self, shape: Shape, value: &Value) -> Result<(), String> {
        let text = match value {
            Value::Null => None,
            Value::Str(text) => Some(text),
            other => return Err(format!("holds {other:?}, not JSON text")),
        };
        self.list += 1;
        let Some(text) = text else {
            self.out.push_str("null");
            return Ok(());
        };
        let json = Json::parse_nested(text.as_bytes(), DEPTH_MAX).map_err(|e| e.to_string())?;
        match shape {
            Shape::Messages => self.messages(json),
            Shape::JsonText => {
                self.saw(0);
                self.string(&canonical(json));
            }
        }
        Ok(())
    }

    fn messages(&mut self, messages: Json<'_>) {
        self.out.push('[');
        for (place, message) in messages.elements().enumerate() {
            self.saw(0);
            self.out.push_str(if place == 0 { "" } else { "," });
            self.message(message);
        }
        self.out.push(']');
    }

    fn message(&mut self, message: Json<'_>) {
        let names = ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"];
        let [role, content, name, calls, call_id, reasoning] = message.pick(names);
        self.out.push_str("{\"role\":");
        self.string(&role.map_or(Cow::Borrowed("user"), as_text));
        self.out.push_str(",\"content\":");
        self.string(&content.map_or(Cow::Borrowed(""), as_text));
        self.out.push_str(",\"name\":");
        self.optional(name, 1);
        self.out.push_str(",\"tool_calls\":");
        self.tool_calls(calls);
        self.out.push_str(",\"tool_call_id\":");
        self.optional(call_id, 2);
        self.out.push_str(",\"reasoning_content\":");
        self.optional(reasoning, 3);
        self.out.push('}');
    }

    fn optional(&mut self, value: Option<Json<'_>>, bit: u32) {
        match value.filter(|value| !value.is_null()) {
            None => self.out.push_str("null"),
            Some(value) => {
                self.saw(bit);
                self.string(&as_text(value));
            }
        }
    }

    fn tool_calls(&mut self, calls: Option<Json<'_>>) {
        let Some(calls) = calls.filter(|calls| !calls.is_null() && !calls.is_empty()) else {
            return self.out.push_str("null");
        };
        self.saw(4);
        self.out.push('[');
        match calls.kind() {
            JsonKind::Array => {
                for (place, call) in calls.elements().enumerate() {
                    self.out.push_str(if place == 0 { "" } else { "," });
                    self.tool_call(call);
                }
            }
            _ => self.tool_call(calls),
        }
        self.out.push(']');
    }

    fn tool_call(&mut self, call: Json<'_>) {
        let [id, kind, function] = call.pick(["id", "type", "function"]);
        let [name, arguments] =
            function.map_or([None, None], |function| function.pick(["name", "arguments"]));
        self.out.push_str("{\"id\":");
        self.optional(id, 5);
        self.out.push_str(",\"type\":");
        match name.and_then(Json::string) {
            Some(name) => {
                self.string(&kind.and_then(Json::string).unwrap_or(Cow::Borrowed("function")));
                self.out.push_str(",\"function\":{\"name\":");
                self.string(&name);
                self.out.push_str(",\"arguments\":");
                let given = arguments.filter(|arguments| !arguments.is_null());
                self.string(&given.map_or(Cow::Borrowed("{}"), as_text));
            }
            None => {
                let [name] = call.pick(["name"]);
                self.string("function");
                self.out.push_str(",\"function\":{\"name\":");
                self.string(&name.and_then(Json::string).unwrap_or_default());
                self.out.push_str(",\"arguments\":");
                self.string(&canonical(call));
            }
        }
        self.out.push_str("}}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Tree, json};
    use tidemill_types::Kind;

    fn sft(messages: &str, tools: Option<&str>) -> Line {
        let schema = TableSchema::new(
            "train.sft",
            [("sample_id*", Kind::String), ("messages", Kind::Text), ("tools?", Kind::Text)],
        );
        let tools = tools.map_or(Value::Null, |tools| Value::Str(tools.into()));
        let row = [Value::Str("call:1".into()), Value::Str(messages.into()), tools];
        exporters()[0].line(&schema, &row).unwrap()
    }

    fn calls(text: &str) -> Tree {
        let line = sft(&format!(r#"[{{"role":"assistant","content":"","tool_calls":{text}}}]"#), None);
        serde_json::from_str::<Tree>(&line.json).unwrap()["messages"][0]["tool_calls"].take()
    }

    fn call(id: Option<&str>, name: &str, arguments: &str) -> Tree {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    #[test]
    fn every_message_has_the_same_fields_in_the_same_order() {
        let line = sft(r#"[{"role":"user","content":"a\u00e9"},{"content":"b","role":"assistant"}]"#, None);
        let rest = r#""name":null,"tool_calls":null,"tool_call_id":null,"reasoning_content":null"#;
        let message =
            |role: &str, content: &str| format!(r#"{{"role":"{role}","content":"{content}",{rest}}}"#);
        let want = format!(
            r#"{{"messages":[{},{}],"tools":null}}"#,
            message("user", "aé"),
            message("assistant", "b")
        );
        assert_eq!(line.json, want);
    }

    #[test]
    fn a_tool_call_has_one_shape_and_its_arguments_are_text() {
        let given =
            r#"[{"id":"c1","type":"function","index":0,"function":{"name":"f","arguments":"{ \"a\":1 }"}}]"#;
        assert_eq!(calls(given), json!([call(Some("c1"), "f", r#"{ "a":1 }"#)]));
        let object =
            r#"[{"function":{"arguments":{"b":1e0,"a":[1, 2]},"name":"f"}},{"function":{"name":"g"}}]"#;
        assert_eq!(calls(object), json!([call(None, "f", r#"{"a":[1,2],"b":1e0}"#), call(None, "g", "{}")]));
    }

    #[test]
    fn a_call_of_another_shape_stands_whole_in_its_arguments() {
        let anthropic = r#"[{"type":"tool_use","id":"t1","name":"look","input":{"q":"x"}}]"#;
        let whole = r#"{"id":"t1","input":{"q":"x"},"name":"look","type":"tool_use"}"#;
        assert_eq!(calls(anthropic), json!([call(Some("t1"), "look", whole)]));
        assert_eq!(calls("[\"text\"]"), json!([call(None, "", "\"text\"")]));
        assert_eq!(calls("{\"a\":1}"), json!([call(None, "", "{\"a\":1}")]));
        assert_eq!(calls("7"), json!([call(None, "", "7")]));
    }

    #[test]
    fn other_values_become_text_of_one_spelling() {
        let message = r#"{"role":"tool","content":"x","name":5,"tool_call_id":{"b":1,"a":2},"reasoning_content":["r"]}"#;
        let line = sft(&format!("[{message}]"), Some(r#"[ {"b": 1.0, "a": "\u0041"} ]"#));
        let got: Tree = serde_json::from_str(&line.json).unwrap();
        assert_eq!(got["messages"][0]["name"], "5");
        assert_eq!(got["messages"][0]["tool_call_id"], r#"{"a":2,"b":1}"#);
        assert_eq!(got["messages"][0]["reasoning_content"], r#"["r"]"#);
        assert_eq!(got["tools"], r#"[{"a":"A","b":1.0}]"#);
    }

    #[test]
    fn what_is_present_is_told_by_field() {
        let plain = sft(r#"[{"role":"user","content":"a"}]"#, None).present;
        let named = sft(r#"[{"role":"user","content":"a","name":"n"}]"#, None).present;
        let tools = sft(r#"[{"role":"user","content":"a"}]"#, Some("[1]")).present;
        assert!(named & plain == plain && tools & plain == plain && named != tools && plain != named);
    }

    #[test]
    fn a_column_that_is_not_json_is_an_error_that_names_it() {
        let schema = TableSchema::new("train.sft", [("messages", Kind::Text), ("tools?", Kind::Text)]);
        let error = exporters()[0].line(&schema, &[Value::Str("[{".into()), Value::Null]).unwrap_err();
        assert!(error.contains("train.sft column messages"), "{error}");
    }
}
