//! Segments' bytes: from memory when they were written a moment ago, else from the store.
//!
//! The views that tail the log want a segment just after this process wrote it. The cache keeps the
//! latest ones within a bound and forgets the oldest first; what is read from the store is not kept, so
//! that reading old epochs does not push out what was just written. Names are written once and for
//! ever, so a cached segment cannot be stale.

use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tidemill_core::store::{Store, StoreError};
use tidemill_types::{Digest, SegmentRef};

/// The bytes of recently written segments, shared by threads.
#[derive(Debug)]
pub struct SegmentCache {
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    segments: HashMap<String, Bytes>,
    oldest_first: VecDeque<String>,
    bytes: u64,
}

impl SegmentCache {
    /// Keeps at most `bytes_max` bytes; with 0 every read goes to the store.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a segment that was written, at the cost of the oldest ones. One that is over the bound by
    /// itself is not kept.
    pub fn insert(&self, name: &str, body: Bytes) {
        let size = body.len() as u64;
        let mut kept = self.kept();
        if size > self.bytes_max || kept.segments.contains_key(name) {
            return;
        }
        while kept.bytes + size > self.bytes_max {
            let Some(oldest) = kept.oldest_first.pop_front() else { break };
            let freed = kept.segments.remove(&oldest).map_or(0, |body| body.len() as u64);
            kept.bytes -= freed;
        }
        kept.bytes += size;
        kept.oldest_first.push_back(name.to_string());
        kept.segments.insert(name.to_string(), body);
    }

    /// How many bytes are kept now.
    pub fn bytes(&self) -> u64 {
        self.kept().bytes
    }

    /// The bytes of a segment that a root names.
    ///
    /// # Errors
    ///
    /// When the store fails, or the bytes are not those that were committed.
    pub async fn segment(&self, store: &dyn Store, segment: &SegmentRef) -> Result<Bytes, StoreError> {
        let kept = self.kept().segments.get(&segment.name).cloned();
        match kept {
            Some(body) => Ok(body),
            None => read_segment(store, segment).await,
        }
    }
}

/// Reads a segment that a root names from the store and checks its size and digest.
///
/// # Errors
///
/// When the store fails, or the bytes are not those that were committed.
pub async fn read_segment(store: &dyn Store, segment: &SegmentRef) -> Result<Bytes, StoreError> {
    let body = store.get(&segment.name).await?;
    let digest = Digest::of(&body).to_string();
    if body.len() as u64 != segment.bytes || digest != segment.digest {
        return Err(StoreError::Damaged(format!(
            "{}/{} is damaged: it has {} bytes with the digest {digest}, and {} bytes with the digest {} were \
             committed; restore it from a copy of the store",
            store.location(),
            segment.name,
            body.len(),
            segment.bytes,
            segment.digest
        )));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectStore;

    fn segment(name: &str, body: &[u8]) -> SegmentRef {
        SegmentRef {
            name: name.into(),
            worker: 0,
            bytes: body.len() as u64,
            digest: Digest::of(body).to_string(),
            tables: Default::default(),
            bodies: None,
        }
    }

    #[tokio::test]
    async fn the_oldest_segments_are_forgotten_first() {
        let store = ObjectStore::memory("segments-oldest");
        let cache = SegmentCache::new(10);
        for name in ["a", "b", "c"] {
            cache.insert(name, Bytes::from_static(b"1234"));
        }
        cache.insert("too large", Bytes::from_static(b"12345678901"));
        assert_eq!(cache.bytes(), 8);
        assert!(cache.segment(&store, &segment("a", b"1234")).await.is_err());
        assert_eq!(cache.segment(&store, &segment("b", b"1234")).await.unwrap(), "1234");
        assert_eq!(cache.segment(&store, &segment("c", b"1234")).await.unwrap(), "1234");
        assert!(cache.segment(&store, &segment("too large", b"")).await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_segment_is_refused_by_name() {
        let store = ObjectStore::memory("segments-damaged");
        let cache = SegmentCache::new(0);
        let good = segment("s/1", b"good");
        store.put("s/1", Bytes::from_static(b"good")).await.unwrap();
        assert_eq!(cache.segment(&store, &good).await.unwrap(), "good");
        store.put("s/1", Bytes::from_static(b"goof")).await.unwrap();
        let error = cache.segment(&store, &good).await.unwrap_err().to_string();
        assert!(error.starts_with("memory://segments-damaged/s/1 is damaged"), "{error}");
        store.put("s/1", Bytes::from_static(b"good and more")).await.unwrap();
        assert!(cache.segment(&store, &good).await.is_err());
    }
}
