//! Topics that records are sent to: there, or made on purpose.
//!
//! A broker that makes topics by itself makes them with its own defaults at the first look, and one that
//! does not lets a producer wait for ever. So they are looked at before anything is sent, in a way that
//! makes none, and what is missing is made with the partitions that were asked for.

use super::client::Quiet;
use super::producer::Producer;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::time::Duration;
use tidemill_core::source::SourceError;

/// How long a look is waited for before the waiting one is asked; connecting goes on meanwhile.
const LOOK: Duration = Duration::from_secs(2);
/// How long a topic's making may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long after an answer that was not the last one it is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// "As many as the broker is configured to give."
const BY_BROKER: i32 = -1;

/// What a topic is to be that must be made.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wanted<'a> {
    /// How many partitions it gets; `None`: as many as the brokers give.
    pub partitions: Option<i32>,
    /// Its own settings, beside those of the brokers.
    pub config: &'a [(&'a str, &'a str)],
}

/// A topic that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ensured {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// Whether it was not there before.
    pub created: bool,
}

/// What one look at a topic found.
enum Look {
    There(usize),
    Missing,
    NotYet(String),
}

/// Looks for topics, and makes those that are missing. While brokers do not answer it waits, and tells
/// `waiting` why each time; `None`: that one gave up.
///
/// # Errors
///
/// When a topic must not be seen or cannot be made.
pub fn ensure(
    producer: &Producer,
    topics: &[&str],
    wanted: Wanted<'_>,
    waiting: &mut dyn FnMut(&str) -> bool,
) -> Result<Option<Vec<Ensured>>, SourceError> {
    let mut ensured = Vec::new();
    for topic in topics {
        let mut created = false;
        let partitions = loop {
            let why = match look(producer, topic)? {
                Look::There(partitions) => break partitions,
                Look::Missing if created => "the topic was made and is not to be seen yet".to_string(),
                Look::Missing => match create(producer, topic, wanted)? {
                    None => {
                        created = true;
                        continue;
                    }
                    Some(why) => why,
                },
                Look::NotYet(why) => why,
            };
            producer.serve(AGAIN);
            if !waiting(&why) {
                return Ok(None);
            }
        };
        ensured.push(Ensured { topic: (*topic).to_string(), partitions, created });
    }
    Ok(Some(ensured))
}

/// How many offsets a topic's partitions hold.
///
/// # Errors
///
/// When its brokers do not answer.
pub fn held(producer: &Producer, topic: &str, partitions: usize) -> Result<u64, SourceError> {
    let of_one = |number: usize| {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let (start, end) = producer.inner.client().fetch_watermarks(topic, number, ANSWER)?;
        Ok(u64::try_from(end - start).unwrap_or(0))
    };
    let all: Result<Vec<u64>, KafkaError> = (0..partitions).map(of_one).collect();
    let all = all.map_err(|error| SourceError(format!("cannot look at the topic {topic}: {error}")))?;
    Ok(all.iter().sum())
}

fn look(producer: &Producer, topic: &str) -> Result<Look, SourceError> {
    let found = match producer.inner.client().fetch_metadata(Some(topic), LOOK) {
        Ok(found) => found,
        Err(error) => {
            producer.serve(Duration::from_millis(1));
            let (_, complaint) = producer.silence();
            return match passes(&error) {
                true => Ok(Look::NotYet(complaint.unwrap_or_else(|| error.to_string()))),
                false => Err(SourceError(format!("cannot look at the topic {topic}: {error}"))),
            };
        }
    };
    let Some(found) = found.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Look::Missing);
    };
    let error = found.error().map(RDKafkaErrorCode::from);
    match error {
        None if found.partitions().is_empty() => Ok(Look::NotYet("the topic has no partitions yet".into())),
        None => Ok(Look::There(found.partitions().len())),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(Look::Missing),
        Some(error @ RDKafkaErrorCode::LeaderNotAvailable) => Ok(Look::NotYet(error.to_string())),
        Some(error) => Err(SourceError(format!("cannot look at the topic {topic}: {error}"))),
    }
}

/// Whether an error may be over when it is asked again.
fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerNotAvailable, BrokerTransportFailure, NotController, OperationTimedOut,
        RequestTimedOut, Resolve,
    };
    let passing = [
        AllBrokersDown,
        BrokerNotAvailable,
        BrokerTransportFailure,
        NotController,
        OperationTimedOut,
        RequestTimedOut,
        Resolve,
    ];
    error.rdkafka_error_code().is_some_and(|code| passing.contains(&code))
}

/// Makes a topic; why it must be tried again, if it must.
fn create(producer: &Producer, topic: &str, wanted: Wanted<'_>) -> Result<Option<String>, SourceError> {
    let config = producer.connection.config(&[], &[])?;
    let admin = config.create_with_context(Quiet);
    let admin: AdminClient<Quiet> = admin.map_err(|error| producer.connection.refused(&error))?;
    let mut new =
        NewTopic::new(topic, wanted.partitions.unwrap_or(BY_BROKER), TopicReplication::Fixed(BY_BROKER));
    for (name, value) in wanted.config {
        new = new.set(name, value);
    }
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let failed = |error: &dyn std::fmt::Display| {
        SourceError(format!(
            "cannot make the topic {topic}: {error}; make it with the cluster's own tools and start again"
        ))
    };
    let made = match futures::executor::block_on(admin.create_topics([&new], &options)) {
        Ok(made) => made,
        Err(error) if passes(&error) => return Ok(Some(error.to_string())),
        Err(error) => return Err(failed(&error)),
    };
    match made.into_iter().next() {
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(None),
        Some(Err((_, code))) if passes(&KafkaError::AdminOp(code)) => Ok(Some(code.to_string())),
        Some(Err((_, code))) => Err(failed(&code)),
    }
}
