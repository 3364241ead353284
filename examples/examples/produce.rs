//! Writes a few records of each stream to Kafka, as a production system would.
//!
//! ```text
//! cargo run -p tidemill-examples --example produce -- BROKERS
//! ```
//!
//! What stands between `region` and `endregion` stands in docs/guide/producing.md too, and a test compares
//! them.

// region producer
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts what could not be delivered.
#[derive(Default)]
struct Deliveries {
    failed: AtomicUsize,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            eprintln!(
                "{} was not delivered: {error}",
                String::from_utf8_lossy(message.key().unwrap_or_default())
            );
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn producer(brokers: &str, more: &[(&str, &str)]) -> KafkaResult<BaseProducer<Deliveries>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        // Retries neither repeat nor reorder; implies acks=all.
        .set("enable.idempotence", "true")
        // That of the Java clients: a key has one partition, whoever writes.
        .set("partitioner", "murmur2_random")
        .set("compression.type", "zstd")
        .set("linger.ms", "50")
        // As large as the topic takes them.
        .set("message.max.bytes", "20971520");
    more.iter().for_each(|(name, value)| {
        config.set(*name, *value);
    });
    config.create_with_context(Deliveries::default())
}

/// Sends a record under its identity; `None` deletes. (`BaseRecord::timestamp` says when it happened, if
/// that is not now.)
fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    identity: &str,
    record: Option<&Value>,
) -> KafkaResult<()> {
    let value = record.map(Value::to_string);
    let mut next = BaseRecord::to(topic).key(identity);
    if let Some(value) = &value {
        next = next.payload(value);
    }
    while let Err((error, unsent)) = producer.send(next) {
        if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            return Err(error);
        }
        // The queue is full: wait until some have gone.
        producer.poll(Duration::from_secs(1));
        next = unsent;
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
// endregion

// region streams
fn send_all(producer: &BaseProducer<Deliveries>) -> KafkaResult<()> {
    let question = json!({"role": "user", "content": "How many metres are three kilometres?"});
    let answer = json!({"role": "assistant", "content": "They are 3000 metres."});
    let trajectory =
        json!({"id": "rs-1", "task_id": "units", "model": "harbor-8b", "messages": [question, answer]});
    let call =
        json!({"request_id": "rs-call-1", "prompt": [question], "response": "3000 metres.", "status": 200});
    let score = json!({"row_id": "rs-score-1", "ref": {"file": "trajectories", "id": "rs-1"},
        "metric": "is_correct", "score": 1, "judge_type": "programmatic"});
    send(producer, "trajectories", "rs-1", Some(&trajectory))?;
    send(producer, "calls", "rs-call-1", Some(&call))?;
    send(producer, "scores", "rs-score-1", Some(&score))?;
    send(producer, "calls", "rs-call-1", None)
}
// endregion

// region transaction
/// Sends so that readers see all of it or nothing.
fn send_together(brokers: &str) -> KafkaResult<()> {
    let producer = producer(brokers, &[("transactional.id", "judge-2")])?;
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience)?;
    producer.begin_transaction()?;
    match send_all(&producer) {
        Ok(()) => producer.commit_transaction(patience),
        Err(error) => producer.abort_transaction(patience).and(Err(error)),
    }
}
// endregion

fn run(brokers: &str) -> KafkaResult<usize> {
    let plain = producer(brokers, &[])?;
    send_all(&plain)?;
    plain.flush(Duration::from_secs(30))?;
    send_together(brokers)?;
    Ok(plain.context().failed.load(Ordering::Relaxed))
}

fn main() -> std::process::ExitCode {
    let Some(brokers) = std::env::args().nth(1) else {
        eprintln!("give the brokers, such as 127.0.0.1:9092");
        return std::process::ExitCode::from(2);
    };
    match run(&brokers) {
        Ok(0) => std::process::ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: {failed} records were not delivered");
            std::process::ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
