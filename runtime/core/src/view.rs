//! Views of the log: the lake and whatever else is made from committed epochs.
//!
//! A view follows the log at its own pace and knows how far it has come: no commit and no other view
//! waits for it.
//! [`Stored`] is the other direction: what a starting worker reads back.

use crate::store::StoreError;
use std::collections::BTreeSet;
use tidemill_types::{Cell, Digest, Epoch, Published, Root};

/// A view that roots can name: every table is at the same epoch in it.
pub trait View: Send {
    /// Takes in a committed root; its segments are in the store.
    fn committed(&mut self, root: &Root);
    /// The newest epoch with a change that is not published yet.
    fn unpublished(&self) -> Option<Epoch>;
    /// Brings every table to the newest epoch taken in and makes it durable. `None`: nothing changed
    /// since the last publication.
    fn publish(&mut self) -> Result<Option<Published>, ViewFailure>;
    /// A root has named this publication.
    fn named(&mut self, epoch: Epoch);
    /// What the last publication cost.
    fn cost(&self) -> Cost;
    /// The names of all objects that a publication is made of.
    fn objects(&self, published: &Published) -> Result<BTreeSet<String>, ViewFailure>;
    /// The names of objects that publication `older` is made of and `newer` is not.
    fn garbage(&self, older: &Published, newer: &Published) -> Result<Vec<String>, ViewFailure>;
    /// The folder in which all objects of the view stand.
    fn folder(&self) -> &str;
    /// The epoch that an object of the view was made for, and the generation of the writer that made it, by
    /// its name; `None` if the name does not tell.
    fn made_for(&self, name: &str) -> Option<(Epoch, u64)>;
    /// From now on publications list no snapshot of an epoch below this one.
    fn expire(&mut self, before: Epoch);
}

/// What a publication cost.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cost {
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Memory that the view holds between publications, in bytes.
    pub held_bytes: u64,
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

/// The rows of a table that are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Portion {
    /// Those whose keys lie in a share.
    Keys(Share),
    /// One of so many portions of which each row is in one. Which is up to whoever reads: whatever is quickest.
    Any(Share),
}

/// Takes the cells of a row; an error ends the reading.
pub type EachRow<'e> = &'e mut dyn FnMut(&[Cell<'_>]) -> Result<(), ViewError>;

/// The tables of one committed epoch, as a starting worker or a reader sees them.
pub trait Stored: Send + Sync {
    /// Hands out a portion of a table's rows, one by one and in no order. `columns` are places in ascending
    /// order; `None` is all. Texts come as handles: a body's length and digest, an
    /// extracted text's identity (`origin` is not restored).
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        portion: Portion,
        each: EachRow<'_>,
    ) -> Result<(), ViewError>;
}
