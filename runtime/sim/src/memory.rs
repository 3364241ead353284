//! A store in memory that keeps its promises: what a faulty one is put around.

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemill_core::store::{Created, ObjectInfo, Store, StoreError};

/// Objects by name.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> &str {
        "memory://simulated"
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.objects().insert(name.to_string(), body);
        Ok(())
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Created::Exists);
        }
        objects.insert(name.to_string(), body);
        Ok(Created::New)
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let missing =
            || StoreError::NotFound { name: name.to_string(), location: self.location().to_string() };
        self.objects().get(name).cloned().ok_or_else(missing)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let body = self.get(name).await?;
        let bounds = range.start as usize..range.end as usize;
        let outside = || StoreError::Failed(format!("{name} has no bytes {range:?}"));
        body.get(bounds.clone()).is_some().then(|| body.slice(bounds)).ok_or_else(outside)
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let info =
            |(name, body): (&String, &Bytes)| ObjectInfo { name: name.clone(), bytes: body.len() as u64 };
        Ok(self.objects().iter().filter(|(name, _)| name.starts_with(folder)).map(info).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects().remove(name);
        Ok(())
    }
}
