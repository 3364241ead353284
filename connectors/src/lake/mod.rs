//! The lake: every table of the log as an Iceberg v2 table that other tools read without Tidemill.
//!
//! ```text
//!  roots + segments ──> fold ──> net change per key ──> data files, positional deletes ─┐
//!  (the log)             │                                                              ├─> a publication
//!                        └──> texts made again from bodies                manifests ────┘   (named by a root)
//!
//!  a publication + the log's tail ──> Snapshot: all tables at any retained epoch
//! ```
//!
//! [`LakePublisher`] is the writer. It knows the file and position of every row that it has published,
//! so that a retraction becomes the deletion of one position. It is right because of three rules:
//!
//! 1. *Nothing that was written is changed.* Every object has a fresh name; a publication that no root
//!    names is invisible, and one that failed midway leaves the publisher's memory as it was.
//! 2. *A fold is a difference.* What a key holds in the lake is what its first retraction names; what it
//!    shall hold is the last row that came. A change that does not fit is an error, never a guess.
//! 3. *A publication is whole.* It names every table, changed or not, and all at the same epoch.
//!
//! [`Snapshot`] is the reader: the newest publication at or before an epoch, changed by the segments
//! after it. [`Changelog`] reads what commits changed, one after the other. [`verify`] checks that what a root names is there and fits together.
//!
//! All of it blocks, on a thread that is not an async runtime's: I/O goes through the handle of one.

mod changelog;
mod checkpoint;
mod commit;
mod compact;
mod data_file;
mod deletes;
mod draft;
mod files;
mod fold;
mod index;
mod io;
mod layout;
mod lookup;
mod publisher;
mod schema;
mod segments;
mod snapshot;
mod texts;
mod verify;

pub use changelog::{Changelog, ChangelogOptions};
pub use layout::{epoch_of, generation_of};
pub use publisher::{LakeOptions, LakePublisher, PublishStats, published_objects};
pub use segments::{BodyCache, SegmentBytes, stored_segments};
pub use snapshot::{Snapshot, SnapshotOptions, TableFiles, TextForm};
pub use verify::{Verified, verify, verify_all};

use parquet::errors::ParquetError;
use tidemill_core::columns::ColumnError;
use tidemill_core::segment::SegmentError;
use tidemill_core::store::StoreError;
use tidemill_core::view::{ViewError, ViewFailure};

/// The tables of a source stream, as places in the program's list of tables. A stream's place in its
/// list is its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamTable {
    /// `raw.<stream>`: the current row of each key, with its body.
    pub raw: usize,
    /// `_state.<stream>`: the words of all partitions; the body of a word that is not current.
    pub words: usize,
}

/// The lake could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A segment could not be decoded.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A row does not fit its schema.
    #[error("table {table}: {source}")]
    Column {
        /// The table.
        table: String,
        /// What is wrong.
        source: ColumnError,
    },
    /// An object is not what it should be.
    #[error("{object} cannot be used: {problem}; restore it from a copy of the store, or start a new store")]
    Object {
        /// The object, or what is being made.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The log changes a row that is not there, or adds a second row of one key.
    #[error("the log contradicts table {table} at epoch {epoch}: {problem}; the flow broke its contract")]
    Contract {
        /// The table.
        table: String,
        /// The epoch of the change.
        epoch: u64,
        /// What does not fit, with the row.
        problem: String,
    },
    /// A text could not be made.
    #[error("a text of table {table} could not be made: {problem}")]
    Text {
        /// The table that needs it.
        table: String,
        /// What went wrong.
        problem: String,
    },
    /// The caller asked for something that is not there.
    #[error("{0}")]
    Refused(String),
}

impl From<LakeError> for ViewError {
    fn from(error: LakeError) -> Self {
        Self(error.to_string())
    }
}

impl From<LakeError> for ViewFailure {
    fn from(error: LakeError) -> Self {
        match error {
            LakeError::Store(error @ StoreError::Failed(_)) => Self::Store(error),
            error => Self::Broken(error.into()),
        }
    }
}

/// Turns an error of reading a Parquet object into one of the store, if it was the store that failed.
fn unreadable(object: &str) -> impl FnOnce(ParquetError) -> LakeError + '_ {
    move |error| match error {
        ParquetError::External(source) => match source.downcast::<StoreError>() {
            Ok(error) => LakeError::Store(*error),
            Err(source) => unusable(object)(source),
        },
        error => unusable(object)(error),
    }
}

/// Turns any error about an object into [`LakeError::Object`].
fn unusable<E: std::fmt::Display>(object: &str) -> impl FnOnce(E) -> LakeError + '_ {
    move |error| LakeError::Object { object: object.to_string(), problem: error.to_string() }
}
