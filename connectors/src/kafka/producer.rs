//! The producer of records: each arrives once, in the order of its key, or is told to have failed.
//!
//! ```text
//!  send ──> librdkafka's queue (bounded in bytes) ──batches──> brokers
//!    ^  full: wait            │                                   │
//!    └────────── serve <── receipts: acknowledged or failed, with the record's tag
//! ```
//!
//! It is idempotent: a batch that is sent again after a lost answer is not stored again, and no later
//! batch overtakes it. Nothing is dropped for having waited too long, unless the user sets
//! `message.timeout.ms`; brokers that are away are waited for, and [`Producer::silence`] says how long.
//! Records with one key go to one partition: by the hash that Java's producer uses, which unlike
//! librdkafka's own default counts an empty key as a key. A null value or key stays null and an empty one
//! stays empty.

use super::client::{Connection, Quiet};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill_core::source::SourceError;

/// What stands where the user's properties say nothing. The queue holds two of the largest records.
const DEFAULTS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("linger.ms", "20"),
    ("batch.size", "1000000"),
    ("compression.type", "lz4"),
    ("partitioner", "murmur2_random"),
    ("message.max.bytes", "68157440"),
    ("message.timeout.ms", "0"),
    ("queue.buffering.max.kbytes", "139264"),
    ("reconnect.backoff.max.ms", "2000"),
];

/// What is not the user's to set: topics are made when it is asked for, and not by a look at them.
const FIXED: &[(&str, &str)] = &[("enable.idempotence", "true"), ("allow.auto.create.topics", "false")];

/// How long a full queue or a last answer is waited for before the waiting one is asked again.
const STEP: Duration = Duration::from_millis(5);

/// A clock that never goes back, in microseconds.
pub type Stopwatch = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A record on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` deletes.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
    /// What the sender knows it by; later records have greater ones.
    pub tag: u64,
}

/// A record that did not arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Where it was to go.
    pub topic: String,
    /// What the sender knows it by.
    pub tag: u64,
    /// Why, and what to do.
    pub reason: String,
}

/// What became of the records of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Delivered {
    /// How many arrived.
    pub records: u64,
    /// How many did not and never will.
    pub failed: u64,
}

#[derive(Default)]
struct Told {
    topics: BTreeMap<String, Delivered>,
    first: Option<Failure>,
    /// What the client last said of its connections.
    complaint: Option<String>,
}

impl Told {
    fn of(&mut self, topic: &str) -> &mut Delivered {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_string(), Delivered::default());
        }
        self.topics.get_mut(topic).expect("it was put there if it was not")
    }

    fn failed(&mut self, failure: Failure) {
        self.of(&failure.topic).failed += 1;
        if self.first.as_ref().is_none_or(|first| failure.tag < first.tag) {
            self.first = Some(failure);
        }
    }
}

/// Takes the client's answers.
pub(super) struct Receipts {
    told: Mutex<Told>,
    /// Records without an answer.
    awaited: AtomicU64,
    /// When an answer was last had, or was first waited for.
    heard_at: AtomicU64,
    stopwatch: Stopwatch,
}

impl Receipts {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Receipts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all are away is said on top of why one is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.told().complaint = Some(reason.to_string());
        }
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Receipts {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: Box<u64>) {
        let mut told = self.told();
        match result {
            Ok(message) => told.of(message.topic()).records += 1,
            Err((error, message)) => match error.rdkafka_error_code() {
                // The sender gave up itself.
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {}
                _ => {
                    let topic = message.topic().to_string();
                    let reason = reason(error, &topic);
                    told.failed(Failure { topic, tag: *tag, reason });
                }
            },
        }
        drop(told);
        self.awaited.fetch_sub(1, Ordering::AcqRel);
        self.heard_at.store((self.stopwatch)(), Ordering::Release);
    }
}

/// Why a broker did not take a record, and what to do.
fn reason(error: &KafkaError, topic: &str) -> String {
    let advice = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            format!("it is larger than the topic takes: raise max.message.bytes of the topic {topic}")
        }
        Some(RDKafkaErrorCode::InvalidRecord) => format!(
            "the broker calls it invalid; if the topic {topic} is compacted, it takes no record without a key: \
             set its cleanup.policy to delete"
        ),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            format!("the topic {topic} is gone")
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            format!("this user may not write to the topic {topic}")
        }
        Some(RDKafkaErrorCode::MessageTimedOut) => {
            "it was not acknowledged within kafka.properties.message.timeout.ms".to_string()
        }
        _ => return error.to_string(),
    };
    format!("{advice} ({error})")
}

/// Sends records to topics.
pub struct Producer {
    pub(super) inner: BaseProducer<Receipts>,
    pub(super) connection: Connection,
    value_bytes_max: u64,
}

impl Producer {
    /// A producer; no broker is asked yet.
    ///
    /// # Errors
    ///
    /// When a property is wrong or not the user's to set.
    pub fn new(connection: Connection, stopwatch: Stopwatch) -> Result<Self, SourceError> {
        let config = connection.config(DEFAULTS, FIXED)?;
        let bytes = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let receipts = Receipts {
            told: Mutex::default(),
            awaited: AtomicU64::new(0),
            heard_at: AtomicU64::new(stopwatch()),
            stopwatch,
        };
        let inner = config.create_with_context(receipts).map_err(|error| connection.refused(&error))?;
        Ok(Self { inner, connection, value_bytes_max: bytes.unwrap_or(1_000_000) })
    }

    /// The client's `message.max.bytes`: longer records fail.
    pub fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Hands a record over. While the queue is full it waits and asks `waiting` now and then; `false`:
    /// that one gave up, and the record was not taken. A record that cannot be sent counts as failed.
    pub fn send(&self, record: &Outgoing<'_>, waiting: &mut dyn FnMut() -> bool) -> bool {
        let receipts = self.inner.context();
        loop {
            match self.offer(record) {
                Ok(()) => return true,
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                    if self.awaited() == 0 {
                        let reason = "it is larger than the producer's whole queue: raise \
                                      kafka.properties.queue.buffering.max.kbytes";
                        self.fail(record.topic, record.tag, reason);
                        return true;
                    }
                }
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                    let bytes = record.value.map_or(0, <[u8]>::len);
                    self.fail(record.topic, record.tag, &self.oversized(bytes as u64));
                    return true;
                }
                Err(error) => {
                    let reason = reason(&error, record.topic);
                    receipts.told().failed(Failure {
                        topic: record.topic.to_string(),
                        tag: record.tag,
                        reason,
                    });
                    return true;
                }
            }
            self.serve(STEP);
            if !waiting() {
                return false;
            }
        }
    }

    fn offer(&self, record: &Outgoing<'_>) -> Result<(), KafkaError> {
        let mut base = BaseRecord::<[u8], [u8], Box<u64>>::with_opaque_to(record.topic, Box::new(record.tag));
        base.key = record.key;
        base.payload = record.value;
        base.timestamp = record.timestamp;
        let receipts = self.inner.context();
        // Counted before, since the answer may come at once on another thread.
        if receipts.awaited.fetch_add(1, Ordering::AcqRel) == 0 {
            receipts.heard_at.store((receipts.stopwatch)(), Ordering::Release);
        }
        self.inner.send(base).map_err(|(error, _)| {
            receipts.awaited.fetch_sub(1, Ordering::AcqRel);
            error
        })
    }

    /// Why a value of so many bytes cannot be sent.
    pub fn oversized(&self, bytes: u64) -> String {
        let most = self.value_bytes_max;
        format!(
            "it has {bytes} bytes and the producer sends at most {most}: raise \
             kafka.properties.message.max.bytes, and max.message.bytes of the topic"
        )
    }

    /// Counts a record as failed that was not handed over.
    pub fn fail(&self, topic: &str, tag: u64, reason: &str) {
        let failure = Failure { topic: topic.to_string(), tag, reason: reason.to_string() };
        self.inner.context().told().failed(failure);
    }

    /// Takes answers for so long. It must be called again and again while records are under way.
    pub fn serve(&self, time: Duration) {
        self.inner.poll(time);
    }

    /// Waits until every record is answered, and asks `waiting` now and then; `false`: that one gave up.
    pub fn finish(&self, waiting: &mut dyn FnMut() -> bool) -> bool {
        loop {
            // An error means that some are not answered yet.
            let _ = self.inner.flush(STEP);
            if self.awaited() == 0 {
                return true;
            }
            if !waiting() {
                return false;
            }
        }
    }

    /// Forgets what is not acknowledged; some of it may have arrived all the same.
    pub fn give_up(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }

    /// How many records have no answer yet.
    pub fn awaited(&self) -> u64 {
        self.inner.context().awaited.load(Ordering::Acquire)
    }

    /// For how long nothing was heard of records that are under way, and what the client says of it.
    pub fn silence(&self) -> (Duration, Option<String>) {
        let receipts = self.inner.context();
        let complaint = receipts.told().complaint.clone();
        if self.awaited() == 0 {
            return (Duration::ZERO, complaint);
        }
        let heard_at = receipts.heard_at.load(Ordering::Acquire);
        (Duration::from_micros((receipts.stopwatch)().saturating_sub(heard_at)), complaint)
    }

    /// What became of each topic's records so far.
    pub fn delivered(&self) -> BTreeMap<String, Delivered> {
        self.inner.context().told().topics.clone()
    }

    /// Of the records that failed the one with the smallest tag.
    pub fn first_failure(&self) -> Option<Failure> {
        self.inner.context().told().first.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(properties: &[(&str, &str)]) -> Result<Producer, SourceError> {
        let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let connection = Connection {
            brokers: "127.0.0.1:1".into(),
            properties: properties.collect(),
            ..Connection::default()
        };
        Producer::new(connection, Arc::new(|| 0))
    }

    #[test]
    fn what_makes_it_lossless_cannot_be_set_and_what_is_unknown_is_named() {
        for (property, value, said) in [
            ("enable.idempotence", "false", "kafka.properties.enable.idempotence cannot be set"),
            ("acks", "1", "acks"),
            ("linger.mss", "1", "kafka.properties.linger.mss = \"1\": "),
            ("linger.ms", "soon", "kafka.properties.linger.ms = \"soon\": "),
        ] {
            let error = producer(&[(property, value)]).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(said)), "{property}: {error:?}");
        }
        assert_eq!(producer(&[("message.max.bytes", "5000")]).unwrap().value_bytes_max(), 5000);
    }

    #[test]
    fn a_record_that_can_never_be_sent_fails_and_the_first_is_kept() {
        let producer =
            producer(&[("message.max.bytes", "5000"), ("queue.buffering.max.kbytes", "2")]).unwrap();
        let value = vec![b'x'; 6000];
        let record = |tag, bytes: usize| Outgoing {
            topic: "t",
            key: None,
            value: Some(&value[..bytes]),
            timestamp: None,
            tag,
        };
        assert!(producer.send(&record(9, 6000), &mut || false));
        assert!(producer.send(&record(7, 3000), &mut || false));
        producer.fail("u", 8, "it is odd");
        let failed: Vec<(String, u64)> =
            producer.delivered().into_iter().map(|(topic, of)| (topic, of.failed)).collect();
        assert_eq!(failed, [("t".to_string(), 2), ("u".to_string(), 1)]);
        let first = producer.first_failure().unwrap();
        assert!(first.tag == 7 && first.reason.contains("queue.buffering.max.kbytes"), "{first:?}");
    }

    #[test]
    fn a_full_queue_is_waited_for_and_nothing_is_dropped() {
        let producer = producer(&[("queue.buffering.max.messages", "3")]).unwrap();
        let record = Outgoing { topic: "t", key: None, value: Some(b""), timestamp: None, tag: 0 };
        let mut asked = 0;
        let mut taken = 0;
        while producer.send(&record, &mut || {
            asked += 1;
            asked < 3
        }) {
            taken += 1;
        }
        assert_eq!((taken, asked, producer.awaited()), (3, 3, 3));
        assert!(!producer.finish(&mut || false));
        producer.give_up();
        assert!(producer.finish(&mut || true));
        assert_eq!((producer.awaited(), producer.first_failure()), (0, None));
    }
}
