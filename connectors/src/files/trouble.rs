//! What can be wrong with a file, and how a person is told.

use std::{
    io::{self, ErrorKind},
    path::Path,
};
use tidemill_core::source::SourceError;

/// Why a turn on a file did not end well.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing has that name (any more).
    Gone,
    /// The operating system's error.
    Io(io::Error),
    /// What stood below the position does not stand there any more; in what way.
    Replaced(String),
    /// The compressed data contradict themselves; in what way.
    Corrupt(String),
    /// Compressed data end in the middle, and no more will be waited for.
    Cut,
    /// The position that was stored for the file cannot be gone on from; why.
    Cursor(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::NotFound { Self::Gone } else { Self::Io(error) }
    }
}

impl Trouble {
    /// The message: what happened, to which file, and what to do.
    pub(super) fn explain(self, path: &Path, next: u64) -> SourceError {
        let path = path.display();
        SourceError(match self {
            Self::Gone => format!(
                "{path} was there at the start and is gone before it was read to its end; put it back, or start \
                 again without it"
            ),
            Self::Io(error) => {
                format!("cannot read {path}: {error}; make it readable, or move it out of the folder")
            }
            Self::Replaced(what) => format!(
                "{path} was truncated or replaced below its position (line {next}): {what}. Put the file back as it \
                 was, or give the new content a new name and remove this file, which deletes no rows; then start \
                 again"
            ),
            Self::Corrupt(what) => format!(
                "{path} is corrupt after line {next}: {what}. Put a sound copy in its place, or move it out of the \
                 folder; then start again"
            ),
            Self::Cut => format!(
                "{path} is incomplete: its compressed data end in the middle, after line {next}. Finish copying it, \
                 or move it out of the folder; then start again"
            ),
            Self::Cursor(what) => format!(
                "the store's position of {path} (line {next}) cannot be gone on from: {what}; the store was written \
                 by another source or another release"
            ),
        })
    }
}
