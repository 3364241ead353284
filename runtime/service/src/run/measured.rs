//! What the metrics of a run are made of: durations as they come, and a copy of the rest at a scrape.

use super::gauges::{Held, Paused};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::collections::BTreeMap;
use tidemill_core::reader::Counted;
use tidemill_types::Epoch;

/// Histograms, in seconds.
#[derive(Debug)]
pub struct Durations {
    /// From the close of an epoch to its root.
    pub commit: Histogram,
    /// From the opening of an epoch to its root.
    pub freshness: Histogram,
    /// Of publications: from the first file to the last, before a root names it.
    pub publication: Histogram,
}

impl Default for Durations {
    fn default() -> Self {
        // From a millisecond to a minute, and from ten milliseconds to ten minutes.
        let short = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let long = || Histogram::new(exponential_buckets(0.01, 2.0, 17));
        Self { commit: short(), freshness: short(), publication: long() }
    }
}

/// A copy of what a run counts, at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// Whether records that come now are committed.
    pub ready: bool,
    /// Whether the run waits for something outside of the process.
    pub waiting: bool,
    /// Why the sources wait, if they do.
    pub paused: Paused,
    /// The writer's number.
    pub generation: u64,
    /// The newest commit.
    pub epoch: Epoch,
    /// The epoch of the newest publication that a root has named.
    pub published: Option<Epoch>,
    /// Commits of this run.
    pub commits: u64,
    /// Publications of this run.
    pub publications: u64,
    /// What came, by stream.
    pub streams: Vec<(String, Counted)>,
    /// Records that were rejected, by stream and code.
    pub rejects: BTreeMap<(String, String), u64>,
    /// Position and end, by stream and partition; of sources that know their ends.
    pub source_lag: BTreeMap<(String, String), (u64, u64)>,
    /// Age of the oldest record that is taken in and not committed, seconds; 0 if there is none.
    pub log_behind: f64,
    /// By table that is made for readers: its rows, and the age of the oldest committed change of it that
    /// no named publication holds, seconds.
    pub tables: BTreeMap<String, (u64, f64)>,
    /// Segments and their bytes.
    pub segments: (u64, u64),
    /// Objects and bytes of publications.
    pub lake: (u64, u64),
    /// Requests pending, and of these in flight.
    pub pending: (u64, u64),
    /// Results committed.
    pub results: u64,
    /// What owners hold now.
    pub held: Held,
    /// The Kafka sink, if there is one.
    pub sink: Option<MeasuredSink>,
}

/// Where the Kafka sink stands.
#[derive(Clone, PartialEq, Debug)]
pub struct MeasuredSink {
    /// Its tables.
    pub tables: Vec<String>,
    /// The epoch up to which everything is in the topics, once that is known.
    pub epoch: Option<Epoch>,
    /// Age of the oldest commit that may be missing there, seconds; 0 if none is.
    pub behind: f64,
    /// Records sent.
    pub records: u64,
    /// Whether something keeps it.
    pub waiting: bool,
    /// Whether it has stopped with an error.
    pub stopped: bool,
}
