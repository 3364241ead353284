//! Finding and reading roots.
//!
//! The roots of the log stand under contiguous epochs, from the oldest that is kept to the newest, so
//! the newest is found from any root of that run by galloping: `h+1, h+2, h+4, ...` until one is
//! missing, then by bisection. Existence below the gap and absence above it make that exact.
//!
//! ```text
//!   kept:      [ 40 ........................ 77 ]
//!   hint 48:        ^48 49 50 52 56 64       | 80 missing -> bisect (64, 80) -> 77
//! ```
//!
//! The hint is an object that a writer renews now and then: an epoch and the nonce of its root. It is never
//! believed: the root that it names must be there and have that nonce. So neither a writer that slept and
//! lowers the hint nor a root that such a writer left in a hole below the run can lead anyone astray.
//! Without a usable hint the catalog is listed, which is always right.
//!
//! A root that somebody removed ends the run too early. So whoever comes anew also asks what stands behind the
//! end: roots that do although the next one should be there, or a hint, which a writer wrote for a root that
//! it was sure of, say that roots are missing. Then nothing is read or written as if they had never been.

use crate::store::{Store, StoreError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use tidemill_types::invariants::follows;
use tidemill_types::{Digest, Epoch, FORMAT, Root, root_epoch, root_name};

/// The object that holds the hint: an epoch as decimal digits, the nonce of its root, and the beginning of the digest
/// of these two, with spaces between.
pub const HINT: &str = "catalog/_hint";

/// How many roots are read at once.
const READS_MAX: usize = 16;

/// The fields that are looked at before the rest is believed.
#[derive(Deserialize)]
struct Head {
    format: serde_json::Value,
}

/// A root that somebody has seen in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its nonce.
    pub nonce: String,
}

impl Seen {
    /// This root.
    pub fn of(root: &Root) -> Self {
        Self { epoch: root.epoch, nonce: root.nonce.clone() }
    }

    /// The hint, and whether it is sure to be what was written; older ones do not say.
    fn parse(text: &[u8]) -> Option<(Self, bool)> {
        let mut parts = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let (epoch, nonce, check) = (parts.next()?, parts.next()?, parts.next());
        let seen = Self { epoch: epoch.parse().ok()?, nonce: nonce.to_string() };
        match check {
            Some(check) if parts.next().is_none() && check == seen.check() => Some((seen, true)),
            Some(_) => None,
            None => Some((seen, false)),
        }
    }

    fn check(&self) -> String {
        Digest::of(format!("{} {}", self.epoch, self.nonce).as_bytes()).to_string()[..8].to_string()
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.epoch, self.nonce, self.check())
    }
}

/// The newest root, or `None` in an empty store. `seen` is a root that the caller has seen in the log;
/// without one the stored hint is used, and roots that are missing are found.
///
/// # Errors
///
/// When the store fails, or the newest root cannot be read (see [`read_root`]); [`StoreError::Damaged`] when roots of
/// the log are missing.
pub async fn newest_root(store: &dyn Store, seen: Option<&Seen>) -> Result<Option<Root>, StoreError> {
    if seen.is_some() {
        return run_end(store, seen).await;
    }
    let hint = stored_hint(store).await?;
    let mut newest = run_end(store, hint.as_ref().map(|(seen, _)| seen)).await?;
    while let Some(root) = newest.take() {
        match beyond(store, &root).await? {
            Beyond::Nothing => {
                newest = Some(root);
                break;
            }
            // Where commits come all the time there is always one more.
            Beyond::Newer(root) => {
                newest = Some(*root);
                break;
            }
            Beyond::Moved => newest = run_end(store, None).await?,
        }
    }
    match hint {
        Some((hint, true)) if newest.as_ref().is_none_or(|newest| newest.epoch < hint.epoch) => {
            let there =
                newest.map_or("none is there".to_string(), |root| format!("the last is {}", root.epoch));
            Err(StoreError::Damaged(format!(
                "{}/{HINT} says that root {} was committed, and {there}: the roots after it are missing; restore them \
                 from a copy of the store, or, to go on without these commits, delete {HINT}",
                store.location(),
                hint.epoch
            )))
        }
        _ => Ok(newest),
    }
}

/// What stands behind the root at which a run ends.
enum Beyond {
    Nothing,
    /// The log has gone on since.
    Newer(Box<Root>),
    /// It has gone on so far that the root may be gone.
    Moved,
}

/// Looks behind the end of a run for roots that should not be there.
async fn beyond(store: &dyn Store, end: &Root) -> Result<Beyond, StoreError> {
    let listed = store.list_after("catalog/", &root_name(end.epoch)).await?;
    let Some(highest) = listed.iter().filter_map(|object| root_epoch(&object.name)).max() else {
        return Ok(Beyond::Nothing);
    };
    let next = end.epoch + 1;
    let goes_on = find(store, next).await?.is_some();
    // A list may show what is gone.
    let Some(body) = find(store, highest).await? else {
        return Ok(if goes_on { Beyond::Moved } else { Beyond::Nothing });
    };
    // Found after the next root was looked for: if its log begins no later, that root was not given up.
    let Some(newest) = newest_from(store, highest, body).await? else { return Ok(Beyond::Moved) };
    if !goes_on && newest.log_from <= next {
        return Err(StoreError::Damaged(format!(
            "{}/{} is missing, and the log goes on after it to root {}; restore it from a copy of the store",
            store.location(),
            root_name(next),
            newest.epoch
        )));
    }
    Ok(Beyond::Newer(Box::new(newest)))
}

/// How often in a row a root that is listed may be found missing.
const MISSED_MAX: u32 = 1000;

/// The root at which the run ends that a root seen in it belongs to; without one, the run that a list shows.
async fn run_end(store: &dyn Store, seen: Option<&Seen>) -> Result<Option<Root>, StoreError> {
    if let Some(hint) = seen
        && let Some(body) = find(store, hint.epoch).await?
        && parse(store, hint.epoch, &body).is_ok_and(|root| root.nonce == hint.nonce)
        && let Some(newest) = newest_from(store, hint.epoch, body).await?
    {
        return Ok(Some(newest));
    }
    // A root that is listed may be deleted before it is read, but only if there are newer ones.
    let mut missed = (None, 0);
    loop {
        let listed = epochs(store).await?.last().copied();
        // A list may not show yet what was made a moment ago; before there is a hint, that is the beginning.
        let body = find(store, listed.unwrap_or(0)).await?;
        match (body, listed) {
            (Some(body), _) => {
                if let Some(newest) = newest_from(store, listed.unwrap_or(0), body).await? {
                    return Ok(Some(newest));
                }
            }
            (None, None) => return Ok(None),
            (None, Some(epoch)) => {
                missed = (listed, if missed.0 == listed { missed.1 + 1 } else { 1 });
                if missed.1 == MISSED_MAX {
                    let (name, location) = (root_name(epoch), store.location());
                    return Err(StoreError::Failed(format!(
                        "{location} lists {name} as its last root, and says again and again that it is not there"
                    )));
                }
            }
        }
    }
}

/// The last root of the run that a root belongs to; `None` if the run's beginning was deleted past it.
///
/// Roots are deleted in ascending order. So if the last one is still there after its successor was found
/// missing, the successor had not been deleted: it had not been made.
async fn newest_from(store: &dyn Store, epoch: Epoch, body: Bytes) -> Result<Option<Root>, StoreError> {
    let (epoch, body) = gallop(store, epoch, body).await?;
    match find(store, epoch).await? {
        Some(again) if again == body => parse(store, epoch, &body).map(Some),
        _ => Ok(None),
    }
}

/// From a root that is there to the last of its run.
async fn gallop(store: &dyn Store, epoch: Epoch, body: Bytes) -> Result<(Epoch, Bytes), StoreError> {
    let mut there = (epoch, body);
    let mut step = 1;
    let mut missing = loop {
        let ahead = there.0.saturating_add(step);
        match find(store, ahead).await? {
            Some(body) => there = (ahead, body),
            None => break ahead,
        }
        step *= 2;
    };
    while missing - there.0 > 1 {
        let middle = there.0 + (missing - there.0) / 2;
        match find(store, middle).await? {
            Some(body) => there = (middle, body),
            None => missing = middle,
        }
    }
    Ok(there)
}

async fn find(store: &dyn Store, epoch: Epoch) -> Result<Option<Bytes>, StoreError> {
    match store.get(&root_name(epoch)).await {
        Ok(body) => Ok(Some(body)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The root of an epoch.
///
/// # Errors
///
/// [`StoreError::NotFound`] when it is not there. When it is no root, is of another epoch than its
/// name says, or has a format that this build does not read, the message says so and names it.
pub async fn read_root(store: &dyn Store, epoch: Epoch) -> Result<Root, StoreError> {
    parse(store, epoch, &store.get(&root_name(epoch)).await?)
}

fn parse(store: &dyn Store, epoch: Epoch, body: &[u8]) -> Result<Root, StoreError> {
    let failed =
        |what: String| StoreError::Damaged(format!("{}/{} {what}", store.location(), root_name(epoch)));
    let damaged = |error: serde_json::Error| {
        failed(format!("is not a root: {error}; the store is damaged: restore it from a copy"))
    };
    let head: Head = serde_json::from_slice(body).map_err(damaged)?;
    if Root::is_whole(body) == Some(false) {
        return Err(failed(
            "is not what was written: its bytes do not have the digest at its end; restore it from a copy of the \
             store"
                .to_string(),
        ));
    }
    if head.format.as_u64() != Some(u64::from(FORMAT)) {
        let format = head.format;
        return Err(failed(format!(
            "has the format {format}, and this build reads format {FORMAT} only; use the release that wrote it"
        )));
    }
    let root: Root = serde_json::from_slice(body).map_err(damaged)?;
    if root.epoch != epoch {
        return Err(failed(format!(
            "holds the root of epoch {}; the store is damaged: restore it from a copy",
            root.epoch
        )));
    }
    Ok(root)
}

/// The roots of a range of epochs, in order.
///
/// # Errors
///
/// As [`read_root`], for the first that cannot be read.
pub async fn roots(store: &dyn Store, range: RangeInclusive<Epoch>) -> Result<Vec<Root>, StoreError> {
    stream::iter(range).map(|epoch| read_root(store, epoch)).buffered(READS_MAX).try_collect().await
}

/// All epochs of which a root is there, ascending, by listing. What stands below a hole is not part of
/// the log.
///
/// # Errors
///
/// When the store fails.
pub async fn epochs(store: &dyn Store) -> Result<Vec<Epoch>, StoreError> {
    let mut epochs: Vec<_> =
        store.list("catalog/").await?.iter().filter_map(|object| root_epoch(&object.name)).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// The epochs of the log: from the highest root down to the first gap; `None` in an empty store.
///
/// # Errors
///
/// When the store fails.
pub async fn log_range(store: &dyn Store) -> Result<Option<RangeInclusive<Epoch>>, StoreError> {
    let epochs = epochs(store).await?;
    let Some(&newest) = epochs.last() else { return Ok(None) };
    let run = epochs.iter().rev().zip(0..).take_while(|(epoch, back)| **epoch + back == newest).count();
    Ok(Some(epochs[epochs.len() - run]..=newest))
}

/// The oldest epoch of the log (see [`log_range`]).
///
/// # Errors
///
/// When the store fails.
pub async fn log_start(store: &dyn Store) -> Result<Option<Epoch>, StoreError> {
    Ok(log_range(store).await?.map(|range| *range.start()))
}

/// The stored hint, if there is one that can be read.
///
/// # Errors
///
/// When the store fails.
pub async fn read_hint(store: &dyn Store) -> Result<Option<Seen>, StoreError> {
    Ok(stored_hint(store).await?.map(|(seen, _)| seen))
}

/// The stored hint, and whether it is sure to be what was written.
async fn stored_hint(store: &dyn Store) -> Result<Option<(Seen, bool)>, StoreError> {
    match store.get(HINT).await {
        Ok(body) => Ok(Seen::parse(&body)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renews the hint with a root that the caller knows to be in the log; does not lower it.
/// Now and then is enough: an old hint costs readers a few more probes.
///
/// # Errors
///
/// When the store fails; nothing depends on the hint.
pub async fn write_hint(store: &dyn Store, seen: &Seen) -> Result<(), StoreError> {
    if read_hint(store).await?.is_some_and(|stored| stored.epoch >= seen.epoch) {
        return Ok(());
    }
    store.put(HINT, Bytes::from(seen.text())).await
}

/// What is wrong with the log that a newest root speaks of, each problem with its object: roots that are missing,
/// that are not what was written, or that may not follow each other; and a hint that leads nowhere. Gives the
/// roots that can be read, too. All of the log is read.
///
/// # Errors
///
/// When the store cannot be asked.
pub async fn verify(store: &dyn Store, newest: &Root) -> Result<(Vec<String>, Vec<Root>), StoreError> {
    let (mut problems, mut good) = (Vec::new(), Vec::new());
    let mut wanted: BTreeSet<Epoch> = (newest.log_from..=newest.epoch).collect();
    wanted.extend(newest.tags.values().flat_map(|tag| tag.from.min(tag.epoch)..=tag.epoch));
    let read = |epoch| async move { (epoch, read_root(store, epoch).await) };
    let mut roots = stream::iter(wanted).map(read).buffered(READS_MAX);
    let mut previous: Option<Root> = None;
    while let Some((epoch, root)) = roots.next().await {
        let root = match root {
            Ok(root) => root,
            Err(StoreError::NotFound { .. }) => {
                problems.push(format!(
                    "{} is missing, and the log goes on after it; restore it from a copy of the store",
                    root_name(epoch)
                ));
                continue;
            }
            Err(StoreError::Damaged(what)) => {
                problems.push(what);
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(previous) = previous.filter(|previous| previous.epoch + 1 == epoch)
            && let Err(broken) = follows(&previous, &root)
        {
            problems.push(format!("{}: {broken}; restore it from a copy of the store", root_name(epoch)));
        }
        previous = Some(root.clone());
        good.push(root);
    }
    if !hint_leads(store, newest, &good).await? {
        problems.push(format!(
            "{HINT} is not what a writer wrote; nothing is lost by it: delete it, a run writes it anew"
        ));
    }
    Ok((problems, good))
}

/// Whether the hint, if there is one, names a root that is there: one of these, or a later one.
async fn hint_leads(store: &dyn Store, newest: &Root, roots: &[Root]) -> Result<bool, StoreError> {
    let found = match store.get(HINT).await {
        Ok(body) => Seen::parse(&body),
        Err(StoreError::NotFound { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    let Some((hint, is_sure)) = found else { return Ok(false) };
    if is_sure && hint.epoch < newest.log_from {
        // It is renewed after the commit that gives up the root that it names.
        return Ok(true);
    }
    if roots.last().is_none_or(|last| last.epoch >= hint.epoch) {
        return Ok(roots.iter().any(|root| Seen::of(root) == hint));
    }
    // Beside a run the hint may be renewed while roots are read.
    match read_root(store, hint.epoch).await {
        Ok(root) => Ok(root.nonce == hint.nonce),
        Err(StoreError::NotFound { .. } | StoreError::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
