//! The committer's task: carries out what the sans-IO [`Committer`] decides.
//!
//! A name that is free says that nobody has used it, or that it was used and deleted since. [`Standing`] tells
//! the two apart by time: no root is deleted before it is as old as the retention, so whoever knew half a
//! retention ago that nothing was newer than its own root may believe a free name. Whoever slept for longer
//! looks again, before the put and after it. As another writer may have another retention, each root says for
//! how long its writer trusts a free name, and a claim is kept for twice as long as those before it do.

use super::ToPublisher;
use crate::commit::{Action, Committer, Fenced, PutAnswer, SealedEpoch, Stamp};
use crate::conductor::ToConductor;
use crate::edge::SharedEdge;
use crate::log::{Seen, newest_root, read_root, write_hint};
use crate::store::{Created, SharedStore, Store, StoreError};
use bytes::Bytes;
use crossbeam_channel::Sender;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_types::invariants::{follows, gives_up_nothing_named};
use tidemill_types::{Asked, Epoch, Published, Root, Tag, root_name};

/// What the committer is told. Bounded by the epochs in flight and one publication.
#[derive(Debug)]
pub enum ToCommitter {
    /// An epoch is durable in its segments.
    Sealed(SealedEpoch),
    /// A publication is complete.
    Published(Published),
    /// Objects to give up, and the oldest root that is kept from then on.
    Dropped(Vec<String>, Epoch),
    /// All tags, from the next root on.
    Tags(BTreeMap<String, Tag>),
}

/// Who wants to know of commits.
pub trait CommitWatch: Send + Sync {
    /// A root is committed; nobody else has been told of it yet.
    fn committed(&self, root: &Root);
    /// What has been asked of the store by now, if it is counted: the next root says it.
    fn asked(&self) -> Option<Asked> {
        None
    }
}

/// Why a writer commits no more.
#[derive(Debug, thiserror::Error)]
pub enum CommitsEnded {
    /// Another writer has taken over; this one must not be started again beside it.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The store cannot go on, or the run is being torn down.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for CommitsEnded {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Everything that a commit is told to.
pub struct Commits {
    /// The store.
    pub store: SharedStore,
    /// Clock, randomness, waiting.
    pub edge: SharedEdge,
    /// Worker 0.
    pub conductor: Sender<ToConductor>,
    /// The publisher.
    pub publisher: UnboundedSender<ToPublisher>,
    /// Deletes what roots gave up.
    pub sweeper: UnboundedSender<Root>,
    /// Set when the run shall end at once: then nothing is tried again.
    pub abort: Arc<AtomicBool>,
    /// Who wants to know.
    pub watch: Arc<dyn CommitWatch>,
    /// How sure this writer may be that it is the newest.
    pub standing: Standing,
}

/// After so many microseconds without a sign of it, a writer no longer takes for granted that it is the
/// newest: half the time for which a root is kept at least.
pub fn idle_max_us(retention: Duration) -> u64 {
    (retention / 2).min(Duration::from_secs(60)).as_micros() as u64
}

/// A time by both clocks: one never goes back, but may stand still while the machine sleeps; the other goes on.
#[derive(Clone, Copy, Debug)]
struct Moment {
    us: u64,
    ms: i64,
}

impl Moment {
    fn now(edge: &SharedEdge) -> Self {
        Self { us: edge.now_us(), ms: edge.now_ms() }
    }

    /// The longer of the two times since an earlier moment, microseconds.
    fn since(self, earlier: Self) -> u64 {
        self.us.saturating_sub(earlier.us).max(self.ms.abs_diff(earlier.ms).saturating_mul(1000))
    }
}

/// How sure a writer may be that no root is newer than its own.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Nothing was newer at this time.
    sure_at: Moment,
    /// When the latest put was begun.
    asked_at: Moment,
    idle_max_us: u64,
}

impl Standing {
    /// Of a writer that looks for the newest root right now.
    pub fn new(edge: &SharedEdge, idle_max_us: u64) -> Self {
        let now = Moment::now(edge);
        Self { sure_at: now, asked_at: now, idle_max_us }
    }

    fn is_sure(&self, edge: &SharedEdge) -> bool {
        Moment::now(edge).since(self.sure_at) < self.idle_max_us
    }

    /// For how long a free name is trusted, as roots say it.
    pub fn trusts_ms(&self) -> u64 {
        self.idle_max_us.div_ceil(1000)
    }

    /// Before a put on `newest`, this writer's own: a newer root, if there is one.
    pub async fn before_put(
        &mut self,
        store: &dyn Store,
        edge: &SharedEdge,
        newest: &Root,
    ) -> Result<Option<Root>, StoreError> {
        let found = match self.is_sure(edge) {
            true => None,
            false => self.look(store, edge, newest).await?,
        };
        self.asked_at = Moment::now(edge);
        Ok(found)
    }

    /// After a put of `ours` that stands in the store: a newer root, if there is one. Then ours stands in a
    /// hole of the log, where it means nothing.
    pub async fn settled(
        &mut self,
        store: &dyn Store,
        edge: &SharedEdge,
        ours: &Root,
    ) -> Result<Option<Root>, StoreError> {
        if !self.is_sure(edge) {
            return self.look(store, edge, ours).await;
        }
        self.sure_at = self.asked_at;
        Ok(None)
    }

    /// Looks whether a root is newer than `ours`, which may stand in a hole.
    pub(super) async fn look(
        &mut self,
        store: &dyn Store,
        edge: &SharedEdge,
        ours: &Root,
    ) -> Result<Option<Root>, StoreError> {
        let now = Moment::now(edge);
        let newest = newest_root(store, None).await?;
        let newer = newest.filter(|newest| newest.epoch > ours.epoch || newest.generation > ours.generation);
        if newer.is_none() {
            self.sure_at = now;
        }
        Ok(newer)
    }
}

/// The pause after the first failure.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Commits {
    /// Commits until the channel closes.
    ///
    /// # Errors
    ///
    /// When another writer owns the store, or the store cannot go on.
    pub async fn run(
        mut self,
        mut committer: Committer,
        mut told: UnboundedReceiver<ToCommitter>,
    ) -> Result<(), CommitsEnded> {
        while let Some(message) = told.next().await {
            match message {
                ToCommitter::Sealed(epoch) => committer.sealed(epoch),
                ToCommitter::Published(published) => committer.published(published),
                ToCommitter::Dropped(names, log_from) => committer.drop_objects(names, log_from),
                ToCommitter::Tags(tags) => committer.tags(tags),
            }
            self.carry_out(&mut committer).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, committer: &mut Committer) -> Result<(), CommitsEnded> {
        let mut pause = PAUSE;
        loop {
            match committer.next(|| self.stamp()) {
                Action::Wait => return Ok(()),
                Action::Put(root) => {
                    follows(committer.newest(), &root).map_err(failed)?;
                    gives_up_nothing_named(&root).map_err(failed)?;
                    self.look_up(committer.newest()).await?;
                    let answer = self.put(&root).await?;
                    if let Some(root) = committer.put_answered(answer).cloned() {
                        self.committed(root).await?;
                        pause = PAUSE;
                    }
                }
                Action::ReadBack(epoch) => {
                    let found = match read_root(&*self.store, epoch).await {
                        Ok(root) => Some(root),
                        Err(StoreError::NotFound { .. }) => None,
                        // Ours could be read: another's stands there, perhaps of a later release.
                        Err(error @ StoreError::Damaged(_)) => return Err(failed(error)),
                        Err(error) if self.abort.load(Ordering::Relaxed) => return Err(failed(error)),
                        Err(error) => {
                            tracing::warn!(%error, epoch, "a root cannot be read back; trying again");
                            pause = self.rest(pause).await;
                            continue;
                        }
                    };
                    let settled = committer.read_back(found.as_ref())?;
                    match settled.cloned() {
                        Some(root) => self.committed(root).await?,
                        None => pause = self.rest(pause).await,
                    }
                }
            }
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp { trusts_ms: self.standing.trusts_ms(), asked: self.watch.asked(), ..self.edge.stamp() }
    }

    /// Lets a pause pass; the next one.
    async fn rest(&self, pause: Duration) -> Duration {
        self.edge.sleep(pause).await;
        (pause * 2).min(PAUSE_MAX)
    }

    /// Makes sure, if it is not, that no root came after this writer's own newest one.
    async fn look_up(&mut self, newest: &Root) -> Result<(), CommitsEnded> {
        let mut pause = PAUSE;
        loop {
            match self.standing.before_put(&*self.store, &self.edge, newest).await {
                Ok(newer) => return fenced_by(newer, newest),
                Err(error) => pause = self.cannot_look(error, pause).await?,
            }
        }
    }

    async fn cannot_look(&self, error: StoreError, pause: Duration) -> Result<Duration, CommitsEnded> {
        if self.abort.load(Ordering::Relaxed) {
            return Err(failed(error));
        }
        tracing::warn!(%error, "a newer root cannot be looked for; trying again");
        Ok(self.rest(pause).await)
    }

    async fn put(&self, root: &Root) -> Result<PutAnswer, CommitsEnded> {
        let body = root.to_bytes().map_err(failed)?;
        match self.store.create(&root_name(root.epoch), Bytes::from(body)).await {
            Ok(Created::New) => Ok(PutAnswer::New),
            Ok(Created::Exists) => Ok(PutAnswer::Unclear),
            Err(error @ StoreError::Closed(_)) => Err(failed(error)),
            Err(error) if self.abort.load(Ordering::Relaxed) => Err(failed(error)),
            Err(error) => {
                tracing::warn!(%error, epoch = root.epoch, "the answer to a commit is unclear; reading back");
                Ok(PutAnswer::Unclear)
            }
        }
    }

    /// A root of ours stands in the store: once it is sure that it stands in the log, all are told.
    async fn committed(&mut self, root: Root) -> Result<(), CommitsEnded> {
        let mut pause = PAUSE;
        loop {
            match self.standing.settled(&*self.store, &self.edge, &root).await {
                Ok(newer) => break fenced_by(newer, &root)?,
                Err(error) => pause = self.cannot_look(error, pause).await?,
            }
        }
        let epoch = root.epoch;
        self.watch.committed(&root);
        // Whoever is gone by now no longer needs to know.
        if !root.dropped.is_empty() {
            let _ = self.sweeper.unbounded_send(root.clone());
        }
        if epoch.is_multiple_of(HINT_EVERY) {
            let (store, seen) = (self.store.clone(), Seen::of(&root));
            // The hint only saves a listing.
            let write = async move { drop(write_hint(&*store, &seen).await) };
            self.edge.spawn(Box::pin(write));
        }
        let _ = self.publisher.unbounded_send(ToPublisher::Committed(Box::new(root)));
        let _ = self.conductor.send(ToConductor::Committed(epoch));
        Ok(())
    }
}

/// Commits from one renewal of the hint to the next.
const HINT_EVERY: Epoch = 64;

fn failed(error: impl ToString) -> CommitsEnded {
    CommitsEnded::Failed(error.to_string())
}

fn fenced_by(newer: Option<Root>, ours: &Root) -> Result<(), CommitsEnded> {
    match newer {
        None => Ok(()),
        Some(newer) => {
            let (epoch, theirs, ours) = (newer.epoch, newer.generation, ours.generation);
            Err(Fenced { epoch, theirs, ours }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Clock, Objects, roots};
    use super::*;
    use crate::commit::{Beginning, InForce};
    use futures::channel::mpsc::unbounded;
    use futures::executor::block_on;

    /// What a writer sees whose newest root is the third, and that trusts a free name for a second.
    struct Seat {
        clock: Arc<Clock>,
        edge: SharedEdge,
        store: Objects,
        ours: Root,
        standing: Standing,
    }

    /// Beside a claim of another writer.
    fn superseded() -> Seat {
        let mut roots = roots(3);
        let ours = roots[2].clone();
        roots.push(Root { epoch: 3, generation: ours.generation + 1, claim: true, ..ours.clone() });
        let clock = Arc::new(Clock::default());
        clock.0.store(1_000_000, Ordering::Relaxed);
        let edge: SharedEdge = clock.clone();
        let standing = Standing::new(&edge, 1_000_000);
        Seat { clock, edge, store: Objects::of(&roots), ours, standing }
    }

    impl Seat {
        /// Both clocks go on.
        fn passes(&self, ms: i64) {
            self.clock.0.fetch_add(ms, Ordering::Relaxed);
        }

        /// Whether a put is held up, because a newer root is seen.
        fn before_put(&mut self) -> bool {
            let found = block_on(self.standing.before_put(&self.store, &self.edge, &self.ours));
            found.expect("an answer").is_some()
        }

        /// Whether a put that stands is found to stand in a hole.
        fn settled(&mut self) -> bool {
            let found = block_on(self.standing.settled(&self.store, &self.edge, &self.ours));
            found.expect("an answer").is_some()
        }
    }

    #[test]
    fn a_free_name_is_trusted_for_a_time_and_no_longer() {
        let mut seat = superseded();
        seat.passes(999);
        assert!(!seat.before_put());
        seat.passes(1);
        assert!(seat.before_put());
    }

    #[test]
    fn each_clock_alone_tells_that_time_has_passed() {
        let mut suspended = superseded();
        suspended.passes(1000);
        suspended.clock.1.fetch_add(1000, Ordering::Relaxed);
        assert!(suspended.before_put(), "the steady clock stood still");
        let mut set_back = superseded();
        set_back.clock.1.fetch_sub(1000, Ordering::Relaxed);
        assert!(set_back.before_put(), "the clock of the day did not go on");
    }

    #[test]
    fn a_put_that_took_long_is_looked_after() {
        let mut seat = superseded();
        seat.passes(500);
        assert!(!seat.before_put());
        seat.passes(500);
        assert!(seat.settled());
    }

    #[test]
    fn sureness_counts_from_before_a_put_and_not_from_its_answer() {
        let mut seat = superseded();
        seat.passes(500);
        assert!(!seat.before_put());
        seat.passes(400);
        assert!(!seat.settled());
        seat.passes(599);
        assert!(!seat.before_put(), "999 ms since the last put was begun");
        seat.passes(1);
        assert!(seat.before_put());
    }

    #[test]
    fn sureness_counts_from_before_a_look() {
        let mut seat = superseded();
        seat.store = Objects::of(&roots(3));
        seat.store.slow = Some((seat.clock.clone(), 1000));
        seat.passes(1000);
        assert!(!seat.before_put());
        assert!(!seat.standing.is_sure(&seat.edge), "the look itself took longer than a name is trusted");
    }

    #[test]
    fn a_higher_generation_or_a_later_epoch_alone_is_newer() {
        for (epoch, generation) in [(0, 1), (1, 0)] {
            let mut seat = superseded();
            let (of, written_by) = (seat.ours.epoch, seat.ours.generation);
            let newer = Root { epoch: of + epoch, generation: written_by + generation, ..seat.ours.clone() };
            let mut all = roots(3);
            all.retain(|root| root.epoch < newer.epoch);
            seat.store = Objects::of(&[all, vec![newer]].concat());
            seat.passes(1000);
            assert!(seat.before_put(), "{epoch} epochs and {generation} generations on");
        }
    }

    struct Unwatched;

    impl CommitWatch for Unwatched {
        fn committed(&self, _: &Root) {}
    }

    /// What a run of commits ends with that gives up names and then seals an epoch, over a store that takes nothing and
    /// is not asked twice.
    fn ends_with(names: Vec<String>, log_from: Epoch) -> String {
        let seat = superseded();
        let start = InForce {
            program: seat.ours.program.clone(),
            models: vec![],
            beginning: Beginning::default(),
            roll_back: None,
        };
        let commits = Commits {
            store: Arc::new(seat.store),
            edge: seat.edge,
            conductor: crossbeam_channel::unbounded().0,
            publisher: unbounded().0,
            sweeper: unbounded().0,
            abort: Arc::new(AtomicBool::new(true)),
            watch: Arc::new(Unwatched),
            standing: seat.standing,
        };
        let (tell, told) = unbounded();
        let sealed = SealedEpoch { epoch: seat.ours.epoch + 1, ..SealedEpoch::default() };
        for message in [ToCommitter::Dropped(names, log_from), ToCommitter::Sealed(sealed)] {
            tell.unbounded_send(message).expect("it listens");
        }
        drop(tell);
        let ended = block_on(commits.run(Committer::new(seat.ours, start), told));
        ended.expect_err("nothing can be committed").to_string()
    }

    #[test]
    fn a_root_that_may_not_be_is_not_put() {
        let said = ends_with(vec![root_name(0)], 1);
        assert!(said.contains("catalog/"), "it is put, and the store refuses: {said}");
        let said = ends_with(vec![], 9);
        assert!(said.contains("the log begins at 9"), "{said}");
        let said = ends_with(vec![root_name(1)], 1);
        assert!(said.contains("which is kept"), "{said}");
    }
}
