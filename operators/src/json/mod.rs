//! Strict JSON over borrowed slices: one validating pass, then cursors that need not check again.
//!
//! ```text
//!  bytes ──Json::parse / Pointers::scan──> Json<'a> (a slice known to be one valid value)
//!           UTF-8, grammar, surrogates,      │ kind, string, number, elements, members, pick
//!           nesting, nothing after it        └ Canonical: one text for all spellings of a value
//! ```
//!
//! No tree is built. Validation visits every byte once, repeated and ignored fields included, so that
//! what a [`Json`] borrows can later be walked without any check. The rules are those of RFC 8259,
//! made strict where it leaves room: unpaired surrogate escapes are refused everywhere, nesting is
//! bounded ([`DEPTH_MAX`]), and a field that is repeated has its last value. A number is kept as it
//! is spelt, and any magnitude is valid.
//!
//! Recursion is bounded by the nesting limit, so hostile input cannot exhaust the stack.

mod canonical;
mod cursor;
mod pointers;
mod scan;
mod strings;

pub use canonical::{Canonical, digest, string_bytes};
pub use cursor::{Elements, Json, JsonKind, Members};
pub use pointers::{Captures, PointerError, Pointers};
pub use strings::encode_string;

/// The deepest nesting of a document; its outermost container is level 1.
pub const DEPTH_MAX: usize = 127;

/// Why a document is not valid JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JsonError {
    /// Where, in bytes from the start.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for JsonError {}
