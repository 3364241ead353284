//! A plain `.jsonl` file, tailed as it grows.
//!
//! ```text
//!   0 ........ position ............ scanned ............ end
//!     consumed         holds no LF           not looked at
//! ```
//!
//! A turn reads a chunk from the position, hands out its whole lines, and leaves the rest in the file.
//! When the rest is long, the next turns only search beyond `scanned`, so a line that grows slowly is
//! not searched again and again, and no line over the limit is ever held: its head and its size are
//! enough. A file whose identity is as it was when its end was reached is not even opened.

use super::{
    mark::{Identity, Mark, fill},
    tail::{Emit, Given, TURN_BYTES, Turn, parse},
    trouble::Trouble,
};
use std::fs::File;
use tidemill_core::source::{RawValue, VALUE_HEAD_BYTES};

/// From this much on, what is known to hold no LF is not read again to find the line's end.
const REREAD_BYTES: u64 = TURN_BYTES / 2;

/// Where the reading of a plain file stands.
#[derive(Debug)]
pub(super) struct Plain {
    next: u64,
    mark: Mark,
    /// No LF stands between the position and here.
    scanned: u64,
    /// The device and inode that `scanned` is about.
    file: Option<(u64, u64)>,
    /// The file as it was when all of it had been read.
    seen: Option<Identity>,
}

impl Plain {
    /// From the beginning, or from where a cursor says.
    pub(super) fn open(next: u64, cursor: Option<&serde_json::Value>) -> Result<Self, Trouble> {
        let mark = cursor.map_or(Ok(Mark::start()), parse)?;
        Ok(Self { next, mark, scanned: mark.bytes, file: None, seen: None })
    }

    /// See [`super::tail::Tail::next`].
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// See [`super::tail::Tail::cursor`].
    pub(super) fn cursor(&self) -> serde_json::Value {
        serde_json::to_value(self.mark).expect("a mark is a number and two strings")
    }

    /// See [`super::tail::Tail::turn`].
    pub(super) fn turn(
        &mut self,
        given: &Given<'_>,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<Turn, Trouble> {
        if self.seen == Some(Identity::of(given.path)?) {
            return Ok(Turn { rests: true, ..Turn::default() });
        }
        self.seen = None;
        let (file, there) = Identity::open(given.path)?;
        self.check(&file, &there)?;
        let end = given.end_of(&there)?;
        if self.file != Some(there.file) || self.scanned > end {
            self.file = Some(there.file);
            self.scanned = self.mark.bytes;
        }
        let before = self.scanned;
        let full = if self.scanned - self.mark.bytes >= REREAD_BYTES {
            self.search(given, &file, end, buffer, emit)?
        } else {
            let bytes = TURN_BYTES.min(end.saturating_sub(self.mark.bytes));
            self.lines(given, &file, bytes, buffer, emit)?
        };
        let rests = !full && self.scanned >= end;
        if rests {
            self.seen = Some(there);
        }
        Ok(Turn { bytes: self.scanned.saturating_sub(before), full, rests, crowded: false })
    }

    /// That what was read still stands in the file.
    pub(super) fn check(&self, file: &File, there: &Identity) -> Result<(), Trouble> {
        let position = self.mark.bytes;
        if there.size < position {
            return Err(Trouble::Replaced(format!(
                "{position} bytes were read and it has {} now",
                there.size
            )));
        }
        if !self.mark.stands_in(file)? {
            return Err(Trouble::Replaced(format!(
                "the {position} bytes that were read are not what it holds now"
            )));
        }
        Ok(())
    }

    /// Hands out the whole lines among the bytes after the position.
    fn lines(
        &mut self,
        given: &Given<'_>,
        file: &File,
        bytes: u64,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<bool, Trouble> {
        let window = self.mark.window();
        let data = fill(file, buffer, self.mark.bytes - window, window + bytes)?;
        let window = window as usize;
        if data.len() < window {
            return Err(Trouble::Replaced("it became shorter while it was read".into()));
        }
        let (mut start, mut full) = (window, false);
        for lf in memchr::memchr_iter(b'\n', &data[window..]) {
            let line = &data[start..window + lf];
            start = window + lf + 1;
            full = !emit(self.next, given.value(line));
            self.next += 1;
            if full {
                break;
            }
        }
        let rest = (data.len() - start) as u64;
        self.mark.advance(&data[..start]);
        self.scanned = if full { self.mark.bytes } else { self.mark.bytes + rest };
        Ok(full)
    }

    /// Looks for the end of a long line beyond what was searched, and hands the line out when it is there.
    fn search(
        &mut self,
        given: &Given<'_>,
        file: &File,
        end: u64,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<bool, Trouble> {
        let data = fill(file, buffer, self.scanned, TURN_BYTES.min(end - self.scanned))?;
        let Some(lf) = memchr::memchr(b'\n', data) else {
            self.scanned += data.len() as u64;
            return Ok(false);
        };
        let line_end = self.scanned + lf as u64;
        let bytes = line_end - self.mark.bytes;
        if bytes <= given.value_bytes_max {
            return self.lines(given, file, bytes + 1, buffer, emit);
        }
        let head = fill(file, buffer, self.mark.bytes, bytes.min(VALUE_HEAD_BYTES as u64))?;
        // First what may fail: a line that was handed out is below the position.
        self.mark.jump(file, line_end + 1)?;
        let full = !emit(self.next, RawValue::TooLarge { head, bytes });
        self.next += 1;
        self.scanned = self.mark.bytes;
        Ok(full)
    }
}
