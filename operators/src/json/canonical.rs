//! One text for all spellings of a value.
//!
//! Two values have one canonical text exactly when they are equal as JSON, where the order of members
//! does not count, of a repeated member the last does, and numbers are compared by their text. The
//! canonical text is itself JSON: no whitespace, strings in one normal form (see `strings`), members
//! in ascending order of their written names. A value is read once; an object is put in order where
//! it was written, and only when it was not in order already.

use super::cursor::{Json, scalar_end, string_end};
use super::strings::{decoded_len, encode_string, normalise};
use tidemill_types::Digest;

/// A member that was written, as places in the output.
#[derive(Clone, Copy, Debug)]
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

/// A canonical text in the making. Pieces are appended; [`Canonical::clear`] starts anew and keeps
/// the memory.
#[derive(Debug, Default)]
pub struct Canonical {
    out: String,
    members: Vec<Member>,
    scratch: String,
}

impl Canonical {
    /// What has been written.
    pub fn text(&self) -> &str {
        &self.out
    }

    /// Starts anew.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// Appends text that is canonical already.
    pub fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Appends a decoded text as a string.
    pub fn string(&mut self, text: &str) {
        encode_string(text, &mut |piece| self.out.push_str(piece));
    }

    /// Appends a value.
    pub fn value(&mut self, value: Json<'_>) {
        self.value_at(value.text(), 0);
    }

    /// Appends the value that begins at `at` and returns its end.
    fn value_at(&mut self, text: &str, at: usize) -> usize {
        match text.as_bytes()[at] {
            b'"' => self.string_at(text, at),
            b'{' => self.object_at(text, at),
            b'[' => self.array_at(text, at),
            _ => {
                let end = scalar_end(text.as_bytes(), at);
                self.out.push_str(&text[at..end]);
                end
            }
        }
    }

    fn string_at(&mut self, text: &str, at: usize) -> usize {
        let end = string_end(text.as_bytes(), at);
        self.out.push('"');
        normalise(&text[at + 1..end - 1], &mut self.out);
        self.out.push('"');
        end
    }

    fn array_at(&mut self, text: &str, at: usize) -> usize {
        self.out.push('[');
        let mut at = next_token(text, at + 1);
        while text.as_bytes()[at] != b']' {
            at = self.value_at(text, at);
            at = next_token(text, at);
            if text.as_bytes()[at] == b',' {
                self.out.push(',');
                at = next_token(text, at + 1);
            }
        }
        self.out.push(']');
        at + 1
    }

    fn object_at(&mut self, text: &str, at: usize) -> usize {
        self.out.push('{');
        let first = self.members.len();
        let mut at = next_token(text, at + 1);
        while text.as_bytes()[at] != b'}' {
            if self.members.len() > first {
                self.out.push(',');
            }
            at = self.member_at(text, at);
            at = next_token(text, at);
            if text.as_bytes()[at] == b',' {
                at = next_token(text, at + 1);
            }
        }
        self.arrange(first);
        self.members.truncate(first);
        self.out.push('}');
        at + 1
    }

    fn member_at(&mut self, text: &str, at: usize) -> usize {
        let start = self.out.len();
        let colon = next_token(text, self.string_at(text, at));
        let name_end = self.out.len();
        self.out.push(':');
        let end = self.value_at(text, next_token(text, colon + 1));
        self.members.push(Member { start, name_end, end: self.out.len() });
        end
    }

    /// Puts the members of the object that has just been written in order, the last of each name.
    fn arrange(&mut self, first: usize) {
        let out = &self.out;
        let name = |member: &Member| &out[member.start..member.name_end];
        let members = &mut self.members[first..];
        if members.is_sorted_by(|a, b| name(a) < name(b)) {
            return;
        }
        let start = members[0].start;
        members.sort_by(|a, b| name(a).cmp(name(b)));
        self.scratch.clear();
        for (place, member) in members.iter().enumerate() {
            if members.get(place + 1).is_some_and(|next| name(next) == name(member)) {
                continue;
            }
            if !self.scratch.is_empty() {
                self.scratch.push(',');
            }
            self.scratch.push_str(&out[member.start..member.end]);
        }
        self.out.truncate(start);
        self.out.push_str(&self.scratch);
    }
}

/// The next place from `at` on that is not whitespace. (In a valid value there is one before its end.)
fn next_token(text: &str, at: usize) -> usize {
    let skipped = text.as_bytes()[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    at + skipped
}

/// The digest of a value's canonical text.
pub fn digest(value: Json<'_>) -> Digest {
    let mut canonical = Canonical::default();
    canonical.value(value);
    Digest::of(canonical.text().as_bytes())
}

/// The decoded bytes of all string values (not names) in a canonical text. (In another spelling a name
/// is not told from a value where whitespace stands before its colon, and repeats count.)
pub fn string_bytes(canonical: &str) -> u64 {
    let bytes = canonical.as_bytes();
    let mut sum = 0;
    let mut at = 0;
    while let Some(quote) = memchr::memchr(b'"', &bytes[at..]) {
        let start = at + quote;
        at = string_end(bytes, start);
        if bytes.get(at) != Some(&b':') {
            sum += decoded_len(&canonical[start + 1..at - 1]) as u64;
        }
    }
    sum
}
