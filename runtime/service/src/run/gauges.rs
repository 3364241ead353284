//! What a run shows of itself: counters that its threads write and the display reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidemill_core::reader::Taken;
use tidemill_core::source::{Lag, Standing};
use tidemill_types::{Epoch, Positions, Root};

/// Durations that are kept for percentiles: the latest. They are copied and sorted several times a second.
const KEPT: usize = 10_000;

/// Counters of a run.
#[derive(Default)]
pub struct Gauges {
    /// Records that sources handed over.
    pub records: AtomicU64,
    /// Bytes of their values.
    pub bytes: AtomicU64,
    /// Requests that wait for the model.
    pub pending: AtomicU64,
    /// Of these, the ones that the model has.
    pub in_flight: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    epoch: Epoch,
    published: Option<Epoch>,
    commits: u64,
    publications: u64,
    rows: BTreeMap<String, i64>,
    closed: BTreeMap<Epoch, (u64, u64)>,
    freshness_us: Option<u64>,
    commit_us: VecDeque<u64>,
    publish_us: VecDeque<u64>,
    segment_bytes: u64,
    segments: u64,
    publish_objects: u64,
    publish_bytes: u64,
    results: u64,
    paused: bool,
    overdue_start: bool,
    oldest_unpublished_ms: Option<i64>,
    positions: Positions,
    sources: Standing,
    held: Held,
    held_most: Held,
}

/// What owners hold in memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Bodies of epochs whose segments are not durable yet.
    pub pinned: u64,
    /// The cache of bodies. What is pinned is mostly in it too, and takes its memory once.
    pub cached: u64,
    /// The cache of segments.
    pub segments: u64,
    /// The lake's indexes of the rows that it has published.
    pub lake_index: u64,
}

impl Held {
    /// Of each owner the larger figure.
    fn most(self, other: Held) -> Held {
        Held {
            pinned: self.pinned.max(other.pinned),
            cached: self.cached.max(other.cached),
            segments: self.segments.max(other.segments),
            lake_index: self.lake_index.max(other.lake_index),
        }
    }
}

/// A copy of the counters at one moment.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Shown {
    /// Records in.
    pub records: u64,
    /// Bytes in.
    pub bytes: u64,
    /// The newest commit.
    pub epoch: Epoch,
    /// The epoch of the newest publication that a root has named.
    pub published: Option<Epoch>,
    /// Commits of this run.
    pub commits: u64,
    /// Publications of this run.
    pub publications: u64,
    /// Rows of each table, by the changes committed since the start of the run and what was there.
    pub rows: BTreeMap<String, i64>,
    /// From a close to its commit, microseconds, oldest first.
    pub commit_us: Vec<u64>,
    /// From the opening of the newest committed epoch to its commit, microseconds: no record of it is
    /// older.
    pub freshness_us: Option<u64>,
    /// Durations of publications, microseconds, oldest first.
    pub publish_us: Vec<u64>,
    /// Segments written and their bytes.
    pub segments: (u64, u64),
    /// Objects and bytes of all publications.
    pub lake: (u64, u64),
    /// Requests pending, and of these in flight.
    pub pending: (u64, u64),
    /// Results committed.
    pub results: u64,
    /// Whether the sources wait for the lake.
    pub paused: bool,
    /// When the oldest commit that is not published was made, milliseconds since 1970.
    pub oldest_unpublished_ms: Option<i64>,
    /// How far behind their ends partitions are read, where they have ends.
    pub lag: Vec<Lag>,
    /// What a source waits for, and since when.
    pub waiting: Option<String>,
    /// The most memory that each owner was seen to hold.
    pub held_most: Held,
}

impl Gauges {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that are there at the start.
    pub fn start(&self, root: &Root, rows: BTreeMap<String, i64>) {
        let mut inner = self.inner();
        inner.epoch = root.epoch;
        inner.positions.clone_from(&root.positions);
        inner.published = root.published.as_ref().map(|p| p.epoch);
        inner.rows = rows;
    }

    /// A batch of records was handed to a worker.
    pub fn took(&self, taken: Taken) {
        self.records.fetch_add(taken.records, Ordering::Relaxed);
        self.bytes.fetch_add(taken.bytes, Ordering::Relaxed);
        self.inner().held.pinned += taken.pinned;
    }

    /// What the lake's index takes from now on.
    pub fn lake_holds(&self, lake_index: u64) {
        self.inner().held.lake_index = lake_index;
    }

    /// What the caches hold now; the most that each owner held is kept.
    pub fn caches_hold(&self, cached: u64, segments: u64) {
        let mut inner = self.inner();
        (inner.held.cached, inner.held.segments) = (cached, segments);
        inner.held_most = inner.held_most.most(inner.held);
    }

    /// An epoch was opened and closed at these times of the run's stopwatch.
    pub fn closed(&self, epoch: Epoch, opened_at: u64, closed_at: u64) {
        self.inner().closed.insert(epoch, (opened_at, closed_at));
    }

    /// A segment is durable, and with it the bodies that were pinned for it.
    pub fn segment(&self, bytes: u64, unpinned: u64) {
        let mut inner = self.inner();
        inner.held.pinned = inner.held.pinned.saturating_sub(unpinned);
        inner.segments += 1;
        inner.segment_bytes += bytes;
    }

    /// A root is committed, at this time of the run's stopwatch.
    pub fn committed(&self, root: &Root, at: u64) {
        let mut inner = self.inner();
        inner.epoch = root.epoch;
        inner.positions.clone_from(&root.positions);
        inner.commits += 1;
        inner.published = root.published.as_ref().map(|p| p.epoch);
        if let Some((opened, closed)) = inner.closed.remove(&root.epoch) {
            keep(&mut inner.commit_us, at.saturating_sub(closed));
            inner.freshness_us = Some(at.saturating_sub(opened));
        }
        for (table, section) in root.segments.iter().flat_map(|segment| &segment.tables) {
            let rows = section.inserted as i64 - section.deleted as i64;
            *inner.rows.entry(table.clone()).or_default() += rows;
            if table.starts_with("ai.") {
                inner.results += section.inserted;
            }
        }
    }

    /// A publication is complete.
    pub fn published(&self, took_us: u64, objects: u64, bytes: u64) {
        let mut inner = self.inner();
        inner.publications += 1;
        inner.publish_objects += objects;
        inner.publish_bytes += bytes;
        keep(&mut inner.publish_us, took_us);
    }

    /// Requests that wait, and how many of them the model has.
    pub fn pending(&self, pending: u64, in_flight: u64) {
        self.pending.store(pending, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }

    /// Sets whether the sources wait for the lake; whether that is new.
    pub fn pause(&self, pause: bool) -> bool {
        std::mem::replace(&mut self.inner().paused, pause) != pause
    }

    /// When the oldest unpublished change was committed.
    pub fn lag(&self, oldest_unpublished_ms: Option<i64>) {
        self.inner().oldest_unpublished_ms = oldest_unpublished_ms;
    }

    /// What is committed of the sources.
    pub fn positions(&self) -> Positions {
        self.inner().positions.clone()
    }

    /// How the sources stand.
    pub fn sources_stand(&self, standing: Standing) {
        self.inner().sources = standing;
    }

    /// Whether a publication was overdue at the start and none has been named since.
    pub fn overdue_start(&self, overdue: bool) {
        self.inner().overdue_start = overdue;
    }

    /// Whether the sources must wait for the lake: the oldest change that is not published is older than
    /// the bound, also while a publication takes long, or a start must publish first.
    pub fn lake_lags(&self, now_ms: i64, lag_max: Duration) -> bool {
        let inner = self.inner();
        let late = |since: i64| i128::from(now_ms.saturating_sub(since)) > lag_max.as_millis() as i128;
        inner.overdue_start || inner.oldest_unpublished_ms.is_some_and(late)
    }

    /// A copy of everything.
    pub fn show(&self) -> Shown {
        let inner = self.inner();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Shown {
            records: read(&self.records),
            bytes: read(&self.bytes),
            epoch: inner.epoch,
            published: inner.published,
            commits: inner.commits,
            publications: inner.publications,
            rows: inner.rows.clone(),
            commit_us: inner.commit_us.iter().copied().collect(),
            freshness_us: inner.freshness_us,
            publish_us: inner.publish_us.iter().copied().collect(),
            segments: (inner.segments, inner.segment_bytes),
            lake: (inner.publish_objects, inner.publish_bytes),
            pending: (read(&self.pending), read(&self.in_flight)),
            results: inner.results,
            paused: inner.paused,
            oldest_unpublished_ms: inner.oldest_unpublished_ms,
            lag: inner.sources.lag.clone(),
            waiting: inner.sources.waiting.clone(),
            held_most: inner.held_most,
        }
    }
}

impl Shown {
    /// Records that no commit covers yet, where partitions have ends.
    pub fn source_lag(&self) -> Option<u64> {
        let behind = self.lag.iter().map(|lag| lag.end.saturating_sub(lag.position));
        (!self.lag.is_empty()).then(|| behind.sum())
    }

    /// Rows of the tables that are made for readers.
    pub fn tables(&self) -> Vec<(String, u64)> {
        let shown = self.rows.iter().filter(|(table, _)| !table.starts_with('_'));
        shown.map(|(table, rows)| (table.clone(), (*rows).max(0) as u64)).collect()
    }
}

fn keep(durations: &mut VecDeque<u64>, took: u64) {
    if durations.len() == KEPT {
        durations.pop_front();
    }
    durations.push_back(took);
}

/// A percentile (0 to 100) of durations, by the nearest rank; 0 of none.
pub fn percentile(durations: &[u64], percent: usize) -> u64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_wait_when_the_oldest_unpublished_change_is_too_old() {
        let (gauges, lag_max) = (Gauges::default(), Duration::from_secs(60));
        assert!(!gauges.lake_lags(1_000_000, lag_max));
        gauges.lag(Some(10_000));
        assert!(!gauges.lake_lags(70_000, lag_max) && gauges.lake_lags(70_001, lag_max));
        gauges.lag(None);
        gauges.overdue_start(true);
        assert!(gauges.lake_lags(0, lag_max));
    }

    #[test]
    fn a_pause_is_told_once() {
        let gauges = Gauges::default();
        assert_eq!([true, true, false, false].map(|pause| gauges.pause(pause)), [true, false, true, false]);
    }
}
