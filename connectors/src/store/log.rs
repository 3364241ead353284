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
//! The hint is an object that a writer renews now and then. It is never believed: the root that it
//! names must be there, and a hint is never lowered, so that a writer which slept cannot lead readers
//! to a root that was left in a hole below the run. Without a usable hint the catalog is listed, which
//! is always right.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use std::ops::RangeInclusive;
use tidemill_core::store::{Store, StoreError};
use tidemill_types::{Epoch, FORMAT, Root, root_epoch, root_name};

/// The object that holds the hint: an epoch as decimal digits.
pub const HINT: &str = "catalog/_hint";

/// How many roots are read at once.
const READS_MAX: usize = 16;

/// The fields that are looked at before the rest is believed.
#[derive(Deserialize)]
struct Head {
    format: serde_json::Value,
}

/// The newest root, or `None` in an empty store. `hint` is an epoch whose root the caller has seen;
/// without one the stored hint is used.
///
/// # Errors
///
/// When the store fails, or the newest root cannot be read (see [`read_root`]).
pub async fn newest_root(store: &dyn Store, hint: Option<Epoch>) -> Result<Option<Root>, StoreError> {
    let hint = match hint {
        Some(epoch) => Some(epoch),
        None => read_hint(store).await?,
    };
    if let Some(epoch) = hint
        && let Some(body) = find(store, epoch).await?
    {
        let (epoch, body) = gallop(store, epoch, body).await?;
        return parse(store, epoch, &body).map(Some);
    }
    // A root that is listed may be deleted before it is read, but only if there are newer ones.
    loop {
        let Some(epoch) = epochs(store).await?.last().copied() else { return Ok(None) };
        if let Some(body) = find(store, epoch).await? {
            let (epoch, body) = gallop(store, epoch, body).await?;
            return parse(store, epoch, &body).map(Some);
        }
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
    let damaged = |error: serde_json::Error| failed(format!("is not a root: {error}; the store is damaged"));
    let head: Head = serde_json::from_slice(body).map_err(damaged)?;
    if head.format.as_u64() != Some(u64::from(FORMAT)) {
        let format = head.format;
        return Err(failed(format!(
            "has the format {format}, and this build reads format {FORMAT} only; use the release that wrote it"
        )));
    }
    let root: Root = serde_json::from_slice(body).map_err(damaged)?;
    if root.epoch != epoch {
        return Err(failed(format!("holds the root of epoch {}; the store is damaged", root.epoch)));
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
pub async fn read_hint(store: &dyn Store) -> Result<Option<Epoch>, StoreError> {
    match store.get(HINT).await {
        Ok(body) => Ok(std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse().ok())),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renews the hint with the epoch of a root that the caller knows to be there; never lowers it.
/// Now and then is enough: an old hint costs readers a few more probes.
///
/// # Errors
///
/// When the store fails; nothing depends on the hint.
pub async fn write_hint(store: &dyn Store, epoch: Epoch) -> Result<(), StoreError> {
    if read_hint(store).await?.is_some_and(|stored| stored >= epoch) {
        return Ok(());
    }
    store.put(HINT, Bytes::from(epoch.to_string())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectStore;
    use tidemill_types::ProgramId;

    fn root(epoch: Epoch) -> Root {
        Root {
            format: FORMAT,
            epoch,
            committed_at: "2026-11-21T00:00:00Z".into(),
            generation: 1,
            nonce: "n".into(),
            location: "memory://x".into(),
            claim: false,
            program: ProgramId { name: "p".into(), version: "1".into(), settings: serde_json::json!({}) },
            positions: Default::default(),
            cursors: Default::default(),
            gaps: Vec::new(),
            models: Vec::new(),
            segments: Vec::new(),
            published: None,
            dropped: Vec::new(),
            log_from: 0,
        }
    }

    async fn put_root(store: &dyn Store, epoch: Epoch) {
        let body = serde_json::to_vec(&root(epoch)).unwrap();
        store.put(&root_name(epoch), body.into()).await.unwrap();
    }

    async fn newest(store: &dyn Store, hint: Option<Epoch>) -> Option<Epoch> {
        newest_root(store, hint).await.unwrap().map(|root| root.epoch)
    }

    #[tokio::test]
    async fn the_newest_root_is_found_from_every_hint() {
        let store = ObjectStore::memory("log-every-hint");
        assert_eq!(newest(&store, None).await, None);
        assert_eq!(newest(&store, Some(3)).await, None);
        for epoch in 5..40 {
            put_root(&store, epoch).await;
            for hint in [None, Some(0), Some(4), Some(100)].into_iter().chain((5..=epoch).map(Some)) {
                assert_eq!(newest(&store, hint).await, Some(epoch), "hint {hint:?}");
            }
        }
        write_hint(&store, 30).await.unwrap();
        assert_eq!(newest(&store, None).await, Some(39));
    }

    #[tokio::test]
    async fn a_hint_is_never_lowered_and_a_bad_one_is_no_harm() {
        let store = ObjectStore::memory("log-hint");
        put_root(&store, 3).await;
        put_root(&store, 90).await;
        put_root(&store, 91).await;
        store.put(HINT, Bytes::from_static(b"rubbish")).await.unwrap();
        assert_eq!(read_hint(&store).await.unwrap(), None);
        assert_eq!(newest(&store, None).await, Some(91));
        write_hint(&store, 90).await.unwrap();
        write_hint(&store, 3).await.unwrap();
        assert_eq!(read_hint(&store).await.unwrap(), Some(90));
        assert_eq!(newest(&store, None).await, Some(91));
    }

    #[tokio::test]
    async fn the_log_is_the_run_that_ends_at_the_highest_root() {
        let store = ObjectStore::memory("log-run");
        assert_eq!(log_range(&store).await.unwrap(), None);
        for epoch in [0, 1, 7, 8, 9] {
            put_root(&store, epoch).await;
        }
        store.put("catalog/other.json", Bytes::new()).await.unwrap();
        assert_eq!(log_range(&store).await.unwrap(), Some(7..=9));
        assert_eq!(log_start(&store).await.unwrap(), Some(7));
        let read = roots(&store, 7..=9).await.unwrap();
        assert_eq!(read.iter().map(|root| root.epoch).collect::<Vec<_>>(), [7, 8, 9]);
        let error = roots(&store, 6..=9).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_root_that_cannot_be_believed_is_named() {
        let store = ObjectStore::memory("log-bad");
        let name = root_name(4);
        for (body, expected) in [
            ("{", "is not a root"),
            (r#"{"format": 1}"#, "is not a root"),
            (r#"{"format": 2, "epoch": 4}"#, "has the format 2, and this build reads format 1 only"),
            (&serde_json::to_string(&root(5)).unwrap(), "holds the root of epoch 5"),
        ] {
            store.put(&name, Bytes::copy_from_slice(body.as_bytes())).await.unwrap();
            let error = newest_root(&store, None).await.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("memory://log-bad/{name} ")) && error.contains(expected),
                "{error}"
            );
        }
    }
}
