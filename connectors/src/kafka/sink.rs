//! The sink's end at Kafka: one transactional producer, and the progress that it reads back.
//!
//! ```text
//!  open ── topics are there, or made ── init_transactions: an earlier producer of this id is shut out
//!    └─> begin ── send ... ── commit: the records and the progress are seen together, or neither
//!        progress: the last committed record of the progress topic     (read_committed, to its end)
//! ```
//!
//! It decides nothing: what is to be sent, and what a failure means, is told by [`tidemill_core::sink`]. A
//! transaction that did not end well is not aborted but left, with its producer; the next producer of the same id
//! ends it, and only then reads the progress. With what librdkafka offers there is no third state: a commit that was
//! begun is finished by the brokers before `init_transactions` answers.
//!
//! The progress topic belongs to one id alone, has one partition that counts, and is compacted. Its last record is
//! what is wanted, so it is read from near its end, and from further back only if nothing is found there.
//!
//! Every call gives up when `go_on` says so; it is asked again and again while no answer comes.

use super::client::{Complaints, Connection, Quiet, is_refusal};
use super::consumer;
use super::identity::topic_ids;
use super::producer::Producer as Plain;
use super::topics::{Wanted, ensure};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill_core::sink::{Failure, Progress};
use tidemill_core::source::SourceError;

/// What stands where the user's properties say nothing.
const DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "2"),
    ("batch.size", "1000000"),
    ("compression.type", "lz4"),
    ("partitioner", "murmur2_random"),
    ("reconnect.backoff.max.ms", "2000"),
];
/// How long a transaction may take: of a commit, and with whole tables, which is the most that brokers allow if
/// nobody has told them otherwise.
const TIMEOUT: (&str, [&str; 2]) = ("transaction.timeout.ms", ["60000", "900000"]);
/// Of the progress topic: small segments, so that what is compacted away goes soon.
const PROGRESS_TOPIC: &[(&str, &str)] = &[("cleanup.policy", "compact"), ("segment.bytes", "16777216")];
/// The partition of the progress topic that counts.
const PROGRESS_PARTITION: i32 = 0;
/// How far before its end the progress is looked for first; the next times ten times as far.
const PROGRESS_WINDOW: i64 = 100;
/// How long an answer is waited for before `go_on` is asked again.
const STEP: Duration = Duration::from_millis(100);
/// How long the client is polled at a time while records are on their way: it takes all of the time, also if answers
/// are there at once.
const POLL: Duration = Duration::from_millis(1);
/// How often answers are looked for when something has failed.
const ANSWERS_TAKEN: u32 = 100;
/// How long one is waited for that comes at once if brokers are there.
const ANSWER: Duration = Duration::from_secs(5);
/// So often in a row brokers may refuse us before that is believed.
const REFUSALS: u32 = 3;

/// Asked while no answer comes: for how long there has been none, and what the client says of it. `false`: give up.
pub type GoOn<'a> = &'a mut dyn FnMut(Duration, Option<&str>) -> bool;

/// What a sink is told of Kafka.
#[derive(Clone)]
pub struct SinkOptions {
    /// Where the brokers are.
    pub connection: Connection,
    /// Whose transactions they are.
    pub transactional_id: String,
    /// Where the progress is kept.
    pub progress_topic: String,
    /// The topics of tables.
    pub topics: Vec<String>,
    /// Partitions of topics that must be made; `None`: as many as the brokers give.
    pub partitions: Option<i32>,
    /// Bytes that may be on their way, which is also the most that a record may have.
    pub bytes_max: u64,
    /// Microseconds of a clock that never goes back.
    pub stopwatch: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Makes producers.
pub struct SinkClient {
    options: SinkOptions,
    refusals: AtomicU32,
}

impl SinkClient {
    /// Checks the properties; no broker is asked yet.
    ///
    /// # Errors
    ///
    /// When a property is wrong or not the user's to set.
    pub fn new(options: SinkOptions) -> Result<Self, SourceError> {
        let client = Self { options, refusals: AtomicU32::new(0) };
        client.producer(false)?;
        client.consumer()?;
        Ok(client)
    }

    /// How long a transaction with whole tables may take, milliseconds.
    pub fn whole_ms(&self) -> i64 {
        let given = self.options.connection.properties.get(TIMEOUT.0);
        given.map_or(TIMEOUT.1[1], String::as_str).parse().unwrap_or(i64::MAX)
    }

    fn producer_config(&self, whole: bool) -> Result<ClientConfig, SourceError> {
        let options = &self.options;
        let bytes = options.bytes_max.clamp(1 << 20, 1_000_000_000);
        let (kbytes, bytes) = (bytes.div_ceil(1024).to_string(), bytes.to_string());
        let sizes = [
            (TIMEOUT.0, TIMEOUT.1[usize::from(whole)]),
            ("queue.buffering.max.kbytes", kbytes.as_str()),
            ("message.max.bytes", bytes.as_str()),
        ];
        let fixed = [
            ("transactional.id", options.transactional_id.as_str()),
            ("enable.idempotence", "true"),
            ("allow.auto.create.topics", "false"),
        ];
        options.connection.config(&[DEFAULTS, &sizes].concat(), &fixed)
    }

    fn producer(&self, whole: bool) -> Result<BaseProducer<Watched>, SourceError> {
        let config = self.producer_config(whole)?;
        let made = config.create_with_context(Watched::default());
        made.map_err(|error| self.options.connection.refused(&error))
    }

    fn consumer(&self) -> Result<BaseConsumer<Quiet>, SourceError> {
        let id = [("group.id", self.options.transactional_id.as_str()), ("enable.partition.eof", "true")];
        let fixed = [consumer::FIXED, &id].concat();
        let small = [("queued.max.messages.kbytes", "4096"), ("fetch.max.bytes", "1048576")];
        let connection = &self.options.connection;
        let config = connection.config(&[consumer::DEFAULTS, &small].concat(), &fixed)?;
        config.create_with_context(Quiet).map_err(|error| connection.refused(&error))
    }

    /// What cannot be mended by another try is believed when it repeats: brokers that have just started refuse what
    /// they take a moment later.
    fn refusal(&self, why: String) -> Failure {
        match self.refusals.fetch_add(1, Ordering::AcqRel) + 1 >= REFUSALS {
            true => Failure::Refused(why),
            false => Failure::Away(why),
        }
    }

    /// Makes sure that the topics are there.
    fn ensure(&self, go_on: GoOn<'_>) -> Result<(), Failure> {
        let options = &self.options;
        let begun = (options.stopwatch)();
        let waited = || Duration::from_micros((options.stopwatch)().saturating_sub(begun));
        let plain = Plain::new(options.connection.clone(), options.stopwatch.clone());
        let plain = plain.map_err(|error| Failure::Refused(error.to_string()))?;
        let bytes = options.bytes_max.clamp(1 << 20, 1_000_000_000).to_string();
        // Whoever reads a compacted topic from its start gets the table, however late.
        let data = [("cleanup.policy", "compact"), ("max.message.bytes", bytes.as_str())];
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        let progress = [options.progress_topic.as_str()];
        let wanted = [
            (&topics[..], Wanted { partitions: options.partitions, config: &data }),
            (&progress[..], Wanted { partitions: Some(1), config: PROGRESS_TOPIC }),
        ];
        for (topics, wanted) in wanted {
            let mut why = String::new();
            let made = ensure(&plain, topics, wanted, &mut |trouble| {
                why = trouble.to_string();
                go_on(waited(), Some(trouble))
            });
            let made = made.map_err(|error| self.refusal(error.to_string()))?;
            for made in made.ok_or(Failure::Away(why))?.iter().filter(|made| made.created) {
                tracing::info!(topic = made.topic, partitions = made.partitions, "the sink has made a topic");
            }
        }
        Ok(())
    }

    /// A producer whose transactions may begin; an earlier one of the same id can do nothing any more. `whole`: its
    /// transactions may take as long as whole tables take.
    ///
    /// # Errors
    ///
    /// When brokers do not answer until `go_on` gives up, or refuse.
    pub fn open(&self, whole: bool, go_on: GoOn<'_>) -> Result<SinkProducer<'_>, Failure> {
        self.ensure(go_on)?;
        let inner = self.producer(whole).map_err(|error| Failure::Refused(error.to_string()))?;
        let producer = SinkProducer { client: self, inner };
        let begun = (self.options.stopwatch)();
        loop {
            let error = match producer.inner.init_transactions(STEP) {
                Ok(()) => break,
                Err(error) => error,
            };
            producer.inner.poll(Duration::ZERO);
            let waited = (self.options.stopwatch)().saturating_sub(begun);
            match producer.failure(&error) {
                // Nothing is lost of a producer that has not begun.
                None | Some(Failure::Away(_)) => producer.wait(waited, go_on)?,
                Some(Failure::Refused(why)) => return Err(self.refusal(why)),
                Some(failure) => return Err(failure),
            }
        }
        self.refusals.store(0, Ordering::Release);
        Ok(producer)
    }
}

/// What the client tells a producer while it is polled.
#[derive(Default)]
struct Watched {
    complaints: Complaints,
    /// The first record that was not taken.
    failed: Mutex<Option<(RDKafkaErrorCode, String)>>,
    delivered: AtomicU64,
}

impl Watched {
    fn failed(&self) -> MutexGuard<'_, Option<(RDKafkaErrorCode, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Watched {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.complaints.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.complaints.error(error, reason);
    }
}

impl ProducerContext for Watched {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.delivered.fetch_add(1, Ordering::AcqRel);
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            let purged = [RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight].contains(&code);
            if !purged {
                self.failed().get_or_insert_with(|| (code, message.topic().to_string()));
            }
        }
    }
}

/// A record of a table's changelog.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRecord<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// Its key.
    pub key: &'a [u8],
    /// The row; `None`: it is gone.
    pub value: Option<&'a [u8]>,
    /// The commit.
    pub epoch: u64,
    /// When that was made, milliseconds since 1970.
    pub timestamp: i64,
}

/// A producer of one id, the only one that is not shut out.
pub struct SinkProducer<'a> {
    client: &'a SinkClient,
    inner: BaseProducer<Watched>,
}

impl SinkProducer<'_> {
    fn now(&self) -> u64 {
        (self.client.options.stopwatch)()
    }

    /// Asks whether to wait on; `waited` in microseconds.
    fn wait(&self, waited: u64, go_on: GoOn<'_>) -> Result<(), Failure> {
        let complaint = self.inner.context().complaints.take();
        if let Some((code, why)) = complaint.as_ref().filter(|(code, _)| is_refusal(*code)) {
            return Err(self.client.refusal(format!("{why} ({code})")));
        }
        let why = complaint.map(|(_, why)| why);
        match go_on(Duration::from_micros(waited), why.as_deref()) {
            true => Ok(()),
            false => Err(Failure::Away(why.unwrap_or_else(|| "no answer".to_string()))),
        }
    }

    /// What an error means; `None`: the same is to be asked again.
    fn failure(&self, error: &KafkaError) -> Option<Failure> {
        if let KafkaError::Flush(_) = error {
            return None;
        }
        let (code, retriable) = match error {
            KafkaError::Transaction(error) => (Some(error.code()), error.is_retriable()),
            error => (error.rdkafka_error_code(), false),
        };
        if retriable {
            return None;
        }
        // Why a record was not taken is told by its answer, which may wait to be taken.
        for _ in 0..ANSWERS_TAKEN {
            if self.inner.in_flight_count() == 0 {
                break;
            }
            self.inner.poll(POLL);
        }
        let told = self.inner.context().failed().clone();
        let refused = told.iter().find_map(|(code, topic)| self.refused(*code, Some(topic)));
        let refused = refused.or_else(|| self.refused(code?, None));
        Some(match (refused, told) {
            (Some(why), _) => Failure::Refused(why),
            (None, Some((code, topic))) => Failure::Lost(format!("{error}; topic {topic}: {code}")),
            (None, None) => Failure::Lost(error.to_string()),
        })
    }

    /// Why another try helps nothing, and what does, if that is so.
    fn refused(&self, code: RDKafkaErrorCode, topic: Option<&str>) -> Option<String> {
        use RDKafkaErrorCode as Code;
        let topic = topic.unwrap_or("of a table");
        let id = &self.client.options.transactional_id;
        let advice = match code {
            Code::MessageSizeTooLarge => format!(
                "a row is larger than the topic {topic} or the producer takes: raise max.message.bytes of the topic, \
                 and sink.properties.message.max.bytes and queue.buffering.max.kbytes or memory.bytes_max"
            ),
            Code::TopicAuthorizationFailed => format!("this user may not write to the topic {topic}"),
            Code::TransactionalIdAuthorizationFailed => {
                format!(
                    "this user may not make transactions under the id {id}: allow it, or set sink.transactional_id"
                )
            }
            Code::ClusterAuthorizationFailed => {
                "this user may not write idempotently to this cluster".to_string()
            }
            Code::InvalidTransactionTimeout => {
                "the brokers do not allow transactions to take this long: lower \
                 sink.properties.transaction.timeout.ms, or raise their transaction.max.timeout.ms"
                    .to_string()
            }
            Code::InvalidRecord => format!("the topic {topic} does not take our records"),
            Code::UnsupportedFeature | Code::UnsupportedVersion => {
                "these brokers know no transactions: they came with Kafka 0.11".to_string()
            }
            _ => return None,
        };
        Some(format!("{advice} ({code})"))
    }

    /// The ids of the topics, where brokers know them.
    ///
    /// # Errors
    ///
    /// When brokers do not answer.
    pub fn topic_ids(&self) -> Result<BTreeMap<String, String>, Failure> {
        let found = topic_ids(self.inner.client(), &self.client.options.topics, ANSWER);
        found.map_err(|error| Failure::Away(format!("the topics' ids cannot be had: {error}")))
    }

    /// The newest progress.
    ///
    /// # Errors
    ///
    /// When brokers do not answer, or what stands there is no progress.
    pub fn progress(&self, go_on: GoOn<'_>) -> Result<Option<Progress>, Failure> {
        let (topic, id) = (&self.client.options.progress_topic, &self.client.options.transactional_id);
        let consumer = self.reader()?;
        let (low, high) = bounds(&consumer, topic, PROGRESS_PARTITION)?;
        let mut window = PROGRESS_WINDOW;
        loop {
            let start = low.max(high.saturating_sub(window));
            let mut last = None;
            self.read(&consumer, topic, &[(PROGRESS_PARTITION, start)], go_on, &mut |message| {
                if message.key() == Some(id.as_bytes()) {
                    last = message.payload().map(<[u8]>::to_vec);
                }
                ControlFlow::Continue(())
            })?;
            match last {
                Some(value) => {
                    let read = serde_json::from_slice(&value).map(Some);
                    return read.map_err(|error| {
                        let what =
                            format!("what stands in the topic {topic} is no progress of a sink: {error}");
                        Failure::Refused(format!("{what}; give another sink.transactional_id"))
                    });
                }
                None if start == low => return Ok(None),
                None => window = window.saturating_mul(10),
            }
        }
    }

    /// Whether no committed record is in a topic.
    ///
    /// # Errors
    ///
    /// When brokers do not answer.
    pub fn is_empty(&self, topic: &str, go_on: GoOn<'_>) -> Result<bool, Failure> {
        let consumer = self.reader()?;
        let found = consumer.fetch_metadata(Some(topic), ANSWER).map_err(|error| unread(topic, &error))?;
        let partitions = found.topics().iter().flat_map(|found| found.partitions());
        let mut starts = Vec::new();
        for partition in partitions {
            let (low, high) = bounds(&consumer, topic, partition.id())?;
            starts.extend((low < high).then_some((partition.id(), low)));
        }
        let mut empty = true;
        self.read(&consumer, topic, &starts, go_on, &mut |_| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    fn reader(&self) -> Result<BaseConsumer<Quiet>, Failure> {
        self.client.consumer().map_err(|error| Failure::Refused(error.to_string()))
    }

    /// Reads what is committed of partitions, each from an offset to its end.
    fn read(
        &self,
        consumer: &BaseConsumer<Quiet>,
        topic: &str,
        starts: &[(i32, i64)],
        go_on: GoOn<'_>,
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in starts {
            let added = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
            added.map_err(|error| unread(topic, &error))?;
        }
        consumer.assign(&list).map_err(|error| unread(topic, &error))?;
        let mut open: Vec<i32> = starts.iter().map(|(partition, _)| *partition).collect();
        let mut heard = self.now();
        while !open.is_empty() {
            match consumer.poll(STEP) {
                Some(Ok(message)) => {
                    heard = self.now();
                    if each(&message).is_break() {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|one| *one != partition),
                Some(Err(error)) => return Err(unread(topic, &error)),
                None => self.wait(self.now().saturating_sub(heard), go_on)?,
            }
        }
        Ok(())
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// When this producer is shut out.
    pub fn begin(&self) -> Result<(), Failure> {
        let begun = self.inner.begin_transaction();
        begun.map_err(|error| self.failure(&error).unwrap_or_else(|| Failure::Lost(error.to_string())))
    }

    /// Sends a record in the transaction.
    ///
    /// # Errors
    ///
    /// When it cannot be sent, or the queue is full until `go_on` gives up.
    pub fn send(&self, change: &ChangeRecord<'_>, go_on: GoOn<'_>) -> Result<(), Failure> {
        let epoch = change.epoch.to_string();
        let diff = if change.value.is_some() { "1" } else { "-1" };
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "epoch", value: Some(epoch.as_str()) })
            .insert(Header { key: "diff", value: Some(diff) });
        let mut record = BaseRecord::<[u8], [u8]>::to(change.topic).key(change.key).headers(headers);
        record.payload = change.value;
        self.offer(record.timestamp(change.timestamp), go_on)
    }

    fn offer(&self, record: BaseRecord<'_, [u8], [u8]>, go_on: GoOn<'_>) -> Result<(), Failure> {
        let mut record = record;
        let (mut heard, mut delivered) = (self.now(), self.delivered());
        loop {
            let (error, back) = match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            record = back;
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)
                    if self.inner.in_flight_count() > 0 =>
                {
                    self.inner.poll(POLL);
                    if self.delivered() != delivered {
                        (heard, delivered) = (self.now(), self.delivered());
                    }
                    self.wait(self.now().saturating_sub(heard), go_on)?;
                }
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                    let why = self.refused(RDKafkaErrorCode::MessageSizeTooLarge, Some(record.topic));
                    return Err(Failure::Refused(why.unwrap_or_default()));
                }
                error => {
                    return Err(self.failure(&error).unwrap_or_else(|| Failure::Lost(error.to_string())));
                }
            }
        }
    }

    /// Ends what is under way, if brokers are there, so that readers of committed records need not wait for it.
    pub fn abandon(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
        // If no transaction is open, or nobody answers, there is nothing to be done.
        let _ = self.inner.abort_transaction(ANSWER);
    }

    fn delivered(&self) -> u64 {
        self.inner.context().delivered.load(Ordering::Acquire)
    }

    /// Puts the progress into the transaction and commits it.
    ///
    /// # Errors
    ///
    /// When it is not committed, or that is not known.
    pub fn commit(&self, progress: &Progress, timestamp: i64, go_on: GoOn<'_>) -> Result<(), Failure> {
        let options = &self.client.options;
        let value = serde_json::to_vec(progress).map_err(|error| Failure::Refused(error.to_string()))?;
        let record = BaseRecord::<[u8], [u8]>::to(&options.progress_topic)
            .partition(PROGRESS_PARTITION)
            .key(options.transactional_id.as_bytes())
            .payload(&value)
            .timestamp(timestamp);
        self.offer(record, go_on)?;
        let (mut heard, mut delivered) = (self.now(), self.delivered());
        while self.inner.in_flight_count() > 0 {
            self.inner.poll(POLL);
            if self.delivered() != delivered {
                (heard, delivered) = (self.now(), self.delivered());
            }
            self.wait(self.now().saturating_sub(heard), go_on)?;
        }
        heard = self.now();
        loop {
            let error = match self.inner.commit_transaction(STEP) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(failure) = self.failure(&error) {
                return Err(failure);
            }
            self.inner.poll(Duration::ZERO);
            self.wait(self.now().saturating_sub(heard), go_on)?;
        }
    }
}

fn unread(topic: &str, error: &KafkaError) -> Failure {
    Failure::Away(format!("the topic {topic} cannot be read: {error}"))
}

/// The first offset of a partition, and the one behind the last that is committed.
fn bounds(consumer: &BaseConsumer<Quiet>, topic: &str, partition: i32) -> Result<(i64, i64), Failure> {
    consumer.fetch_watermarks(topic, partition, ANSWER).map_err(|error| unread(topic, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(properties: &[(&str, &str)]) -> Result<SinkClient, SourceError> {
        let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        SinkClient::new(SinkOptions {
            connection: Connection {
                section: "sink",
                brokers: "127.0.0.1:1".into(),
                properties: properties.collect(),
            },
            transactional_id: "mill".into(),
            progress_topic: "mill-progress".into(),
            topics: vec!["t".into()],
            partitions: None,
            bytes_max: 128 << 20,
            stopwatch: Arc::new(|| 0),
        })
    }

    #[test]
    fn what_makes_it_exactly_once_cannot_be_set_and_what_is_wrong_is_named() {
        for (property, value, said) in [
            ("enable.idempotence", "false", "sink.properties.enable.idempotence cannot be set"),
            (
                "transactional.id",
                "x",
                "sink.properties.transactional.id cannot be set: set sink.transactional_id",
            ),
            ("linger.mss", "1", "sink.properties.linger.mss = \"1\": "),
            ("transaction.timeout.ms", "long", "sink.properties.transaction.timeout.ms = \"long\": "),
        ] {
            let error = client(&[(property, value)]).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(said)), "{property}: {error:?}");
        }
        assert_eq!(client(&[]).map(|client| client.whole_ms()).ok(), Some(900_000));
        let short = client(&[("transaction.timeout.ms", "7000")]);
        assert_eq!(short.map(|client| client.whole_ms()).ok(), Some(7_000));
    }

    #[test]
    fn brokers_that_are_away_are_waited_for_as_long_as_the_caller_likes() {
        let client = client(&[]).expect("properties that are right");
        let mut asked = 0;
        let ended = client.open(false, &mut |_, _| {
            asked += 1;
            asked < 2
        });
        assert!(matches!(ended, Err(Failure::Away(_))) && asked == 2, "asked {asked} times");
    }
}
