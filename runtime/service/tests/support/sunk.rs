//! What a sink has put into topics, as a consumer of committed records sees it, held against what the store shows.

use super::broker::Broker;
use super::mill::{Mill, succeeded};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A record of a table's topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sunk {
    pub partition: i32,
    pub key: String,
    pub value: Option<String>,
    pub epoch: u64,
    pub diff: i64,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn sunk(message: &BorrowedMessage<'_>) -> Sunk {
    let headers = message.headers().expect("headers");
    assert_eq!(headers.count(), 2);
    let header = |name: &str| {
        let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        text(found.unwrap_or_else(|| panic!("no header {name}"))).parse::<i64>().expect("a number")
    };
    Sunk {
        partition: message.partition(),
        key: text(message.key().expect("a key")),
        value: message.payload().map(text),
        epoch: header("epoch") as u64,
        diff: header("diff"),
    }
}

/// Hands out every committed record of a topic, of each partition in order.
fn read(broker: &Broker, topic: &str, each: &mut dyn FnMut(&BorrowedMessage<'_>)) {
    let mut config = broker.config();
    config.set("group.id", "reader").set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let found = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let mut open: Vec<i32> = found.topics()[0].partitions().iter().map(|one| one.id()).collect();
    assert!(!open.is_empty(), "the topic {topic} is not there");
    let mut list = TopicPartitionList::new();
    for number in &open {
        list.add_partition_offset(topic, *number, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    while !open.is_empty() {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => each(&message),
            Some(Err(KafkaError::PartitionEOF(number))) => open.retain(|one| *one != number),
            Some(Err(error)) => panic!("{topic} cannot be read: {error}"),
            None => panic!("{topic} has no end"),
        }
    }
}

/// Every committed record of a table's topic.
pub fn records(broker: &Broker, topic: &str) -> Vec<Sunk> {
    let mut found = Vec::new();
    read(broker, topic, &mut |message| found.push(sunk(message)));
    found
}

/// Every committed progress of a sink, oldest first.
pub fn progress(broker: &Broker, id: &str) -> Vec<Value> {
    let mut found = Vec::new();
    read(broker, &format!("{id}-progress"), &mut |message| {
        assert_eq!(message.key(), Some(id.as_bytes()));
        found.push(serde_json::from_slice(message.payload().expect("a progress")).expect("JSON"));
    });
    found
}

fn epoch_of(progress: &Value) -> u64 {
    progress["epoch"].as_u64().expect("an epoch")
}

/// The table that follows from the records up to an epoch. Every change must fit: nothing comes that is there, and
/// nothing goes that is not.
pub fn fold(records: &[Sunk], up_to: u64) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for record in records.iter().filter(|record| record.epoch <= up_to) {
        match (&record.value, record.diff) {
            (Some(value), 1) => {
                let before = table.insert(record.key.clone(), value.clone());
                assert_eq!(before, None, "it was there already: {record:?}");
            }
            (None, -1) => assert!(table.remove(&record.key).is_some(), "it was not there: {record:?}"),
            _ => panic!("a value with another diff: {record:?}"),
        }
    }
    table
}

/// A table as the store shows it, by its keys.
pub fn shown(mill: &Mill, table: &str, epoch: u64) -> BTreeSet<String> {
    let shown = mill.read(&["show", table, "--at", &epoch.to_string(), "--format", "json"]);
    succeeded(&shown).lines().map(str::to_string).collect()
}

/// Of the epochs of a progress those as of which a table's topic holds it.
pub fn epochs_of(broker: &Broker, id: &str, table: &str, topic: &str) -> Vec<u64> {
    let all = progress(broker, id);
    // One of the same name that was deleted has another id.
    let now = all.last().map(|one| one["tables"][table]["topic_id"].clone());
    let holds = |one: &Value| {
        let of = &one["tables"][table];
        of["topic"] == topic && of["epoch"] == one["epoch"] && Some(&of["topic_id"]) == now.as_ref()
    };
    all.iter().filter(|one| holds(one)).map(epoch_of).collect()
}

/// Holds a table's topic against the store: every partition in the order of epochs, a key in one partition, and at
/// each of these epochs the table that the store shows.
pub fn hold(broker: &Broker, mill: &Mill, table: &str, topic: &str, epochs: &[u64]) -> Vec<Sunk> {
    let records = records(broker, topic);
    let mut partitions: BTreeMap<&str, i32> = BTreeMap::new();
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    for record in &records {
        let known = partitions.insert(&record.key, record.partition);
        assert!(known.is_none_or(|known| known == record.partition), "{topic}: two partitions: {record:?}");
        let before = last.insert(record.partition, record.epoch);
        assert!(before <= Some(record.epoch), "{topic}: epoch {before:?} came before that of {record:?}");
    }
    for epoch in epochs {
        let folded: BTreeSet<String> = fold(&records, *epoch).into_values().collect();
        assert_eq!(folded, shown(mill, table, *epoch), "{topic} and {table} at epoch {epoch}");
    }
    records
}

/// Holds the progress against the store: every epoch once and in order, up to the newest commit that changed one of
/// these tables. The epochs.
pub fn hold_progress(broker: &Broker, mill: &Mill, id: &str, tables: &[&str]) -> Vec<u64> {
    let epochs: Vec<u64> = progress(broker, id).iter().map(epoch_of).collect();
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "not once and in order: {epochs:?}");
    let last = *epochs.last().expect("a progress");
    let newest = mill.newest().expect("a root")["epoch"].as_u64().expect("an epoch");
    assert!(last <= newest);
    for epoch in last + 1..=newest {
        let root = mill.root(epoch);
        let segments = root["segments"].as_array().expect("segments");
        let missed =
            segments.iter().any(|segment| tables.iter().any(|table| !segment["tables"][*table].is_null()));
        assert!(!missed, "epoch {epoch} is not in the topics, which end at {last}");
    }
    epochs
}

/// Waits until the newest progress fulfils a condition.
pub fn wait_for(broker: &Broker, id: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..300 {
        let consumer: BaseConsumer = broker.config().create().expect("a consumer");
        let topic = format!("{id}-progress");
        let there = consumer.fetch_metadata(Some(&topic), PATIENCE).expect("metadata");
        let last = || progress(broker, id).pop().filter(|last| condition(last));
        if let Some(last) = there.topics()[0].error().is_none().then(last).flatten() {
            return last;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} never came: {:?}", progress(broker, id).last());
}
