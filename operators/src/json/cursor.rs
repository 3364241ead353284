//! Cursors over validated values.
//!
//! A [`Json`] can only be made by the validating pass or be cut from another, so nothing is checked
//! here: finding a value's end takes a jump over its strings and a count of its brackets. The
//! functions are total all the same; nothing panics on any text.

use super::{
    DEPTH_MAX, JsonError,
    scan::Scanner,
    strings::{decode, decoded_len},
};
use memchr::memchr2;
use std::borrow::Cow;

/// The kind of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JsonKind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number of any magnitude.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl JsonKind {
    /// The kind with its article, for messages.
    pub fn described(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A slice that is known to hold exactly one valid value, without whitespace around it.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Validates a document; nesting up to [`DEPTH_MAX`].
    pub fn parse(document: &'a [u8]) -> Result<Self, JsonError> {
        Self::parse_nested(document, DEPTH_MAX)
    }

    /// Validates a document whose nesting may go to `depth_max`. Keep it in the hundreds: the pass
    /// recurses.
    pub fn parse_nested(document: &'a [u8], depth_max: usize) -> Result<Self, JsonError> {
        Scanner::document(document, depth_max, &[], &mut [])
    }

    /// Takes a slice that the scanner has just validated.
    pub(super) fn trusted(text: &'a str) -> Self {
        Json(text)
    }

    /// The value as it was written.
    pub fn text(self) -> &'a str {
        self.0
    }

    /// Its kind.
    pub fn kind(self) -> JsonKind {
        match self.0.as_bytes().first() {
            Some(b'"') => JsonKind::String,
            Some(b'{') => JsonKind::Object,
            Some(b'[') => JsonKind::Array,
            Some(b't' | b'f') => JsonKind::Boolean,
            Some(b'n') => JsonKind::Null,
            _ => JsonKind::Number,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.kind() == JsonKind::Null
    }

    /// Whether it is a string, an array or an object with nothing in it.
    pub fn is_empty(self) -> bool {
        match self.kind() {
            JsonKind::String => self.0.len() == 2,
            JsonKind::Array | JsonKind::Object => {
                let inside = self.0.len().saturating_sub(1).max(1);
                self.0[1..inside].bytes().all(|byte| byte.is_ascii_whitespace())
            }
            _ => false,
        }
    }

    /// What stands between a string's quotes.
    fn inside(self) -> Option<&'a str> {
        self.0.strip_prefix('"')?.strip_suffix('"')
    }

    /// A string, decoded; borrowed where it has no escapes.
    pub fn string(self) -> Option<Cow<'a, str>> {
        self.inside().map(decode)
    }

    /// The bytes that a string has when decoded.
    pub fn string_len(self) -> Option<usize> {
        self.inside().map(decoded_len)
    }

    /// Whether it is this string, escapes decoded.
    pub fn is_string(self, text: &str) -> bool {
        self.inside().is_some_and(|inside| inside == text || inside.contains('\\') && decode(inside) == text)
    }

    /// A number, correctly rounded; one beyond the range is infinite.
    pub fn number(self) -> Option<f64> {
        if self.kind() != JsonKind::Number {
            return None;
        }
        self.0.parse().ok()
    }

    /// A number that is written without point and exponent and fits in 32 bits.
    pub fn int(self) -> Option<i32> {
        if self.kind() != JsonKind::Number {
            return None;
        }
        self.0.parse().ok()
    }

    /// The elements of an array; nothing of any other kind.
    pub fn elements(self) -> Elements<'a> {
        Elements(Walk::inside(self.0, b'['))
    }

    /// The members of an object in the order in which they stand, repeated ones included; nothing of
    /// any other kind. Names are strings.
    pub fn members(self) -> Members<'a> {
        Members(Walk::inside(self.0, b'{'))
    }

    /// The values of these names in an object; of a repeated one the last.
    pub fn pick<const N: usize>(self, names: [&str; N]) -> [Option<Json<'a>>; N] {
        let mut picked = [None; N];
        for (name, value) in self.members() {
            if let Some(place) = names.iter().position(|wanted| name.is_string(wanted)) {
                picked[place] = Some(value);
            }
        }
        picked
    }
}

/// A place inside a container, at a value, at the end, or at what stands between.
#[derive(Clone, Debug)]
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// Just behind the opening bracket; at the end for any other kind.
    fn inside(text: &'a str, bracket: u8) -> Self {
        let opens = text.as_bytes().first() == Some(&bracket);
        Walk { text, at: if opens { 1 } else { text.len() } }
    }

    /// The next value (or member name), past whitespace, commas and colons.
    fn next(&mut self) -> Option<Json<'a>> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') = bytes.get(self.at) {
            self.at += 1;
        }
        if matches!(bytes.get(self.at), None | Some(b']' | b'}')) {
            return None;
        }
        let start = self.at;
        self.at = value_end(bytes, start);
        Some(Json(&self.text[start..self.at]))
    }
}

/// See [`Json::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a>(Walk<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        self.0.next()
    }
}

/// See [`Json::members`].
#[derive(Clone, Debug)]
pub struct Members<'a>(Walk<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Json<'a>, Json<'a>);

    fn next(&mut self) -> Option<(Json<'a>, Json<'a>)> {
        Some((self.0.next()?, self.0.next()?))
    }
}

/// The end of the valid value that begins at `at`.
fn value_end(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        b'"' => string_end(bytes, at),
        b'{' | b'[' => container_end(bytes, at),
        _ => scalar_end(bytes, at),
    }
}

/// The end of the valid string whose opening quote stands at `at`.
pub(super) fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(hit) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        if bytes[at + hit] == b'"' {
            return at + hit + 1;
        }
        at += hit + 2;
    }
    bytes.len()
}

/// The end of the number or literal that begins at `at`.
pub(super) fn scalar_end(bytes: &[u8], at: usize) -> usize {
    let end =
        bytes[at..].iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
    end.map_or(bytes.len(), |end| at + end)
}

fn container_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    let mut at = at;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}
