//! Views of the log: the lake and whatever else is made from committed epochs.
//!
//! A view follows the log at its own pace and knows how far it has come: no commit and no other view
//! waits for it.
//! [`Stored`] is the other direction: what a starting worker reads back.

use crate::store::StoreError;
use tidemill_types::{Digest, Epoch, Published, Root, Value};

/// A view that roots can name: every table is at the same epoch in it.
pub trait View: Send {
    /// Takes in a committed root; its segments are in the store.
    fn committed(&mut self, root: &Root);
    /// Brings every table to the newest epoch taken in and makes it durable. `None`: nothing changed
    /// since the last publication.
    fn publish(&mut self) -> Result<Option<Published>, ViewFailure>;
    /// A root has named this publication.
    fn named(&mut self, epoch: Epoch);
}

/// A view could not be brought up to date, or not be read; what was published before stands.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ViewFailure {
    /// The store failed: it may be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something is wrong that trying again does not mend.
    #[error(transparent)]
    Broken(#[from] ViewError),
}

/// A view stopped; the message says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ViewError(pub String);

impl From<StoreError> for ViewError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// A share of the keys: those with `digest.low64() % of == number`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// From 0.
    pub number: usize,
    /// How many shares there are.
    pub of: usize,
}

impl Share {
    /// All keys.
    pub const ALL: Share = Share { number: 0, of: 1 };

    /// Whether a key belongs to it.
    pub fn holds(&self, key: Digest) -> bool {
        key.low64() % self.of as u64 == self.number as u64
    }
}

/// Takes a row; an error ends the reading.
pub type EachRow<'e> = &'e mut dyn FnMut(Vec<Value>) -> Result<(), ViewError>;

/// The tables of one committed epoch, as a starting worker or a reader sees them.
pub trait Stored: Send + Sync {
    /// Hands out the rows of a table whose keys lie in a share, one by one and in no order. `columns` are
    /// places in ascending order; `None` is all. Texts come as handles: a body's length and digest, an
    /// extracted text's identity (`origin` is not restored).
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        share: Share,
        each: EachRow<'_>,
    ) -> Result<(), ViewError>;
}
