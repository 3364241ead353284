//! The validating pass: the grammar by recursive descent, with captures on the way.
//!
//! The bytes are known to be UTF-8 before the scan begins, so that only ASCII matters here. Every
//! branch either advances or fails, and recursion is bounded by the nesting limit.

use super::{
    JsonError,
    cursor::Json,
    pointers::{Node, Place},
    strings::{decode, hex4, plain_end},
};

type Scan<T> = Result<T, JsonError>;

/// A string inside a document: what stands between its quotes.
struct Found<'a> {
    inside: &'a str,
    escaped: bool,
}

/// One pass over one document.
pub(super) struct Scanner<'a, 'p> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    levels_left: usize,
    nodes: &'p [Node],
    found: &'p mut [Option<Json<'a>>],
}

impl<'a, 'p> Scanner<'a, 'p> {
    /// Validates a whole document. `nodes` is a trie of pointers whose first node is the document
    /// (empty: nothing is captured); captures go to `found`.
    pub(super) fn document(
        document: &'a [u8],
        depth_max: usize,
        nodes: &'p [Node],
        found: &'p mut [Option<Json<'a>>],
    ) -> Scan<Json<'a>> {
        let text = simdutf8::basic::from_utf8(document).map_err(|_| utf8_error(document))?;
        let mut scanner = Scanner { text, bytes: document, at: 0, levels_left: depth_max, nodes, found };
        scanner.space();
        let root = scanner.value((!nodes.is_empty()).then_some(0))?;
        scanner.space();
        match scanner.peek() {
            None => Ok(root),
            Some(_) => scanner.fail("something after the value"),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&self, what: &'static str) -> Scan<T> {
        Err(JsonError { offset: self.at, what })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, node: Option<usize>) -> Scan<Json<'a>> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string().map(drop)?,
            Some(b'{') => self.nested(node, Self::members)?,
            Some(b'[') => self.nested(node, Self::elements)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(_) => return self.fail("no value begins like this"),
            None => return self.fail("the document ends where a value is expected"),
        }
        let value = Json::trusted(&self.text[start..self.at]);
        if let Some(slot) = node.and_then(|node| self.nodes[node].slot) {
            self.found[slot] = Some(value);
        }
        Ok(value)
    }

    fn nested(&mut self, node: Option<usize>, inside: fn(&mut Self, Option<usize>) -> Scan<()>) -> Scan<()> {
        if self.levels_left == 0 {
            return self.fail("nesting is too deep");
        }
        self.levels_left -= 1;
        self.at += 1;
        self.space();
        inside(self, node)?;
        self.levels_left += 1;
        Ok(())
    }

    fn members(&mut self, node: Option<usize>) -> Scan<()> {
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("a field's name is expected");
            }
            let name = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.fail("a colon is expected after a field's name");
            }
            self.at += 1;
            self.space();
            let child = node.and_then(|node| self.member_node(node, &name));
            self.value(child)?;
            if self.closed(b'}')? {
                return Ok(());
            }
        }
    }

    fn elements(&mut self, node: Option<usize>) -> Scan<()> {
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let mut index = 0;
        loop {
            let child =
                node.and_then(|node| self.nodes[node].child(|place: &Place| place.index == Some(index)));
            self.value(child)?;
            if self.closed(b']')? {
                return Ok(());
            }
            index += 1;
        }
    }

    /// After an element or a member: whether the container ends; otherwise stands at the next one.
    fn closed(&mut self, end: u8) -> Scan<bool> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(false)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(true)
            }
            Some(_) => self.fail("a comma or the container's end is expected"),
            None => self.fail("the document ends inside a container"),
        }
    }

    /// The trie's node for a member; what an earlier member of that name gave is forgotten.
    fn member_node(&mut self, node: usize, name: &Found<'a>) -> Option<usize> {
        let child = if name.escaped {
            let name = decode(name.inside);
            self.nodes[node].child(|place| *place.name == *name)
        } else {
            self.nodes[node].child(|place| *place.name == *name.inside)
        }?;
        self.found[self.nodes[child].below.clone()].fill(None);
        Some(child)
    }

    fn literal(&mut self, literal: &[u8]) -> Scan<()> {
        if !self.bytes[self.at..].starts_with(literal) {
            return self.fail("no value begins like this");
        }
        self.at += literal.len();
        Ok(())
    }

    fn number(&mut self) -> Scan<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Scan<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return self.fail("a digit is expected");
        }
        Ok(())
    }

    fn string(&mut self) -> Scan<Found<'a>> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fail("a control character in a string"),
                None => return self.fail("the document ends inside a string"),
            }
            escaped = true;
        }
        self.at += 1;
        Ok(Found { inside: &self.text[start..self.at - 1], escaped })
    }

    fn escape(&mut self) -> Scan<()> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => return self.unicode_escape(),
            _ => return self.fail("an escape that JSON does not have"),
        }
        Ok(())
    }

    fn unicode_escape(&mut self) -> Scan<()> {
        match hex4(self.bytes, self.at + 2) {
            None => self.fail("an escape \\u without four hex digits"),
            Some(0xd800..0xdc00) if self.low_surrogate_follows() => {
                self.at += 12;
                Ok(())
            }
            Some(0xd800..0xe000) => self.fail("an unpaired surrogate"),
            Some(_) => {
                self.at += 6;
                Ok(())
            }
        }
    }

    fn low_surrogate_follows(&self) -> bool {
        self.bytes[self.at + 6..].starts_with(b"\\u")
            && matches!(hex4(self.bytes, self.at + 8), Some(0xdc00..0xe000))
    }
}

fn utf8_error(document: &[u8]) -> JsonError {
    let offset = std::str::from_utf8(document).err().map_or(0, |error| error.valid_up_to());
    JsonError { offset, what: "bytes that are not UTF-8" }
}
