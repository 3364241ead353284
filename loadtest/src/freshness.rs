//! How old records are when a commit holds them, and how soon a start commits: read off a store and the topics
//! that it was made from, after the fact, so that nothing is measured by what is measured.
//!
//! A record's age is the time from its Kafka timestamp to its root. The root of a local store is there when its
//! file is; of another store its own `committed_at` is taken, the moment in which it was put.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tidemill::Error;
use tidemill::run::percentile;

/// How long a broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Freshness {
    /// Of each record that a retained root was the first to cover, microseconds.
    pub ages_us: Vec<u64>,
    /// From each claim to the next commit that moved a position, microseconds.
    pub restarts_us: Vec<u64>,
}

/// One root: when it stood there, and what it covers.
struct Stood {
    at_us: i64,
    claim: bool,
    positions: BTreeMap<(String, i32), u64>,
}

fn read(path: &Path) -> Result<Stood, Error> {
    let failed = |error: String| Error::failed(format!("cannot read {}: {error}", path.display()));
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let root: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let written = std::fs::metadata(path).and_then(|found| found.modified());
    let at =
        written.map_err(|error| failed(error.to_string()))?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut positions = BTreeMap::new();
    for (stream, partitions) in root["positions"].as_object().into_iter().flatten() {
        for (partition, next) in partitions.as_object().into_iter().flatten() {
            if let (Ok(partition), Some(next)) = (partition.parse(), next.as_u64()) {
                positions.insert((stream.clone(), partition), next);
            }
        }
    }
    Ok(Stood { at_us: at.as_micros() as i64, claim: root["claim"] == true, positions })
}

fn roots(store: &Path) -> Result<Vec<Stood>, Error> {
    let catalog = store.join("catalog");
    let failed = |error| Error::failed(format!("cannot read {}: {error}", catalog.display()));
    let entries = std::fs::read_dir(&catalog).map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// The timestamps of a partition's records between two offsets, milliseconds, by offset.
fn timestamps(
    brokers: &str,
    topic: &str,
    partition: i32,
    span: [u64; 2],
) -> Result<Vec<(u64, i64)>, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "tidemill-loadtest");
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(span[0] as i64))?;
    consumer.assign(&list)?;
    let mut found = Vec::new();
    loop {
        match consumer.poll(ANSWER) {
            Some(Ok(message)) if (message.offset() as u64) < span[1] => {
                found.extend(message.timestamp().to_millis().map(|at| (message.offset() as u64, at)));
            }
            Some(Err(KafkaError::PartitionEOF(_)) | Ok(_)) => return Ok(found),
            Some(Err(error)) => return Err(error),
            None => {
                return Err(KafkaError::MessageConsumption(
                    rdkafka::types::RDKafkaErrorCode::OperationTimedOut,
                ));
            }
        }
    }
}

/// Looks at a store on this machine's disk and the topics (named like the streams) that it was made from.
///
/// # Errors
///
/// When either cannot be read.
pub fn of(store: &Path, brokers: &str) -> Result<Freshness, Error> {
    let roots = roots(store)?;
    let mut freshness = Freshness::default();
    let (Some(first), Some(last)) = (roots.first(), roots.last()) else { return Ok(freshness) };
    for (place, end) in &last.positions {
        let begin = first.positions.get(place).copied().unwrap_or(0);
        let times = timestamps(brokers, &place.0, place.1, [begin, *end]);
        let times = times.map_err(|error| Error::failed(format!("kafka at {brokers}: {error}")))?;
        let mut covering = roots.iter().peekable();
        for (offset, at_ms) in times {
            let covers = |root: &&Stood| root.positions.get(place).is_some_and(|next| *next > offset);
            while covering.next_if(|root| !covers(root)).is_some() {}
            if let Some(root) = covering.peek() {
                freshness.ages_us.push((root.at_us - at_ms * 1000).max(0) as u64);
            }
        }
    }
    let mut claimed: Option<&Stood> = None;
    for root in &roots {
        match claimed {
            _ if root.claim => claimed = Some(root),
            Some(claim) if root.positions != claim.positions => {
                freshness.restarts_us.push((root.at_us - claim.at_us).max(0) as u64);
                claimed = None;
            }
            _ => {}
        }
    }
    Ok(freshness)
}

fn ms(durations_us: &[u64], percent: usize) -> f64 {
    percentile(durations_us, percent) as f64 / 1e3
}

impl Freshness {
    /// The figures as one object; milliseconds.
    pub fn json(&self) -> Value {
        let of = |durations: &[u64]| json!({"n": durations.len(), "p50": ms(durations, 50), "p99": ms(durations, 99), "max": ms(durations, 100)});
        json!({"record_to_root_ms": of(&self.ages_us), "claim_to_commit_ms": of(&self.restarts_us)})
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, durations) in [
            ("from a record's timestamp to its root", &self.ages_us),
            ("from a claim to the first new commit", &self.restarts_us),
        ] {
            writeln!(
                f,
                "{what}: {} times, {:.0} ms median, {:.0} ms p99, {:.0} ms at most",
                durations.len(),
                ms(durations, 50),
                ms(durations, 99),
                ms(durations, 100)
            )?;
        }
        Ok(())
    }
}
