//! A store that counts what is asked of it, and asks another.

use super::clock::Stopwatch;
use super::gauges::Gauges;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_core::store::{Created, ObjectInfo, SharedStore, Store, StoreError};
use tidemill_types::Asked;

/// What can be asked of a store, in the order of the counters.
pub const OPERATIONS: [&str; 6] = ["put", "create", "get", "get_range", "list", "delete"];
/// What can come of it, in the order of the counters: done; a name that was to be free and was not; no
/// such object; anything else, an unclear answer too.
pub const OUTCOMES: [&str; 4] = ["ok", "taken", "not_found", "failed"];

const PUT: usize = 0;
const CREATE: usize = 1;
const GET: usize = 2;
const GET_RANGE: usize = 3;
const LIST: usize = 4;
const DELETE: usize = 5;
/// The place of failures among the outcomes.
const FAILED: usize = 3;

/// Counters of one operation.
#[derive(Default, Debug)]
pub struct Requests {
    /// Requests by outcome.
    pub outcomes: [AtomicU64; OUTCOMES.len()],
    /// Bytes of objects that were written or read.
    pub bytes: AtomicU64,
    /// What they took in all, microseconds.
    pub micros: AtomicU64,
}

/// Counters by operation.
pub type StoreRequests = [Requests; OPERATIONS.len()];

/// All of it together.
pub(super) fn asked(requests: &StoreRequests) -> Asked {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let all = |operation: usize| requests[operation].outcomes.iter().map(read).sum::<u64>();
    let bytes = |operation: usize| read(&requests[operation].bytes);
    Asked {
        puts: all(PUT) + all(CREATE),
        gets: all(GET) + all(GET_RANGE),
        lists: all(LIST),
        deletes: all(DELETE),
        failed: requests.iter().map(|of| read(&of.outcomes[FAILED])).sum(),
        put_bytes: bytes(PUT) + bytes(CREATE),
        got_bytes: bytes(GET) + bytes(GET_RANGE),
    }
}

/// A store whose requests are counted.
pub(super) struct Counted {
    pub(super) store: SharedStore,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stopwatch: Stopwatch,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Counted {
    fn count<T>(
        &self,
        operation: usize,
        since: u64,
        answer: &Result<T, StoreError>,
        bytes: impl Fn(&T) -> (usize, u64),
    ) {
        let (outcome, bytes) = match answer {
            Ok(answer) => bytes(answer),
            Err(StoreError::NotFound { .. }) => (2, 0),
            Err(_) => (FAILED, 0),
        };
        let requests = &self.gauges.store[operation];
        let took = (self.stopwatch)().saturating_sub(since);
        requests.outcomes[outcome].fetch_add(1, Ordering::Relaxed);
        requests.bytes.fetch_add(bytes, Ordering::Relaxed);
        requests.micros.fetch_add(took, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Counted {
    fn location(&self) -> &str {
        self.store.location()
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let (since, bytes) = ((self.stopwatch)(), body.len() as u64);
        let answer = self.store.put(name, body).await;
        self.count(PUT, since, &answer, |()| (0, bytes));
        answer
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let (since, bytes) = ((self.stopwatch)(), body.len() as u64);
        let answer = self.store.create(name, body).await;
        self.count(CREATE, since, &answer, |created| match created {
            Created::New => (0, bytes),
            Created::Exists => (1, 0),
        });
        answer
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let since = (self.stopwatch)();
        let answer = self.store.get(name).await;
        self.count(GET, since, &answer, |body| (0, body.len() as u64));
        answer
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let since = (self.stopwatch)();
        let answer = self.store.get_range(name, range).await;
        self.count(GET_RANGE, since, &answer, |body| (0, body.len() as u64));
        answer
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let since = (self.stopwatch)();
        let answer = self.store.list(folder).await;
        self.count(LIST, since, &answer, |_| (0, 0));
        answer
    }

    async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let since = (self.stopwatch)();
        let answer = self.store.list_after(folder, after).await;
        self.count(LIST, since, &answer, |_| (0, 0));
        answer
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let since = (self.stopwatch)();
        let answer = self.store.delete(name).await;
        self.count(DELETE, since, &answer, |()| (0, 0));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::stopwatch;

    #[test]
    fn every_request_is_passed_on_and_counted_by_what_came_of_it() {
        let gauges = Arc::new(Gauges::default());
        let store = tidemill_connectors::store::open("memory://counted").unwrap();
        let store = Counted { store, gauges: gauges.clone(), stopwatch: stopwatch() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let body = Bytes::from_static(b"abcd");
            store.put("a/x", body.clone()).await.unwrap();
            assert_eq!(store.create("a/y", body.clone()).await.unwrap(), Created::New);
            assert_eq!(store.create("a/y", body).await.unwrap(), Created::Exists);
            assert_eq!(store.get_range("a/x", 1..3).await.unwrap(), "bc");
            assert!(store.get("a/z").await.is_err());
            assert_eq!(store.list("a/").await.unwrap().len(), 2);
            store.delete("a/x").await.unwrap();
        });
        let counted = |operation: usize| {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            (gauges.store[operation].outcomes.each_ref().map(read), read(&gauges.store[operation].bytes))
        };
        assert_eq!(counted(PUT), ([1, 0, 0, 0], 4));
        assert_eq!(counted(CREATE), ([1, 1, 0, 0], 4));
        assert_eq!(counted(GET), ([0, 0, 1, 0], 0));
        assert_eq!(counted(GET_RANGE), ([1, 0, 0, 0], 2));
        let all = Asked { puts: 3, gets: 2, lists: 1, deletes: 1, failed: 0, put_bytes: 8, got_bytes: 2 };
        assert_eq!(asked(&gauges.store), all);
        assert_eq!((counted(LIST), counted(DELETE)), (([1, 0, 0, 0], 0), ([1, 0, 0, 0], 0)));
    }
}
