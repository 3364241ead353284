//! Segments on their way to the store: encoded away from the threads of I/O, put, and put again until they
//! are durable.
//!
//! A segment has a name of its own (epoch, generation, worker, a unique part), so a put that is repeated
//! after an unclear answer can only write the same bytes again. A store that fails is asked again, with
//! growing pauses; nothing is lost meanwhile: the epoch stays open-ended, the sources pause.

use super::subtract::{difference, subtract};
use crate::edge::SharedEdge;
use crate::program::Program;
use crate::seal::{Upload, Uploaded};
use crate::segment::{Encoded, SegmentDraft, encode};
use crate::store::{SharedStore, StoreError};
use crate::view::{Portion, Share, Stored, ViewError};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_types::{Cell, Digest, Epoch, SegmentRef, TableSchema, Value, key_digest};

/// The pause after the first failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Who wants to know of segments.
pub trait UploadWatch: Send + Sync {
    /// A segment is durable; so many bytes of bodies are no longer pinned by it.
    fn durable(&self, name: &str, bytes: &Bytes, unpinned: u64);
}

/// Writes segments.
#[derive(Clone)]
pub struct Uploads {
    /// The store.
    pub store: SharedStore,
    /// Clock, randomness, waiting.
    pub edge: SharedEdge,
    /// The program's tables.
    pub schemas: Arc<[TableSchema]>,
    /// The program.
    pub program: Arc<dyn Program>,
    /// What is stored at the claim.
    pub stored: Arc<dyn Stored>,
    /// The writer's number.
    pub generation: u64,
    /// Workers of this run.
    pub workers: usize,
    /// The commit that this run goes back to, if it does.
    pub back: Option<Back>,
    /// Set when the run shall end at once: then nothing is tried again.
    pub abort: Arc<AtomicBool>,
    /// Who wants to know.
    pub watch: Arc<dyn UploadWatch>,
}

/// The commit that a run goes back to.
#[derive(Clone)]
pub struct Back {
    /// Its tables.
    pub tables: Arc<dyn Bodied>,
    /// Those of them that hold again as they are: source tables, words, rejects.
    pub restored: Arc<[String]>,
}

/// Stored tables whose bodies can be had.
pub trait Bodied: Stored {
    /// Hands out the bodies of rows of a source table or of words, `(key, body's digest)`, by their places in
    /// `wanted` and in no order.
    fn bodies(
        &self,
        table: &str,
        wanted: &[(Digest, Digest)],
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ViewError>;
}

impl Upload for Uploads {
    fn upload(&self, draft: SegmentDraft, recomputed: bool, done: Box<dyn FnOnce(Uploaded) + Send>) {
        let this = self.clone();
        self.edge.spawn(Box::pin(async move { done(this.write(draft, recomputed).await) }));
    }
}

impl Uploads {
    async fn write(self, draft: SegmentDraft, recomputed: bool) -> Uploaded {
        let (epoch, worker) = (draft.epoch, draft.worker);
        let pinned: u64 = draft.bodies.iter().map(|(_, body)| body.len() as u64).sum();
        let this = self.clone();
        let encoding = self.edge.computed(move || this.encode(draft, recomputed)).await;
        let encoded = encoding.ok_or("encoding a segment was cut off by an internal error")??;
        if encoded.is_empty() {
            return Ok(None);
        }
        let unique = self.edge.uuid().simple();
        let name = format!("segments/{epoch:020}-g{}-w{worker}-{unique}.arrows", self.generation);
        let digest = Digest::of(&encoded.bytes).to_string();
        self.put_until_durable(&name, encoded.bytes.clone()).await?;
        self.watch.durable(&name, &encoded.bytes, pinned);
        let bytes = encoded.bytes.len() as u64;
        Ok(Some(SegmentRef { name, worker, bytes, digest, tables: encoded.tables, bodies: encoded.bodies }))
    }

    fn encode(&self, mut draft: SegmentDraft, recomputed: bool) -> Result<Encoded, String> {
        keep_once(&mut draft.bodies);
        if recomputed {
            let share = Share { number: draft.worker, of: self.workers };
            let derived = |table: &str| self.program.is_derived(table);
            draft.tables = subtract(&self.schemas, draft.tables, &*self.stored, share, derived)?;
            if let Some(back) = &self.back {
                self.restore(&mut draft, back, share).map_err(|error| error.to_string())?;
            }
        }
        encode(&self.schemas, draft).map_err(|error| error.to_string())
    }

    /// Adds what leads from the present source tables, words and rejects to those of the commit that the run
    /// goes back to, with the bodies of the rows that come again.
    fn restore(&self, draft: &mut SegmentDraft, back: &Back, share: Share) -> Result<(), ViewError> {
        for (place, schema) in self.schemas.iter().enumerate() {
            if !back.restored.contains(&schema.name) {
                continue;
            }
            let mut old: Vec<(Vec<Value>, i64)> = Vec::new();
            back.tables.for_each_row(&schema.name, None, Portion::Keys(share), &mut |row| {
                old.push((row.iter().map(Cell::to_value).collect(), 1));
                Ok(())
            })?;
            let changes = difference(&schema.name, vec![Box::new(old)], &*self.stored, share)?;
            let bodies = changes.iter().filter(|(_, diff)| *diff > 0).flat_map(|(row, _)| {
                let key = key_digest(schema, row.iter().map(Value::cell));
                let body = |value: &Value| match value {
                    Value::Text(text) => Some((key, text.digest)),
                    _ => None,
                };
                row.iter().filter_map(body).collect::<Vec<_>>()
            });
            let wanted: Vec<(Digest, Digest)> = bodies.collect();
            let mut found = vec![None; wanted.len()];
            back.tables.bodies(&schema.name, &wanted, &mut |place, body| {
                found[place] = Some((wanted[place].1, Bytes::copy_from_slice(body)));
            })?;
            if let Some(missing) = found.iter().position(Option::is_none) {
                let (key, body) = wanted[missing];
                let table = &schema.name;
                return Err(ViewError(format!("the body {body} of {table}'s row {key} cannot be found")));
            }
            draft.bodies.extend(found.into_iter().flatten());
            draft.tables.push((place, Box::new(changes)));
        }
        keep_once(&mut draft.bodies);
        Ok(())
    }

    /// Puts an object; an unclear answer is put again. An error: the store is closed, or the run was aborted.
    async fn put_until_durable(&self, name: &str, body: Bytes) -> Result<(), String> {
        let mut pause = PAUSES.0;
        loop {
            match self.store.put(name, body.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ StoreError::Closed(_)) => return Err(error.to_string()),
                Err(error) if self.abort.load(Ordering::Relaxed) => return Err(error.to_string()),
                Err(error) => tracing::warn!(%error, "the store did not take a segment; trying again"),
            }
            self.edge.sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// A body that arrived more than once in an epoch stands in the segment once.
fn keep_once(bodies: &mut Vec<(Digest, Bytes)>) {
    let mut seen = HashSet::with_capacity(bodies.len());
    bodies.retain(|(digest, _)| seen.insert(*digest));
}

/// The epoch that a segment's name was made for.
pub fn segment_epoch(name: &str) -> Option<Epoch> {
    name.strip_prefix("segments/")?.get(..20)?.parse().ok()
}

/// The generation of the writer that made a segment, by its name.
pub fn segment_generation(name: &str) -> Option<u64> {
    name.strip_prefix("segments/")?.split('-').nth(1)?.strip_prefix('g')?.parse().ok()
}
