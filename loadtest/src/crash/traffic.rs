//! Traffic while mills are killed: the oracle's hard records, in transactions of which some are aborted and outside of
//! any, at a steady rate, for as long as a round lasts.
//!
//! Whatever fails with its broker is sent again, so records may stand in a topic twice: what a mill must make of them is
//! told by what Kafka holds, never by what was meant to be sent.

use super::kafka::{Kafka, PATIENCE};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill::Error;
use tidemill_oracle::topics::{self, Sent};

/// Records that are made at a time.
const BATCH: usize = 2000;

/// What is sent, and how.
pub struct Traffic<'a> {
    /// Where to.
    pub kafka: &'a Kafka,
    /// What stands before the streams' names in those of the topics.
    pub prefix: &'a str,
    /// Decides all of it.
    pub seed: u64,
    /// Records a second.
    pub rate: f64,
    /// Ends it.
    pub stop: &'a AtomicBool,
    /// How many records were sent and not aborted.
    pub sent: &'a AtomicU64,
}

/// A record as it is sent to a topic.
fn to_record<'a>(sent: &'a Sent, topic: &'a str) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(topic).partition(sent.partition).timestamp(sent.timestamp);
    record.key = sent.key.as_deref();
    record.payload = sent.value.as_deref();
    record
}

impl Traffic<'_> {
    /// Sends until it is stopped.
    pub fn run(&self) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x9d);
        let (mut plain, mut transactional) = (None, None);
        for batch in 0.. {
            // Ids of one seed come from the same pools as those of another: they meet as updates.
            let records =
                topics::records(self.seed.wrapping_add(batch << 32), BATCH, super::kafka::PARTITIONS);
            let mut left = &records[..];
            while !left.is_empty() {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                let (part, rest) = left.split_at(rng.random_range(1..25).min(left.len()));
                let commits = rng.random_bool(0.7).then(|| rng.random_bool(0.85));
                let sent = match commits {
                    Some(commits) => self.transaction(&mut transactional, part, commits),
                    None => self.plain(&mut plain, part),
                };
                match (sent, commits) {
                    // What was aborted comes again, or never.
                    (Ok(()), Some(false)) if rng.random_bool(0.5) => {}
                    (Ok(()), _) => {
                        left = rest;
                        self.sent.fetch_add(part.len() as u64, Ordering::AcqRel);
                    }
                    (Err(_), _) => (plain, transactional) = (None, None),
                }
                std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / self.rate));
            }
        }
    }

    /// Ends what a failed producer may have left open, so that all that was sent is decided.
    ///
    /// # Errors
    ///
    /// When the brokers do not answer.
    pub fn settle(&self) -> Result<(), Error> {
        let failed = |error| Error::failed(format!("kafka at {}: {error}", self.kafka.brokers));
        self.transactional().map(drop).map_err(failed)
    }

    /// A producer of transactions; what the one before it left open is aborted.
    fn transactional(&self) -> Result<BaseProducer, KafkaError> {
        let mut config = self.kafka.config();
        config.set("transactional.id", format!("{}traffic", self.prefix));
        let producer: BaseProducer = config.set("transaction.timeout.ms", "20000").create()?;
        producer.init_transactions(PATIENCE)?;
        Ok(producer)
    }

    fn send(&self, producer: &BaseProducer, part: &[Sent]) -> Result<(), KafkaError> {
        for sent in part {
            let topic = format!("{}{}", self.prefix, sent.stream);
            producer.send(to_record(sent, &topic)).map_err(|(error, _)| error)?;
            producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    fn plain(&self, producer: &mut Option<BaseProducer>, part: &[Sent]) -> Result<(), KafkaError> {
        if producer.is_none() {
            let mut config = self.kafka.config();
            *producer = Some(config.set("enable.idempotence", "true").set("linger.ms", "1").create()?);
        }
        let producer = producer.as_ref().ok_or(KafkaError::Canceled)?;
        self.send(producer, part)?;
        producer.flush(PATIENCE)
    }

    fn transaction(
        &self,
        producer: &mut Option<BaseProducer>,
        part: &[Sent],
        commits: bool,
    ) -> Result<(), KafkaError> {
        if producer.is_none() {
            *producer = Some(self.transactional()?);
        }
        let producer = producer.as_ref().ok_or(KafkaError::Canceled)?;
        producer.begin_transaction()?;
        self.send(producer, part)?;
        match commits {
            true => producer.commit_transaction(PATIENCE),
            false => producer.flush(PATIENCE).and_then(|()| producer.abort_transaction(PATIENCE)),
        }
    }
}
