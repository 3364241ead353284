//! The publisher's thread: decides when the lake is brought up to date, and carries it out.
//!
//! No two publications are under way together: until a root names one, the next is not begun. One is due
//! when there are changes to publish and the latest that a root names is as old as the interval. Its age
//! counts from the commit of its epoch, whatever restarts came between, so that a service that is killed
//! more often than it publishes still publishes first thing. At an end it is due at once. The thread
//! tells the gauges since when the oldest change waits; the watch of the run pauses the sources while
//! that is too long ago, and where one is overdue already the run begins paused.

use super::clock::{Stopwatch, now_ms, parse_ms};
use super::collecting::Collector;
use super::committing::ToCommitter;
use super::gauges::Gauges;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;
use tidemill_connectors::lake::LakePublisher;
use tidemill_core::conductor::ToConductor;
use tidemill_core::view::{View, ViewFailure};
use tidemill_types::{Epoch, Root};
use tokio::sync::mpsc::UnboundedSender;

/// What the publisher is told.
#[derive(Debug)]
pub(super) enum ToPublisher {
    Committed(Box<Root>),
    /// Publish the last change, then say so.
    Finish,
    /// Leave at once.
    Leave,
}

/// When a publication is due: sans-IO, times in milliseconds.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) interval: i64,
    pub(super) changed_since: Option<i64>,
    pub(super) newest_named: i64,
    pub(super) awaiting: Option<Epoch>,
    pub(super) finishing: bool,
}

impl Due {
    /// Whether to publish now.
    pub(super) fn now(&self, now: i64) -> bool {
        let overdue = now.saturating_sub(self.newest_named) >= self.interval;
        self.changed_since.is_some() && self.awaiting.is_none() && (overdue || self.finishing)
    }

    /// How long until something may be due, milliseconds.
    pub(super) fn wait(&self, now: i64) -> u64 {
        match self.changed_since.is_some() && self.awaiting.is_none() {
            true => (self.newest_named + self.interval - now).clamp(1, 200) as u64,
            false => 200,
        }
    }

    /// Whether there is nothing left to publish or to be named.
    pub(super) fn is_done(&self) -> bool {
        self.changed_since.is_none() && self.awaiting.is_none()
    }
}

pub(super) struct Publishing {
    pub(super) lake: LakePublisher,
    pub(super) due: Due,
    pub(super) told: Receiver<ToPublisher>,
    pub(super) committer: UnboundedSender<ToCommitter>,
    pub(super) conductor: Sender<ToConductor>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stopwatch: Stopwatch,
    pub(super) collector: Collector,
    pub(super) failures: u32,
}

impl Publishing {
    /// Publishes until the last change is named. An error: the lake or the store cannot go on.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            let wait = Duration::from_millis(self.due.wait(now_ms()));
            let first = match self.told.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            // What has been committed by now belongs into the same publication.
            let waiting: Vec<ToPublisher> = first.into_iter().chain(self.told.try_iter()).collect();
            for message in waiting {
                match message {
                    ToPublisher::Committed(root) => self.committed(&root),
                    ToPublisher::Finish => self.due.finishing = true,
                    ToPublisher::Leave => return Ok(()),
                }
            }
            if self.due.now(now_ms()) {
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
        let at = parse_ms(&root.committed_at).unwrap_or_else(now_ms);
        if let (Some(awaited), Some(published)) = (self.due.awaiting, &root.published)
            && published.epoch >= awaited
        {
            self.due.awaiting = None;
            self.gauges.overdue_start(false);
            self.due.newest_named = at;
            self.lake.named(published.epoch);
        }
        self.lake.committed(root);
        if self.lake.unpublished().is_some() {
            self.due.changed_since.get_or_insert(at);
        }
        self.gauges.lag(self.due.changed_since);
        match self.collector.step(&self.lake, root, now_ms()) {
            // The committer is gone only when the run is being torn down.
            Ok(Some((names, log_from))) => drop(self.committer.send(ToCommitter::Dropped(names, log_from))),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "old objects could not be collected; trying again later"),
        }
    }

    fn publish(&mut self) -> Result<(), String> {
        let start = (self.stopwatch)();
        self.gauges.publishing(true);
        let published = self.lake.publish();
        self.gauges.publishing(false);
        let published = match published {
            Ok(published) => published,
            Err(ViewFailure::Store(error)) => {
                self.failures += 1;
                tracing::warn!(%error, failures = self.failures, "the lake could not be published; trying again");
                // At least as long as the attempt took: a store that takes nothing must not cost a core.
                let took = Duration::from_micros((self.stopwatch)() - start);
                std::thread::sleep(took.max(Duration::from_millis(100 * u64::from(self.failures.min(50)))));
                return Ok(());
            }
            Err(ViewFailure::Broken(error)) => return Err(error.to_string()),
        };
        self.failures = 0;
        self.due.changed_since = None;
        self.gauges.lag(None);
        let Some(published) = published else {
            self.gauges.overdue_start(false);
            return Ok(());
        };
        let stats = self.lake.stats();
        self.gauges.lake_holds(self.lake.index_bytes() as u64);
        let (took, objects, bytes) = ((self.stopwatch)() - start, stats.objects, stats.bytes);
        self.gauges.published(took, objects, bytes);
        tracing::info!(epoch = published.epoch, ms = took / 1000, objects, bytes, "published");
        self.due.awaiting = Some(published.epoch);
        if self.committer.send(ToCommitter::Published(published)).is_ok() {
            self.tell(ToConductor::Force);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
