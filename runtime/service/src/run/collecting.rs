//! What may be deleted, and when: a step after each commit.
//!
//! The newest root, however old, and those that are younger than the retention must stay readable. To
//! read one takes its publication, and the roots and segments from that publication's epoch up to the
//! root itself. So the collector looks for the oldest such root `r`, and everything below
//! `r.published.epoch` may go: roots, segments, and files of publications that a later one does not
//! share. A step lists a bounded number of names; a root lists them as dropped, and when it is committed
//! they are deleted.
//!
//! Orphans are objects that no root names: a segment or a lake file of a lower generation whose epoch
//! is above what that generation's last root could name. They are looked for once, after the first commit.

use super::clock::parse_ms;
use super::uploading::segment_epoch;
use std::collections::VecDeque;
use tidemill_connectors::lake::{LakeError, LakePublisher, epoch_of, generation_of};
use tidemill_connectors::store::log::read_root;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_types::{Epoch, Root, root_name};
use tokio::runtime::Handle;

/// Roots that one step looks at.
const ROOTS_A_STEP: usize = 512;
/// Names that one root lists as dropped.
const NAMES_A_ROOT: usize = 512;

pub(super) struct Collector {
    pub(super) store: SharedStore,
    pub(super) runtime: Handle,
    pub(super) retention_ms: i64,
    /// Milliseconds between two looks at the log.
    pub(super) every_ms: i64,
    /// The oldest root whose names do not wait to be listed, or are listed.
    pub(super) log_from: Epoch,
    /// The oldest root that is kept: all names of older ones have been listed.
    pub(super) listed_from: Epoch,
    /// The oldest root that may be younger than the retention.
    pub(super) young: Epoch,
    /// Names that wait to be listed.
    pub(super) waiting: VecDeque<String>,
    /// The newest root before our claim, until what its writers left has been looked for.
    pub(super) orphans_of: Option<Option<Root>>,
    pub(super) looked_at: i64,
}

/// Names to list as dropped, and the oldest root that is kept from then on.
pub(super) type Dropped = (Vec<String>, Epoch);

impl Collector {
    /// A root, or `None` if it is gone: a collector that was cut off has deleted it, and before it all
    /// that it alone named.
    fn root(&self, epoch: Epoch) -> Result<Option<Root>, String> {
        match self.runtime.block_on(read_root(&*self.store, epoch)) {
            Ok(root) => Ok(Some(root)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One step after `newest` was committed. An error: the store did not answer; the next look goes on.
    pub(super) fn step(
        &mut self,
        lake: &LakePublisher,
        newest: &Root,
        now: i64,
    ) -> Result<Option<Dropped>, String> {
        if now - self.looked_at >= self.every_ms {
            self.looked_at = now;
            if let Some(before) = &self.orphans_of {
                let found = orphans(&self.store, before.as_ref(), newest.generation);
                self.waiting.extend(self.runtime.block_on(found)?);
                self.orphans_of = None;
            }
            self.look(lake, newest, now)?;
        }
        let count = self.waiting.len().min(NAMES_A_ROOT);
        let names: Vec<String> = self.waiting.drain(..count).collect();
        if self.waiting.is_empty() {
            self.listed_from = self.log_from;
        }
        Ok((!names.is_empty()).then_some((names, self.listed_from)))
    }

    /// Finds the oldest root that is younger than the retention, and lists what is below its
    /// publication.
    fn look(&mut self, lake: &LakePublisher, newest: &Root, now: i64) -> Result<(), String> {
        let mut last = None;
        for _ in 0..ROOTS_A_STEP {
            if self.young >= newest.epoch {
                last = Some(newest.clone());
                break;
            }
            let root = self.root(self.young)?;
            let committed = root.as_ref().and_then(|root| parse_ms(&root.committed_at));
            last = root.or(last);
            if committed.is_some_and(|at| now - at < self.retention_ms) {
                break;
            }
            self.young += 1;
        }
        // Where the look ended early, more is old and the next one goes on. Publications never go back, so
        // what is below that of the last root looked at is needed by none that is kept.
        let keep_from = last.and_then(|root| root.published).map_or(self.log_from, |p| p.epoch);
        self.drop_below(lake, keep_from)
    }

    fn drop_below(&mut self, lake: &LakePublisher, keep_from: Epoch) -> Result<(), String> {
        let until = keep_from.min(self.log_from + ROOTS_A_STEP as Epoch);
        while self.log_from < until {
            if let Some(root) = self.root(self.log_from)? {
                let next = self.root(self.log_from + 1)?.and_then(|next| next.published);
                if let (Some(older), Some(newer)) = (&root.published, &next)
                    && older.epoch != newer.epoch
                {
                    match lake.garbage(older, newer) {
                        Ok(names) => self.waiting.extend(names),
                        Err(LakeError::Store(error @ StoreError::Failed(_))) => return Err(error.to_string()),
                        // A collector that was cut off has deleted a part; the rest stays behind.
                        Err(error) => {
                            tracing::warn!(%error, epoch = older.epoch, "a publication cannot be collected")
                        }
                    }
                }
                self.waiting.extend(root.segments.into_iter().map(|segment| segment.name));
                self.waiting.push_back(root_name(self.log_from));
            }
            self.log_from += 1;
        }
        Ok(())
    }
}

/// Objects of lower generations that no root names: what writers left that are gone. `before` is the
/// newest root before our claim.
async fn orphans(store: &SharedStore, before: Option<&Root>, ours: u64) -> Result<Vec<String>, String> {
    let last = before.map(|root| root.epoch);
    let published = before.and_then(|root| root.published.as_ref()).map(|p| p.epoch);
    let mut names = Vec::new();
    for object in store.list("segments/").await.map_err(|error| error.to_string())? {
        let generation = object.name.split("-g").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
        let orphan = segment_epoch(&object.name) > last && generation.is_some_and(|g: u64| g < ours);
        names.extend(orphan.then_some(object.name));
    }
    for object in store.list("tables/").await.map_err(|error| error.to_string())? {
        let (epoch, generation) = (epoch_of(&object.name), generation_of(&object.name));
        let orphan = epoch.is_some() && epoch > published && generation.is_some_and(|g| g < ours);
        names.extend(orphan.then_some(object.name));
    }
    Ok(names)
}

/// A collector that begins at the oldest root that is kept.
pub(super) fn collector(
    store: SharedStore,
    runtime: Handle,
    retention: std::time::Duration,
    claim: &Root,
    before: Option<&Root>,
) -> Collector {
    let retention_ms = retention.as_millis().min(i64::MAX as u128) as i64;
    Collector {
        store,
        runtime,
        retention_ms,
        every_ms: (retention_ms / 100).clamp(1000, 10_000),
        log_from: claim.log_from,
        listed_from: claim.log_from,
        young: claim.log_from,
        waiting: VecDeque::new(),
        orphans_of: Some(before.cloned()),
        looked_at: 0,
    }
}
