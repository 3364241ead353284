//! What a run shows of itself: counters that its threads write, and the display and the metrics read.
//!
//! They are written once a batch, a commit, a publication or a request to the store, never once a record.

use super::ages::Ages;
use super::counted::StoreRequests;
use super::health::{Health, Phase};
use super::measured::{Durations, Measured, MeasuredSink};
use super::newest::Newest;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidemill_core::edge::parse_ms;
use tidemill_core::program::Program;
use tidemill_core::reader::{Counted, Taken};
use tidemill_core::source::{Lag, Standing};
use tidemill_core::view::Cost;
use tidemill_core::writer::PublicationWatch;
use tidemill_types::{Epoch, Partition, Positions, Root, Tag};

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
    /// Requests to the store.
    pub store: StoreRequests,
    /// How long commits and publications take.
    pub durations: Durations,
    /// The newest commit.
    pub newest: Newest,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    health: Health,
    streams: Vec<(String, Counted)>,
    rejects: BTreeMap<(String, String), u64>,
    source_lag: BTreeMap<(String, String), (u64, u64)>,
    /// Up to where each partition was taken in; times are the stopwatch's.
    taken_to: HashMap<(usize, Partition), u64>,
    /// What of it waits for its commit.
    uncommitted: HashMap<(usize, Partition), Ages>,
    /// Commits of changes of each table that no named publication holds; times are of the day.
    unpublished: BTreeMap<String, Ages>,
    generation: u64,
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
    paused: Paused,
    open_holds: bool,
    publishing: bool,
    overdue_start: bool,
    /// See [`Gauges::goes_back`].
    goes_back: bool,
    superseded: bool,
    tags: BTreeMap<String, Tag>,
    oldest_unpublished_ms: Option<i64>,
    positions: Positions,
    sources: Standing,
    held: Held,
    held_most: Held,
    sink: Option<SinkStands>,
}

/// Where the Kafka sink stands.
#[derive(Default)]
struct SinkStands {
    tables: Vec<String>,
    epoch: Option<Epoch>,
    /// What the sink says of itself, which it does between its steps only.
    unsent_ms: Option<i64>,
    /// The commits of this run that it has not dealt with, also those that come while a step takes long.
    commits: Ages,
    records: u64,
    waiting: Option<String>,
    stopped: Option<String>,
}

impl SinkStands {
    /// When the oldest commit was made that may be missing in the topics, milliseconds since 1970.
    fn behind_since(&self) -> Option<i64> {
        self.commits.oldest().into_iter().chain(self.unsent_ms).min()
    }
}

/// Why the sources wait.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Paused {
    /// The lake is too far behind.
    pub lake: bool,
    /// Memory is near its bound.
    pub memory: bool,
}

impl Paused {
    /// Why, for people.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Paused { lake: true, .. } => Some("the lake is catching up"),
            Paused { memory: true, .. } => Some("memory is near memory.bytes_max"),
            Paused { lake: false, memory: false } => None,
        }
    }
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
    /// Why the sources wait, if they do.
    pub paused: Paused,
    /// When the oldest commit that is not published was made, milliseconds since 1970.
    pub oldest_unpublished_ms: Option<i64>,
    /// How far behind their ends partitions are read, where they have ends.
    pub lag: Vec<Lag>,
    /// What a source waits for, and since when.
    pub waiting: Option<String>,
    /// The most memory that each owner was seen to hold.
    pub held_most: Held,
    /// The epoch up to which everything is in Kafka, where tables are sent there.
    pub sent: Option<Epoch>,
}

impl Gauges {
    /// The gauges of a run of a program.
    pub fn of(program: &dyn Program) -> Self {
        let gauges = Gauges::default();
        let streams = program.streams().into_iter().map(|stream| (stream.name, Counted::default()));
        gauges.inner().streams = streams.collect();
        gauges
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that are there at the start.
    pub fn start(&self, root: &Root, rows: BTreeMap<String, i64>) {
        self.newest.set(root);
        let mut inner = self.inner();
        inner.generation = root.generation;
        inner.epoch = root.epoch;
        inner.positions.clone_from(&root.positions);
        inner.published = root.published.as_ref().map(|p| p.epoch);
        inner.rows = rows;
    }

    /// The process begins another run.
    pub fn begins_again(&self) {
        self.inner().health = Health::default();
    }

    /// The run goes on to a stage; whether that is new.
    pub fn enter(&self, phase: Phase) -> bool {
        self.inner().health.enter(phase)
    }

    /// What the run waits for outside of the process, such as a broker, or that it no longer does. It is
    /// not ready meanwhile.
    pub fn waiting(&self, reason: Option<String>) {
        self.inner().health.waits(reason);
    }

    /// Nothing if the run has not failed, else why.
    pub fn alive(&self) -> Result<(), String> {
        self.inner().health.alive()
    }

    /// Nothing if records that come now are committed, else why not, in one line.
    pub fn ready(&self) -> Result<(), String> {
        self.inner().health.ready()
    }

    /// A batch of records is handed to a worker, at this time of the run's stopwatch.
    pub fn took(&self, taken: &Taken<'_>, at: u64) {
        self.records.fetch_add(taken.all.records, Ordering::Relaxed);
        self.bytes.fetch_add(taken.all.bytes, Ordering::Relaxed);
        let mut inner = self.inner();
        inner.held.pinned += taken.pinned;
        for ((_, all), counted) in inner.streams.iter_mut().zip(taken.streams) {
            all.records += counted.records;
            all.bytes += counted.bytes;
        }
        for reject in taken.rejects {
            *inner.rejects.entry((reject.stream.clone(), reject.code.clone())).or_default() += 1;
        }
        // A position that moved over what is no record makes nothing wait for a commit.
        let positions = if taken.all.records > 0 { taken.positions } else { &[] };
        for (stream, partition, next, _) in positions {
            inner.took_to((*stream, partition.clone()), *next, at);
        }
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
        inner.tags.clone_from(&root.tags);
        inner.goes_back &= root.rolled_back_to.is_none();
        inner.commits += 1;
        inner.published = root.published.as_ref().map(|p| p.epoch);
        if let Some((opened, closed)) = inner.closed.remove(&root.epoch) {
            let (took, fresh) = (at.saturating_sub(closed), at.saturating_sub(opened));
            keep(&mut inner.commit_us, took);
            inner.freshness_us = Some(fresh);
            self.durations.commit.observe(seconds(took));
            self.durations.freshness.observe(seconds(fresh));
        }
        inner.covered(root);
        inner.stands(root);
        for (table, section) in root.segments.iter().flat_map(|segment| &segment.tables) {
            let rows = section.inserted as i64 - section.deleted as i64;
            *inner.rows.entry(table.clone()).or_default() += rows;
            if table.starts_with("ai.") {
                inner.results += section.inserted;
            }
        }
        drop(inner);
        // The sink deals with it at once: by then it waits.
        self.newest.set(root);
    }

    /// A publication is complete.
    pub fn published(&self, took_us: u64, objects: u64, bytes: u64) {
        let mut inner = self.inner();
        inner.publications += 1;
        inner.publish_objects += objects;
        inner.publish_bytes += bytes;
        keep(&mut inner.publish_us, took_us);
        self.durations.publication.observe(seconds(took_us));
    }

    /// A root of an earlier run that this one goes on from, oldest first: it may hold changes that no
    /// publication has.
    pub fn found(&self, root: &Root) {
        self.inner().stands(root);
    }

    /// Requests that wait, and how many of them the model has.
    pub fn pending(&self, pending: u64, in_flight: u64) {
        self.pending.store(pending, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }

    /// Sets whether the sources wait for the lake; whether that is new.
    pub fn pause_for_the_lake(&self, pause: bool) -> bool {
        std::mem::replace(&mut self.inner().paused.lake, pause) != pause
    }

    /// Sets whether the sources wait for memory; whether that is new.
    pub fn pause_for_memory(&self, pause: bool) -> bool {
        std::mem::replace(&mut self.inner().paused.memory, pause) != pause
    }

    /// A publication is begun, or it has ended.
    pub fn publishing(&self, publishing: bool) {
        self.inner().publishing = publishing;
    }

    /// Whether the open epoch holds anything.
    pub fn open_holds(&self, holds: bool) {
        self.inner().open_holds = holds;
    }

    /// Whether something is held that is let go by itself: an epoch that is open or on its way to its commit, a
    /// publication. Records that no worker has taken yet are not: while the sources pause they stay where they are.
    pub fn under_way(&self) -> bool {
        let inner = self.inner();
        inner.open_holds || !inner.closed.is_empty() || inner.publishing
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
        let mut inner = self.inner();
        inner.health.waits(standing.waiting.clone());
        let of_one = |lag: &Lag| ((lag.stream.clone(), lag.partition.clone()), (lag.position, lag.end));
        inner.source_lag = standing.lag.iter().map(of_one).collect();
        inner.sources = standing;
    }

    /// Whether the next commit goes back to an earlier one: nothing is taken in before it.
    pub fn goes_back(&self, goes_back: bool) {
        self.inner().goes_back = goes_back;
    }

    /// See [`Gauges::goes_back`].
    pub fn is_going_back(&self) -> bool {
        self.inner().goes_back
    }

    /// Another writer has taken the store over.
    pub fn superseded(&self) {
        self.inner().superseded = true;
    }

    /// See [`Gauges::superseded`].
    pub fn is_superseded(&self) -> bool {
        self.inner().superseded
    }

    /// A tag of the newest commit.
    pub fn tag(&self, name: &str) -> Option<Tag> {
        self.inner().tags.get(name).copied()
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
        inner.goes_back || inner.overdue_start || inner.oldest_unpublished_ms.is_some_and(late)
    }

    /// A Kafka sink of these tables begins; where it stands is not known yet.
    pub fn sink_begins(&self, tables: Vec<String>, now_ms: i64) {
        self.inner().sink = Some(SinkStands { tables, unsent_ms: Some(now_ms), ..SinkStands::default() });
    }

    /// What the sink has sent, the next commit that it will deal with, and since when the oldest waits of those
    /// that it knows of.
    pub fn sink_stands(&self, sent: Option<Epoch>, next: Epoch, unsent_ms: Option<i64>) {
        self.of_sink(|sink| {
            (sink.epoch, sink.unsent_ms) = (sent, unsent_ms);
            sink.commits.done(next.saturating_sub(1));
        });
    }

    /// The sink has sent so many more records.
    pub fn sink_sent(&self, records: u64) {
        self.of_sink(|sink| sink.records += records);
    }

    /// What keeps the sink, or that nothing does.
    pub fn sink_waits(&self, why: Option<String>) {
        self.of_sink(|sink| sink.waiting = why);
    }

    /// The sink has left, with an error if it stopped.
    pub fn sink_ended(&self, stopped: Option<String>) {
        self.of_sink(|sink| (sink.waiting, sink.stopped) = (None, stopped));
    }

    /// What is to be said of the sink where the run itself is well.
    pub fn sink_trouble(&self) -> Option<String> {
        let inner = self.inner();
        let sink = inner.sink.as_ref()?;
        sink.stopped.clone().or(sink.waiting.clone())
    }

    fn of_sink(&self, change: impl FnOnce(&mut SinkStands)) {
        if let Some(sink) = &mut self.inner().sink {
            change(sink);
        }
    }

    /// What the metrics say; `at` is the time of the run's stopwatch and `now_ms` that of the day.
    pub fn measured(&self, at: u64, now_ms: i64) -> Measured {
        let inner = self.inner();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let oldest = inner.uncommitted.values().filter_map(Ages::oldest).min();
        let since = |now: i64, then: i64, unit: f64| now.saturating_sub(then).max(0) as f64 / unit;
        let behind = |ages: &Ages| ages.oldest().map_or(0.0, |then| since(now_ms, then, 1e3));
        let tables = inner.rows.iter().filter(|(table, _)| is_for_readers(table));
        let lake_behind = |table: &String| inner.unpublished.get(table).map_or(0.0, behind);
        Measured {
            ready: inner.health.ready().is_ok(),
            waiting: inner.health.is_waiting(),
            paused: inner.paused,
            generation: inner.generation,
            epoch: inner.epoch,
            published: inner.published,
            commits: inner.commits,
            publications: inner.publications,
            streams: inner.streams.clone(),
            rejects: inner.rejects.clone(),
            source_lag: inner.source_lag.clone(),
            log_behind: oldest.map_or(0.0, |then| since(at as i64, then, 1e6)),
            tables: tables
                .map(|(table, rows)| (table.clone(), ((*rows).max(0) as u64, lake_behind(table))))
                .collect(),
            segments: (inner.segments, inner.segment_bytes),
            lake: (inner.publish_objects, inner.publish_bytes),
            pending: (read(&self.pending), read(&self.in_flight)),
            results: inner.results,
            held: inner.held,
            sink: inner.sink.as_ref().map(|sink| MeasuredSink {
                tables: sink.tables.clone(),
                epoch: sink.epoch,
                behind: sink.behind_since().map_or(0.0, |then| since(now_ms, then, 1e3)),
                records: sink.records,
                waiting: sink.waiting.is_some(),
                stopped: sink.stopped.is_some(),
            }),
        }
    }

    /// A copy of everything that the display shows.
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
            sent: inner.sink.as_ref().and_then(|sink| sink.epoch),
        }
    }
}

impl Inner {
    /// A partition is taken in up to there, and was so at that time.
    fn took_to(&mut self, of: (usize, Partition), next: u64, at: u64) {
        let known = self.taken_to.insert(of.clone(), next);
        if known.is_none_or(|known| known < next) {
            self.uncommitted.entry(of).or_default().waits(next, at as i64);
        }
    }

    /// What a root covers waits for its commit no more.
    fn covered(&mut self, root: &Root) {
        let Self { streams, uncommitted, .. } = self;
        uncommitted.retain(|(stream, partition), ages| {
            let positions = streams.get(*stream).and_then(|(name, _)| root.positions.get(name));
            ages.done(positions.and_then(|of| of.get(partition.text())).copied().unwrap_or(0));
            ages.oldest().is_some()
        });
    }

    /// A root's changes wait for a publication and for the sink, and those of the publication that it names no
    /// more for one.
    fn stands(&mut self, root: &Root) {
        let at = parse_ms(&root.committed_at);
        for (table, section) in root.segments.iter().flat_map(|segment| &segment.tables) {
            if let Some(at) = at.filter(|_| section.inserted + section.deleted > 0) {
                self.unpublished.entry(table.clone()).or_default().waits(root.epoch, at);
            }
        }
        if let (Some(at), Some(sink)) = (at, &mut self.sink) {
            sink.commits.waits(root.epoch, at);
        }
        if let Some(published) = &root.published {
            self.unpublished.values_mut().for_each(|ages| ages.done(published.epoch));
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn is_for_readers(table: &str) -> bool {
    !table.starts_with('_')
}

impl Shown {
    /// Records that no commit covers yet, where partitions have ends.
    pub fn source_lag(&self) -> Option<u64> {
        let behind = self.lag.iter().map(|lag| lag.end.saturating_sub(lag.position));
        (!self.lag.is_empty()).then(|| behind.sum())
    }

    /// Rows of the tables that are made for readers.
    pub fn tables(&self) -> Vec<(String, u64)> {
        let shown = self.rows.iter().filter(|(table, _)| is_for_readers(table));
        shown.map(|(table, rows)| (table.clone(), (*rows).max(0) as u64)).collect()
    }
}

fn keep(durations: &mut VecDeque<u64>, took: u64) {
    if durations.len() == KEPT {
        durations.pop_front();
    }
    durations.push_back(took);
}

impl PublicationWatch for Gauges {
    fn waits_since(&self, changed_since: Option<i64>) {
        self.lag(changed_since);
    }

    fn publishing(&self, now: bool) {
        Gauges::publishing(self, now);
    }

    fn caught_up(&self) {
        self.overdue_start(false);
    }

    fn published(&self, epoch: Epoch, took_us: u64, cost: Cost) {
        self.lake_holds(cost.held_bytes);
        let (objects, bytes) = (cost.objects, cost.bytes);
        Gauges::published(self, took_us, objects, bytes);
        tracing::info!(epoch, ms = took_us / 1000, objects, bytes, "published");
    }
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

    fn taken(positions: &[(usize, Partition, u64, serde_json::Value)]) -> Taken<'_> {
        Taken { all: Counted { records: 1, bytes: 1 }, streams: &[], rejects: &[], positions, pinned: 0 }
    }

    /// A root with changes of these tables.
    fn root(epoch: Epoch, position: u64, tables: &[&str], published: Option<Epoch>) -> Root {
        let section = serde_json::json!({"offset": 0, "length": 1, "inserted": 1, "deleted": 0});
        let tables: serde_json::Map<_, _> = tables.iter().map(|t| (t.to_string(), section.clone())).collect();
        serde_json::from_value(serde_json::json!({
            "format": 1, "epoch": epoch, "committed_at": format!("1970-01-01T00:00:{epoch:02}Z"),
            "generation": 4, "nonce": "", "location": "", "claim": false, "models": [],
            "program": {"name": "", "version": "", "settings": {}}, "positions": {"s": {"7": position}},
            "segments": [{"name": "", "worker": 0, "bytes": 1, "digest": "", "tables": tables}],
            "published": published.map(|epoch| serde_json::json!({"epoch": epoch, "tables": {}})),
        }))
        .unwrap()
    }

    #[test]
    fn the_log_is_behind_by_the_oldest_record_that_no_commit_covers() {
        let gauges = Gauges::default();
        gauges.inner().streams = vec![("s".into(), Counted::default())];
        let behind = |at| gauges.measured(at, 0).log_behind;
        let position = |next| [(0, Partition::number(7), next, serde_json::Value::Null)];
        assert_eq!(behind(9_000_000), 0.0);
        gauges.took(&taken(&position(5)), 1_000_000);
        gauges.took(&taken(&position(9)), 2_000_000);
        assert_eq!(behind(4_000_000), 3.0);
        gauges.committed(&root(1, 5, &[], None), 4_000_000);
        assert_eq!(behind(4_000_000), 2.0);
        gauges.committed(&root(2, 9, &[], None), 5_000_000);
        // A batch of other partitions repeats where this one stands.
        gauges.took(&taken(&position(9)), 6_000_000);
        assert_eq!(behind(7_000_000), 0.0);
        // Nor does anything wait that moved over the markers of a transaction alone.
        gauges.took(&Taken { all: Counted::default(), ..taken(&position(12)) }, 7_000_000);
        assert_eq!(behind(9_000_000), 0.0);
    }

    #[test]
    fn the_lake_is_behind_by_the_oldest_change_of_a_table_that_no_named_publication_holds() {
        let gauges = Gauges::default();
        gauges.start(&root(1, 0, &[], None), ["a", "b", "_c"].map(|t| (t.to_string(), 0)).into());
        let behind = || gauges.measured(0, 10_000).tables.into_values().map(|(_, behind)| behind);
        gauges.found(&root(2, 0, &["a", "_c"], None));
        gauges.committed(&root(3, 0, &["b"], None), 0);
        assert_eq!(behind().collect::<Vec<_>>(), [8.0, 7.0]);
        gauges.committed(&root(4, 0, &["a"], Some(2)), 0);
        assert_eq!(behind().collect::<Vec<_>>(), [6.0, 7.0]);
        gauges.committed(&root(5, 0, &[], Some(4)), 0);
        assert_eq!(behind().collect::<Vec<_>>(), [0.0, 0.0]);
    }

    #[test]
    fn where_the_sink_stands_is_told() {
        let gauges = Gauges::default();
        assert_eq!(gauges.measured(0, 0).sink, None);
        gauges.sink_begins(vec!["a".into()], 1_000);
        gauges.sink_stands(None, 0, Some(1_000));
        assert_eq!(gauges.show().sent, None);
        gauges.sink_stands(Some(7), 8, Some(2_000));
        assert_eq!(gauges.show().sent, Some(7));
        let sink = gauges.measured(0, 5_000).sink.unwrap();
        assert_eq!((sink.epoch, sink.behind, sink.stopped), (Some(7), 3.0, false));
        gauges.sink_waits(Some("nobody answers".into()));
        assert_eq!(gauges.sink_trouble().as_deref(), Some("nobody answers"));
        gauges.sink_ended(Some("it stopped".into()));
        assert_eq!(gauges.sink_trouble().as_deref(), Some("it stopped"));
    }

    #[test]
    fn the_sink_is_behind_by_the_oldest_commit_that_it_has_not_dealt_with() {
        let gauges = Gauges::default();
        gauges.sink_begins(vec!["a".into()], 0);
        gauges.sink_stands(Some(1), 2, None);
        let behind = || gauges.measured(0, 10_000).sink.unwrap().behind;
        assert_eq!(behind(), 0.0);
        // The sink waits for brokers and says nothing meanwhile.
        gauges.committed(&root(2, 0, &["a"], None), 0);
        gauges.committed(&root(3, 0, &["a"], None), 0);
        assert_eq!(behind(), 8.0);
        // It hears of them later than they were made.
        gauges.sink_stands(Some(1), 2, Some(9_900));
        assert_eq!(behind(), 8.0);
        gauges.sink_stands(Some(2), 3, Some(9_900));
        assert_eq!(behind(), 7.0);
        gauges.sink_stands(Some(3), 4, None);
        assert_eq!(behind(), 0.0);
    }

    #[test]
    fn a_pause_is_told_once() {
        let gauges = Gauges::default();
        let told = [true, true, false, false].map(|pause| gauges.pause_for_the_lake(pause));
        assert_eq!(told, [true, false, true, false]);
        assert!(gauges.pause_for_memory(true) && !gauges.pause_for_memory(true));
        assert_eq!(gauges.show().paused, Paused { lake: false, memory: true });
    }

    #[test]
    fn an_epoch_is_under_way_until_its_commit_and_what_waits_before_the_workers_is_not() {
        let gauges = Gauges::default();
        gauges.took(&taken(&[(0, Partition::number(7), 5, serde_json::Value::Null)]), 0);
        assert!(!gauges.under_way());
        gauges.open_holds(true);
        assert!(gauges.under_way());
        gauges.closed(2, 0, 1);
        gauges.open_holds(false);
        assert!(gauges.under_way());
        gauges.committed(&root(2, 5, &[], None), 2);
        assert!(!gauges.under_way());
        gauges.publishing(true);
        assert!(gauges.under_way());
    }
}
