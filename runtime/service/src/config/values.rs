//! Values of settings: sizes, time spans, numbers, words; each with a message that says what is accepted.

use super::keys::Kind;
use serde_json::Value;
use std::time::Duration;

/// A value of the library's settings, checked.
#[derive(Clone, PartialEq, Debug)]
pub enum Checked {
    /// Of [`Kind::Count`] or [`Kind::Bytes`].
    Number(u64),
    /// Of [`Kind::Duration`].
    Span(Duration),
    /// Of [`Kind::Text`], [`Kind::Choice`] or [`Kind::Scalar`].
    Text(String),
}

const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// A number of bytes as people write it: `512MiB`, `10 MB`, `65536`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let unit = UNITS.iter().find_map(|(unit, of)| Some((text.strip_suffix(unit)?, *of)));
    let (digits, of) = unit.unwrap_or((text, 1));
    digits.trim_end().parse::<u64>().ok()?.checked_mul(of)
}

/// A time span as people write it: `100ms`, `2s`, `1h 30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Checks a value against its kind; the error says what was found and what is accepted.
pub fn check(kind: Kind, value: &Value) -> Result<Checked, String> {
    let wrong = |accepted: String| Err(format!("{value} is not {accepted}"));
    match kind {
        Kind::Count { min, max } => match value.as_u64() {
            Some(n) if (min..=max).contains(&n) => Ok(Checked::Number(n)),
            _ => wrong(format!("a whole number from {min} to {max}")),
        },
        Kind::Bytes { min } => match value.as_u64().or_else(|| parse_bytes(value.as_str()?)) {
            Some(n) if n >= min => Ok(Checked::Number(n)),
            Some(_) => wrong(format!("enough: at least {min} bytes are needed")),
            None => wrong(
                "a size: write a number of bytes, or one with a unit such as 64KiB, 32MiB or 1GB".into(),
            ),
        },
        Kind::Duration => match value.as_str().and_then(parse_duration) {
            Some(span) if !span.is_zero() => Ok(Checked::Span(span)),
            Some(_) => wrong("a time span above zero".into()),
            None => wrong("a time span: write a number with a unit, such as 100ms, 2s or 24h".into()),
        },
        Kind::Text => match value.as_str() {
            Some(text) if !text.is_empty() => Ok(Checked::Text(text.to_string())),
            _ => wrong("a text".into()),
        },
        Kind::Choice(words) => match value.as_str() {
            Some(text) if words.contains(&text) => Ok(Checked::Text(text.to_string())),
            _ => wrong(format!("one of {}", words.join(", "))),
        },
        Kind::Scalar => match value {
            Value::String(text) => Ok(Checked::Text(text.clone())),
            Value::Number(_) | Value::Bool(_) => Ok(Checked::Text(value.to_string())),
            _ => wrong("a text, a number, true or false".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [("512MiB", 512 << 20), ("65536", 65536), ("10 MB", 10_000_000), ("7B", 7)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "99999999999TiB", "12 parsecs"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_what_is_accepted() {
        let error = |kind, value| check(kind, &value).unwrap_err();
        assert!(error(Kind::Duration, json!(100)).contains("100ms"));
        assert!(error(Kind::Duration, json!("0s")).contains("above zero"));
        assert!(error(Kind::Count { min: 1, max: 4 }, json!("many")).contains("from 1 to 4"));
        assert!(error(Kind::Bytes { min: 10 }, json!(3)).contains("at least 10"));
        assert!(error(Kind::Choice(&["a", "b"]), json!("c")).contains("one of a, b"));
        assert_eq!(check(Kind::Duration, &json!("24h")), Ok(Checked::Span(Duration::from_secs(86_400))));
    }
}
