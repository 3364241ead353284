//! What people ask of a running writer, through the store: tags and rollbacks.
//!
//! ```text
//!  tidemill tag ── requests/<id>.json ──> the writer looks, does it, commits
//!               <─ requests/<id>-answer.json ──┘
//! ```
//!
//! A store has one writer, and only a writer may commit. So whoever wants something of it leaves a request
//! where it looks now and then. A request says until when it is wanted: one that is found later is thrown
//! away. Where nobody answers in time, no writer is at work, and whoever asked may claim the store.

use crate::edge::SharedEdge;
use crate::store::{SharedStore, StoreError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemill_types::Epoch;

/// Where requests and answers stand.
const FOLDER: &str = "requests/";
/// How the names of answers end.
const ANSWER: &str = "-answer.json";

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

/// A request as it stands in the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Unique.
    pub id: String,
    /// What is wanted.
    pub wanted: Wanted,
    /// Until when, milliseconds since 1970.
    pub until_ms: i64,
}

/// What came of it: what was done, or why it was not.
pub type Answer = Result<String, String>;

fn request_name(id: &str) -> String {
    format!("{FOLDER}{id}.json")
}

fn answer_name(id: &str) -> String {
    format!("{FOLDER}{id}{ANSWER}")
}

fn json(value: &impl Serialize) -> Result<Bytes, StoreError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| StoreError::Failed(error.to_string()))
}

/// How often a writer looks for requests.
pub fn look_every(store: &SharedStore) -> Duration {
    if store.is_local() { Duration::from_millis(500) } else { Duration::from_secs(5) }
}

/// How long a request waits for a writer to answer.
pub fn answered_within(store: &SharedStore) -> Duration {
    look_every(store) * 10
}

/// Asks the writer that is at work. `None`: nobody answered.
///
/// # Errors
///
/// When the store fails.
pub async fn ask(
    store: &SharedStore,
    edge: &SharedEdge,
    wanted: Wanted,
    waiting: &(dyn Fn() + Sync),
) -> Result<Option<Answer>, StoreError> {
    let wait = answered_within(store);
    let until_ms = edge.now_ms() + wait.as_millis() as i64;
    let id = edge.uuid().to_string();
    let request = Request { id: id.clone(), wanted, until_ms };
    store.put(&request_name(&id), json(&request)?).await?;
    let mut taken_up = false;
    loop {
        match store.get(&answer_name(&id)).await {
            Ok(body) => {
                let answer: Option<Answer> = serde_json::from_slice(&body).ok();
                // An answer that is empty says that the writer has begun.
                let Some(answer) = answer else {
                    taken_up = true;
                    waiting();
                    edge.sleep(look_every(store)).await;
                    continue;
                };
                store.delete(&request_name(&id)).await?;
                store.delete(&answer_name(&id)).await?;
                return Ok(Some(answer));
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        if !taken_up && edge.now_ms() > until_ms {
            store.delete(&request_name(&id)).await?;
            return Ok(None);
        }
        waiting();
        edge.sleep(look_every(store) / 2).await;
    }
}

/// Requests that nobody has answered; those that nobody waits for any more are thrown away.
///
/// # Errors
///
/// When the store fails.
pub async fn open_requests(store: &SharedStore, edge: &SharedEdge) -> Result<Vec<Request>, StoreError> {
    let listed = store.list(FOLDER).await?;
    let mut open = Vec::new();
    for object in &listed {
        if object.name.ends_with(ANSWER) {
            continue;
        }
        let body = match store.get(&object.name).await {
            Ok(body) => body,
            Err(StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        let request: Option<Request> = serde_json::from_slice(&body).ok();
        let answered = |id: &str| listed.iter().any(|other| other.name == answer_name(id));
        match request {
            Some(request) if answered(&request.id) => {}
            Some(request) if request.until_ms >= edge.now_ms() => open.push(request),
            _ => store.delete(&object.name).await?,
        }
    }
    Ok(open)
}

/// Says that a request has been taken up; whoever asked waits on.
///
/// # Errors
///
/// When the store fails.
pub async fn take_up(store: &SharedStore, request: &Request) -> Result<(), StoreError> {
    store.put(&answer_name(&request.id), Bytes::from_static(b"\n")).await
}

/// Says what came of a request.
///
/// # Errors
///
/// When the store fails.
pub async fn answer(store: &SharedStore, request: &Request, answer: &Answer) -> Result<(), StoreError> {
    store.put(&answer_name(&request.id), json(answer)?).await
}
