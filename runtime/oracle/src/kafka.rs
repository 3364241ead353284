//! Reads what topics hold that was committed, so that what a mill made of them can be held against it.

use super::model::Record;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The streams, whose names are those of their topics.
pub const STREAMS: [&str; 3] = ["trajectories", "calls", "scores"];

/// All that was committed, read again and again, so that records which are deleted afterwards are still known.
#[derive(Default)]
pub struct Truth {
    /// What stands before the streams' names in those of the topics.
    prefix: String,
    next: BTreeMap<(String, i32), i64>,
    /// All records, of each partition in order.
    pub records: Vec<Record>,
}

impl Truth {
    /// Of topics whose names are those of their streams with something before them.
    pub fn of_topics(prefix: &str) -> Truth {
        Truth { prefix: prefix.to_string(), ..Truth::default() }
    }

    /// Reads on to the present ends.
    ///
    /// # Errors
    ///
    /// When the brokers cannot be read; what was read before the error counts, and a later call goes on there.
    pub fn read_on(&mut self, brokers: &str) -> Result<(), KafkaError> {
        STREAMS.iter().try_for_each(|stream| self.read_topic(brokers, stream))
    }

    fn read_topic(&mut self, brokers: &str, stream: &str) -> Result<(), KafkaError> {
        let topic = format!("{}{stream}", self.prefix);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "truth");
        config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
        // An end is told by an empty answer, which is not worth a wait.
        config.set("fetch.wait.max.ms", "10").set("reconnect.backoff.max.ms", "300");
        let consumer: BaseConsumer = config.create()?;
        let found = consumer.fetch_metadata(Some(&topic), PATIENCE)?;
        let mut open: Vec<i32> = found.topics()[0].partitions().iter().map(|one| one.id()).collect();
        let mut list = TopicPartitionList::new();
        for number in &open {
            let next = self.next.get(&(topic.clone(), *number)).copied().unwrap_or(0);
            // Markers of transactions behind the last record may have been deleted with it.
            let (start, _) = consumer.fetch_watermarks(&topic, *number, PATIENCE)?;
            list.add_partition_offset(&topic, *number, Offset::Offset(next.max(start)))?;
        }
        consumer.assign(&list)?;
        while !open.is_empty() {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let at = (topic.clone(), message.partition());
                    self.next.insert(at, message.offset() + 1);
                    self.records.push(record(stream, &message));
                }
                Some(Err(KafkaError::PartitionEOF(number))) => open.retain(|one| *one != number),
                Some(Err(error)) => return Err(error),
                None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
            }
        }
        Ok(())
    }
}

/// A message of a stream's topic as the oracle takes it.
pub fn record(stream: &str, message: &BorrowedMessage<'_>) -> Record {
    Record {
        stream: stream.to_string(),
        partition: message.partition().to_string(),
        offset: message.offset() as u64,
        timestamp: message.timestamp().to_millis().map(|millis| millis * 1000),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        kafka: true,
    }
}
