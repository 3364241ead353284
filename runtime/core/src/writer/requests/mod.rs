//! What people ask of a running writer, through the store: tags and rollbacks.
//!
//! ```text
//!  whoever asks                                                 the writer
//!   wants it            ── requests/<id>.json ───────────────>  looks, and takes it up at once
//!   sees it taken up    <─ requests/<id>-answer.json: by w ───  and says so again and again
//!   wants it of w       ── requests/<id>.json: of w ─────────>  does it, commits
//!   tells the person    <─ requests/<id>-answer.json: done ───┘
//! ```
//!
//! A store has one writer, and only a writer may commit. So whoever wants something of it leaves a request
//! where it looks now and then ([`Ask`]); the writer has a [`Desk`] for them from its claim on, whatever else it
//! is at.
//!
//! Why nothing is lost and nothing is done that nobody wants, whoever dies when, and whatever the clocks say:
//!
//! - A writer does only what is wanted *of it*, by its name, and that is said only after it took the request up.
//!   So whoever never saw that knows that nobody will do it, and may claim the store. And what somebody left
//!   behind who has gone is not done: nobody says whose it shall be.
//! - A writer that has taken a request up says so at each look, with a number that grows. So one that is busy is
//!   told from one that is gone, by the asker's clock alone.
//! - A request that an earlier writer took up and did not answer is taken up anew by the next. That one has
//!   claimed the store, so the earlier one commits nothing more; whether it had done it before is what the roots
//!   say ([`fulfilled`]).
//! - What has been answered, or was never wanted of anybody, is deleted when it was seen for long.

mod ask;
mod desk;

pub use ask::Ask;
pub use desk::{Desk, Taken};

use crate::log::read_root;
use crate::store::{SharedStore, Store, StoreError};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemill_types::{Epoch, Root, root_name};

/// Where requests and answers stand.
const FOLDER: &str = "requests/";
/// How the names of answers end.
const ANSWER: &str = "-answer.json";
/// Roots that are read at once.
const READS_MAX: usize = 16;

/// Something that a writer is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Keep a commit for ever under a name.
    Tag {
        /// The name.
        name: String,
        /// The commit.
        epoch: Epoch,
    },
    /// Keep it no longer.
    Untag {
        /// The name.
        name: String,
    },
    /// Go back to a commit.
    RollBack {
        /// The commit.
        to: Epoch,
    },
}

impl Wanted {
    /// What is said when a commit has done it.
    pub fn done(&self, by: Epoch) -> String {
        match self {
            Wanted::Tag { name, epoch } => format!("epoch {epoch} is kept as {name}"),
            Wanted::Untag { name } => format!("the tag {name} is gone"),
            Wanted::RollBack { to } => format!("commit {by} went back to epoch {to}"),
        }
    }
}

/// A request as it stands in the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Unique.
    pub id: String,
    /// What is wanted.
    pub wanted: Wanted,
    /// The newest commit when it was asked for.
    pub since: Epoch,
    /// The writer of which it is wanted, once one has taken it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Whether it was wanted of an earlier writer, which may have done it before it gave it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// What came of it: what was done, or why it was not.
pub type Answer = Result<String, String>;

/// What a writer says of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sign {
    /// This writer has taken it up, and has said so as many times before.
    Taken { by: String, beat: u64 },
    /// It is done, or refused.
    Answered(Answer),
}

fn request_name(id: &str) -> String {
    format!("{FOLDER}{id}.json")
}

fn answer_name(id: &str) -> String {
    format!("{FOLDER}{id}{ANSWER}")
}

/// How often a writer looks for requests.
pub fn look_every(store: &SharedStore) -> Duration {
    if store.is_local() { Duration::from_millis(500) } else { Duration::from_secs(5) }
}

/// How long a request waits for a writer to take it up.
pub fn taken_up_within(store: &SharedStore) -> Duration {
    look_every(store) * 10
}

/// Puts an object of the protocol.
async fn put(store: &dyn Store, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
    let body = serde_json::to_vec(value).map_err(|error| StoreError::Failed(error.to_string()))?;
    store.put(name, Bytes::from(body)).await
}

/// An object's bytes, if it is there.
async fn find(store: &dyn Store, name: &str) -> Result<Option<Bytes>, StoreError> {
    match store.get(name).await {
        Ok(body) => Ok(Some(body)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a writer says of a request, if any does. What cannot be read was said by another release.
async fn sign(store: &dyn Store, id: &str) -> Result<Option<Sign>, StoreError> {
    Ok(find(store, &answer_name(id)).await?.and_then(|body| serde_json::from_slice(&body).ok()))
}

/// What the log says of a request that a writer may have carried out without an answer: what was done, or that
/// it cannot be told. `None`: it was not done.
///
/// A rollback is taken for done when any commit since it was asked for went back to there: whoever asked saw
/// none of these.
///
/// # Errors
///
/// When the store fails.
pub async fn fulfilled(
    store: &dyn Store,
    newest: &Root,
    request: &Request,
) -> Result<Option<Answer>, StoreError> {
    let done = |by| Some(Ok(request.wanted.done(by)));
    match &request.wanted {
        Wanted::Tag { name, epoch } => {
            let there = newest.tags.get(name).is_some_and(|tag| tag.epoch == *epoch);
            Ok(if there { done(newest.epoch) } else { None })
        }
        Wanted::Untag { name } => Ok(if newest.tags.contains_key(name) { None } else { done(newest.epoch) }),
        Wanted::RollBack { to } => match went_back(store, newest, request.since, *to).await {
            Ok(by) => Ok(by.and_then(done)),
            Err(StoreError::NotFound { .. }) => Ok(Some(Err(cannot_tell(*to)))),
            Err(error) => Err(error),
        },
    }
}

fn cannot_tell(to: Epoch) -> String {
    format!(
        "a writer that has ended was to go back to epoch {to}, and the log no longer reaches to when that was, so it \
         cannot be told whether it did: look whether the tables are as you want them, and ask again if not"
    )
}

/// The commit after `since` that went back to an epoch, if one did. [`StoreError::NotFound`]: some of these
/// commits are not kept any more.
async fn went_back(
    store: &dyn Store,
    newest: &Root,
    since: Epoch,
    to: Epoch,
) -> Result<Option<Epoch>, StoreError> {
    let from = since + 1;
    if from < newest.log_from {
        let location = store.location().to_string();
        return Err(StoreError::NotFound { name: root_name(from), location });
    }
    let mut roots =
        stream::iter(from..=newest.epoch).map(|epoch| read_root(store, epoch)).buffered(READS_MAX);
    while let Some(root) = roots.next().await {
        let root = root?;
        if root.rolled_back_to == Some(to) {
            return Ok(Some(root.epoch));
        }
    }
    Ok(None)
}
