//! The bounded cache of bodies, by digest.
//!
//! A cache and nothing more: whatever is not in it is read back from its owner, the committed row. It
//! spares models and the publisher that way for what has just arrived.

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use std::sync::Arc;
use tidemill_types::Digest;

#[derive(Clone)]
struct ByLength;

impl Weighter<Digest, Bytes> for ByLength {
    fn weight(&self, _: &Digest, body: &Bytes) -> u64 {
        body.len() as u64 + 64
    }
}

/// A shared, bounded cache of bodies.
#[derive(Clone)]
pub struct BodyCache(Arc<Cache<Digest, Bytes, ByLength>>);

impl BodyCache {
    /// A cache that holds at most about `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        let items = (bytes_max / 4096).max(16) as usize;
        Self(Arc::new(Cache::with_weighter(items, bytes_max, ByLength)))
    }

    /// Keeps a body for a while.
    pub fn insert(&self, digest: Digest, body: Bytes) {
        self.0.insert(digest, body);
    }

    /// A body, if it is still here.
    pub fn get(&self, digest: Digest) -> Option<Bytes> {
        self.0.get(&digest)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.0.weight()
    }
}
