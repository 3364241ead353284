//! The object store as the runtime needs it: durable puts, conditional create, ranges, lists.
//!
//! A put or a create that has returned `Ok` survives a power cut (on local disk: file and folder are
//! synced). An `Err` of either means *unclear*: the write may or may not have happened.

use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, ops::Range, sync::Arc};

/// Whether a conditional create made the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The name was free and now holds these bytes.
    New,
    /// The name was taken; nothing was written.
    Exists,
}

/// One object of a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectInfo {
    /// Relative to the store.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What went wrong at the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that name.
    #[error("{name} is not in the store {location}")]
    NotFound {
        /// The object.
        name: String,
        /// The store.
        location: String,
    },
    /// An object is there and is not what was written: asking again does not mend it.
    #[error("{0}")]
    Damaged(String),
    /// The store takes nothing until a person has done something, which the message says: a full disk, a
    /// file system that is only read, a missing permission. Asking again does not mend it.
    #[error("{0}")]
    Closed(String),
    /// Anything else; the message names the operation, the object and the store.
    #[error("{0}")]
    Failed(String),
}

/// An object store. Names are relative, separated by `/`.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The absolute address, such as `file:///data/store` or `s3://bucket/prefix`, without a trailing
    /// slash. An object's address is this, a slash, and its name.
    fn location(&self) -> &str;
    /// Whether the store is this machine's disk or memory (epochs and publications may then be short).
    fn is_local(&self) -> bool;
    /// Writes an object, replacing one of that name.
    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError>;
    /// Writes an object if the name is free.
    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError>;
    /// Reads an object.
    async fn get(&self, name: &str) -> Result<Bytes, StoreError>;
    /// Reads a byte range of an object.
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError>;
    /// The objects whose names begin with a folder's name (ended by `/`), at any depth, in any order.
    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError>;
    /// Those of [`Store::list`] whose names come after a name, which stands in that folder.
    async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let listed = self.list(folder).await?;
        Ok(listed.into_iter().filter(|object| object.name.as_str() > after).collect())
    }
    /// Deletes an object; one that is not there is no error.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// A shared store.
pub type SharedStore = Arc<dyn Store>;
