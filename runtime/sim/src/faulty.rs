//! A store whose answers get lost, by a seed.
//!
//! A write that fails *before* has not happened; one that fails *after* has, and only its answer is lost.
//! Whoever called cannot tell the two apart, which is the whole difficulty of a commit. Reads and lists may
//! fail too; a read never lies.

use async_trait::async_trait;
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use tidemill_core::store::{Created, ObjectInfo, SharedStore, Store, StoreError};

/// How often things go wrong, in calls of a thousand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Writes that do not happen.
    pub before: u32,
    /// Writes that happen and whose answer is lost.
    pub after: u32,
    /// Reads and lists that fail.
    pub reads: u32,
    /// A store that breaks its promise: a create replaces what is there. For tests of the tests.
    pub create_replaces: bool,
}

/// A store around another that loses answers.
#[derive(Debug)]
pub struct FaultyStore {
    inner: SharedStore,
    faults: Faults,
    chance: Mutex<ChaCha8Rng>,
}

impl FaultyStore {
    /// The faults of a seed around a store.
    pub fn seeded(inner: SharedStore, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    fn fails(&self, per_mille: u32, what: &str, name: &str) -> Result<(), StoreError> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        match chance.random_range(0..1000) < per_mille {
            true => Err(StoreError::Failed(format!("{what} {name}: no answer (simulated)"))),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.fails(self.faults.before, "put", name)?;
        self.inner.put(name, body).await?;
        self.fails(self.faults.after, "put", name)
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        self.fails(self.faults.before, "create", name)?;
        let created = match self.faults.create_replaces {
            true => self.inner.put(name, body).await.map(|()| Created::New)?,
            false => self.inner.create(name, body).await?,
        };
        self.fails(self.faults.after, "create", name)?;
        Ok(created)
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        self.fails(self.faults.reads, "get", name)?;
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.fails(self.faults.reads, "get", name)?;
        self.inner.get_range(name, range).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.fails(self.faults.reads, "list", folder)?;
        self.inner.list(folder).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.fails(self.faults.before, "delete", name)?;
        self.inner.delete(name).await?;
        self.fails(self.faults.after, "delete", name)
    }
}
