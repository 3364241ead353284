//! A compressed file, read as far as it has been copied.
//!
//! A position in a compressed file means nothing without what stands before it, so the cursor holds the
//! number and the digest of all decompressed bytes below it; going on after a restart means
//! decompressing them again, skipping them, and comparing. While the process lives, the decoder stays
//! where it is and is fed what arrives. Of a file that was read to a clean end the cursor also holds the
//! [`Mark`] of that end: while the file stands as it was, nothing is decompressed again.
//!
//! ```text
//!   file:          [ member ][ member ][ mem......            fed: bytes the decoder has taken
//!   decompressed:  ================|======|----               position | whole lines | a part in `out`
//! ```
//!
//! The last line may lack its LF. It is taken for whole only at a clean end, and while tailing only
//! when the file has rested for a while. Whatever goes on after it must begin with that LF: anything
//! else would make another line of one that was handed out, which is a replacement below the position.

use super::{
    codec::{Codec, Decoder},
    mark::{Identity, Mark, fill, from_hex, to_hex},
    tail::{Emit, Given, TURN_BYTES, Turn, parse},
    trouble::Trouble,
};
use blake3::Hasher;
use serde::{Deserialize, Serialize};
use std::{fs::File, mem, time::Duration};
use tidemill_core::source::{RawValue, VALUE_HEAD_BYTES};
use tidemill_types::Digest;

/// How much of the file is read at once.
const READ_BYTES: u64 = 128 << 10;

/// What is needed to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Below {
    /// Decompressed bytes below the position.
    bytes: u64,
    /// Of those bytes.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    digest: Digest,
    /// Whether the last line below the position lacked its LF.
    open: bool,
    /// How long the file was at least.
    file_bytes: u64,
    /// The end of the file, when all of it had been read and it ended cleanly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Mark>,
}

/// Where the reading of a compressed file stands.
#[derive(Debug)]
pub(super) struct Packed {
    codec: Codec,
    next: u64,
    /// `digest` and `file_bytes` are those of the last time that `live` was given up.
    below: Below,
    live: Option<Box<Live>>,
    /// The file as it was when nothing was left to read in it.
    seen: Option<Identity>,
}

/// Decompression under way.
#[derive(Debug)]
struct Live {
    /// Which file, by device and inode.
    file: (u64, u64),
    /// What the decoder has taken of it.
    fed: Mark,
    /// `None` between members when nothing is under way.
    decoder: Option<Decoder>,
    /// Whether the decoder stands inside a member.
    inside: bool,
    /// Whether the decoder may have more output without more input.
    pending: bool,
    /// Whether any member has ended.
    any_ended: bool,
    /// Decompressed bytes that are still to be skipped to the position.
    skip: u64,
    /// Of the decompressed bytes below the position (while skipping, of those skipped).
    hasher: Hasher,
    /// Decompressed bytes from the position on.
    out: Vec<u8>,
    /// How many of them hold no LF.
    scanned: usize,
    /// The line at the position is too long to be held.
    huge: Option<Box<Huge>>,
    /// Since when the file has rested with a last line that lacks its LF.
    rests_since: Option<Duration>,
}

/// A line that is over the limit before its end is known.
#[derive(Debug)]
struct Huge {
    /// Of all decompressed bytes so far, this line's included.
    hasher: Hasher,
    head: Vec<u8>,
    bytes: u64,
}

impl Huge {
    fn take(&mut self, part: &[u8]) {
        let room = VALUE_HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&part[..part.len().min(room)]);
        self.hasher.update(part);
        self.bytes += part.len() as u64;
    }

    fn value(&self) -> RawValue<'_> {
        RawValue::TooLarge { head: &self.head, bytes: self.bytes }
    }
}

impl Live {
    fn new(file: (u64, u64), skip: u64) -> Self {
        Self {
            file,
            fed: Mark::start(),
            decoder: None,
            inside: false,
            pending: false,
            any_ended: false,
            skip,
            hasher: Hasher::new(),
            out: Vec::new(),
            scanned: 0,
            huge: None,
            rests_since: None,
        }
    }

    /// Feeds the decoder once, from bytes that follow those it has; how many it took.
    fn step(&mut self, codec: Codec, input: &[u8]) -> Result<usize, Trouble> {
        if !self.inside && self.any_ended {
            let padding = codec.padding(input);
            if padding > 0 {
                return Ok(padding);
            }
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => self.decoder.insert(codec.decoder().map_err(Trouble::Corrupt)?),
        };
        let step = decoder.step(input, &mut self.out).map_err(Trouble::Corrupt)?;
        if step.read == 0 && step.wrote == 0 && !step.ended && !input.is_empty() {
            return Err(Trouble::Corrupt("the decoder does not get on".into()));
        }
        self.pending = step.pending;
        self.inside = !step.ended;
        if step.ended {
            self.any_ended = true;
            if codec == Codec::Gzip {
                self.decoder = None;
            }
        }
        Ok(step.read)
    }

    /// Whether a last line without LF is there.
    fn has_rest(&self) -> bool {
        !self.out.is_empty() || self.huge.is_some()
    }
}

impl Packed {
    /// From the beginning, or from where a cursor says.
    pub(super) fn open(codec: Codec, next: u64, cursor: Option<&serde_json::Value>) -> Result<Self, Trouble> {
        let start = Below { bytes: 0, digest: Digest::of(b""), open: false, file_bytes: 0, whole: None };
        let below = cursor.map_or(Ok(start), parse)?;
        Ok(Self { codec, next, below, live: None, seen: None })
    }

    /// See [`super::tail::Tail::next`].
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// See [`super::tail::Tail::cursor`].
    pub(super) fn cursor(&self) -> serde_json::Value {
        serde_json::to_value(self.below_now()).expect("it is numbers, a string and a flag")
    }

    fn below_now(&self) -> Below {
        match &self.live {
            Some(live) if live.skip == 0 => Below {
                digest: Digest::finish(&live.hasher.finalize()),
                file_bytes: live.fed.bytes,
                whole: (self.seen.is_some() && !live.inside && !live.has_rest()).then_some(live.fed),
                ..self.below
            },
            _ => self.below,
        }
    }

    /// See [`super::tail::Tail::is_heavy`].
    pub(super) fn is_heavy(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.decoder.is_some() || live.out.capacity() > 0)
    }

    /// See [`super::tail::Tail::evict`].
    pub(super) fn evict(&mut self) -> bool {
        let idle = self.live.as_ref().is_some_and(|live| live.rests_since.is_none()) && self.seen.is_some();
        if idle && self.is_heavy() {
            self.give_up();
            return true;
        }
        false
    }

    /// Forgets the decompression; the next turn that reads begins at the file's beginning.
    pub(super) fn give_up(&mut self) {
        self.below = self.below_now();
        self.live = None;
    }

    /// See [`super::tail::Tail::turn`].
    pub(super) fn turn(
        &mut self,
        given: &Given<'_>,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<Turn, Trouble> {
        if self.seen == Some(Identity::of(given.path)?) {
            return self.rest(given, emit);
        }
        self.seen = None;
        let (file, there) = Identity::open(given.path)?;
        let end = given.end_of(&there)?;
        if self.stands_whole(&file, &there)? {
            self.seen = Some(there);
            return self.rest(given, emit);
        }
        if !given.room && !self.is_heavy() {
            return Ok(Turn { crowded: true, ..Turn::default() });
        }
        self.check(&file, &there)?;
        let live = self.live.get_or_insert_with(|| Box::new(Live::new(there.file, self.below.bytes)));
        live.rests_since = None;
        let (bytes, full) = self.read(given, &file, end, buffer, emit)?;
        let at_end = self.live.as_ref().is_some_and(|live| live.fed.bytes >= end && !live.pending);
        if full || !at_end {
            return Ok(Turn { bytes, full, ..Turn::default() });
        }
        self.seen = Some(there);
        let turn = self.rest(given, emit)?;
        Ok(Turn { bytes: turn.bytes + bytes, ..turn })
    }

    /// Whether the file is as it was when all of it had been read.
    fn stands_whole(&self, file: &File, there: &Identity) -> Result<bool, Trouble> {
        match self.below.whole {
            Some(whole) if self.live.is_none() && whole.bytes == there.size => Ok(whole.stands_in(file)?),
            _ => Ok(false),
        }
    }

    /// That the file is the one that was read, or else that it must be read again.
    pub(super) fn check(&mut self, file: &File, there: &Identity) -> Result<(), Trouble> {
        let below = self.below_now();
        let known = self.live.as_ref().map_or(below.file_bytes, |live| live.fed.bytes);
        if below.bytes > 0 && there.size < known {
            return Err(Trouble::Replaced(format!("it had {known} bytes and has {} now", there.size)));
        }
        if let Some(live) = &self.live
            && (live.file != there.file || !live.fed.stands_in(file)?)
        {
            self.give_up();
        }
        Ok(())
    }

    /// Decompresses and hands out lines until the share of a turn is done; the bytes worked off, and
    /// whether the taker is full.
    fn read(
        &mut self,
        given: &Given<'_>,
        file: &File,
        end: u64,
        buffer: &mut Vec<u8>,
        emit: &mut Emit<'_>,
    ) -> Result<(u64, bool), Trouble> {
        let mut worked = 0;
        // What an earlier turn decompressed and did not hand out.
        let mut full = self.take(given, emit)?;
        while !full && worked < TURN_BYTES {
            let Some(live) = &self.live else { break };
            let window = live.fed.window();
            let wanted = READ_BYTES.min(end.saturating_sub(live.fed.bytes));
            let data = fill(file, buffer, live.fed.bytes - window, window + wanted)?;
            let mut at = window as usize;
            if data.len() < at {
                return Err(Trouble::Replaced("it became shorter while it was read".into()));
            }
            if at == data.len() && !live.pending {
                break;
            }
            while !full && worked < TURN_BYTES {
                let Some(live) = &mut self.live else { break };
                if at == data.len() && !live.pending {
                    break;
                }
                let before = live.out.len();
                let read = live.step(self.codec, &data[at..])?;
                worked += (read + live.out.len() - before) as u64;
                at += read;
                full = self.take(given, emit)?;
            }
            if let Some(live) = &mut self.live {
                live.fed.advance(&data[..at]);
            }
        }
        Ok((worked, full))
    }

    /// Works off what is decompressed: skips, then hands out whole lines. Whether the taker is full.
    fn take(&mut self, given: &Given<'_>, emit: &mut Emit<'_>) -> Result<bool, Trouble> {
        let Some(live) = &mut self.live else { return Ok(false) };
        if live.skip > 0 {
            let skipped = live.out.len().min(usize::try_from(live.skip).unwrap_or(usize::MAX));
            live.hasher.update(&live.out[..skipped]);
            live.out.drain(..skipped);
            live.skip -= skipped as u64;
            if live.skip > 0 {
                return Ok(false);
            }
            if Digest::finish(&live.hasher.finalize()) != self.below.digest {
                return Err(Trouble::Replaced(format!(
                    "the {} decompressed bytes that were read are not what it holds now",
                    self.below.bytes
                )));
            }
        }
        if self.below.open && !live.out.is_empty() {
            if live.out[0] != b'\n' {
                return Err(Trouble::Replaced(
                    "it ended in a line without LF, which was read, and that line goes on now".into(),
                ));
            }
            live.hasher.update(b"\n");
            live.out.remove(0);
            self.below.bytes += 1;
            self.below.open = false;
        }
        Ok(self.lines(given, emit))
    }

    /// Hands out the whole lines of `out`. Whether the taker is full.
    fn lines(&mut self, given: &Given<'_>, emit: &mut Emit<'_>) -> bool {
        let Some(live) = &mut self.live else { return false };
        let (mut start, mut hashed, mut full) = (0, 0, false);
        while !full {
            let Some(found) = memchr::memchr(b'\n', &live.out[live.scanned..]) else {
                live.scanned = live.out.len();
                break;
            };
            let lf = live.scanned + found;
            if let Some(mut huge) = live.huge.take() {
                huge.take(&live.out[start..lf]);
                full = !emit(self.next, huge.value());
                huge.hasher.update(b"\n");
                self.below.bytes += huge.bytes + 1;
                live.hasher = huge.hasher;
                hashed = lf + 1;
            } else {
                full = !emit(self.next, given.value(&live.out[start..lf]));
                self.below.bytes += (lf + 1 - start) as u64;
            }
            self.next += 1;
            start = lf + 1;
            live.scanned = start;
        }
        live.hasher.update(&live.out[hashed..start]);
        live.out.drain(..start);
        live.scanned -= start;
        if !full && (live.huge.is_some() || live.out.len() as u64 > given.value_bytes_max) {
            let fresh = || Box::new(Huge { hasher: live.hasher.clone(), head: Vec::new(), bytes: 0 });
            live.huge.get_or_insert_with(fresh).take(&live.out);
            live.out.clear();
            live.scanned = 0;
        }
        full
    }

    /// Nothing is left to read: judges where the data end, and hands out a last line without LF when it
    /// is time.
    fn rest(&mut self, given: &Given<'_>, emit: &mut Emit<'_>) -> Result<Turn, Trouble> {
        let resting = Turn { rests: true, ..Turn::default() };
        let Some(live) = &mut self.live else { return Ok(resting) };
        if live.inside {
            return if given.end.is_some() { Err(Trouble::Cut) } else { Ok(resting) };
        }
        if live.skip > 0 {
            return Err(Trouble::Replaced(format!(
                "{} decompressed bytes were read and it has {} now",
                self.below.bytes,
                self.below.bytes - live.skip
            )));
        }
        if !live.has_rest() {
            live.decoder = None;
            live.out = Vec::new();
            return Ok(resting);
        }
        let since = *live.rests_since.get_or_insert(given.now);
        if given.end.is_none() && given.now.saturating_sub(since) < given.settle {
            return Ok(resting);
        }
        live.rests_since = None;
        let line = mem::take(&mut live.out);
        live.scanned = 0;
        live.decoder = None;
        let (full, bytes) = match live.huge.take() {
            Some(huge) => {
                let full = !emit(self.next, huge.value());
                live.hasher = huge.hasher;
                (full, huge.bytes)
            }
            None => {
                live.hasher.update(&line);
                (!emit(self.next, given.value(&line)), line.len() as u64)
            }
        };
        self.next += 1;
        self.below.bytes += bytes;
        self.below.open = true;
        Ok(Turn { bytes, full, ..resting })
    }
}
