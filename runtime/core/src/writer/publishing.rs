//! The publisher's thread: decides when a view is brought up to date, and has it done.
//!
//! No two publications are under way together: until a root names one, the next is not begun. One is due
//! when there are changes to publish and the latest that a root names is as old as the interval. Its age
//! counts from the commit of its epoch, whatever restarts came between, so that a service that is killed
//! more often than it publishes still publishes first thing. At an end it is due at once. The watch is told
//! since when the oldest change waits; a run pauses its sources while that is too long ago.
//!
//! What may go is found on this thread too, between publications, so that no publication of this writer is
//! half made while it is looked for. Where it is not deleted, as the store is slow or refuses that, nothing more
//! is given up: what waits to be deleted stays bounded, and the log keeps the rest.

use super::ToCommitter;
use super::collector::Collector;
use crate::conductor::ToConductor;
use crate::edge::{SharedEdge, parse_ms};
use crate::view::{Cost, View, ViewFailure};
use crossbeam_channel::Sender;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};
use futures::future::{Either, select};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tidemill_types::{Epoch, Root};

/// What the publisher is told.
#[derive(Debug)]
pub enum ToPublisher {
    /// A root is committed.
    Committed(Box<Root>),
    /// Keep the commit of this epoch for ever under a name; without an epoch: no longer.
    Tag(String, Option<Epoch>, futures::channel::oneshot::Sender<Result<(), String>>),
    /// Publish the last change, then say so.
    Finish,
    /// Leave at once.
    Leave,
}

/// Who wants to know of publications; every method has a default that does nothing.
pub trait PublicationWatch: Send + Sync {
    /// The oldest change that waits was committed then, milliseconds since 1970.
    fn waits_since(&self, _changed_since: Option<i64>) {}
    /// A publication is under way, or is not.
    fn publishing(&self, _now: bool) {}
    /// The first publication of a run that began with an overdue one is named.
    fn caught_up(&self) {}
    /// A publication is complete.
    fn published(&self, _epoch: Epoch, _took_us: u64, _cost: Cost) {}
}

/// When a publication is due: sans-IO, times in milliseconds.
#[derive(Debug)]
pub struct Due {
    /// From one publication to the next.
    pub interval: i64,
    /// When the oldest change was committed that is not published.
    pub changed_since: Option<i64>,
    /// When the epoch of the newest publication was committed that a root names.
    pub newest_named: i64,
    /// The epoch of a publication that no root names yet.
    pub awaiting: Option<Epoch>,
    /// Whether the run ends.
    pub finishing: bool,
}

impl Due {
    /// Whether to publish now.
    pub fn now(&self, now: i64) -> bool {
        let overdue = now.saturating_sub(self.newest_named) >= self.interval;
        self.changed_since.is_some() && self.awaiting.is_none() && (overdue || self.finishing)
    }

    /// How long until something may be due, milliseconds.
    fn wait(&self, now: i64) -> u64 {
        match self.changed_since.is_some() && self.awaiting.is_none() {
            true => (self.newest_named + self.interval - now).clamp(1, 200) as u64,
            false => 200,
        }
    }

    /// Whether there is nothing left to publish or to be named.
    fn is_done(&self) -> bool {
        self.changed_since.is_none() && self.awaiting.is_none()
    }
}

/// Roots that may wait for the deletion of what they gave up, before nothing more is given up.
const SWEEPS_MAX: usize = 16;

/// The publisher of a view.
pub struct Publishing<V> {
    /// The view.
    pub view: V,
    /// When the next publication is due.
    pub due: Due,
    /// What it is told.
    pub told: UnboundedReceiver<ToPublisher>,
    /// The committer.
    pub committer: UnboundedSender<ToCommitter>,
    /// Where roots wait that gave something up which is not deleted yet.
    pub sweeper: UnboundedSender<Root>,
    /// Worker 0.
    pub conductor: Sender<ToConductor>,
    /// Who wants to know.
    pub watch: Arc<dyn PublicationWatch>,
    /// Clock, randomness, waiting.
    pub edge: SharedEdge,
    /// What may go.
    pub collector: Collector,
    /// Failures in a row.
    pub failures: u32,
}

impl<V: View> Publishing<V> {
    /// Publishes until the last change is named. An error: the view or the store cannot go on.
    pub fn run(mut self) -> Result<(), String> {
        let edge = self.edge.clone();
        loop {
            let wait = Duration::from_millis(self.due.wait(edge.now_ms()));
            let first = match edge.block_on(next_within(&mut self.told, edge.sleep(wait))) {
                Next::Message(message) => Some(message),
                Next::TimedOut => None,
                Next::Closed => return Ok(()),
            };
            // What has been committed by now belongs into the same publication.
            let mut waiting: Vec<ToPublisher> = first.into_iter().collect();
            while let Some(Some(message)) = self.told.next().now_or_never() {
                waiting.push(message);
            }
            for message in waiting {
                match message {
                    ToPublisher::Committed(root) => self.committed(&root),
                    ToPublisher::Tag(name, epoch, answer) => self.tag(name, epoch, answer),
                    ToPublisher::Finish => self.due.finishing = true,
                    ToPublisher::Leave => return Ok(()),
                }
            }
            // A time to come, from before the clock was set back, must not hold up what follows.
            self.due.newest_named = self.due.newest_named.min(edge.now_ms());
            if self.due.now(edge.now_ms()) {
                self.publish()?;
            }
            if self.due.finishing && self.due.is_done() {
                self.tell(ToConductor::Finished);
                return Ok(());
            }
        }
    }

    fn tell(&self, event: ToConductor) {
        // The conductor is gone only when the run is being torn down.
        let _ = self.conductor.send(event);
    }

    fn committed(&mut self, root: &Root) {
        let now = self.edge.now_ms();
        let at = parse_ms(&root.committed_at).unwrap_or(now);
        if let (Some(awaited), Some(published)) = (self.due.awaiting, &root.published)
            && published.epoch >= awaited
        {
            self.due.awaiting = None;
            self.watch.caught_up();
            self.due.newest_named = at;
            self.view.named(published.epoch);
        }
        self.view.committed(root);
        if self.view.unpublished().is_some() {
            self.due.changed_since.get_or_insert(at.min(now));
        }
        self.watch.waits_since(self.due.changed_since);
        if self.sweeper.len() >= SWEEPS_MAX {
            return;
        }
        match self.collector.step(&self.view, root, now) {
            // The committer is gone only when the run is being torn down.
            Ok(Some((names, log_from))) => {
                self.view.expire(self.collector.publications_from());
                drop(self.committer.unbounded_send(ToCommitter::Dropped(names, log_from)));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "old objects could not be collected; trying again later"),
        }
    }

    fn tag(
        &mut self,
        name: String,
        epoch: Option<Epoch>,
        answer: futures::channel::oneshot::Sender<Result<(), String>>,
    ) {
        let tagged = self.collector.tag(&self.view, name, epoch);
        let told = tagged.map(|tags| {
            drop(self.committer.unbounded_send(ToCommitter::Tags(tags)));
            self.tell(ToConductor::Force);
        });
        // Whoever asked may have gone.
        let _ = answer.send(told);
    }

    fn publish(&mut self) -> Result<(), String> {
        let start = self.edge.now_us();
        self.watch.publishing(true);
        let published = self.view.publish();
        self.watch.publishing(false);
        let took_us = self.edge.now_us() - start;
        let published = match published {
            Ok(published) => published,
            Err(ViewFailure::Store(error)) => {
                self.failures += 1;
                let failures = self.failures;
                tracing::warn!(%error, failures, "the lake could not be published; trying again");
                // At least as long as the attempt took: a store that takes nothing must not cost a core.
                let pause = Duration::from_millis(100 * u64::from(failures.min(50)));
                self.edge.block_on(self.edge.sleep(Duration::from_micros(took_us).max(pause)));
                return Ok(());
            }
            Err(ViewFailure::Broken(error)) => return Err(error.to_string()),
        };
        self.failures = 0;
        self.due.changed_since = None;
        self.watch.waits_since(None);
        let Some(published) = published else {
            self.watch.caught_up();
            return Ok(());
        };
        self.watch.published(published.epoch, took_us, self.view.cost());
        self.due.awaiting = Some(published.epoch);
        if self.committer.unbounded_send(ToCommitter::Published(published)).is_ok() {
            self.tell(ToConductor::Force);
        }
        Ok(())
    }
}

enum Next<T> {
    Message(T),
    TimedOut,
    Closed,
}

/// The next message, if it comes before a time is over.
async fn next_within<T>(from: &mut UnboundedReceiver<T>, time: impl Future<Output = ()> + Unpin) -> Next<T> {
    match select(from.next(), time).await {
        Either::Left((Some(message), _)) => Next::Message(message),
        Either::Left((None, _)) => Next::Closed,
        Either::Right(_) => Next::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Retention;
    use super::super::testing::{Clock, Nothing, Objects, roots};
    use super::*;
    use futures::channel::mpsc::unbounded;
    use std::sync::atomic::Ordering;

    /// Nobody.
    struct Unwatched;

    impl PublicationWatch for Unwatched {}

    fn due() -> Due {
        Due { interval: 2000, changed_since: None, newest_named: 10_000, awaiting: None, finishing: false }
    }

    #[test]
    fn nothing_is_published_without_a_change() {
        assert!(!Due { finishing: true, ..due() }.now(1_000_000));
    }

    #[test]
    fn a_publication_waits_for_the_interval_and_for_the_last_to_be_named() {
        let changed = Due { changed_since: Some(10_500), ..due() };
        assert!(!changed.now(11_999));
        assert!(changed.now(12_000));
        assert!(!Due { awaiting: Some(3), changed_since: Some(1), ..due() }.now(1_000_000));
    }

    #[test]
    fn an_end_does_not_wait_for_the_interval() {
        assert!(Due { changed_since: Some(1), finishing: true, ..due() }.now(10_001));
    }

    #[test]
    fn where_nothing_is_deleted_nothing_more_is_given_up() {
        let (roots, clock) = (roots(60), Arc::new(Clock::default()));
        let (retention, store) =
            (Retention { time: Duration::ZERO, commits: 1 }, Arc::new(Objects::of(&roots)));
        let (committer, mut commits) = unbounded();
        let (sweeper, mut given_up) = unbounded();
        let mut publishing = Publishing {
            view: Nothing,
            due: due(),
            told: unbounded().1,
            committer,
            sweeper: sweeper.clone(),
            conductor: crossbeam_channel::unbounded().0,
            watch: Arc::new(Unwatched),
            edge: clock.clone(),
            collector: Collector::new(store, clock.clone(), retention, &roots[0], None),
            failures: 0,
        };
        let mut dropped = |root: &Root| {
            clock.0.fetch_add(2000, Ordering::Relaxed);
            publishing.committed(root);
            let told = std::iter::from_fn(|| commits.try_recv().ok());
            told.filter(|message| matches!(message, ToCommitter::Dropped(..))).count()
        };
        let mut all = 0;
        for root in &roots[1..50] {
            let more = dropped(root);
            all += more;
            // As the commits do.
            (0..more).for_each(|_| sweeper.unbounded_send(root.clone()).unwrap());
        }
        assert_eq!(all, SWEEPS_MAX);
        while given_up.try_recv().is_ok() {}
        assert_eq!(dropped(&roots[50]), 1, "it goes on once they are deleted");
    }
}
