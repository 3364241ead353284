//! What the tests of this folder's parts stand on: a clock, a store, a view, roots.

use crate::commit::{Beginning, InForce, claim};
use crate::edge::{Edge, SharedEdge};
use crate::store::{Created, ObjectInfo, Store, StoreError};
use crate::view::{Cost, View, ViewFailure};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tidemill_types::{Epoch, ProgramId, Published, Root, root_name};
use uuid::Uuid;

/// Time stands still until it is moved, and whoever waits gets on at once. By how much less the steady clock has moved,
/// milliseconds, is the second number.
#[derive(Default)]
pub(super) struct Clock(pub(super) AtomicI64, pub(super) AtomicI64);

impl Edge for Clock {
    fn now_us(&self) -> u64 {
        (self.now_ms() - self.1.load(Ordering::Relaxed)) as u64 * 1000
    }

    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn now_text(&self) -> String {
        "1970-01-01T00:00:00Z".to_string()
    }

    fn uuid(&self) -> Uuid {
        Uuid::nil()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    fn spawn(&self, _: BoxFuture<'static, ()>) {}

    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }

    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>) {
        futures::executor::block_on(future);
    }
}

/// Objects that are only read, or, for a time, cannot be.
pub(super) struct Objects {
    objects: BTreeMap<String, Bytes>,
    pub(super) silent: Arc<AtomicBool>,
    /// A clock, and by how many milliseconds each read moves it.
    pub(super) slow: Option<(Arc<Clock>, i64)>,
}

impl Objects {
    /// Roots alone.
    pub(super) fn of(roots: &[Root]) -> Self {
        let body = |root: &Root| (root_name(root.epoch), Bytes::from(root.to_bytes().unwrap()));
        Self { objects: roots.iter().map(body).collect(), silent: Arc::default(), slow: None }
    }

    /// And an object that nobody reads.
    pub(super) fn and(mut self, name: &str) -> Self {
        self.objects.insert(name.to_string(), Bytes::new());
        self
    }
}

/// So many roots: a claim, and commits that each name the publication of the one before.
pub(super) fn roots(number: u64) -> Vec<Root> {
    let program = ProgramId { name: "p".into(), version: "1".into(), settings: serde_json::json!({}) };
    let start = InForce { program, models: vec![], beginning: Beginning::default(), roll_back: None };
    let edge: SharedEdge = Arc::<Clock>::default();
    let first = claim(None, "memory://x", &start, edge.stamp());
    let published = |epoch| Some(Published { epoch, tables: BTreeMap::new(), put: None });
    let next = |epoch: u64| match epoch {
        0 => first.clone(),
        _ => Root { epoch, claim: false, published: published(epoch - 1), ..first.clone() },
    };
    (0..number).map(next).collect()
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.objects.keys()).finish()
    }
}

#[async_trait::async_trait]
impl Store for Objects {
    fn location(&self) -> &str {
        "memory://x"
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, name: &str, _: Bytes) -> Result<(), StoreError> {
        Err(StoreError::Failed(name.to_string()))
    }

    async fn create(&self, name: &str, _: Bytes) -> Result<Created, StoreError> {
        Err(StoreError::Failed(name.to_string()))
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        if let Some((clock, ms)) = &self.slow {
            clock.0.fetch_add(*ms, Ordering::Relaxed);
        }
        if self.silent.load(Ordering::Relaxed) {
            return Err(StoreError::Failed("no answer".to_string()));
        }
        let missing =
            || StoreError::NotFound { name: name.to_string(), location: self.location().to_string() };
        self.objects.get(name).cloned().ok_or_else(missing)
    }

    async fn get_range(&self, name: &str, _: Range<u64>) -> Result<Bytes, StoreError> {
        self.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let under = self.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(under.map(|(name, body)| ObjectInfo { name: name.clone(), bytes: body.len() as u64 }).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        Err(StoreError::Failed(name.to_string()))
    }
}

/// A view that publishes nothing.
pub(super) struct Nothing;

impl View for Nothing {
    fn committed(&mut self, _: &Root) {}

    fn unpublished(&self) -> Option<Epoch> {
        None
    }

    fn publish(&mut self) -> Result<Option<Published>, ViewFailure> {
        Ok(None)
    }

    fn named(&mut self, _: Epoch) {}

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn objects(&self, _: &Published) -> Result<BTreeSet<String>, ViewFailure> {
        Ok(BTreeSet::new())
    }

    fn garbage(&self, _: &Published, _: &Published) -> Result<Vec<String>, ViewFailure> {
        Ok(Vec::new())
    }

    fn folder(&self) -> &str {
        "tables/"
    }

    fn made_for(&self, _: &str) -> Option<(Epoch, u64)> {
        None
    }

    fn expire(&mut self, _: Epoch) {}
}
