//! The committer's task: carries out what the sans-IO [`Committer`] decides.

use super::clock::{Stopwatch, nonce, now_rfc3339};
use super::gauges::Gauges;
use super::start::StoredAtStart;
use bytes::Bytes;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill_connectors::store::log::{newest_root, read_hint, read_root, write_hint};
use tidemill_core::commit::{Action, Committer, Fenced, PutAnswer, SealedEpoch, Stamp};
use tidemill_core::conductor::ToConductor;
use tidemill_core::store::{Created, SharedStore, StoreError};
use tidemill_types::invariants::follows;
use tidemill_types::{Epoch, Published, Root, root_name};
use tokio::sync::mpsc::UnboundedReceiver;

/// What the committer is told. Bounded by the epochs in flight and one publication.
#[derive(Debug)]
pub(super) enum ToCommitter {
    Sealed(SealedEpoch),
    Published(Published),
    Dropped(Vec<String>, Epoch),
}

/// Everything that a commit is told to.
pub(super) struct Commits {
    pub(super) store: SharedStore,
    pub(super) conductor: Sender<ToConductor>,
    pub(super) publisher: Sender<super::publishing::ToPublisher>,
    pub(super) abort: Arc<AtomicBool>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stored: Arc<StoredAtStart>,
    pub(super) stopwatch: Stopwatch,
    /// When the store last answered, microseconds of the stopwatch.
    pub(super) heard_at: AtomicU64,
    /// See [`idle_max_us`].
    pub(super) idle_max_us: u64,
}

/// After so many microseconds without a put, a writer first checks that no root came after its own: a
/// name that a successor used may have been deleted since, and would look free. Nothing is deleted that
/// is younger than the retention.
pub(super) fn idle_max_us(retention: Duration) -> u64 {
    (retention / 2).min(Duration::from_secs(60)).as_micros() as u64
}

pub(super) fn stamp() -> Stamp {
    Stamp { committed_at: now_rfc3339(), nonce: nonce() }
}

impl Commits {
    /// Commits until the channel closes. An error: another writer owns the store.
    pub(super) async fn run(
        self,
        mut committer: Committer,
        mut told: UnboundedReceiver<ToCommitter>,
    ) -> Result<(), String> {
        while let Some(message) = told.recv().await {
            match message {
                ToCommitter::Sealed(epoch) => committer.sealed(epoch),
                ToCommitter::Published(published) => committer.published(published),
                ToCommitter::Dropped(names, log_from) => committer.drop_objects(names, log_from),
            }
            self.carry_out(&mut committer).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, committer: &mut Committer) -> Result<(), String> {
        let mut pause = Duration::from_millis(20);
        loop {
            match committer.next(stamp) {
                Action::Wait => return Ok(()),
                Action::Put(root) => {
                    follows(committer.newest(), &root).map_err(|broken| broken.to_string())?;
                    self.look_up(&root).await?;
                    let answer = self.put(&root).await?;
                    if let Some(root) = committer.put_answered(answer).cloned() {
                        self.committed(root).await;
                        pause = Duration::from_millis(20);
                    }
                }
                Action::ReadBack(epoch) => {
                    let found = match read_root(&*self.store, epoch).await {
                        Ok(root) => Some(root),
                        Err(StoreError::NotFound { .. }) => None,
                        // Ours could be read: another's stands there, perhaps of a later release.
                        Err(error @ StoreError::Damaged(_)) => return Err(error.to_string()),
                        Err(error) if self.abort.load(Ordering::Relaxed) => return Err(error.to_string()),
                        Err(error) => {
                            tracing::warn!(%error, epoch, "a root cannot be read back; trying again");
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_secs(5));
                            continue;
                        }
                    };
                    let settled = committer.read_back(found.as_ref()).map_err(|fenced| fenced.to_string())?;
                    match settled.cloned() {
                        Some(root) => self.committed(root).await,
                        None => {
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_secs(5));
                        }
                    }
                }
            }
        }
    }

    /// Checks, if nothing was put for long, that no root came after this writer's own. An error: one is
    /// there, of another writer.
    async fn look_up(&self, root: &Root) -> Result<(), String> {
        let now = (self.stopwatch)();
        if now.saturating_sub(self.heard_at.swap(now, Ordering::Relaxed)) < self.idle_max_us {
            return Ok(());
        }
        let newest = loop {
            match self.newest_root(root.epoch - 1).await {
                Ok(newest) => break newest,
                Err(error) if self.abort.load(Ordering::Relaxed) => return Err(error.to_string()),
                Err(error) => tracing::warn!(%error, "a newer root cannot be looked for; trying again"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        match newest {
            Some(newest) if newest.generation > root.generation => {
                Err(Fenced { epoch: newest.epoch, theirs: newest.generation, ours: root.generation }
                    .to_string())
            }
            _ => Ok(()),
        }
    }

    /// From the stored hint where that is ahead of what this writer has seen: roots that were deleted
    /// since would look like the end of the log, and the hint is always ahead of them.
    async fn newest_root(&self, seen: Epoch) -> Result<Option<Root>, StoreError> {
        let hint = read_hint(&*self.store).await?;
        newest_root(&*self.store, Some(hint.map_or(seen, |hint| hint.max(seen)))).await
    }

    async fn put(&self, root: &Root) -> Result<PutAnswer, String> {
        let body = serde_json::to_vec(root).map_err(|error| error.to_string())?;
        match self.store.create(&root_name(root.epoch), Bytes::from(body)).await {
            Ok(Created::New) => Ok(PutAnswer::New),
            Ok(Created::Exists) => Ok(PutAnswer::Unclear),
            Err(error @ StoreError::Closed(_)) => Err(error.to_string()),
            Err(error) if self.abort.load(Ordering::Relaxed) => Err(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, epoch = root.epoch, "the answer to a commit is unclear; reading back");
                Ok(PutAnswer::Unclear)
            }
        }
    }

    async fn committed(&self, root: Root) {
        let (epoch, dropped) = (root.epoch, root.dropped.clone());
        self.stored.release();
        self.gauges.committed(&root, (self.stopwatch)());
        // Whoever is gone by now no longer needs to know.
        let _ = self.publisher.send(super::publishing::ToPublisher::Committed(Box::new(root)));
        let _ = self.conductor.send(ToConductor::Committed(epoch));
        if epoch.is_multiple_of(64) {
            // The hint only saves a listing.
            let _ = write_hint(&*self.store, epoch).await;
        }
        // The hint goes ahead of what is deleted: it must never lead to a root below a hole.
        if !dropped.is_empty() && write_hint(&*self.store, epoch).await.is_ok() {
            delete_all(&self.store, &dropped).await;
        }
    }
}

/// Deletes the objects that a root, committed by now, gave up.
pub(super) async fn delete_all(store: &SharedStore, names: &[String]) {
    let deleted = futures::future::join_all(names.iter().map(|name| store.delete(name))).await;
    for error in deleted.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "an object that is needed no more could not be deleted");
    }
}
