//! The newest commit, for whoever follows the log beside the lake.
//!
//! A slot and no queue: a follower that is slow misses roots, and reads those that it missed from the store.
//! So it can delay nobody, and nothing gathers while it is away.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tidemill_types::{Epoch, Root};

/// The newest commit of a run.
#[derive(Default)]
pub struct Newest {
    root: Mutex<Option<Arc<Root>>>,
    told: Condvar,
}

impl Newest {
    /// A root is committed.
    pub fn set(&self, root: &Root) {
        let root = Arc::new(root.clone());
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
        self.told.notify_all();
    }

    /// The newest root, as soon as it is later than an epoch, but at the end of the time in any case.
    pub fn after(&self, epoch: Epoch, time: Duration) -> Option<Arc<Root>> {
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |root: &mut Option<Arc<Root>>| root.as_ref().is_none_or(|root| root.epoch <= epoch);
        let (root, _) = self.told.wait_timeout_while(root, time, old).unwrap_or_else(PoisonError::into_inner);
        root.clone()
    }
}
