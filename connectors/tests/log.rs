//! Finding and reading roots, over a store in memory.

use bytes::Bytes;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tidemill_connectors::store::ObjectStore;
use tidemill_core::log::{HINT, Seen, log_range, log_start, newest_root, read_hint, roots, write_hint};
use tidemill_core::store::{Created, ObjectInfo, Store, StoreError};
use tidemill_types::{Epoch, FORMAT, ProgramId, Root, root_name};

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
        tags: Default::default(),
        rolled_back_to: None,
        trusts_ms: 0,
        asked: None,
    }
}

async fn put_root(store: &dyn Store, epoch: Epoch) {
    let body = serde_json::to_vec(&root(epoch)).unwrap();
    store.put(&root_name(epoch), body.into()).await.unwrap();
}

fn seen(epoch: Epoch) -> Seen {
    Seen { epoch, nonce: "n".into() }
}

async fn newest(store: &dyn Store, hint: Option<Epoch>) -> Option<Epoch> {
    newest_root(store, hint.map(seen).as_ref()).await.unwrap().map(|root| root.epoch)
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
    write_hint(&store, &seen(30)).await.unwrap();
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
    write_hint(&store, &seen(90)).await.unwrap();
    write_hint(&store, &seen(3)).await.unwrap();
    assert_eq!(read_hint(&store).await.unwrap(), Some(seen(90)));
    assert_eq!(newest(&store, None).await, Some(91));
}

/// A writer slept before its put until the name had been used and deleted; another lowered the hint to it.
#[tokio::test]
async fn a_hint_does_not_lead_into_a_hole() {
    let store = ObjectStore::memory("log-hole");
    for epoch in [7, 20, 21] {
        put_root(&store, epoch).await;
    }
    store.put(HINT, Bytes::from_static(b"7 another")).await.unwrap();
    assert_eq!(newest(&store, None).await, Some(21));
    let seen = Seen { epoch: 7, nonce: "another".into() };
    assert_eq!(newest_root(&store, Some(&seen)).await.unwrap().map(|root| root.epoch), Some(21));
}

/// Nobody goes on as if commits had never been.
#[tokio::test]
async fn roots_that_somebody_removed_are_missed() {
    let store = ObjectStore::memory("log-missing");
    for epoch in 0..40 {
        put_root(&store, epoch).await;
    }
    write_hint(&store, &seen(20)).await.unwrap();
    let root = store.get(&root_name(23)).await.unwrap();
    store.delete(&root_name(23)).await.unwrap();
    let error = newest_root(&store, None).await.unwrap_err().to_string();
    assert!(error.contains(&root_name(23)) && error.contains("39") && error.contains("restore"), "{error}");
    store.put(&root_name(23), root).await.unwrap();
    assert_eq!(newest(&store, None).await, Some(39));
    for epoch in 15..40 {
        store.delete(&root_name(epoch)).await.unwrap();
    }
    let error = newest_root(&store, None).await.unwrap_err().to_string();
    assert!(error.contains("root 20 was committed") && error.contains("the last is 14"), "{error}");
    assert!(error.contains("restore") && error.contains("delete catalog/_hint"), "{error}");
    // What was damaged says nothing, and neither does one of an older release.
    for hint in ["20 n 00000000", "20 n"] {
        store.put(HINT, Bytes::from_static(hint.as_bytes())).await.unwrap();
        assert_eq!(newest(&store, None).await, Some(14));
    }
}

/// A store whose lists show a root that is not there, the first `lies` times; and that goes on when an object is
/// asked for that is not there.
#[derive(Debug)]
struct Listing {
    store: ObjectStore,
    shows: Epoch,
    lies: AtomicU32,
    /// What is put then, and what is deleted.
    goes_on: Mutex<Vec<(String, Option<Bytes>)>>,
}

#[async_trait::async_trait]
impl Store for Listing {
    fn location(&self) -> &str {
        "memory://listing"
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.store.put(name, body).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        self.store.create(name, body).await
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let found = self.store.get(name).await;
        if found.is_err() {
            let changes = std::mem::take(&mut *self.goes_on.lock().unwrap());
            for (name, body) in changes {
                match body {
                    Some(body) => self.store.put(&name, body).await?,
                    None => self.store.delete(&name).await?,
                }
            }
        }
        found
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.get_range(name, range).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut objects = self.store.list(folder).await?;
        if self.lies.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            objects.push(ObjectInfo { name: root_name(self.shows), bytes: 1 });
        }
        Ok(objects)
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}

/// It was looked for without an end.
#[tokio::test]
async fn a_root_that_lists_show_and_nobody_can_read_is_named() {
    let lying = |lies| {
        let store = ObjectStore::memory(&format!("log-lying-{lies}"));
        Listing { store, shows: 9, lies: AtomicU32::new(lies), goes_on: Mutex::default() }
    };
    let store = lying(50);
    put_root(&store, 3).await;
    assert_eq!(newest(&store, None).await, Some(3), "a list that lags catches up");
    let store = lying(u32::MAX);
    put_root(&store, 3).await;
    let error = newest_root(&store, None).await.unwrap_err().to_string();
    assert!(error.contains(&root_name(9)) && error.contains("again and again"), "{error}");
}

/// Between the look for a root's successor and its answer everything up to there is deleted; a writer that slept may
/// then have put another root under the free name.
#[tokio::test]
async fn a_log_that_goes_on_past_its_reader_is_looked_for_anew() {
    let body = |epoch, nonce: &str| {
        Bytes::from(serde_json::to_vec(&Root { nonce: nonce.into(), ..root(epoch) }).unwrap())
    };
    for in_the_hole in [None, Some(body(5, "another"))] {
        let store = ObjectStore::memory(&format!("log-goes-on-{}", in_the_hole.is_some()));
        for epoch in 3..=5 {
            put_root(&store, epoch).await;
        }
        let mut goes_on = vec![(root_name(8), Some(body(8, "n"))), (root_name(9), Some(body(9, "n")))];
        goes_on.extend([3, 4].map(|epoch| (root_name(epoch), None)));
        goes_on.push((root_name(5), in_the_hole));
        let store = Listing { store, shows: 0, lies: AtomicU32::new(0), goes_on: Mutex::new(goes_on) };
        assert_eq!(newest(&store, Some(5)).await, Some(9));
    }
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
