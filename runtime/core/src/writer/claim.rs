//! The claim: a writer's first root, by which it shuts out every writer before it.
//!
//! The claim follows the newest root, repeats all but the generation, and is put under a name that must be
//! free. Where the name is taken, another writer was faster, and the claim is made anew on what is newest
//! then; so it holds in the end, whoever else commits meanwhile. Between the look and the put the name may
//! have been used and deleted, by a writer that keeps its commits for a short time only: so a claim counts
//! only once a second look says that nothing is newer.

use super::Standing;
use crate::commit::{self, InForce, Stamp};
use crate::edge::SharedEdge;
use crate::log::{newest_root, read_root};
use crate::store::{Created, SharedStore, StoreError};
use bytes::Bytes;
use std::time::Duration;
use tidemill_types::invariants::follows;
use tidemill_types::{Root, root_name};

/// Failures of the store in a row before a claim gives up.
const FAILURES_MAX: u32 = 20;
/// The pause after one. A start says soon what is wrong, while a run waits for its store.
const PAUSE: Duration = Duration::from_millis(100);

/// What a claim is made with.
pub struct Claim<'a> {
    /// The store.
    pub store: &'a SharedStore,
    /// Clock, randomness, waiting.
    pub edge: &'a SharedEdge,
    /// Program and models, for the first root of a store.
    pub in_force: &'a InForce,
    /// Why this writer may not go on from a root, if it may not.
    pub refused: &'a (dyn Fn(&Root) -> Option<String> + Sync),
    /// See [`super::idle_max_us`].
    pub idle_max_us: u64,
}

/// A store that is claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The newest root before the claim.
    pub before: Option<Root>,
    /// The claim.
    pub claim: Root,
    /// How sure the writer may be of it.
    pub standing: Standing,
}

/// A store could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// This writer may not go on from what is there.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Claims a store.
///
/// # Errors
///
/// When the writer is refused, or the store fails again and again.
pub async fn claim_store(with: Claim<'_>) -> Result<Claimed, ClaimError> {
    let mut failures = Failures(0);
    loop {
        match with.attempt(&mut failures).await {
            Ok(Some(claimed)) => return Ok(claimed),
            Ok(None) => {}
            Err(ClaimError::Store(error @ StoreError::Failed(_))) => failures.wait(error, with.edge).await?,
            Err(error) => return Err(error),
        }
    }
}

/// Failures of the store in one claim.
struct Failures(u32);

impl Failures {
    /// Lets a pause pass after a failure, unless there were too many.
    async fn wait(&mut self, error: StoreError, edge: &SharedEdge) -> Result<(), StoreError> {
        self.0 += 1;
        if self.0 >= FAILURES_MAX {
            return Err(error);
        }
        tracing::warn!(%error, failures = self.0, "the store could not be claimed; trying again");
        edge.sleep(PAUSE).await;
        Ok(())
    }
}

impl Claim<'_> {
    /// One claim on what is newest now; `None` if another writer was faster.
    async fn attempt(&self, failures: &mut Failures) -> Result<Option<Claimed>, ClaimError> {
        let mut standing = Standing::new(self.edge, self.idle_max_us);
        let before = newest_root(&**self.store, None).await?;
        if let Some(why) = before.as_ref().and_then(self.refused) {
            return Err(ClaimError::Refused(why));
        }
        let stamp = Stamp { trusts_ms: standing.trusts_ms(), ..self.edge.stamp() };
        let claim = commit::claim(before.as_ref(), self.store.location(), self.in_force, stamp);
        if let Some(before) = &before {
            follows(before, &claim).map_err(|broken| ClaimError::Refused(broken.to_string()))?;
        }
        if !self.put(&claim, failures).await? {
            return Ok(None);
        }
        match standing.look(&**self.store, self.edge, &claim).await? {
            None => Ok(Some(Claimed { before, claim, standing })),
            Some(_) => Ok(None),
        }
    }

    /// Whether the claim stands, or another root of its name. The same bytes are put until that is known: what
    /// an unclear answer left behind may still arrive.
    async fn put(&self, claim: &Root, failures: &mut Failures) -> Result<bool, StoreError> {
        let name = root_name(claim.epoch);
        let body = claim.to_bytes().map_err(|error| StoreError::Failed(error.to_string()))?;
        let body = Bytes::from(body);
        loop {
            let failed = match self.store.create(&name, body.clone()).await {
                Ok(Created::New) => return Ok(true),
                Err(error @ StoreError::Closed(_)) => return Err(error),
                answer => match read_root(&**self.store, claim.epoch).await {
                    Ok(found) => return Ok(found.nonce == claim.nonce),
                    Err(StoreError::NotFound { .. }) => match answer {
                        Ok(_) => continue,
                        Err(error) => error,
                    },
                    Err(error @ StoreError::Damaged(_)) => return Err(error),
                    Err(error) => error,
                },
            };
            failures.wait(failed, self.edge).await?;
        }
    }
}
