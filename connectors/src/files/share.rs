//! One worker's share of a folder: the files whose names hash to it, each with its turn.

use super::{
    Ends, FilesOptions,
    mark::Identity,
    scan::{Found, Scan},
    tail::{Given, Tail, Turn},
    trouble::Trouble,
};
use std::{io::ErrorKind, path::PathBuf, sync::Arc, time::Duration};
use tidemill_core::source::{Polled, RawRecord, RawValue, RecordSink, Source, SourceError};
use tidemill_types::{Cursors, Digest, Partition, Positions};

/// How many decoders of compressed files a share holds at most.
pub const DECODERS_MAX: usize = 16;

/// How much a poll works off, more or less.
const POLL_BYTES: u64 = 8 << 20;

/// How many files are looked at in every poll even when they rest; of more, the resting ones are
/// looked at when new files are looked for.
const ALWAYS_LOOKED_AT: usize = 256;

/// After so many polls without news a file rests.
const RESTING_POLLS: u32 = 64;

/// How much of the reading buffer is kept between turns.
const BUFFER_BYTES: usize = 2 << 20;

/// A worker's share of a folder's files.
#[derive(Debug)]
pub struct FilesSource {
    options: Arc<FilesOptions>,
    worker: usize,
    workers: usize,
    positions: Positions,
    cursors: Cursors,
    /// `None` when draining: no new files are looked for.
    scan: Option<Scan>,
    scanned_at: Option<Duration>,
    folder_gone: bool,
    files: Vec<OpenFile>,
    /// How many of them hold a decoder.
    heavy: usize,
    /// Whose turn is next.
    place: usize,
    buffer: Vec<u8>,
    /// An error is final: what it left behind is not gone on with.
    stopped: Option<SourceError>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    partition: Partition,
    stream: usize,
    end: Option<u64>,
    tail: Tail,
    /// With `end`: all below it was read.
    done: bool,
    gone: bool,
    idle_polls: u32,
}

impl FilesSource {
    /// The share of `worker`, going on from `positions`.
    pub(super) fn open(
        options: Arc<FilesOptions>,
        ends: Option<&Ends>,
        worker: usize,
        workers: usize,
        positions: &Positions,
        cursors: &Cursors,
    ) -> Result<Self, SourceError> {
        let mut share = Self {
            worker,
            workers: workers.max(1),
            positions: positions.clone(),
            cursors: cursors.clone(),
            scan: ends.is_none().then(|| Scan::new(worker == 0)),
            scanned_at: None,
            folder_gone: false,
            files: Vec::new(),
            heavy: 0,
            place: 0,
            buffer: Vec::new(),
            stopped: None,
            options,
        };
        for (name, end) in ends.into_iter().flatten() {
            let path = share.options.folder.join(name);
            let streams = &share.options.streams;
            if let Some(stream) = super::scan::stream_of(name, streams) {
                share.adopt(Found { name: name.clone(), stream, bytes: *end }, path, Some(*end))?;
            }
        }
        Ok(share)
    }

    /// Takes a file that was found, if it belongs to this share.
    fn adopt(&mut self, found: Found, path: PathBuf, end: Option<u64>) -> Result<(), SourceError> {
        let spread = Digest::of(found.name.as_bytes()).low64();
        if spread % self.workers as u64 != self.worker as u64 {
            return Ok(());
        }
        let stream = &self.options.streams[found.stream].name;
        let next = self.positions.get(stream).and_then(|p| p.get(&found.name)).copied().unwrap_or(0);
        let cursor = self.cursors.get(stream).and_then(|c| c.get(&found.name));
        let tail = Tail::open(&found.name, next, cursor).map_err(|trouble| trouble.explain(&path, next))?;
        let partition = Partition::Name(found.name.as_str().into());
        self.files.push(OpenFile {
            path,
            partition,
            stream: found.stream,
            end,
            tail,
            done: false,
            gone: false,
            idle_polls: 0,
        });
        Ok(())
    }

    /// Looks for new files when it is time; whether it did.
    fn look(&mut self, now: Duration) -> Result<bool, SourceError> {
        let due = self.scanned_at.is_none_or(|at| now.saturating_sub(at) >= self.options.rescan_interval);
        let Some(scan) = self.scan.as_mut().filter(|_| due) else { return Ok(false) };
        self.scanned_at = Some(now);
        let folder = self.options.folder.display();
        match scan.look(&self.options) {
            Ok(found) => {
                self.folder_gone = false;
                for file in found {
                    let path = self.options.folder.join(&file.name);
                    self.adopt(file, path, None)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if !self.folder_gone && self.worker == 0 {
                    tracing::warn!(%folder, "the input folder is gone; waiting for it to come back");
                }
                self.folder_gone = true;
            }
            Err(error) => {
                return Err(SourceError(format!(
                    "cannot read the input folder {folder}: {error}; make it readable, then start again"
                )));
            }
        }
        Ok(true)
    }

    /// Gives one file its turn.
    fn turn(&mut self, place: usize, now: Duration, sink: &mut dyn RecordSink) -> Result<Turn, SourceError> {
        let file = &mut self.files[place];
        let was_heavy = file.tail.is_heavy();
        let given = Given {
            path: &file.path,
            end: file.end,
            value_bytes_max: self.options.streams[file.stream].value_bytes_max,
            now,
            settle: self.options.settle,
            room: self.heavy < DECODERS_MAX,
        };
        let (stream, partition, before) = (file.stream, &file.partition, file.tail.next());
        let mut emit = |offset: u64, value: RawValue<'_>| {
            sink.record(stream, RawRecord { partition, offset, timestamp: None, key: None, value })
        };
        let turn = file.tail.turn(&given, &mut self.buffer, &mut emit);
        // A turn that ended in trouble may have handed out lines before; its position covers them too.
        let next = file.tail.next();
        if next > before {
            sink.position(stream, partition, next, file.tail.cursor());
        }
        let turn = match turn {
            Err(Trouble::Gone) if file.end.is_none() => file.note_gone(),
            turn => {
                let turn = turn.map_err(|trouble| trouble.explain(&file.path, next))?;
                file.note(turn);
                turn
            }
        };
        self.heavy = self.heavy + usize::from(file.tail.is_heavy()) - usize::from(was_heavy);
        if self.buffer.len() > BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(turn)
    }

    /// Frees the decoder of one file that waits for more to be copied: the one that has waited longest.
    fn make_room(&mut self) -> bool {
        let mut waiting: Vec<&mut OpenFile> =
            self.files.iter_mut().filter(|file| file.tail.is_heavy()).collect();
        waiting.sort_by_key(|file| std::cmp::Reverse(file.idle_polls));
        let evicted = waiting.into_iter().any(|file| file.tail.evict());
        self.heavy -= usize::from(evicted);
        evicted
    }
}

impl OpenFile {
    fn note_gone(&mut self) -> Turn {
        if !self.gone {
            tracing::warn!(file = %self.path.display(), "the file is gone; its rows and its position stay");
        }
        self.gone = true;
        self.tail.give_up();
        Turn { rests: true, ..Turn::default() }
    }

    fn note(&mut self, turn: Turn) {
        if self.gone && Identity::of(&self.path).is_ok() {
            self.gone = false;
            tracing::info!(file = %self.path.display(), "the file is back");
        }
        self.done = self.end.is_some() && turn.rests;
        self.idle_polls = if turn.bytes > 0 || turn.crowded { 0 } else { self.idle_polls.saturating_add(1) };
    }
}

impl Source for FilesSource {
    fn poll(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let polled = self.round(sink);
        self.stopped = polled.as_ref().err().cloned();
        polled
    }
}

impl FilesSource {
    /// Gives every file that may have news a turn.
    fn round(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError> {
        let now = (self.options.clock)();
        let looked = self.look(now)?;
        let all = looked || self.files.len() <= ALWAYS_LOOKED_AT;
        let (mut worked, mut crowded) = (0, false);
        for _ in 0..self.files.len() {
            let place = self.place % self.files.len();
            self.place = place + 1;
            let file = &self.files[place];
            if file.done || (!all && file.idle_polls > RESTING_POLLS) {
                continue;
            }
            let turn = self.turn(place, now, sink)?;
            worked += turn.bytes;
            crowded |= turn.crowded;
            if turn.full {
                return Ok(Polled::More);
            }
            if worked >= POLL_BYTES {
                break;
            }
        }
        let made_room = crowded && self.make_room();
        Ok(match () {
            () if worked > 0 || made_room => Polled::More,
            () if self.scan.is_none() && self.files.iter().all(|file| file.done) => Polled::Drained,
            () => Polled::Idle,
        })
    }
}
