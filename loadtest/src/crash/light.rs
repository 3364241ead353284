//! Light traffic: small records that are all live, by number, and new versions of them.
//!
//! A third of them are trajectories, calls and scores each, of a few hundred bytes. A number decides a record's key,
//! so that a number that is sent again replaces a row.

use super::kafka::Kafka;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use std::fmt;
use std::time::Duration;
use tidemill::Error;
use tidemill_oracle::kafka::STREAMS;

/// Sends light traffic.
pub struct Light {
    producer: BaseProducer,
    brokers: String,
    prefix: String,
    rng: ChaCha8Rng,
}

impl Light {
    /// To topics whose names begin so.
    ///
    /// # Errors
    ///
    /// When there can be no producer.
    pub fn to(kafka: &Kafka, prefix: &str, seed: u64) -> Result<Light, Error> {
        let (brokers, prefix) = (kafka.brokers.clone(), prefix.to_string());
        let mut config = kafka.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        let producer = config.create();
        let producer = producer.map_err(|error| Error::failed(format!("kafka at {brokers}: {error}")))?;
        Ok(Light { producer, brokers, prefix, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    fn failed(&self, error: impl fmt::Display) -> Error {
        Error::failed(format!("kafka at {}: {error}", self.brokers))
    }

    /// Sends the record of a number, with a text of its own each time.
    ///
    /// # Errors
    ///
    /// When the producer does not take it.
    pub fn send(&mut self, number: u64) -> Result<(), Error> {
        let (stream, key, value) = record(number, &mut self.rng);
        let topic = format!("{}{stream}", self.prefix);
        loop {
            match self.producer.send(BaseRecord::to(&topic).key(&key).payload(&value)) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(self.failed(error)),
            }
        }
    }

    /// Sends one of so many records again.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_any(&mut self, of: u64) -> Result<(), Error> {
        let number = self.rng.random_range(0..of.max(1));
        self.send(number)
    }

    /// Waits until the brokers have all.
    ///
    /// # Errors
    ///
    /// When they do not take it.
    pub fn flush(&self, patience: Duration) -> Result<(), Error> {
        self.producer.flush(patience).map_err(|error| self.failed(error))
    }
}

/// One live record: its stream, its key and its value.
fn record(number: u64, rng: &mut ChaCha8Rng) -> (&'static str, String, String) {
    let of = number / 3;
    let text =
        |rng: &mut ChaCha8Rng| format!("the wheel turns {} times a tide", rng.random_range(0..1_000_000));
    match number % 3 {
        0 => {
            let messages = json!([{"role": "user", "content": format!("question {of}")},
                {"role": "assistant", "content": text(rng)}]);
            let value = json!({"id": format!("t{of}"), "task_id": format!("task/{}", of % 1000), "messages": messages,
                "model": format!("m{}", of % 5), "reward": rng.random_range(0..=10) as f64 / 10.0});
            (STREAMS[0], format!("t{of}"), value.to_string())
        }
        1 => {
            let value = json!({"request_id": format!("c{of}"), "prompt": [{"role": "user",
                "content": format!("prompt {}", of % 5000)}], "response": text(rng), "model": format!("m{}", of % 5)});
            (STREAMS[1], format!("c{of}"), value.to_string())
        }
        _ => {
            let (file, id) = if of.is_multiple_of(2) { ("trajectories", "t") } else { ("calls", "c") };
            let value = json!({"row_id": format!("s{of}"), "metric": "reward", "judge_type": "human",
                "score": rng.random_range(0..=10) as f64 / 10.0, "ref": {"file": file, "id": format!("{id}{of}")}});
            (STREAMS[2], format!("s{of}"), value.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_every_number_has_a_key_of_its_own() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let keys: std::collections::BTreeSet<String> =
            (0..300).map(|number| record(number, &mut rng).1).collect();
        assert_eq!(keys.len(), 300);
        let (stream, key, value) = record(2, &mut rng);
        let value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
        assert_eq!((stream, &*key, &value["row_id"]), ("scores", "s0", &json!("s0")));
    }
}
