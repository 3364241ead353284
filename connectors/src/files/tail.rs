//! One file that is read turn by turn: what plain and compressed files have in common.

use super::{mark::Identity, packed::Packed, plain::Plain, trouble::Trouble};
use std::{path::Path, time::Duration};
use tidemill_core::source::{RawValue, VALUE_HEAD_BYTES};

/// How much one turn reads, more or less: the fair share of a file before the next has its turn.
pub(super) const TURN_BYTES: u64 = 1 << 20;

/// Takes a line by its number; `false`: no more in this turn.
pub(super) type Emit<'a> = dyn FnMut(u64, RawValue<'_>) -> bool + 'a;

/// What a turn is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// Read nothing from this byte of the file on, and expect no more to come.
    pub(super) end: Option<u64>,
    /// Longer lines are handed out by head and size.
    pub(super) value_bytes_max: u64,
    /// Now, on a clock that never goes back.
    pub(super) now: Duration,
    /// How long a complete compressed file must rest before its last line may lack its LF.
    pub(super) settle: Duration,
    /// Whether one more decoder may be opened.
    pub(super) room: bool,
}

impl Given<'_> {
    /// Where reading ends in a file of that identity.
    pub(super) fn end_of(&self, there: &Identity) -> Result<u64, Trouble> {
        match self.end {
            Some(end) if there.size < end => {
                Err(Trouble::Replaced(format!("it had {end} bytes at the start and has {} now", there.size)))
            }
            Some(end) => Ok(end),
            None => Ok(there.size),
        }
    }

    /// A whole line as a value.
    pub(super) fn value<'b>(&self, line: &'b [u8]) -> RawValue<'b> {
        if line.len() as u64 <= self.value_bytes_max {
            return RawValue::Bytes(line);
        }
        RawValue::TooLarge { head: &line[..line.len().min(VALUE_HEAD_BYTES)], bytes: line.len() as u64 }
    }
}

/// How a turn went.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Turn {
    /// How many bytes were worked off.
    pub(super) bytes: u64,
    /// The taker wants no more in this poll.
    pub(super) full: bool,
    /// Nothing is left to read until the file changes.
    pub(super) rests: bool,
    /// There is something to read, but no room for its decoder.
    pub(super) crowded: bool,
}

/// A file and where its reading stands.
#[derive(Debug)]
pub(super) enum Tail {
    /// Tailed by byte position.
    Plain(Plain),
    /// Decompressed from its beginning.
    Packed(Packed),
}

impl Tail {
    /// Goes on from line `next`, whose cursor this is; from the beginning when there is none.
    pub(super) fn open(name: &str, next: u64, cursor: Option<&serde_json::Value>) -> Result<Self, Trouble> {
        let cursor = match (next, cursor) {
            (0, None) => None,
            (_, Some(cursor)) => Some(cursor),
            (_, None) => return Err(Trouble::Cursor("nothing but the line is stored of it".into())),
        };
        Ok(match super::codec::Codec::of(name) {
            Some(codec) => Self::Packed(Packed::open(codec, next, cursor)?),
            None => Self::Plain(Plain::open(next, cursor)?),
        })
    }

    /// Reads on, for about [`TURN_BYTES`].
    pub(super) fn turn(
        &mut self,
        given: &Given<'_>,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<Turn, Trouble> {
        match self {
            Self::Plain(plain) => plain.turn(given, buffer, emit),
            Self::Packed(packed) => packed.turn(given, buffer, emit),
        }
    }

    /// That what was read stands in the file, as far as that is told without decompressing it.
    pub(super) fn stands(&mut self, path: &Path) -> Result<(), Trouble> {
        let (file, there) = Identity::open(path)?;
        match self {
            Self::Plain(plain) => plain.check(&file, &there),
            Self::Packed(packed) => packed.check(&file, &there),
        }
    }

    /// The number of the next line.
    pub(super) fn next(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.next(),
            Self::Packed(packed) => packed.next(),
        }
    }

    /// What is needed to go on from there.
    pub(super) fn cursor(&self) -> serde_json::Value {
        match self {
            Self::Plain(plain) => plain.cursor(),
            Self::Packed(packed) => packed.cursor(),
        }
    }

    /// Whether it holds a decoder's memory.
    pub(super) fn is_heavy(&self) -> bool {
        matches!(self, Self::Packed(packed) if packed.is_heavy())
    }

    /// Gives up its decoder, whatever it is at: the file is gone.
    pub(super) fn give_up(&mut self) {
        if let Self::Packed(packed) = self {
            packed.give_up();
        }
    }

    /// Gives up a decoder that only waits; `false` when there is none or it is at work.
    pub(super) fn evict(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Packed(packed) => packed.evict(),
        }
    }
}

/// Reads a stored cursor.
pub(super) fn parse<T: serde::de::DeserializeOwned>(cursor: &serde_json::Value) -> Result<T, Trouble> {
    T::deserialize(cursor)
        .map_err(|error| Trouble::Cursor(format!("{cursor} is no cursor of a file: {error}")))
}
