//! A source partition and its order.
//!
//! Kafka's are ordered by number and files by name, bytewise; both stand in one stream's positions under
//! the text of [`Partition`]'s `Display`.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// One partition of a stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Partition {
    /// A Kafka partition: its number, and the number's text (so that a row can lend it).
    Number(u32, Arc<str>),
    /// A file, by its full name without folder.
    Name(Arc<str>),
}

impl Partition {
    /// The partition whose `Display` is `text`. (A file's name ends in `.jsonl`, `.gz` or `.zst` and is
    /// never a bare number.)
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(number) => Self::Number(number, text.into()),
            Err(_) => Self::Name(text.into()),
        }
    }

    /// A Kafka partition.
    pub fn number(number: u32) -> Self {
        Self::Number(number, number.to_string().into())
    }

    /// Its text, as it stands in positions and tables.
    pub fn text(&self) -> &str {
        match self {
            Self::Number(_, text) | Self::Name(text) => text,
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
