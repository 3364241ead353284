//! The lines of files as records of Kafka, such that a mill makes the same of them there.
//!
//! ```text
//!  line ─ find ─> not JSON, no object ──────────────> no key, the line
//!           └ identity ─> absent, no string ────────> no key, the line
//!               └ key mode kafka, "_deleted": true ─> identity, null
//!               └ else ─────────────────────────────> identity, the line
//! ```
//!
//! A line without a key that a key must be had of is rejected for its key last of all, after whatever was
//! wrong with its identity: so it gets the code that it has in a file, and so does a line with an identity
//! and some other fault. One kind of line cannot have its code: a deletion whose identity is there and is no
//! string. In a file nothing else of it is looked at (`wrong_type`); here it is a record, and if it lacks a
//! field as well, that comes first (`missing_field`). It is rejected in both.

use super::fields::{FieldMap, Stream};
use super::settings::{FlywheelSettings, KeyMode};
use crate::cli::{Keyed, Keying};

/// What it takes to key the lines of each stream.
pub struct FlywheelKeying(Vec<(FieldMap, KeyMode)>);

impl FlywheelKeying {
    /// Under checked settings.
    pub fn new(settings: &FlywheelSettings) -> Self {
        let of = |stream: Stream| (FieldMap::new(stream, settings), settings.key_mode(stream));
        Self(Stream::ALL.into_iter().map(of).collect())
    }
}

impl Keying for FlywheelKeying {
    fn keyed(&self, stream: usize, line: &[u8]) -> Keyed {
        let Some((fields, mode)) = self.0.get(stream) else { return Keyed::default() };
        let Ok(found) = fields.find(line) else { return Keyed::default() };
        let Ok(identity) = found.identity() else { return Keyed::default() };
        let deletes = *mode == KeyMode::Kafka && found.is_deleted();
        Keyed { key: Some(identity.into_owned().into_bytes()), deletes }
    }
}
