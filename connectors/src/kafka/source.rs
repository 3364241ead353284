//! One worker's share of the partitions, read by its own consumer.
//!
//! A partition's position is the client's own: behind every record that was handed out and every marker of a
//! transaction that lies between. It says less than the log's end only where aborted records stand before an
//! open transaction; of those a drained run learns by [`KafkaSource::nothing_follows`].

use super::client::Quiet;
use super::consumer::consumer;
use super::resume::{Assigned, Bounds, Cursor, Lost, Stored, going, lost};
use super::watch::{Shared, offsets};
use super::{ANSWER, KafkaOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidemill_core::source::{Polled, RawRecord, RawValue, RecordSink, Source, SourceError, VALUE_HEAD_BYTES};

/// Records of one poll, at most.
const POLL_RECORDS: usize = 4096;
/// Between two looks at positions that may have moved over markers alone.
const MARKERS_US: u64 = 100_000;
/// How long a draining share is idle before it asks whether anything follows.
const QUIET_US: u64 = 500_000;
/// Between two questions that may have had no answer.
const ASK_US: u64 = 500_000;
/// A question that is asked while records could be read waits no longer for its answer.
const SHORT: Duration = Duration::from_secs(2);

/// A partition as it is read.
struct Reading {
    assigned: Assigned,
    /// The first record that was not handed out.
    next: u64,
    /// What was reported last.
    told: Option<u64>,
    /// A reader that began there was told that nothing follows.
    at_end: bool,
}

impl Reading {
    fn is_drained(&self) -> bool {
        self.assigned.end.is_some_and(|end| self.next >= end) || self.at_end
    }
}

/// All partitions of a share.
#[derive(Default)]
struct Readings {
    list: Vec<Reading>,
    places: HashMap<String, HashMap<i32, usize>>,
}

impl Readings {
    fn find(&mut self, topic: &str, number: i32) -> Option<&mut Reading> {
        let place = *self.places.get(topic)?.get(&number)?;
        self.list.get_mut(place)
    }

    fn add(&mut self, assigned: Assigned) {
        let of_topic = self.places.entry(assigned.topic.clone()).or_default();
        of_topic.insert(assigned.number, self.list.len());
        // Where reading goes on, behind a gap too, stands in a root already or in the first commit by itself.
        let told = (!assigned.late).then_some(assigned.next);
        self.list.push(Reading { next: assigned.next, told, at_end: false, assigned });
    }

    /// Hands out a record. `false`: no more in this poll.
    fn take(
        &mut self,
        options: &KafkaOptions,
        message: &BorrowedMessage<'_>,
        sink: &mut dyn RecordSink,
    ) -> bool {
        let reading = self.find(message.topic(), message.partition());
        let (Some(reading), Ok(offset)) = (reading, u64::try_from(message.offset())) else { return true };
        // A partition that is assigned again may hand out what it had fetched before.
        if offset < reading.next {
            return true;
        }
        let stream = reading.assigned.stream;
        let limit = options.streams[stream].value_bytes_max;
        let value = match message.payload() {
            None => RawValue::Null,
            Some(value) if value.len() as u64 <= limit => RawValue::Bytes(value),
            Some(value) => RawValue::TooLarge {
                head: &value[..value.len().min(VALUE_HEAD_BYTES)],
                bytes: value.len() as u64,
            },
        };
        let timestamp = message.timestamp().to_millis().filter(|millis| *millis >= 0);
        let record = RawRecord {
            partition: &reading.assigned.partition,
            offset,
            timestamp: timestamp.map(|millis| millis.saturating_mul(1000)),
            key: message.key(),
            value,
        };
        reading.next = offset + 1;
        reading.at_end = false;
        sink.record(stream, record)
    }
}

/// One worker's share.
pub struct KafkaSource {
    options: Arc<KafkaOptions>,
    shared: Arc<Shared>,
    consumer: BaseConsumer<Quiet>,
    worker: usize,
    workers: usize,
    version: u64,
    adopted: usize,
    readings: Readings,
    draining: bool,
    /// Ends were asked for and are not known yet.
    wants_ends: bool,
    /// The client says that a position is outside its log.
    outside: bool,
    looked_at: u64,
    asked_at: u64,
    busy_at: u64,
    /// What was said of the client's complaints since the last record.
    said: Vec<RDKafkaErrorCode>,
}

impl KafkaSource {
    pub(super) fn open(
        options: &Arc<KafkaOptions>,
        shared: &Arc<Shared>,
        worker: usize,
        workers: usize,
    ) -> Result<Self, SourceError> {
        let mut share = Self {
            consumer: consumer(options, workers)?,
            options: options.clone(),
            shared: shared.clone(),
            worker,
            workers: workers.max(1),
            version: 0,
            adopted: 0,
            readings: Readings::default(),
            draining: options.drain,
            wants_ends: false,
            outside: false,
            looked_at: 0,
            asked_at: 0,
            busy_at: (options.stopwatch)(),
            said: Vec::new(),
        };
        share.adopt()?;
        Ok(share)
    }

    /// Takes the partitions that are new and ours.
    fn adopt(&mut self) -> Result<(), SourceError> {
        let version = self.shared.version();
        if version == self.version {
            return Ok(());
        }
        let new = self.shared.assigned(self.adopted)?;
        self.version = version;
        let from = self.adopted;
        self.adopted += new.len();
        let ours = new.into_iter().enumerate().filter(|(at, _)| (from + at) % self.workers == self.worker);
        let before = self.readings.list.len();
        ours.for_each(|(_, assigned)| self.readings.add(assigned));
        if self.readings.list.len() > before { self.assign() } else { Ok(()) }
    }

    /// Begins to fetch each partition where it stands.
    fn assign(&mut self) -> Result<(), SourceError> {
        let assigned = self.list(|reading| Offset::Offset(reading.next as i64))?;
        self.consumer.assign(&assigned).map_err(|error| self.broken(&error))
    }

    fn list(&self, offset: impl Fn(&Reading) -> Offset) -> Result<TopicPartitionList, SourceError> {
        let mut list = TopicPartitionList::with_capacity(self.readings.list.len());
        for reading in &self.readings.list {
            let Assigned { topic, number, .. } = &reading.assigned;
            let added = list.add_partition_offset(topic, *number, offset(reading));
            added.map_err(|error| self.broken(&error))?;
        }
        Ok(list)
    }

    fn broken(&self, error: &KafkaError) -> SourceError {
        SourceError(format!("kafka at {}: {error}", self.options.connection.brokers))
    }

    /// Looks where the client stands: behind markers, too, that lie behind the last record.
    fn pass_markers(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            let reading = self.readings.find(element.topic(), element.partition());
            if let (Some(reading), Offset::Offset(next)) = (reading, element.offset()) {
                reading.next = reading.next.max(u64::try_from(next).unwrap_or(0));
            }
        }
    }

    fn tell(&mut self, sink: &mut dyn RecordSink) {
        let news = |reading: &&mut Reading| reading.told.is_none_or(|told| reading.next > told);
        for reading in self.readings.list.iter_mut().filter(news) {
            let Assigned { stream, partition, cursor, .. } = &reading.assigned;
            sink.position(*stream, partition, reading.next, cursor.clone());
            if reading.told.is_none() {
                sink.matters();
            }
            reading.told = Some(reading.next);
        }
    }

    fn trouble(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        let code = match error {
            KafkaError::MessageConsumption(code) => *code,
            KafkaError::MessageConsumptionFatal(_) => return Err(self.broken(error)),
            _ => return Ok(()),
        };
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => self.outside = true,
            RDKafkaErrorCode::TopicAuthorizationFailed => {
                return Err(SourceError(format!(
                    "kafka at {} refuses to be read: {error}; check the rights of the user in kafka.properties",
                    self.options.connection.brokers
                )));
            }
            code => {
                if !self.said.contains(&code) {
                    self.said.push(code);
                    tracing::info!(%error, "kafka");
                }
            }
        }
        Ok(())
    }

    /// The log does not hold what was asked for: finds out what is gone.
    fn look_outside(&mut self) -> Result<(), SourceError> {
        let mut list = self.list(|_| Offset::Beginning)?;
        let starts = offsets(&self.consumer, &mut list, Offset::Beginning, SHORT);
        let ends = offsets(&self.consumer, &mut list, Offset::End, SHORT);
        // Without an answer it is asked again.
        let (Ok(starts), Ok(ends)) = (starts, ends) else { return Ok(()) };
        let mut gone = Vec::new();
        for reading in &mut self.readings.list {
            let one = &mut reading.assigned;
            let at = (one.topic.clone(), one.number);
            let (Some(start), Some(end)) = (starts.get(&at), ends.get(&at)) else { continue };
            let bounds = Bounds { start: *start, end: *end };
            let cursor = Cursor::deserialize(&one.cursor).ok();
            let id = cursor.as_ref().and_then(|cursor| cursor.id.clone());
            let stored = Stored { life: one.partition.life(), next: reading.next, cursor };
            let going = going(Some(&stored), &one.topic, id.as_deref(), bounds);
            if let Some(why) = going.lost {
                gone.push(Lost {
                    stream: self.options.streams[one.stream].name.clone(),
                    topic: one.topic.clone(),
                    partition: one.partition.clone(),
                    from: reading.next,
                    bounds: Some(bounds),
                    resumed: (one.partition.clone(), going.next),
                    why,
                });
            }
        }
        if !gone.is_empty() {
            return Err(lost(&gone));
        }
        // Of a log that was cut and has grown again since, only the client knows.
        tracing::warn!(
            "kafka's client could not go on at an offset that the log holds; it is asked for again"
        );
        self.outside = false;
        self.assign()
    }

    /// Asks for the ends that a share which is to drain must reach.
    fn take_ends(&mut self) -> Result<(), SourceError> {
        if self.readings.list.is_empty() {
            self.wants_ends = false;
            return Ok(());
        }
        let mut list = self.list(|_| Offset::End)?;
        if let Ok(ends) = offsets(&self.consumer, &mut list, Offset::End, SHORT) {
            for reading in &mut self.readings.list {
                let at = (reading.assigned.topic.clone(), reading.assigned.number);
                reading.assigned.end = ends.get(&at).copied();
            }
            self.wants_ends = false;
        }
        Ok(())
    }

    /// Whether a reader that begins at a partition's position is told at once that no record follows below the
    /// end of what is committed. Without an answer it is asked again.
    fn nothing_follows(&self, reading: &Reading) -> Result<bool, SourceError> {
        let Assigned { topic, number, .. } = &reading.assigned;
        let mut list = TopicPartitionList::new();
        let begun = list
            .add_partition_offset(topic, *number, Offset::Offset(reading.next as i64))
            .and_then(|()| super::consumer::asker(&self.options).map_err(|_| KafkaError::Canceled));
        let asker = begun.map_err(|error| self.broken(&error))?;
        asker.assign(&list).map_err(|error| self.broken(&error))?;
        Ok(match asker.poll(ANSWER) {
            Some(Err(KafkaError::PartitionEOF(_))) => true,
            Some(Ok(message)) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                reading.assigned.end.is_some_and(|end| offset >= end)
            }
            _ => false,
        })
    }

    /// Whether everything before the ends has been handed out.
    fn is_drained(&mut self, now: u64) -> Result<bool, SourceError> {
        if !self.draining || self.wants_ends {
            return Ok(false);
        }
        let left = |reading: &Reading| reading.assigned.end.is_some() && !reading.is_drained();
        let Some(left) = self.readings.list.iter().position(left) else { return Ok(true) };
        if now.saturating_sub(self.busy_at) >= QUIET_US {
            self.readings.list[left].at_end = self.nothing_follows(&self.readings.list[left])?;
            self.busy_at = now;
        }
        Ok(false)
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError> {
        self.adopt()?;
        let (mut taken, mut more, mut broken) = (0, true, None);
        while more && taken < POLL_RECORDS {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    taken += 1;
                    more = self.readings.take(&self.options, &message, sink);
                }
                Some(Err(error)) => {
                    broken = self.trouble(&error).err();
                    more = broken.is_none();
                }
            }
        }
        let now = (self.options.stopwatch)();
        if taken > 0 {
            self.busy_at = now;
            self.said.clear();
        } else if now.saturating_sub(self.looked_at) >= MARKERS_US {
            self.looked_at = now;
            self.pass_markers();
        }
        // What was handed out before something broke has its position too.
        self.tell(sink);
        if let Some(error) = broken {
            return Err(error);
        }
        if now.saturating_sub(self.asked_at) >= ASK_US && (self.outside || self.wants_ends) {
            self.asked_at = now;
            if self.outside {
                self.look_outside()?;
            } else {
                self.take_ends()?;
            }
        }
        Ok(match taken {
            0 if self.is_drained(now)? => Polled::Drained,
            0 => Polled::Idle,
            _ => Polled::More,
        })
    }

    fn drain(&mut self) -> bool {
        if !self.draining {
            (self.draining, self.wants_ends) = (true, true);
        }
        true
    }
}
