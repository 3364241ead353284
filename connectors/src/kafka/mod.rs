//! Kafka: topics as sources, the producer that fills them, and the sink for tables.
//!
//! ```text
//!  KafkaFactory ── begin ── watch: is every topic there, and all that is to be read next?
//!       │                      └ resume (pure): stored position x log's bounds x topic's identity
//!       │                                        -> where to go on, or what is gone
//!       ├─ open ──> KafkaSource (one a worker: its own consumer, its share of the partitions)
//!       └─ watch thread: lag, new partitions, topics made anew, offsets for other people's monitoring
//! ```
//!
//! # Why nothing is lost or read twice
//!
//! Where to read from stands in the store's root and nowhere else: partitions are assigned by hand, always at
//! an explicit offset, and no group's rebalancing or stored offset has a say. Only what a transaction
//! committed is seen. Whether the log still holds the record at a position is asked before a run begins
//! (`resume`); a log that lost it while it runs answers the fetch with an error, which is never
//! turned into a jump (`auto.offset.reset=error`). A topic that was deleted and made anew is known by its id,
//! which is kept beside the position.
//!
//! Offsets have holes (markers of transactions, compaction), so an end is a position and not a count: a
//! partition is drained when its position reached the end that was taken, or when a reader that begins
//! there is told at once that nothing follows.

mod client;
mod consumer;
mod identity;
mod producer;
mod resume;
mod sink;
mod source;
mod topics;
mod watch;

pub use client::Connection;
pub use producer::{Delivered, Failure, Outgoing, Producer, Stopwatch};
pub use sink::{ChangeRecord, GoOn, SinkClient, SinkOptions, SinkProducer};
pub use source::KafkaSource;
pub use topics::{Ensured, Wanted, ensure, held};

use crate::kafka::resume::{Cursor, Lost, Plan};
use crate::kafka::watch::{Look, Looker, Shared, Watching};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_core::commit::Beginning;
use tidemill_core::source::{Source, SourceError, SourceFactory, Standing, StreamSpec};
use tidemill_types::{Cursors, Positions};

/// How long a start waits between two looks at brokers that are away.
const RETRY: Duration = Duration::from_millis(500);
/// How long an answer of a broker is waited for.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// A log whose end lies below a position is looked at so often before it is believed: a broker that has just
/// started may not know its end yet.
const LOOKS_AT_ENDS: u32 = 6;
/// A topic that is not there is looked for so often before it is believed: brokers may be electing leaders.
const LOOKS_AT_ABSENT: u32 = 3;
/// As often brokers may refuse us before that is believed.
const REFUSALS: u32 = 3;
/// How often a waiting start says so again.
const SAY_AGAIN_US: u64 = 15_000_000;

/// What a Kafka source is told.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Where the brokers are.
    pub connection: Connection,
    /// The group under which committed offsets are shown to others.
    pub group: String,
    /// The program's streams.
    pub streams: Vec<StreamSpec>,
    /// Topics of streams, where they are not the program's own; an empty name: the stream is not read.
    pub topics: BTreeMap<String, String>,
    /// Whether to end at the ends that the partitions have at the start.
    pub drain: bool,
    /// Whether to go on where records are gone.
    pub accept_gap: bool,
    /// Bytes that may be fetched and not handed on, of all workers together.
    pub fetched_bytes_max: u64,
    /// The time, as people write it.
    pub now: Arc<dyn Fn() -> String + Send + Sync>,
    /// Microseconds of a clock that never goes back.
    pub stopwatch: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told what is waited for, and when it is no longer.
    pub waits: Arc<dyn Fn(Option<String>) + Send + Sync>,
}

impl KafkaOptions {
    /// The topic of a stream, if it is to be read.
    pub fn topic<'a>(&'a self, stream: &'a StreamSpec) -> Option<&'a str> {
        let topic = self.topics.get(&stream.name).unwrap_or(&stream.topic);
        (!topic.is_empty()).then_some(topic)
    }
}

/// Opens the shares of a Kafka source.
pub struct KafkaFactory {
    options: Arc<KafkaOptions>,
    looker: Arc<Looker>,
    shared: Arc<Shared>,
    watching: AtomicBool,
}

impl KafkaFactory {
    /// Checks the settings; no broker is asked yet.
    ///
    /// # Errors
    ///
    /// When a stream that has a topic is unknown, or a property is wrong.
    pub fn new(options: KafkaOptions) -> Result<Self, SourceError> {
        let names: Vec<&str> = options.streams.iter().map(|stream| stream.name.as_str()).collect();
        if let Some(unknown) = options.topics.keys().find(|stream| !names.contains(&stream.as_str())) {
            let names = names.join(", ");
            return Err(SourceError(format!(
                "kafka.topics.{unknown}: there is no stream {unknown}; the streams are {names}"
            )));
        }
        let topics = options.streams.iter().map(|stream| options.topic(stream).map(str::to_string));
        let topics: Vec<Option<String>> = topics.collect();
        for (place, topic) in topics.iter().enumerate() {
            let (Some(topic), earlier) = (topic, &topics[..place]) else { continue };
            if let Some(other) = earlier.iter().position(|other| other.as_ref() == Some(topic)) {
                let [one, two] = [&names[other], &names[place]];
                return Err(SourceError(format!(
                    "the streams {one} and {two} have the same topic {topic}: give each its own with kafka.topics"
                )));
            }
        }
        let looker = Arc::new(Looker::new(&options, topics)?);
        let options = Arc::new(options);
        Ok(Self { options, looker, shared: Arc::default(), watching: AtomicBool::new(false) })
    }

    fn wait_for(&self, what: Option<String>) {
        self.shared.wait_for(what.clone());
        (self.options.waits)(what);
    }

    /// Looks until the brokers answer. `None`: told to stop.
    fn look(&self, stop: &AtomicBool) -> Result<Option<Look>, SourceError> {
        let mut away: Option<(String, u64)> = None;
        let (mut absent, mut refusals, mut refusal, mut complaint) = (0, 0, None, String::new());
        let brokers = &self.options.connection.brokers;
        while !stop.load(Ordering::Acquire) {
            let error = match self.looker.look(ANSWER) {
                Ok(look) => {
                    if let Some((since, _)) = away.take() {
                        tracing::warn!(%brokers, "kafka answers again; it was away since {since}");
                    }
                    self.wait_for(None);
                    match self.looker.all_there(look) {
                        Err(error) if absent + 1 >= LOOKS_AT_ABSENT => return Err(error),
                        Err(_) => absent += 1,
                        Ok(look) => return Ok(Some(look)),
                    }
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(error) => error,
            };
            // A broker that goes away in the middle of a handshake looks like one that refuses; the client says
            // the same thing only once.
            refusal = match self.looker.why() {
                Err(why) => Some(why),
                Ok(None) => refusal,
                Ok(Some(why)) => {
                    complaint = why;
                    None
                }
            };
            refusals = if refusal.is_some() { refusals + 1 } else { 0 };
            let error = match &refusal {
                Some(refusal) if refusals >= REFUSALS => return Err(refusal.clone()),
                Some(refusal) => refusal.to_string(),
                None if complaint.is_empty() => error.to_string(),
                None => complaint.clone(),
            };
            let now = (self.options.stopwatch)();
            let (since, said) = away.get_or_insert_with(|| ((self.options.now)(), 0));
            self.wait_for(Some(format!("kafka at {brokers} does not answer since {since}")));
            if *said == 0 || now.saturating_sub(*said) > SAY_AGAIN_US {
                tracing::warn!(%error, "kafka at {brokers} does not answer since {since}; waiting for it");
                *said = now.max(1);
            }
            std::thread::sleep(RETRY);
        }
        Ok(None)
    }
}

impl SourceFactory for KafkaFactory {
    fn begin(
        &self,
        positions: &Positions,
        cursors: &Cursors,
        stop: &AtomicBool,
    ) -> Result<Option<Beginning>, SourceError> {
        let mut looks = 0;
        loop {
            let Some(look) = self.look(stop)? else { return Ok(None) };
            let plan = Plan::of(&self.options, &look, positions, cursors)?;
            looks += 1;
            if plan.lost.iter().any(Lost::is_at_the_end) && looks < LOOKS_AT_ENDS {
                std::thread::sleep(2 * RETRY);
                continue;
            }
            if !plan.lost.is_empty() && !self.options.accept_gap {
                return Err(resume::lost(&plan.lost));
            }
            let beginning = plan.beginning();
            self.shared.begin(plan, &look, &self.options);
            return Ok(Some(beginning));
        }
    }

    fn open(
        &self,
        worker: usize,
        workers: usize,
        _positions: &Positions,
        _cursors: &Cursors,
    ) -> Result<Box<dyn Source>, SourceError> {
        if !self.watching.swap(true, Ordering::AcqRel) {
            Watching::spawn(&self.options, &self.looker, &self.shared)?;
        }
        Ok(Box::new(KafkaSource::open(&self.options, &self.shared, worker, workers)?))
    }

    fn committed(&self, positions: &Positions) {
        self.shared.committed(positions);
    }

    fn standing(&self) -> Standing {
        self.shared.standing()
    }
}

impl Drop for KafkaFactory {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

/// What is stored beside a position.
fn cursor(topic: &str, id: Option<&str>) -> serde_json::Value {
    // A map of strings is JSON.
    serde_json::to_value(Cursor { topic: topic.into(), id: id.map(Into::into) }).unwrap_or_default()
}
