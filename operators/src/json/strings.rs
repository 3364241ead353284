//! JSON strings: finding their ends, decoding their escapes, and writing them in one normal form.
//!
//! Long runs without escapes are what real logs consist of, so each loop here jumps from one special
//! byte to the next. Functions on the inside of a validated string are total: on other input they
//! give some text, never a panic.

use memchr::memchr;
use std::borrow::Cow;

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// The high bit of each byte of `word` that is special inside a string (`"`, `\` or a control
/// character). Above the lowest such bit others may be set falsely.
fn specials(word: u64) -> u64 {
    let zeros = |x: u64| x.wrapping_sub(ONES) & !x;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = zeros(word ^ (ONES * b'"' as u64));
    let escapes = zeros(word ^ (ONES * b'\\' as u64));
    (below_space | quotes | escapes) & HIGHS
}

/// The place of the first special byte at or after `from`, or the end.
pub(super) fn plain_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let hits = specials(u64::from_le_bytes(*chunk));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..0x20) {
        at += 1;
    }
    at
}

/// The number that four hex digits at `at` stand for.
pub(super) fn hex4(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0u16, |number, digit| {
        let digit = (*digit as char).to_digit(16)?;
        Some(number << 4 | digit as u16)
    })
}

/// The character that a valid escape stands for and the escape's length; `at` is its backslash.
fn escape(bytes: &[u8], at: usize) -> (char, usize) {
    let simple = match bytes.get(at + 1) {
        Some(b'u') => return unicode_escape(bytes, at),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(other) => *other as char,
        None => char::REPLACEMENT_CHARACTER,
    };
    (simple, 2)
}

fn unicode_escape(bytes: &[u8], at: usize) -> (char, usize) {
    let first = hex4(bytes, at + 2).unwrap_or(0xfffd);
    if let Some(c) = char::from_u32(first as u32) {
        return (c, 6);
    }
    let second = hex4(bytes, at + 8).unwrap_or(0xdc00);
    let pair = char::decode_utf16([first, second]).next();
    (pair.and_then(Result::ok).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
}

/// Cuts the inside of a valid string at its escapes: hands out each run and each escaped character.
fn pieces<'a>(inside: &'a str, out: &mut dyn FnMut(&'a str, Option<char>)) {
    let bytes = inside.as_bytes();
    let mut at = 0;
    while let Some(run) = memchr(b'\\', &bytes[at..]) {
        let (c, length) = escape(bytes, at + run);
        out(&inside[at..at + run], Some(c));
        at = (at + run + length).min(bytes.len());
    }
    out(&inside[at..], None);
}

/// Decodes the inside of a valid string; borrows where there is no escape.
pub(super) fn decode(inside: &str) -> Cow<'_, str> {
    if memchr(b'\\', inside.as_bytes()).is_none() {
        return Cow::Borrowed(inside);
    }
    let mut text = String::with_capacity(inside.len());
    pieces(inside, &mut |run, escaped| {
        text.push_str(run);
        text.extend(escaped);
    });
    Cow::Owned(text)
}

/// How many bytes [`decode`] gives.
pub(super) fn decoded_len(inside: &str) -> usize {
    let mut length = 0;
    pieces(inside, &mut |run, escaped| {
        length += run.len() + escaped.map_or(0, char::len_utf8);
    });
    length
}

/// Writes the inside of a valid string in normal form: only `"`, `\` and control characters are
/// escaped, each in its one way. (The short escapes but `\/` are in that form already and stay part of
/// their run.)
pub(super) fn normalise(inside: &str, out: &mut String) {
    let bytes = inside.as_bytes();
    let (mut copied, mut at) = (0, 0);
    while let Some(run) = bytes.get(at..).and_then(|rest| memchr(b'\\', rest)) {
        let start = at + run;
        if !matches!(bytes.get(start + 1), Some(b'/' | b'u')) {
            at = start + 2;
            continue;
        }
        let (c, length) = escape(bytes, start);
        out.push_str(&inside[copied..start]);
        match c.is_ascii().then(|| escape_of(c as u8)).flatten() {
            Some(text) => out.push_str(text),
            None => out.push(c),
        }
        at = (start + length).min(bytes.len());
        copied = at;
    }
    out.push_str(&inside[copied..]);
}

/// Hands out a text as a JSON string in normal form, quotes included, piece by piece.
pub fn encode_string(text: &str, out: &mut dyn FnMut(&str)) {
    let bytes = text.as_bytes();
    let mut from = 0;
    out("\"");
    loop {
        let end = plain_end(bytes, from);
        out(&text[from..end]);
        match bytes.get(end).copied().and_then(escape_of) {
            Some(escape) => out(escape),
            None => break,
        }
        from = end + 1;
    }
    out("\"");
}

/// The normal form of a character that must be escaped.
fn escape_of(byte: u8) -> Option<&'static str> {
    const CONTROLS: [&str; 32] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b", "\\t",
        "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013",
        "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c",
        "\\u001d", "\\u001e", "\\u001f",
    ];
    match byte {
        b'"' => Some("\\\""),
        b'\\' => Some("\\\\"),
        _ => CONTROLS.get(byte as usize).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_byte_is_found_at_every_place() {
        for length in 0..40 {
            for place in 0..length {
                for special in (0..0x20).chain([b'"', b'\\']) {
                    let mut bytes = vec![0xc3; length];
                    bytes[place] = special;
                    assert_eq!(plain_end(&bytes, 0), place);
                }
            }
            assert_eq!(plain_end(&vec![0x7f; length], 0), length);
        }
    }

    #[test]
    fn escapes_decode_and_normalise() {
        let inside = r#"a\/\u0041\ud83d\ude00\u000a\n\u00e9\"\\\u0001z"#;
        let decoded = "a/A😀\n\né\"\\\u{1}z";
        assert_eq!(decode(inside), decoded);
        assert_eq!(decoded_len(inside), decoded.len());
        let mut normal = String::new();
        normalise(inside, &mut normal);
        assert_eq!(normal, r#"a/A😀\n\né\"\\\u0001z"#);
        let mut encoded = String::new();
        encode_string(decoded, &mut |piece| encoded.push_str(piece));
        assert_eq!(encoded, format!("\"{normal}\""));
    }

    #[test]
    fn a_string_without_escapes_is_borrowed() {
        assert!(matches!(decode("plain é"), Cow::Borrowed("plain é")));
    }
}
