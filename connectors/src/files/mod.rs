//! The files source: a folder of `.jsonl`, `.jsonl.gz` and `.jsonl.zst` files, each one partition.
//!
//! ```text
//!  FilesFactory ──open──> FilesSource (one a worker: the files whose names hash to it)
//!                           │  looks for new files, then gives each file a turn, round and round
//!                           └─ Tail ─┬─ Plain    position = byte, tailed as the file grows
//!                                    └─ Packed   position = decompressed byte, decoder kept while it waits
//! ```
//!
//! Each line is a record, and its number is the offset. What makes resuming right: a cursor holds, beside
//! the byte position, digests of the first and the last 4 KiB below it (of a compressed file that changed
//! since, at a start, of all that was read), and they are compared before every turn that reads. So a file
//! that was cut short or replaced by another ends the run, and the message names it. What was overwritten
//! in place between the two windows of a plain file is not seen: comparing all of it would read every file
//! whole at each turn.
//!
//! With `drain`, the files and their sizes are taken once, when the factory is made, so that all
//! workers agree on what "everything" is. Otherwise files are tailed and new ones looked for. Memory
//! is bounded: no file is held open, no line over the limit is kept, and at most [`DECODERS_MAX`]
//! decoders live at once in each share.

mod codec;
mod mark;
mod packed;
mod plain;
mod scan;
mod share;
mod tail;
mod trouble;

#[cfg(test)]
mod tests;

pub use scan::{Found, stream_of};
pub use share::{DECODERS_MAX, FilesSource};

use scan::Scan;
use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tail::{Given, Tail};
use tidemill_core::source::{RawValue, Source, SourceError, SourceFactory, StreamSpec};
use tidemill_types::{Cursors, Positions};
use trouble::Trouble;

/// A clock that never goes back: the time since some fixed moment.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a files source is made of.
#[derive(Clone)]
pub struct FilesOptions {
    /// The folder; its subfolders are not read.
    pub folder: PathBuf,
    /// The program's streams, in its order.
    pub streams: Vec<StreamSpec>,
    /// Read only what is there when the factory is made.
    pub drain: bool,
    /// How often new files are looked for.
    pub rescan_interval: Duration,
    /// How long a compressed file that is complete must rest before its last line may lack its LF.
    pub settle: Duration,
    /// For the two above.
    pub clock: Clock,
}

impl FilesOptions {
    /// Tails a folder, with the machine's clock.
    pub fn new(folder: impl Into<PathBuf>, streams: Vec<StreamSpec>) -> Self {
        Self {
            folder: folder.into(),
            streams,
            drain: false,
            rescan_interval: Duration::from_millis(250),
            settle: Duration::from_secs(2),
            clock: machine_clock(),
        }
    }
}

impl fmt::Debug for FilesOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesOptions")
            .field("folder", &self.folder)
            .field("streams", &self.streams)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: it paces looks at a folder and decides nothing else"
)]
fn machine_clock() -> Clock {
    let start = std::time::Instant::now();
    Arc::new(move || start.elapsed())
}

/// The files that are drained, with the sizes up to which they are read.
type Ends = BTreeMap<String, u64>;

/// Opens the shares of a folder.
#[derive(Clone, Debug)]
pub struct FilesFactory {
    options: Arc<FilesOptions>,
    ends: Option<Arc<Ends>>,
}

impl FilesFactory {
    /// Looks at the folder, and with `drain` takes the files' sizes.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn new(options: FilesOptions) -> Result<Self, SourceError> {
        let failed = |error: std::io::Error| {
            let folder = options.folder.display();
            SourceError(format!("cannot read the input folder {folder}: {error}; give an existing folder"))
        };
        let ends = if options.drain {
            let found = Scan::new(true).look(&options).map_err(failed)?;
            Some(Arc::new(found.into_iter().map(|file| (file.name, file.bytes)).collect()))
        } else {
            fs::read_dir(&options.folder).map_err(failed)?;
            None
        };
        Ok(Self { options: Arc::new(options), ends })
    }

    /// With `drain`, how many bytes of files there were in all.
    pub fn bytes_to_drain(&self) -> Option<u64> {
        self.ends.as_ref().map(|ends| ends.values().sum())
    }
}

impl FilesFactory {
    /// That a file stands as it did at a position, as far as that is told without decompressing it.
    fn stands(&self, name: &str, next: u64, cursor: Option<&serde_json::Value>) -> Result<(), SourceError> {
        let path = self.options.folder.join(name);
        let stands = Tail::open(name, next, cursor).and_then(|mut tail| tail.stands(&path));
        stands.map_err(|trouble| match trouble {
            Trouble::Gone => SourceError(format!(
                "{} is gone, and of what was read of it a part would have to be read again; put it back first",
                path.display()
            )),
            trouble => trouble.explain(&path, next),
        })
    }
}

impl SourceFactory for FilesFactory {
    fn holds(
        &self,
        earlier: (&Positions, &Cursors),
        later: (&Positions, &Cursors),
    ) -> Result<(), SourceError> {
        for (stream, files) in later.0 {
            for (name, next) in files {
                let at =
                    |of: &Positions| of.get(stream).and_then(|files| files.get(name)).copied().unwrap_or(0);
                let cursor = |of: &'_ Cursors| of.get(stream).and_then(|files| files.get(name)).cloned();
                // Partitions of other sources have other names.
                if stream_of(name, &self.options.streams).is_none() || at(earlier.0) >= *next {
                    continue;
                }
                self.stands(name, at(earlier.0), cursor(earlier.1).as_ref())?;
                self.stands(name, *next, cursor(later.1).as_ref())?;
            }
        }
        Ok(())
    }

    fn open(
        &self,
        worker: usize,
        workers: usize,
        positions: &Positions,
        cursors: &Cursors,
    ) -> Result<Box<dyn Source>, SourceError> {
        let ends = self.ends.as_deref();
        let source = FilesSource::open(Arc::clone(&self.options), ends, worker, workers, positions, cursors)?;
        Ok(Box::new(source))
    }
}

/// The files of a folder that belong to a stream, by name; each that is ignored is logged.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn files_of(folder: &Path, streams: Vec<StreamSpec>) -> Result<Vec<Found>, SourceError> {
    let options = FilesOptions::new(folder, streams);
    let failed = |error| {
        let folder = folder.display();
        SourceError(format!("cannot read the input folder {folder}: {error}; give an existing folder"))
    };
    Scan::new(true).look(&options).map_err(failed)
}

/// Reads one file from its beginning to its end, as with `drain`, whatever its name begins with; the
/// end of the name says how it is compressed. `each` is given every record's line number and value.
///
/// # Errors
///
/// When the file cannot be read, is corrupt or incomplete.
pub fn read_file(
    path: &Path,
    value_bytes_max: u64,
    each: &mut dyn FnMut(u64, RawValue<'_>),
) -> Result<(), SourceError> {
    read_file_while(path, value_bytes_max, &mut |line, value| {
        each(line, value);
        true
    })
}

/// Likewise, as long as `each` says that it goes on.
///
/// # Errors
///
/// When the file cannot be read, is corrupt or incomplete.
pub fn read_file_while(
    path: &Path,
    value_bytes_max: u64,
    each: &mut dyn FnMut(u64, RawValue<'_>) -> bool,
) -> Result<(), SourceError> {
    let failed = |error| SourceError(format!("cannot read {}: {error}", path.display()));
    let end = fs::metadata(path).map_err(failed)?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut tail = Tail::open(&name, 0, None).map_err(|trouble| trouble.explain(path, 0))?;
    let given = Given {
        path,
        end: Some(end),
        value_bytes_max,
        now: Duration::ZERO,
        settle: Duration::ZERO,
        room: true,
    };
    let mut buffer = Vec::new();
    loop {
        let turn = tail.turn(&given, &mut buffer, each);
        let turn = turn.map_err(|trouble| trouble.explain(path, tail.next()))?;
        if turn.rests || turn.full {
            return Ok(());
        }
    }
}
