//! One whole row for people: a column a line, and of JSON that is an array an item a line.

use super::Out;
use super::output::{json_value, text_width};
use crate::Error;
use tidemill_types::{TableSchema, Value};

/// The least room for values beside the columns' names, however narrow the terminal is.
const ROOM_MIN: usize = 24;

/// Prints a row under a title, nothing cut: long values go on below where they began.
pub fn whole_row(
    out: &mut Out<'_>,
    title: &str,
    schema: &TableSchema,
    row: &[Value],
    width: usize,
) -> Result<(), Error> {
    out.line(title)?;
    let names = schema.columns.iter().map(|column| column.name.as_str());
    let indent = names.clone().map(str::len).max().unwrap_or(0) + 4;
    for (name, value) in names.zip(row) {
        let text = shown(value);
        let items = items(&text).unwrap_or_else(|| vec![&text]);
        let lines = items.iter().flat_map(|item| wrapped(item, width.saturating_sub(indent).max(ROOM_MIN)));
        for (place, line) in lines.enumerate() {
            let name = if place == 0 { name } else { "" };
            out.line(format!("  {name:<fill$}{line}", fill = indent - 2).trim_end())?;
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Str(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        other => {
            let mut text = String::new();
            json_value(other, &mut text);
            text
        }
    }
}

/// The pieces of a JSON array of several items, each with the bracket or comma that follows it.
fn items(text: &str) -> Option<Vec<&str>> {
    serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text).ok().filter(|items| items.len() > 1)?;
    let (mut pieces, mut start, mut depth, mut quoted, mut escaped) = (Vec::new(), 0, 0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => {
                pieces.push(&text[start..=at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    Some(pieces)
}

/// A text in lines of at most `width`, broken at spaces or commas where there are any.
fn wrapped(text: &str, width: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while text_width(rest) > width {
        let mut used = 0;
        let over = rest.char_indices().find(|(_, c)| {
            used += text_width(c.encode_utf8(&mut [0; 4]));
            used > width
        });
        let over = over.map_or(rest.len(), |(at, _)| at).max(rest.chars().next().map_or(0, char::len_utf8));
        let near = |cut: &usize| *cut > over / 2;
        let cut = rest[..over].rfind(' ').filter(near).or_else(|| rest[..over].rfind(',').filter(near));
        let cut = cut.map_or(over, |cut| cut + 1);
        lines.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_types::Kind;

    #[test]
    fn a_row_is_shown_whole_within_its_width() {
        let schema = TableSchema::new("t", [("id*", Kind::String), ("talk", Kind::Text), ("n?", Kind::Long)]);
        let talk = r#"[{"a":"x, [y] \" z"},{"b":[1,2]}]"#;
        let long = "word ".repeat(30) + &"é漢".repeat(40);
        let mut bytes = Vec::new();
        let row = [Value::Str(long.clone()), Value::Str(talk.into()), Value::Null];
        whole_row(&mut Out::to(&mut bytes, 60), "a row:", &schema, &row, 60).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.lines().all(|line| text_width(line) <= 60), "{text}");
        assert!(text.contains("  talk  [{\"a\":\"x, [y] \\\" z\"},\n        {\"b\":[1,2]}]\n"), "{text}");
        assert!(text.ends_with("  n     null\n"), "{text}");
        let squeezed = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert!(squeezed(&text).contains(&squeezed(&long)), "{text}");
    }
}
