//! A mill beside Kafka under fire: traffic in transactions of which some are aborted, and runs of the mill that
//! end by SIGKILL while it, or the broker, is stopped and goes on.

use super::broker::{Broker, STREAMS};
use super::held::Held;
use super::mill::{Mill, succeeded};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::topics::{self, Sent};

/// How long a broker may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Kills of a test: its own, or, for a longer search, what `KILLS=100` says.
fn kills(own: usize) -> usize {
    let given = std::env::var("KILLS").ok();
    given.map_or(own, |given| given.parse().unwrap_or_else(|_| panic!("KILLS is {given}; give a number")))
}

/// A call with an id and a text, in partition 0.
pub fn call(id: &str, text: &str) -> Sent {
    let value = json!({"request_id": id, "prompt": [{"role": "user", "content": "go on"}], "response": text});
    Sent {
        stream: "calls",
        partition: 0,
        key: Some(id.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
        timestamp: 1_767_225_600_000,
    }
}

/// Calls, each with an id of its own.
pub fn calls(ids: std::ops::Range<u32>) -> Vec<Sent> {
    ids.map(|id| call(&format!("c{id}"), &format!("answer {id}"))).collect()
}

/// A record as it is sent.
pub fn to_record(sent: &Sent) -> BaseRecord<'_, [u8], [u8]> {
    let mut record = BaseRecord::to(sent.stream).partition(sent.partition).timestamp(sent.timestamp);
    record.key = sent.key.as_deref();
    record.payload = sent.value.as_deref();
    record
}

/// Sends a transaction, which is committed or aborted; or records outside of any.
pub fn send(producer: &BaseProducer, part: &[Sent], transaction: Option<bool>) -> Result<(), KafkaError> {
    if transaction.is_some() {
        producer.begin_transaction()?;
    }
    for sent in part {
        producer.send(to_record(sent)).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    match transaction {
        Some(true) => producer.commit_transaction(PATIENCE),
        Some(false) => producer.flush(PATIENCE).and_then(|()| producer.abort_transaction(PATIENCE)),
        None => producer.flush(PATIENCE),
    }
}

fn transactional(broker: &Broker) -> BaseProducer {
    loop {
        let producer =
            broker.producer(&[("transactional.id", "traffic"), ("transaction.timeout.ms", "20000")]);
        if producer.init_transactions(PATIENCE).is_ok() {
            return producer;
        }
    }
}

/// Sends all records, in parts; whatever fails with the broker is begun anew, so records may come twice.
fn produce(broker: &Broker, seed: u64, records: &[Sent], pause: Duration) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9d);
    let plain = broker.producer(&[("linger.ms", "1")]);
    let mut producer = transactional(broker);
    let mut left = records;
    while !left.is_empty() {
        let (part, rest) = left.split_at(rng.random_range(1..25).min(left.len()));
        let transaction = rng.random_bool(0.7).then(|| rng.random_bool(0.85));
        let sent = match transaction {
            Some(_) => send(&producer, part, transaction),
            None => send(&plain, part, None),
        };
        match (sent, transaction) {
            // What was aborted comes again, or never.
            (Ok(()), Some(false)) if rng.random_bool(0.5) => {}
            (Ok(()), _) => left = rest,
            (Err(_), _) => producer = transactional(broker),
        }
        std::thread::sleep(pause);
    }
}

/// One run of the mill that ends by SIGKILL, with what happens to it before.
fn run_and_kill(mill: &Mill, broker: &Broker, workers: usize, number: usize, rng: &mut ChaCha8Rng) {
    let before = mill.newest().map_or(0, |root| root["generation"].as_u64().expect("a number"));
    let running = mill.tail(workers);
    if rng.random_bool(0.8) {
        mill.wait_for("a claim", |root| root["generation"].as_u64() > Some(before));
    }
    let mut rest = |most: u64| std::thread::sleep(Duration::from_millis(rng.random_range(0..most)));
    rest(700);
    match number % 6 {
        1 | 4 => {
            running.tell("STOP");
            rest(1500);
            running.tell("CONT");
            rest(400);
        }
        3 => {
            broker.kill();
            rest(800);
            broker.start_again();
            rest(1500);
        }
        _ => {}
    }
    running.kill();
}

/// What is done to a mill.
pub struct Fire {
    /// Of the traffic and of the moments.
    pub seed: u64,
    /// Records of the traffic, about.
    pub records: usize,
    /// Kills, at least.
    pub kills: usize,
    /// Workers of the runs, in turn.
    pub workers: [usize; 2],
}

/// Kills a mill again and again while its topics fill, deletes what it has committed from them now and then, and
/// holds what is left to the oracle.
pub fn under_fire(mut mill: Mill, broker: &Broker, fire: &Fire) {
    let seed = fire.seed;
    broker.create(&STREAMS, 4);
    mill.read_kafka(&broker.address);
    let records = topics::records(seed, fire.records, 4);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut truth, sent) = (Truth::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            produce(broker, seed, &records, Duration::from_millis(150));
            sent.store(true, Ordering::Release);
        });
        let mut number = 0;
        while number < kills(fire.kills) || !sent.load(Ordering::Acquire) {
            run_and_kill(&mill, broker, fire.workers[number % 2], number, &mut rng);
            number += 1;
            if let Some(root) = mill.newest().filter(|_| number % 3 == 0) {
                truth.read_on(&broker.address).expect("what the topics hold");
                broker.delete_below(&root);
            }
        }
    });
    truth.read_on(&broker.address).expect("what the topics hold");
    mill.drain(fire.workers[0]);
    hold(&mill, &truth);
}

/// Everything that must hold of a store that was drained after many kills.
fn hold(mill: &Mill, truth: &Truth) {
    let held = Held::over(mill, &truth.records);
    held.hold_drained();
    held.hold_log();
    let roots = held.roots();
    let generations: BTreeSet<u64> = roots.iter().map(|root| root.generation).collect();
    let claims = roots.iter().filter(|root| root.claim).map(|root| root.epoch);
    let mut sampled: BTreeSet<u64> = claims.flat_map(|epoch| [epoch.max(1) - 1, epoch, epoch + 1]).collect();
    sampled.extend(held.epochs().step_by(7));
    sampled.iter().filter(|epoch| held.epochs().contains(epoch)).for_each(|epoch| {
        held.hold_commit(*epoch);
    });
    let publications = held.hold_publications();
    assert!(roots.len() > 30 && publications > 3, "{} commits, {publications} publications", roots.len());
    eprintln!(
        "{} records: {} commits of {} generations and {publications} publications equal the oracle",
        truth.records.len(),
        roots.len(),
        generations.len(),
    );
    succeeded(&mill.read(&["verify", "--recompute"]));
}
