//! A source partition and its order.
//!
//! Kafka's are ordered by number and files by name, bytewise; both stand in one stream's positions under
//! the text of [`Partition`]'s `Display`.
//!
//! Offsets say the order of a partition's records only as long as they grow. Where Kafka's log was made
//! anew under the same number (its topic was created again, or its end was lost), what follows is another
//! *life* of the partition, with offsets and a position of its own: `3` is the first life of number 3,
//! `3@2` the second.

use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, sync::Arc};

/// One partition of a stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Partition {
    /// A Kafka partition: its number, and its text (so that a row can lend it), which also tells its life.
    Number(u32, Arc<str>),
    /// A file, by its full name without folder.
    Name(Arc<str>),
}

/// By number, then by life; files behind, by the bytes of their names.
impl Ord for Partition {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a, x), Self::Number(b, y)) => {
                (a, x.len(), x).cmp(&(b, y.len(), y)) // Of two lives the longer text is the later one.
            }
            (Self::Name(a), Self::Name(b)) => a.cmp(b),
            (Self::Number(..), Self::Name(_)) => Ordering::Less,
            (Self::Name(_), Self::Number(..)) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Partition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Partition {
    /// The partition whose `Display` is `text`. (A file's name ends in `.jsonl`, `.gz` or `.zst` and is
    /// never a number, nor a number with a life.)
    pub fn parse(text: &str) -> Self {
        let (number, life) = text.split_once('@').unwrap_or((text, "2"));
        match (number.parse(), life.parse::<u32>()) {
            (Ok(number), Ok(2..)) => Self::Number(number, text.into()),
            _ => Self::Name(text.into()),
        }
    }

    /// A Kafka partition in its first life.
    pub fn number(number: u32) -> Self {
        Self::in_life(number, 1)
    }

    /// A Kafka partition in a life, counted from 1.
    pub fn in_life(number: u32, life: u32) -> Self {
        match life {
            0 | 1 => Self::Number(number, number.to_string().into()),
            later => Self::Number(number, format!("{number}@{later}").into()),
        }
    }

    /// Which life of its number it is, counted from 1; files have one.
    pub fn life(&self) -> u32 {
        match self {
            Self::Number(_, text) => {
                text.split_once('@').and_then(|(_, life)| life.parse().ok()).unwrap_or(1)
            }
            Self::Name(_) => 1,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_partitions_compare_as_numbers_then_by_life_and_stand_before_files() {
        let texts = ["0", "2", "2@2", "2@9", "2@10", "10", "a.jsonl", "b.jsonl.gz"];
        let partitions = texts.map(Partition::parse);
        assert!(partitions.is_sorted_by(|a, b| a < b), "{partitions:?}");
        assert_eq!(partitions.clone().map(|p| p.to_string()), texts);
        assert_eq!(partitions.map(|p| p.life()), [1, 1, 2, 9, 10, 1, 1, 1]);
        assert_eq!(Partition::in_life(7, 3), Partition::parse("7@3"));
        assert_eq!(Partition::number(7), Partition::parse("7"));
    }

    #[test]
    fn a_name_that_only_looks_like_a_number_is_a_name() {
        for text in ["1@1", "1@", "@2", "1@x", "-1", "1@2@3", "4294967296"] {
            assert!(matches!(Partition::parse(text), Partition::Name(_)), "{text}");
        }
    }
}
