//! Deletes what committed roots gave up, beside the commits.
//!
//! The hint goes ahead of what is deleted, so that it leads nobody below the log. Roots go last and in
//! ascending order, each only when the one before it is gone: so a reader that finds a root and then none
//! after it, and then the root again, has found the newest (see [`crate::log`]). Other objects go in any
//! order; one that cannot be deleted is found again by the collector as an orphan.

use crate::edge::SharedEdge;
use crate::log::{Seen, write_hint};
use crate::store::{SharedStore, StoreError};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_types::{Root, root_epoch};

/// Deletions under way at a time.
const AT_ONCE: usize = 16;
/// The pause after the first failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Deletes what it is told of; see the module.
pub struct Sweeper {
    /// The store.
    pub store: SharedStore,
    /// Clock, randomness, waiting.
    pub edge: SharedEdge,
    /// Roots that are committed and gave something up. Each holds a bounded number of names.
    pub told: UnboundedReceiver<Root>,
    /// Set when the run shall end at once.
    pub abort: Arc<AtomicBool>,
}

impl Sweeper {
    /// Deletes until the channel closes or the run is to end.
    pub async fn run(mut self) {
        while let Some(root) = self.told.next().await {
            let mut pause = PAUSES.0;
            while let Err(error) = sweep(&self.store, &root).await {
                if self.abort.load(Ordering::Relaxed) {
                    return;
                }
                tracing::warn!(%error, "what is needed no more cannot be deleted; trying again");
                self.edge.sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn sweep(store: &SharedStore, root: &Root) -> Result<(), StoreError> {
    write_hint(&**store, &Seen::of(root)).await?;
    delete_all(store, &root.dropped).await
}

/// Deletes objects that a committed root gave up, roots last and in ascending order.
///
/// # Errors
///
/// The first failure; what comes after it in that order is still there.
pub async fn delete_all(store: &SharedStore, names: &[String]) -> Result<(), StoreError> {
    let (mut roots, others): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| root_epoch(name).is_some());
    let delete = |name: String| async move { store.delete(&name).await };
    let mut deleted = stream::iter(others).map(delete).buffer_unordered(AT_ONCE);
    while let Some(deleted) = deleted.next().await {
        deleted?;
    }
    roots.sort();
    for root in roots {
        store.delete(&root).await?;
    }
    Ok(())
}
