//! Which commits are kept whole, and naming one where no writer is at work.

use super::{Claim, ClaimError, CommitWatch, Commits, CommitsEnded, ToCommitter, claim_store};
use crate::commit::{Beginning, Committer, InForce, SealedEpoch};
use crate::edge::SharedEdge;
use crate::log::{newest_root, read_root};
use crate::store::{SharedStore, StoreError};
use futures::channel::mpsc::unbounded;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_types::invariants::tagged;
use tidemill_types::{Epoch, Root, Tag};

/// A root of which everything is kept that reading its tables takes. An error: what to tell who asked.
pub async fn kept_root(store: &SharedStore, newest: &Root, epoch: Epoch) -> Result<Root, String> {
    if epoch > newest.epoch {
        return Err(format!("epoch {epoch} is not committed; the newest is {}", newest.epoch));
    }
    let kept = |epoch| epoch >= newest.log_from || tagged(newest, epoch);
    let gone = || {
        let from = newest.log_from;
        format!(
            "epoch {epoch} is no longer retained whole: the log begins at {from} (see the setting \
             store.retention, and the command `tag`)"
        )
    };
    if !kept(epoch) {
        return Err(gone());
    }
    let root = match epoch == newest.epoch {
        true => newest.clone(),
        false => read_root(&**store, epoch).await.map_err(|error| error.to_string())?,
    };
    if (needed_from(&root)..=epoch).all(kept) { Ok(root) } else { Err(gone()) }
}

/// The first root that reading a root's tables takes, apart from its publication.
pub(super) fn needed_from(root: &Root) -> Epoch {
    root.published.as_ref().map_or(0, |published| published.epoch + 1)
}

/// A writer of two commits takes no free name on trust: it looks before each, and holds up nobody who comes later.
const TRUSTS_US: u64 = 0;

/// Nobody who wants to know of commits.
struct Nobody;

impl CommitWatch for Nobody {
    fn committed(&self, _: &Root) {}
}

/// Claims a store at which no writer is at work, and names a commit, or lets a name go (`None`). The root that
/// does it.
///
/// # Errors
///
/// What to tell who asked.
pub async fn tag_alone(
    store: &SharedStore,
    edge: &SharedEdge,
    name: &str,
    epoch: Option<Epoch>,
) -> Result<Root, CommitsEnded> {
    let failed = |error: StoreError| error.to_string();
    let newest = newest_root(&**store, None)
        .await
        .map_err(failed)?
        .ok_or_else(|| "the store holds no commit yet".to_string())?;
    with_tag(store, &newest, name, epoch).await?;
    let in_force = |root: &Root| InForce {
        program: root.program.clone(),
        models: root.models.clone(),
        beginning: Beginning::default(),
        roll_back: None,
    };
    let start = in_force(&newest);
    let with = Claim { store, edge, in_force: &start, refused: &|_| None, idle_max_us: TRUSTS_US };
    let claimed = claim_store(with).await.map_err(|error: ClaimError| error.to_string())?;
    let claim = claimed.claim;
    let tags = with_tag(store, &claim, name, epoch).await?;
    let (told, messages) = unbounded();
    let (conductor, _events) = crossbeam_channel::unbounded();
    let (publisher, mut committed) = unbounded();
    let commits = Commits {
        store: store.clone(),
        edge: edge.clone(),
        conductor,
        publisher,
        sweeper: unbounded().0,
        abort: Arc::default(),
        watch: Arc::new(Nobody),
        standing: claimed.standing,
    };
    let sealed = SealedEpoch { epoch: claim.epoch + 1, ..SealedEpoch::default() };
    for message in [ToCommitter::Tags(tags), ToCommitter::Sealed(sealed)] {
        told.unbounded_send(message).map_err(|error| error.to_string())?;
    }
    drop(told);
    let committer = Committer::new(claim.clone(), in_force(&claim));
    commits.run(committer, messages).await?;
    match committed.try_recv() {
        Ok(super::ToPublisher::Committed(root)) => Ok(*root),
        _ => Err("the tag was not committed".to_string().into()),
    }
}

/// The tags of a root with one more, or one less.
async fn with_tag(
    store: &SharedStore,
    newest: &Root,
    name: &str,
    epoch: Option<Epoch>,
) -> Result<BTreeMap<String, Tag>, String> {
    let mut tags = newest.tags.clone();
    match epoch {
        None => drop(tags.remove(name).ok_or_else(|| no_such(name))?),
        Some(epoch) => {
            taken(&tags, name, epoch)?;
            let root = kept_root(store, newest, epoch).await?;
            tags.insert(name.to_string(), Tag { epoch, from: needed_from(&root) });
        }
    }
    Ok(tags)
}

/// Refuses a name that another commit has.
pub(super) fn taken(tags: &BTreeMap<String, Tag>, name: &str, epoch: Epoch) -> Result<(), String> {
    match tags.get(name) {
        Some(other) if other.epoch != epoch => {
            let taken = other.epoch;
            Err(format!("the tag {name} names epoch {taken}; delete it first, or choose another name"))
        }
        _ => Ok(()),
    }
}

pub(super) fn no_such(name: &str) -> String {
    format!("there is no tag {name}")
}
