//! Segments on their way to the store: encoded on the blocking pool, put, and retried until they are
//! durable.
//!
//! A segment has a name of its own (epoch, generation, worker, a unique part), so a put that is repeated
//! after an unclear answer can only write the same bytes again. A store that fails is asked again, with
//! growing pauses; nothing is lost meanwhile: the epoch stays open-ended, the sources pause.

use super::gauges::Gauges;
use super::recompute::subtract;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_connectors::store::SegmentCache;
use tidemill_core::program::Program;
use tidemill_core::seal::{Upload, Uploaded};
use tidemill_core::segment::{Encoded, SegmentDraft, encode};
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::{Share, Stored};
use tidemill_types::{Digest, Epoch, SegmentRef, TableSchema};
use tokio::runtime::Handle;

/// Writes segments.
#[derive(Clone)]
pub(super) struct Uploader {
    pub(super) runtime: Handle,
    pub(super) store: SharedStore,
    pub(super) segments: Arc<SegmentCache>,
    pub(super) schemas: Arc<[TableSchema]>,
    pub(super) program: Arc<dyn Program>,
    pub(super) stored: Arc<dyn Stored>,
    pub(super) generation: u64,
    pub(super) workers: usize,
    pub(super) abort: Arc<AtomicBool>,
    pub(super) gauges: Arc<Gauges>,
}

impl Upload for Uploader {
    fn upload(&self, draft: SegmentDraft, recomputed: bool, done: Box<dyn FnOnce(Uploaded) + Send>) {
        let uploader = self.clone();
        self.runtime.spawn(async move { done(uploader.write(draft, recomputed).await) });
    }
}

impl Uploader {
    async fn write(self, draft: SegmentDraft, recomputed: bool) -> Uploaded {
        let (epoch, worker) = (draft.epoch, draft.worker);
        let pinned: u64 = draft.bodies.iter().map(|(_, body)| body.len() as u64).sum();
        let this = self.clone();
        let encoding = tokio::task::spawn_blocking(move || this.encode(draft, recomputed));
        let encoded = encoding.await.map_err(|error| format!("encoding a segment: {error}"))??;
        if encoded.is_empty() {
            return Ok(None);
        }
        let unique = super::clock::uuid().simple();
        let name = format!("segments/{epoch:020}-g{}-w{worker}-{unique}.arrows", self.generation);
        let digest = Digest::of(&encoded.bytes).to_string();
        put_until_durable(&self.store, &name, encoded.bytes.clone(), &self.abort).await?;
        self.segments.insert(&name, encoded.bytes.clone());
        self.gauges.segment(encoded.bytes.len() as u64, pinned);
        let bytes = encoded.bytes.len() as u64;
        Ok(Some(SegmentRef { name, worker, bytes, digest, tables: encoded.tables, bodies: encoded.bodies }))
    }

    fn encode(&self, mut draft: SegmentDraft, recomputed: bool) -> Result<Encoded, String> {
        keep_once(&mut draft.bodies);
        if recomputed {
            let share = Share { number: draft.worker, of: self.workers };
            let derived = |table: &str| self.program.is_derived(table);
            draft.tables = subtract(&self.schemas, draft.tables, &*self.stored, share, derived)?;
        }
        encode(&self.schemas, draft).map_err(|error| error.to_string())
    }
}

/// A body that arrived more than once in an epoch stands in the segment once.
fn keep_once(bodies: &mut Vec<(Digest, Bytes)>) {
    let mut seen = HashMap::with_capacity(bodies.len());
    bodies.retain(|(digest, _)| seen.insert(*digest, ()).is_none());
}

/// Puts an object; an unclear answer is put again. An error: the store is closed, or the run was aborted.
pub(super) async fn put_until_durable(
    store: &SharedStore,
    name: &str,
    body: Bytes,
    abort: &AtomicBool,
) -> Result<(), String> {
    let mut pause = Duration::from_millis(20);
    loop {
        match store.put(name, body.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ StoreError::Closed(_)) => return Err(error.to_string()),
            Err(error) if abort.load(Ordering::Relaxed) => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, "the store did not take a segment; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// The epoch that a segment's name was made for.
pub fn segment_epoch(name: &str) -> Option<Epoch> {
    name.strip_prefix("segments/")?.get(..20)?.parse().ok()
}
