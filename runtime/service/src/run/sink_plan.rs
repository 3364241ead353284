//! What the settings say of the sink, checked before a run changes anything.

use crate::Error;
use crate::config::{Settings, folded};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_connectors::kafka::{Connection, SinkClient, SinkOptions};
use tidemill_core::program::Program;
use tidemill_types::Digest;

use super::clock::Stopwatch;

/// Longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;
/// What follows the id in the name of the progress topic.
const PROGRESS: &str = "-progress";

/// A sink that may be started.
pub(super) struct SinkPlan {
    pub(super) client: SinkClient,
    /// The topic of each table.
    pub(super) topics: BTreeMap<String, String>,
    pub(super) transactional_id: String,
    pub(super) brokers: String,
}

/// What is wrong with the name of a topic, if something is.
fn misnamed(topic: &str) -> Option<&'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match topic {
        "" => Some("give the name of a topic"),
        "." | ".." => Some("Kafka allows no such name"),
        topic if topic.len() > TOPIC_BYTES_MAX => Some("a topic's name has at most 249 characters"),
        topic if !topic.bytes().all(legal) => {
            Some("a topic's name is made of letters, digits, dots, underscores and dashes")
        }
        _ => None,
    }
}

/// The tables of the settings by their names, however these were spelt.
fn topics(settings: &Settings, program: &dyn Program) -> Result<BTreeMap<String, String>, Error> {
    let tables: Vec<String> = program.tables().into_iter().map(|schema| schema.name).collect();
    let shown =
        || tables.iter().filter(|table| !table.starts_with('_')).cloned().collect::<Vec<_>>().join(", ");
    let mut topics: BTreeMap<String, String> = BTreeMap::new();
    for (chosen, topic) in &settings.sink.topics {
        let named = |table: &&String| !table.starts_with('_') && folded(table) == folded(chosen);
        let Some(table) = tables.iter().find(named) else {
            let tables = shown();
            return Err(Error::failed(format!(
                "sink.topics.{chosen}: there is no table {chosen}; the tables are {tables}"
            )));
        };
        if let Some(what) = misnamed(topic) {
            return Err(Error::failed(format!("sink.topics: the topic of {table} is {topic:?}: {what}")));
        }
        if topics.insert(table.clone(), topic.clone()).is_some() {
            return Err(Error::failed(format!("sink.topics: {table} is given two topics; give it one")));
        }
    }
    Ok(topics)
}

/// No topic may be used twice, as a source's neither: what is sent would be read back.
fn apart(
    topics: &BTreeMap<String, String>,
    progress: &str,
    settings: &Settings,
    program: &dyn Program,
) -> Result<(), Error> {
    let mut taken: BTreeMap<&str, String> =
        BTreeMap::from([(progress, "the progress of the sink".to_string())]);
    let streams = program.streams();
    if settings.kafka.brokers.is_some() {
        for stream in &streams {
            let topic = settings.kafka.topics.get(&stream.name).unwrap_or(&stream.topic);
            taken.insert(topic, format!("the stream {}", stream.name));
        }
    }
    for (table, topic) in topics {
        if let Some(other) = taken.insert(topic, format!("the table {table}")) {
            return Err(Error::failed(format!(
                "sink.topics: the topic {topic} of {table} is that of {other} too: give each its own"
            )));
        }
    }
    Ok(())
}

/// The sink of the settings, if they name one. `location` is the store's address: two stores must not shut out
/// each other's sinks, so the id is made of it.
pub(super) fn plan(
    settings: &Settings,
    program: &dyn Program,
    location: &str,
    stopwatch: &Stopwatch,
) -> Result<Option<SinkPlan>, Error> {
    let sink = &settings.sink;
    let topics = topics(settings, program)?;
    if topics.is_empty() {
        return Ok(None);
    }
    let (brokers, mut properties) = match (&sink.brokers, &settings.kafka.brokers) {
        (Some(brokers), _) => (brokers, BTreeMap::new()),
        (None, Some(brokers)) => (brokers, settings.kafka.properties.clone()),
        (None, None) => {
            let what = "sink.topics: give the brokers with --sink-brokers BROKERS, or --kafka BROKERS";
            return Err(Error::failed(what));
        }
    };
    properties.extend(sink.properties.clone());
    let transactional_id = match &sink.transactional_id {
        Some(id) => id.clone(),
        None => format!("tidemill-{}", &Digest::of(location.as_bytes()).to_string()[..16]),
    };
    let progress_topic = format!("{transactional_id}{PROGRESS}");
    if let Some(what) = misnamed(&progress_topic) {
        return Err(Error::failed(format!(
            "sink.transactional_id: {transactional_id:?} names the topic {progress_topic}: {what}"
        )));
    }
    apart(&topics, &progress_topic, settings, program)?;
    let client = SinkClient::new(SinkOptions {
        connection: Connection { section: "sink", brokers: brokers.clone(), properties },
        transactional_id: transactional_id.clone(),
        progress_topic,
        topics: topics.values().cloned().collect(),
        partitions: sink.partitions.and_then(|n| i32::try_from(n).ok()),
        bytes_max: settings.memory.sink_bytes(),
        stopwatch: Arc::clone(stopwatch),
    })?;
    Ok(Some(SinkPlan { client, topics, transactional_id, brokers: brokers.clone() }))
}
