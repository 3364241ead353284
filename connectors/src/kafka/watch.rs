//! Looking at topics from outside: what is there, how far it reaches, and whether it is still the same.
//!
//! One client of its own looks, once before a run begins and then about once a second on its own thread, so
//! that whoever reads never waits for an answer that is not a record. What it sees it leaves in [`Shared`]:
//! the partitions to read (new ones come behind, none ever goes), the lag, what is waited for, and why all
//! must stop. The offsets that it commits for the group are for people to watch; nothing reads them back.

use super::client::{Complaints, is_refusal};
use super::identity::topic_ids;
use super::resume::{Assigned, Bounds, Plan};
use super::{ANSWER, KafkaOptions, cursor};
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill_core::source::{Lag, SourceError, Standing, StreamSpec};
use tidemill_types::{Partition, Positions};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// How often in that time it is looked whether to leave.
const STEPS: u32 = 20;
/// Offsets that were shown are shown again after so many looks: the answer to showing them is not waited for.
const SHOW_AGAIN: u64 = 60;
/// How long a run waits at its end until its last offsets are shown.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A topic that is gone is looked for so often before it is believed: while brokers elect leaders, it may be
/// unknown to one of them.
const LOOKS_AT_GONE: u32 = 5;

/// A topic as it was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SeenTopic {
    /// Its id, where brokers tell one.
    pub(super) id: Option<String>,
    /// Its partitions; none if it is not there.
    pub(super) partitions: BTreeMap<u32, Bounds>,
}

/// All topics, by the number of their stream; none for a stream that is not read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    pub(super) topics: Vec<Option<SeenTopic>>,
}

/// Asks brokers about topics.
pub(super) struct Looker {
    consumer: BaseConsumer<Complaints>,
    complaints: Complaints,
    topics: Vec<Option<String>>,
    brokers: String,
    streams: Vec<String>,
}

impl Looker {
    pub(super) fn new(options: &KafkaOptions, topics: Vec<Option<String>>) -> Result<Self, SourceError> {
        let group = [("group.id", options.group.as_str())];
        let fixed = [super::consumer::FIXED, &group].concat();
        let config = options.connection.config(super::consumer::DEFAULTS, &fixed)?;
        let complaints = Complaints::default();
        let consumer = BaseConsumer::from_config_and_context(&config, complaints.clone());
        let consumer = consumer.map_err(|error| options.connection.refused(&error))?;
        let streams = options.streams.iter().map(|stream| stream.name.clone()).collect();
        Ok(Self { consumer, complaints, topics, brokers: options.connection.brokers.clone(), streams })
    }

    /// What is there now.
    pub(super) fn look(&self, timeout: Duration) -> Result<Look, KafkaError> {
        let mut look = Look { topics: vec![None; self.topics.len()] };
        let mut partitions = TopicPartitionList::new();
        for (topic, seen) in self.topics.iter().zip(&mut look.topics) {
            let Some(topic) = topic else { continue };
            for number in self.partitions(topic, timeout)? {
                partitions.add_partition(topic, number);
            }
            *seen = Some(SeenTopic::default());
        }
        if partitions.count() == 0 {
            return Ok(look);
        }
        let wanted: Vec<String> = self.topics.iter().flatten().cloned().collect();
        let mut ids = topic_ids(self.consumer.client(), &wanted, timeout)?;
        let starts = offsets(&self.consumer, &mut partitions, Offset::Beginning, timeout)?;
        let ends = offsets(&self.consumer, &mut partitions, Offset::End, timeout)?;
        for (topic, seen) in self.topics.iter().zip(&mut look.topics) {
            let (Some(topic), Some(seen)) = (topic, seen) else { continue };
            seen.id = ids.remove(topic);
            let of_topic = starts.iter().filter(|((name, _), _)| name == topic);
            seen.partitions = of_topic
                .filter_map(|((_, number), start)| {
                    let end = *ends.get(&(topic.clone(), *number))?;
                    Some((u32::try_from(*number).ok()?, Bounds { start: *start, end: end.max(*start) }))
                })
                .collect();
        }
        Ok(look)
    }

    /// Why there was no answer, for people, if the client has said anything since this was asked last. An error:
    /// brokers refuse us, and to ask again would not help.
    pub(super) fn why(&self) -> Result<Option<String>, SourceError> {
        // What the client has to say is said when it is polled.
        while self.consumer.poll(Duration::from_millis(1)).is_some() {}
        let Some((code, complaint)) = self.complaints.take() else { return Ok(None) };
        if is_refusal(code) {
            let brokers = &self.brokers;
            return Err(SourceError(format!(
                "kafka at {brokers} cannot be spoken to: {complaint}; check security.protocol, sasl.* and ssl.* in \
                 kafka.properties"
            )));
        }
        Ok(Some(complaint))
    }

    /// The numbers of a topic's partitions; none if there is no such topic.
    fn partitions(&self, topic: &str, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), timeout)?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(Vec::new());
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(Vec::new())
            }
            Some(code) => Err(KafkaError::MetadataFetch(code)),
        }
    }

    /// A look in which no topic is missing.
    pub(super) fn all_there(&self, look: Look) -> Result<Look, SourceError> {
        let missing =
            self.topics.iter().zip(&look.topics).zip(&self.streams).find_map(|((topic, seen), stream)| {
                seen.as_ref()
                    .is_some_and(|seen| seen.partitions.is_empty())
                    .then_some((topic.as_ref()?, stream))
            });
        let Some((topic, stream)) = missing else { return Ok(look) };
        let brokers = &self.brokers;
        Err(SourceError(format!(
            "the topic {topic} of stream {stream} does not exist at {brokers}: create it, name another with \
             kafka.topics.{stream}, or leave the stream out with kafka.topics.{stream} = \"\""
        )))
    }
}

/// The first or last offsets of partitions, as those who read committed records see them.
pub(super) fn offsets<C>(
    consumer: &BaseConsumer<C>,
    partitions: &mut TopicPartitionList,
    which: Offset,
    timeout: Duration,
) -> Result<BTreeMap<(String, i32), u64>, KafkaError>
where
    C: ClientContext + rdkafka::consumer::ConsumerContext,
{
    partitions.set_all_offsets(which)?;
    let answered = consumer.offsets_for_times(partitions.clone(), timeout)?;
    let of_one = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        element.error()?;
        let offset = element.offset().to_raw().and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable))?;
        Ok(((element.topic().to_string(), element.partition()), offset))
    };
    answered.elements().into_iter().map(of_one).collect()
}

/// What all threads of a Kafka source know together.
#[derive(Default)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Grows with the partitions and with a failure.
    version: AtomicU64,
    leaving: AtomicBool,
    watched: AtomicBool,
    left: AtomicBool,
}

#[derive(Default)]
struct Inner {
    streams: Vec<StreamSpec>,
    topics: Vec<String>,
    assigned: Vec<Assigned>,
    lives: BTreeMap<(usize, u32), u32>,
    ids: Vec<Option<String>>,
    ends: BTreeMap<(usize, Partition), u64>,
    committed: Positions,
    waiting: Option<String>,
    failed: Option<SourceError>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins with these partitions; a drained one ends at the ends that were seen.
    pub(super) fn begin(&self, plan: Plan, look: &Look, options: &KafkaOptions) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner.streams.clone_from(&options.streams);
        let topics = options.streams.iter().map(|stream| options.topic(stream).unwrap_or_default());
        inner.topics = topics.map(str::to_string).collect();
        inner.assigned = plan.assigned;
        inner.lives = plan.lives;
        inner.ids = vec![None; look.topics.len()];
        inner.see(look);
        for one in inner.assigned.iter_mut().filter(|_| options.drain) {
            one.end = inner.ends.get(&(one.stream, one.partition.clone())).copied();
        }
        drop(guard);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Something that readers should look at has changed since this was another number.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The partitions from the `from`th on, or why all must stop.
    pub(super) fn assigned(&self, from: usize) -> Result<Vec<Assigned>, SourceError> {
        let inner = self.inner();
        match &inner.failed {
            Some(error) => Err(error.clone()),
            None => Ok(inner.assigned.get(from..).unwrap_or_default().to_vec()),
        }
    }

    pub(super) fn wait_for(&self, what: Option<String>) {
        self.inner().waiting = what;
    }

    pub(super) fn committed(&self, positions: &Positions) {
        self.inner().committed.clone_from(positions);
    }

    pub(super) fn standing(&self) -> Standing {
        let inner = self.inner();
        let lag = inner.assigned.iter().filter_map(|one| {
            let end = *inner.ends.get(&(one.stream, one.partition.clone()))?;
            let (stream, partition) = (inner.stream(one.stream).to_string(), one.partition.to_string());
            Some(Lag { stream, partition, position: inner.position(one), end })
        });
        Standing { lag: lag.collect(), waiting: inner.waiting.clone() }
    }

    /// Lets the watching thread show the last offsets, and ends it.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        for _ in 0..LAST_WORDS.as_millis() / 10 {
            if !self.watched.load(Ordering::Acquire) || self.left.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn fail(&self, error: SourceError) {
        self.inner().failed.get_or_insert(error);
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Inner {
    /// Keeps the ids and the ends.
    fn see(&mut self, look: &Look) {
        // An id that is not told now is not forgotten.
        for (known, seen) in self.ids.iter_mut().zip(&look.topics) {
            *known = seen.as_ref().and_then(|seen| seen.id.clone()).or(known.take());
        }
        for one in &self.assigned {
            let seen = look.topics.get(one.stream).and_then(Option::as_ref);
            let bounds = seen.and_then(|seen| seen.partitions.get(&u32::try_from(one.number).ok()?));
            self.ends.extend(bounds.map(|bounds| ((one.stream, one.partition.clone()), bounds.end)));
        }
    }

    fn stream(&self, stream: usize) -> &str {
        self.streams.get(stream).map_or("", |stream| stream.name.as_str())
    }

    /// The first record of a partition that is not committed.
    fn position(&self, one: &Assigned) -> u64 {
        let of_stream = self.committed.get(self.stream(one.stream));
        of_stream.and_then(|of| of.get(one.partition.text())).copied().unwrap_or(one.next)
    }

    /// Partitions that nobody reads yet.
    fn fresh(&self, look: &Look) -> Vec<Assigned> {
        let read: HashSet<(usize, i32)> = self.assigned.iter().map(|one| (one.stream, one.number)).collect();
        let mut fresh = Vec::new();
        for (stream, seen) in look.topics.iter().enumerate() {
            let (Some(seen), Some(topic)) = (seen, self.topics.get(stream)) else { continue };
            for (number, bounds) in &seen.partitions {
                let Ok(there) = i32::try_from(*number) else { continue };
                if !read.contains(&(stream, there)) {
                    fresh.push(Assigned {
                        stream,
                        topic: topic.clone(),
                        number: there,
                        partition: Partition::in_life(
                            *number,
                            *self.lives.get(&(stream, *number)).unwrap_or(&1),
                        ),
                        next: bounds.start,
                        late: true,
                        end: None,
                        cursor: cursor(topic, seen.id.as_deref()),
                    });
                }
            }
        }
        fresh
    }

    /// Why reading stops if a topic has another id than it had.
    fn made_anew(&self, look: &Look) -> Option<SourceError> {
        let changed = self.ids.iter().zip(&look.topics).position(|(known, seen)| {
            let id = seen.as_ref().and_then(|seen| seen.id.as_ref());
            matches!((known, id), (Some(known), Some(id)) if known != id)
        });
        Some(self.not_the_same(changed?, "was deleted and created again"))
    }

    /// Why reading stops where a topic is not the one that was read.
    fn not_the_same(&self, stream: usize, what: &str) -> SourceError {
        let of_topic = self.assigned.iter().filter(|one| one.stream == stream);
        let places = of_topic.map(|one| format!("partition {} to offset {}", one.number, self.position(one)));
        let (places, topic) = (places.collect::<Vec<_>>().join(", "), &self.topics[stream]);
        SourceError(format!(
            "the topic {topic} {what} while it was read; committed is {places}. Bring it back, or create it and \
             start with --accept-gap: then reading goes on in the new one, and the gap is recorded in the root"
        ))
    }
}

/// The thread that looks while a run goes on.
pub(super) struct Watching {
    options: Arc<KafkaOptions>,
    looker: Arc<Looker>,
    shared: Arc<Shared>,
    away: Option<String>,
    gone: u32,
    told: Positions,
    looks: u64,
}

impl Watching {
    pub(super) fn spawn(
        options: &Arc<KafkaOptions>,
        looker: &Arc<Looker>,
        shared: &Arc<Shared>,
    ) -> Result<(), SourceError> {
        let watching = Self {
            options: options.clone(),
            looker: looker.clone(),
            shared: shared.clone(),
            away: None,
            gone: 0,
            told: Positions::new(),
            looks: 0,
        };
        shared.watched.store(true, Ordering::Release);
        let thread = std::thread::Builder::new().name("kafka-watch".into()).spawn(move || watching.run());
        thread.map(drop).map_err(|error| SourceError(format!("cannot start a thread: {error}")))
    }

    fn run(mut self) {
        while !self.shared.leaving.load(Ordering::Acquire) {
            match self.looker.look(ANSWER) {
                Ok(look) => {
                    self.answered();
                    self.judge(&look);
                }
                Err(error) => self.silent(&error),
            }
            self.show_offsets();
            self.looks += 1;
            // Serves what the client has to say, and rests.
            for _ in 0..STEPS {
                if !self.shared.leaving.load(Ordering::Acquire) {
                    let _ = self.looker.consumer.poll(EVERY / STEPS);
                }
            }
        }
        self.show_offsets();
        let _ = self.looker.consumer.poll(EVERY / STEPS);
        self.shared.left.store(true, Ordering::Release);
    }

    fn answered(&mut self) {
        if let Some(since) = self.away.take() {
            let brokers = &self.options.connection.brokers;
            tracing::warn!("kafka at {brokers} answers again; it was away since {since}");
            self.shared.wait_for(None);
        }
    }

    fn silent(&mut self, error: &KafkaError) {
        if self.away.is_some() || self.shared.leaving.load(Ordering::Acquire) {
            return;
        }
        let error = match self.looker.why() {
            Ok(why) => why.unwrap_or_else(|| error.to_string()),
            Err(refusal) => refusal.to_string(),
        };
        let (since, brokers) = ((self.options.now)(), &self.options.connection.brokers);
        tracing::warn!(%error, "kafka at {brokers} does not answer since {since}; waiting for it");
        self.shared.wait_for(Some(format!("kafka at {brokers} does not answer since {since}")));
        self.away = Some(since);
    }

    /// Takes in what is new and stops all when a topic is no longer the one that is read.
    fn judge(&mut self, look: &Look) {
        let mut inner = self.shared.inner();
        let missing =
            look.topics.iter().position(|seen| seen.as_ref().is_some_and(|seen| seen.partitions.is_empty()));
        self.gone = if missing.is_some() { self.gone + 1 } else { 0 };
        let gone = missing.filter(|_| self.gone >= LOOKS_AT_GONE);
        let gone = gone.map(|stream| inner.not_the_same(stream, "is gone: it was deleted"));
        if let Some(error) = inner.made_anew(look).or(gone) {
            drop(inner);
            return self.shared.fail(error);
        }
        let fresh = if missing.is_some() { Vec::new() } else { inner.fresh(look) };
        for one in &fresh {
            tracing::info!(
                topic = one.topic,
                partition = one.number,
                "a new partition is read from its start"
            );
        }
        let changed = !fresh.is_empty();
        inner.assigned.extend(fresh);
        if missing.is_none() {
            inner.see(look);
        }
        drop(inner);
        if changed {
            self.shared.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Commits for the group what the store has committed.
    fn show_offsets(&mut self) {
        let inner = self.shared.inner();
        if inner.committed == self.told && !self.looks.is_multiple_of(SHOW_AGAIN) {
            return;
        }
        let mut offsets = TopicPartitionList::new();
        for one in &inner.assigned {
            let next =
                inner.committed.get(inner.stream(one.stream)).and_then(|of| of.get(one.partition.text()));
            let offset = next.and_then(|next| i64::try_from(*next).ok());
            // An offset of a list of ours is one that the list takes.
            let _ = offset.map(|o| offsets.add_partition_offset(&one.topic, one.number, Offset::Offset(o)));
        }
        let committed = inner.committed.clone();
        drop(inner);
        match self.looker.consumer.commit(&offsets, CommitMode::Async) {
            Ok(()) => self.told = committed,
            Err(error) => tracing::debug!(%error, "the group's offsets cannot be shown"),
        }
    }
}
