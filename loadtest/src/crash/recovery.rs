//! How long a start takes, against what the store holds: from the start of the process after a SIGKILL to its first new
//! commit, while light traffic goes on.
//!
//! A third of the records are trajectories, calls and scores each, of a few hundred bytes; every one is live. What a
//! start must read and join grows with their number, which is what is measured.

use super::kafka::{Kafka, PATIENCE};
use super::mill::{Mills, phases};
use super::outcome::percentiles;
use super::sight::recovered;
use super::site::Site;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill::Error;
use tidemill::run::percentile;
use tidemill_oracle::kafka::STREAMS;

/// How long a start of the largest store may take.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// The pause between two records of the light traffic.
const PAUSE: Duration = Duration::from_millis(20);
/// What the log of a start says, in this order.
const PHASES: [&str; 5] =
    ["starting", "the store is claimed", "the lake is open", "the flow is filled", "ready"];

/// The starts over one size.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recovered {
    /// Live source records.
    pub rows: u64,
    /// From the start of each process to its first new commit, microseconds.
    pub starts_us: Vec<u64>,
    /// From the start of each process to what its log said, microseconds.
    pub phases_us: BTreeMap<String, Vec<u64>>,
    /// What filling took, seconds.
    pub filled_s: f64,
}

impl Recovered {
    /// The size, in words.
    pub fn title(&self) -> String {
        format!("{} live records", self.rows)
    }

    /// The figures as one object.
    pub fn json(&self) -> Value {
        let phases: serde_json::Map<String, Value> =
            self.phases_us.iter().map(|(phase, times)| (phase.clone(), percentiles(times))).collect();
        json!({
            "rows": self.rows,
            "start_to_commit_ms": percentiles(&self.starts_us),
            "phases_ms": phases,
            "filled_s": self.filled_s,
        })
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |times: &[u64], percent| percentile(times, percent) as f64 / 1e3;
        let [p50, p99, max] = [50, 99, 100].map(|percent| ms(&self.starts_us, percent));
        write!(f, "{} starts: p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms;", self.starts_us.len())?;
        for phase in PHASES {
            if let Some(times) = self.phases_us.get(phase) {
                write!(f, " {phase} {:.0} ms,", ms(times, 50))?;
            }
        }
        write!(f, " commit {p50:.0} ms")
    }
}

/// Where starts are measured.
pub struct Measured<'a> {
    /// The store.
    pub site: &'a Site,
    /// The mills over it.
    pub mills: &'a Mills,
    /// What they read.
    pub kafka: &'a Kafka,
    /// Live source records.
    pub rows: u64,
    /// How many starts.
    pub starts: usize,
    /// Decides texts and moments.
    pub seed: u64,
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

impl Measured<'_> {
    fn failed(&self, error: impl fmt::Display) -> Error {
        Error::failed(format!("kafka at {}: {error}", self.kafka.brokers))
    }

    fn producer(&self) -> Result<BaseProducer, Error> {
        let mut config = self.kafka.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        config.create().map_err(|error| self.failed(error))
    }

    fn send(&self, producer: &BaseProducer, number: u64, rng: &mut ChaCha8Rng) -> Result<(), Error> {
        let (stream, key, value) = record(number, rng);
        let topic = format!("{}{stream}", self.mills.prefix);
        loop {
            match producer.send(BaseRecord::to(&topic).key(&key).payload(&value)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(self.failed(error)),
            }
        }
    }

    fn fill(&self) -> Result<f64, Error> {
        let (producer, mut rng) = (self.producer()?, ChaCha8Rng::seed_from_u64(self.seed));
        let began = (self.mills.stopwatch)();
        for number in 0..self.rows {
            self.send(&producer, number, &mut rng)?;
            if number % 1000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(START_PATIENCE).map_err(|error| self.failed(error))?;
        self.mills.drain(2)?;
        Ok(((self.mills.stopwatch)() - began) as f64 / 1e6)
    }

    /// New versions of records that are there, until it is told to stop.
    fn trickle(&self, stop: &AtomicBool) -> Result<(), Error> {
        let (producer, mut rng) = (self.producer()?, ChaCha8Rng::seed_from_u64(self.seed ^ 0x7c));
        while !stop.load(Ordering::Acquire) {
            let number = rng.random_range(0..self.rows.max(1));
            self.send(&producer, number, &mut rng)?;
            producer.poll(Duration::ZERO);
            std::thread::sleep(PAUSE);
        }
        producer.flush(PATIENCE).map_err(|error| self.failed(error))
    }

    fn start(&self, rng: &mut ChaCha8Rng, found: &mut Recovered) -> Result<(), Error> {
        let from = self.site.sight.count();
        self.site.life();
        let begun_us = tidemill::run::now_ms() * 1000;
        let mut mill = self.mills.start(2)?;
        let mut seen = None;
        for _ in 0..START_PATIENCE.as_millis() / 50 {
            seen = self.site.sight.wait(from, Duration::from_millis(50), recovered);
            if seen.is_some() || mill.ended().is_some() {
                break;
            }
        }
        let Some(seen) = seen else {
            let said = mill.last_words();
            return Err(Error::failed(format!("a start over {} records did not commit: {said}", self.rows)));
        };
        found.starts_us.push(seen.at_us.saturating_sub(mill.started_us));
        std::thread::sleep(Duration::from_millis(rng.random_range(200..800)));
        mill.kill();
        for (phase, at) in phases(&mill.log) {
            if PHASES.contains(&&*phase) {
                found.phases_us.entry(phase).or_default().push((at - begun_us).max(0) as u64);
            }
        }
        Ok(())
    }

    /// Fills a store, then kills and starts.
    ///
    /// # Errors
    ///
    /// When a start does not commit, or something fails that is no part of what is measured.
    pub fn run(&self) -> Result<Recovered, Error> {
        let mut found = Recovered { rows: self.rows, filled_s: self.fill()?, ..Recovered::default() };
        let (stop, mut rng) = (AtomicBool::new(false), ChaCha8Rng::seed_from_u64(self.seed ^ 0x11));
        let ended = std::thread::scope(|scope| {
            let trickle = scope.spawn(|| self.trickle(&stop));
            let measured = (0..self.starts).try_for_each(|_| self.start(&mut rng, &mut found));
            stop.store(true, Ordering::Release);
            let trickled =
                trickle.join().unwrap_or_else(|_| Err(Error::failed("the light traffic panicked")));
            measured.and(trickled)
        });
        ended.map(|()| found)
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
        let value: Value = serde_json::from_str(&value).expect("JSON");
        assert_eq!((stream, &*key, &value["row_id"]), ("scores", "s0", &json!("s0")));
    }
}
