//! A real Kafka of a test's own: started by the repository's script, killed and started again, and read from
//! outside, so that what a mill made of its topics can be held against what they hold.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// The script's answer where it has no Java or no Maven.
const CANNOT: i32 = 3;

pub use tidemill_oracle::kafka::STREAMS;

/// A broker. It is killed when it is dropped.
pub struct Broker {
    folder: TempDir,
    /// Its address.
    pub address: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.ci/kafka")
}

fn call(arguments: &[&str]) -> Output {
    Command::new(script()).args(arguments).output().expect("the script starts")
}

impl Broker {
    /// A new one; none where there is no Java or no Maven, which is said loudly.
    pub fn start() -> Option<Broker> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::started(folder, &["start"]).map(|(broker, _)| broker)
    }

    fn started(folder: TempDir, how: &[&str]) -> Option<(Broker, String)> {
        let path = folder.path().to_str().expect("a path that is text");
        let started = call(&[how, &[path]].concat());
        let said = String::from_utf8_lossy(&started.stderr);
        if started.status.code() == Some(CANNOT) {
            // Past the test's own output, which is shown only where it fails.
            let _ = writeln!(std::io::stderr(), "\n!!!! SKIPPED, nothing was tested with Kafka: {said}");
            return None;
        }
        assert!(started.status.success(), "kafka did not start: {said}");
        let addresses = String::from_utf8_lossy(&started.stdout).to_string();
        let address = addresses.lines().next().unwrap_or_default().to_string();
        Some((Broker { folder, address }, addresses))
    }

    /// A new one with a second, encrypted listener; its address.
    pub fn start_with_tls() -> Option<(Broker, String)> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (broker, addresses) = Self::started(folder, &["start", "--tls"])?;
        let encrypted = addresses.lines().nth(1).expect("a second address").to_string();
        Some((broker, encrypted))
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tell(&self, what: &str) {
        let told = call(&[what, self.folder.path().to_str().expect("a path that is text")]);
        assert!(told.status.success(), "{what}: {}", String::from_utf8_lossy(&told.stderr));
    }

    /// Kills it as a power cut would.
    pub fn kill(&self) {
        self.tell("kill");
    }

    /// Starts it again over what it left, at the same address.
    pub fn start_again(&self) {
        self.tell("start");
    }

    /// The settings of a client.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin client")
    }

    /// Makes topics.
    pub fn create(&self, topics: &[&str], partitions: i32) {
        let new = topics.iter().map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(1)));
        let new: Vec<NewTopic<'_>> =
            new.map(|topic| topic.set("max.message.bytes", "41943040").set("retention.ms", "-1")).collect();
        let made = futures::executor::block_on(self.admin().create_topics(&new, &options()));
        made.expect("an answer").into_iter().for_each(|one| drop(one.expect("a new topic")));
        // Made is not yet known to all.
        for topic in topics {
            self.wait_for(topic, partitions);
        }
    }

    fn wait_for(&self, topic: &str, partitions: i32) {
        let consumer: BaseConsumer = self.config().create().expect("a consumer");
        for _ in 0..200 {
            let found = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
            let led =
                found.topics()[0].partitions().iter().filter(|partition| partition.leader() >= 0).count();
            if led == partitions.unsigned_abs() as usize {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the topic {topic} has no {partitions} partitions");
    }

    /// Gives a topic more partitions.
    pub fn grow(&self, topic: &str, partitions: i32) {
        let new = NewPartitions::new(topic, partitions.unsigned_abs() as usize);
        let made = futures::executor::block_on(self.admin().create_partitions([&new], &options()));
        made.expect("an answer").into_iter().for_each(|one| drop(one.expect("new partitions")));
        self.wait_for(topic, partitions);
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete(&self, topic: &str) {
        let gone = futures::executor::block_on(self.admin().delete_topics(&[topic], &options()));
        gone.expect("an answer").into_iter().for_each(|one| drop(one.expect("a deleted topic")));
        let consumer: BaseConsumer = self.config().create().expect("a consumer");
        for _ in 0..200 {
            let found = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
            if found.topics()[0].error().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the topic {topic} does not go");
    }

    /// Deletes the records of a partition below an offset.
    pub fn delete_records(&self, topic: &str, partition: i32, below: u64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below as i64)).expect("an offset");
        let gone = futures::executor::block_on(self.admin().delete_records(&list, &options()));
        for one in gone.expect("an answer").elements() {
            one.error().expect("deleted records");
        }
    }

    /// Deletes all that lies below the positions of a root.
    pub fn delete_below(&self, root: &Value) {
        for stream in STREAMS {
            for (partition, next) in root["positions"][stream].as_object().into_iter().flatten() {
                let partition = partition.parse().expect("a Kafka partition is a number");
                self.delete_records(stream, partition, next.as_u64().expect("a position"));
            }
        }
    }

    /// A producer with these properties.
    pub fn producer(&self, properties: &[(&str, &str)]) -> rdkafka::producer::BaseProducer {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("message.max.bytes", "41943040");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config.create().expect("a producer")
    }

    /// The group's offsets, as people who watch it see them: `(topic, partition) -> offset`.
    pub fn group_offsets(&self, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let found = consumer.committed_offsets(list, PATIENCE).expect("committed offsets");
        let offset = |offset| if let Offset::Offset(n) = offset { Some(n) } else { None };
        found.elements().iter().map(|one| offset(one.offset())).collect()
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = call(&["kill", &self.folder.path().to_string_lossy()]);
    }
}
