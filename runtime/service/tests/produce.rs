//! `produce` against a real Kafka: what stands in a folder arrives, each record once, under its key and in
//! the order of its key, and a mill would make the same rows of it.
//!
//! The broker is that of `KAFKA_BROKERS` (an address), else one that the repository's own script starts.
//! Where neither is to be had the tests say so loudly and prove nothing.

mod support;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::mill::{binary, refused, succeeded};
use tempfile::TempDir;
use tidemill_oracle::decode::decode;
use tidemill_oracle::files;
use tidemill_oracle::json::{Json, RECORD_DEPTH, parse};
use tidemill_oracle::kafka::record;
use tidemill_oracle::model::Record;
use tidemill_oracle::traffic;

const STREAMS: [(&str, &str); 3] = [("trajectories", "id"), ("calls", "request_id"), ("scores", "row_id")];
/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker to test with; stopped when it is dropped, if it was started here.
struct Broker {
    address: String,
    started: Option<(PathBuf, TempDir)>,
}

impl Broker {
    fn get() -> Option<Broker> {
        if let Ok(address) = std::env::var("KAFKA_BROKERS") {
            return Some(Broker { address, started: None });
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.ci/kafka");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let why = match Command::new(&script).arg("start").arg(folder.path()).output() {
            Ok(Output { status, stdout, .. }) if status.success() => {
                let address = String::from_utf8(stdout).expect("an address");
                return Some(Broker { address: address.trim().to_string(), started: Some((script, folder)) });
            }
            Ok(Output { status, stderr, .. }) if status.code() != Some(3) => {
                panic!("{}: {status}: {}", script.display(), String::from_utf8_lossy(&stderr))
            }
            Ok(_) => "there is no JDK or no Maven".to_string(),
            Err(error) => format!("{}: {error}", script.display()),
        };
        // Past the test's own output, which is shown only where it fails.
        let said = format!("\n!!!! SKIPPED: no Kafka ({why}); give a broker's address in KAFKA_BROKERS");
        let _ = writeln!(std::io::stderr(), "{said}");
        None
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("group.id", "none");
        config.set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
        config
    }

    /// Everything that stands in a topic.
    fn read(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        let (mut places, mut left) = (TopicPartitionList::new(), 0);
        for partition in metadata.topics()[0].partitions() {
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).expect("watermarks");
            left += high - low;
            places.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a place");
        }
        consumer.assign(&places).expect("an assignment");
        let mut records = Vec::new();
        while left > 0 {
            let message = consumer.poll(PATIENCE).expect("a message in time").expect("a message");
            left -= 1;
            records.push(record(topic.split('.').next().expect("a stream"), &message));
        }
        records.sort_by_key(|record| (record.partition.clone(), record.offset));
        records
    }

    fn partitions(&self, topic: &str) -> usize {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata").topics()[0].partitions().len()
    }

    fn make(&self, topic: &str, bytes_max: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client");
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", bytes_max);
        let made = futures::executor::block_on(admin.create_topics([&new], &AdminOptions::new()));
        made.expect("an answer")[0].as_ref().expect("a new topic");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some((script, folder)) = &self.started {
            // A test that fails has another reason.
            let _ = Command::new(script).arg("stop").arg(folder.path()).status();
        }
    }
}

/// A folder of files, and the topics that belong to it alone.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("input")).expect("a folder for input");
        Bench { folder }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    fn topic(&self, stream: &str) -> String {
        let name = self.folder.path().file_name().expect("a name").to_string_lossy().replace('.', "");
        format!("{stream}.{name}")
    }

    fn produce(&self, brokers: &str, more: &[&str]) -> Command {
        let mut command = binary();
        command.arg("produce").arg("--input").arg(self.input()).args(["--kafka", brokers]).args(more);
        for (stream, _) in STREAMS {
            command.args([format!("--kafka-topics-{stream}"), self.topic(stream)]);
        }
        command
    }
}

/// A record's key and value as they must arrive.
type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

/// By the oracle's own reading of a line.
fn expected(line: &[u8], stream: &str, settings: &Value) -> Pair {
    let as_it_is = (None, Some(line.to_vec()));
    if line.len() as u64 > settings["record_bytes_max"].as_u64().expect("a number") {
        return as_it_is;
    }
    let Ok(value) = parse(line, RECORD_DEPTH) else { return as_it_is };
    let (_, identity) = STREAMS.into_iter().find(|(name, _)| *name == stream).expect("a stream");
    let Some(key) = value.get(identity).and_then(Json::as_str) else { return as_it_is };
    let deletes = settings["key"][stream] == "kafka" && value.get("_deleted") == Some(&Json::Bool(true));
    (Some(key.as_bytes().to_vec()), (!deletes).then(|| line.to_vec()))
}

/// Values under each key, in order; those without a key sorted, since they have none.
fn by_key<'a>(pairs: impl Iterator<Item = &'a Pair>) -> BTreeMap<Option<Vec<u8>>, Vec<Option<Vec<u8>>>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    pairs.for_each(|(key, value)| keys.entry(key.clone()).or_default().push(value.clone()));
    if let Some(values) = keys.get_mut(&None) {
        values.sort();
    }
    keys
}

/// The rows' bodies, and the values of what was rejected with their codes.
type Outcome = (BTreeMap<(String, String), String>, Vec<(Option<Vec<u8>>, &'static str)>);

fn outcome(records: &[Record], settings: &Value) -> Outcome {
    let decoded = decode(records, settings);
    let rows = decoded.rows.into_iter().flat_map(|(stream, rows)| {
        rows.into_iter().map(move |(identity, row)| ((stream.clone(), identity), row.body))
    });
    let mut rejects: Vec<_> =
        decoded.rejects.into_iter().map(|(record, code)| (record.value, code)).collect();
    rejects.sort();
    (rows.collect(), rejects)
}

/// The one kind of line that is rejected with another code there; see the program's keying.
fn is_deletion_of_nothing(value: Option<&Vec<u8>>) -> bool {
    let value = value.and_then(|value| parse(value, RECORD_DEPTH).ok());
    value.is_some_and(|value| value.get("_deleted") == Some(&Json::Bool(true)))
}

fn arrives_as_it_stands(broker: &Broker, seed: u64, mode: &str) {
    let bench = Bench::new();
    traffic::write(&bench.input(), &traffic::steps(seed, traffic::SMALL));
    let empty = "\n{\"row_id\":\"\",\"metric\":\"m\"}\n";
    fs::write(bench.input().join("scores-empty.jsonl"), empty).expect("a file");
    let (mut configuration, mut settings) = (traffic::configuration(seed), traffic::settings(seed));
    let key = json!({"trajectories": mode, "calls": mode, "scores": mode});
    (configuration["key"], settings["key"]) = (key.clone(), key);
    let file = bench.folder.path().join("tidemill.toml");
    fs::write(&file, toml::to_string(&json!({ "flywheel": configuration })).expect("TOML"))
        .expect("settings");
    let config = file.to_str().expect("a path");
    let output = bench.produce(&broker.address, &["--config", config, "--partitions", "3"]).output();
    let output = output.expect("the binary starts");
    let said = succeeded(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("made the topic calls."), "{output:?}");

    let (lines, mut arrived) = (files::read_all(&bench.input()), Vec::new());
    for (stream, _) in STREAMS {
        let topic = bench.topic(stream);
        assert_eq!(broker.partitions(&topic), 3);
        let records = broker.read(&topic);
        let own = lines.iter().filter(|line| line.stream == stream);
        let want = own.map(|line| expected(line.value.as_deref().expect("a line"), stream, &settings));
        let want: Vec<Pair> = want.collect();
        let got: Vec<Pair> =
            records.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
        assert!(by_key(want.iter()) == by_key(got.iter()), "{topic}, seed {seed}, key mode {mode}");
        let places: BTreeSet<_> = records.iter().map(|record| (&record.key, &record.partition)).collect();
        let keyed = places.into_iter().filter_map(|(key, _)| key.as_ref());
        let keyed: Vec<_> = keyed.collect();
        assert!(keyed.is_sorted_by(|a, b| a < b), "{topic}: a key stands in two partitions");
        let told = format!("{topic}: {} records, ", records.len());
        assert!(said.contains(&told) && said.contains(&format!("{} acknowledged", records.len())), "{said}");
        arrived.extend(records);
    }
    let all: Vec<Pair> = arrived.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
    let has = |test: &dyn Fn(&Pair) -> bool| all.iter().any(test);
    assert!(has(&|(key, value)| key.is_none() && value.as_ref().is_some_and(Vec::is_empty)), "empty value");
    assert!(has(&|(key, _)| key.as_ref().is_some_and(Vec::is_empty)), "empty key");
    assert_eq!(has(&|(_, value)| value.is_none()), mode == "kafka", "null value");

    let ((rows, mut rejects), (want_rows, mut want)) =
        (outcome(&arrived, &settings), outcome(&lines, &settings));
    assert!(rows == want_rows, "seed {seed}, key mode {mode}: other rows");
    for rejects in [&mut rejects, &mut want] {
        rejects.retain(|(value, _)| mode == "value" || !is_deletion_of_nothing(value.as_ref()));
    }
    assert!(rejects == want && !want.is_empty(), "seed {seed}, key mode {mode}: other rejects");
}

#[test]
fn what_a_folder_holds_arrives_under_its_keys_and_becomes_the_same_rows() {
    let Some(broker) = Broker::get() else { return };
    for seed in 12..15 {
        arrives_as_it_stands(&broker, seed, "kafka");
        arrives_as_it_stands(&broker, seed, "value");
    }
}

#[test]
fn a_record_that_the_topic_does_not_take_is_named_and_all_others_arrive() {
    let Some(broker) = Broker::get() else { return };
    let bench = Bench::new();
    broker.make(&bench.topic("scores"), "2000");
    let score =
        |n: usize, note: &str| format!("{{\"row_id\":\"s{n}\",\"metric\":\"m\",\"note\":\"{note}\"}}\n");
    // What lz4 cannot make small.
    let long: String =
        (0..9000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)).collect();
    let lines: Vec<String> =
        (1..=20).map(|n| score(n, if n == 7 || n == 12 { &long } else { "short" })).collect();
    fs::write(bench.input().join("scores.jsonl"), lines.concat()).expect("a file");
    let flags = ["--kafka-properties-batch-size", "1500"];
    let output = bench.produce(&broker.address, &flags).output().expect("the binary starts");
    let message = refused(&output);
    assert!(message.contains("2 records did not arrive; the first is "), "{message}");
    assert!(
        message.contains("scores.jsonl:7 (topic ") && message.contains("raise max.message.bytes"),
        "{message}"
    );
    let arrived = broker.read(&bench.topic("scores")).into_iter().map(|record| record.key.expect("a key"));
    let want = (1..=20).filter(|n| *n != 7 && *n != 12).map(|n| format!("s{n}").into_bytes());
    assert_eq!(arrived.collect::<Vec<_>>(), want.collect::<Vec<_>>(), "{message}");
}

/// Waits until a child has said something on standard error.
fn wait_for(log: &Path, what: &str) {
    for _ in 0..1500 {
        if fs::read_to_string(log).is_ok_and(|said| said.contains(what)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what:?} was never said: {:?}", fs::read_to_string(log));
}

fn started(bench: &Bench, mut command: Command) -> (Child, PathBuf) {
    let log = bench.folder.path().join("log");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a log"));
    (command.spawn().expect("the binary starts"), log)
}

fn told_to_stop(child: Child) -> Output {
    let told = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
    assert!(told.expect("kill starts").success());
    child.wait_with_output().expect("its end")
}

fn one_file(bench: &Bench, records: usize) {
    let line = |n: usize| format!("{{\"row_id\":\"s{n}\",\"metric\":\"m\"}}\n");
    fs::write(bench.input().join("scores.jsonl"), (1..=records).map(line).collect::<String>())
        .expect("a file");
}

#[test]
fn told_to_stop_it_says_where_and_everything_before_has_arrived() {
    let Some(broker) = Broker::get() else { return };
    let bench = Bench::new();
    one_file(&bench, 5000);
    let (child, log) = started(&bench, bench.produce(&broker.address, &["--rate", "100"]));
    wait_for(&log, "acknowledged");
    let said = succeeded(&told_to_stop(child));
    let arrived = broker.read(&bench.topic("scores")).len();
    assert!((1..5000).contains(&arrived), "{said}");
    assert!(said.contains(&format!("; {arrived} acknowledged\n")), "{said}");
    assert!(said.contains(&format!("scores.jsonl:{} was not sent", arrived + 1)), "{said}");
}

#[test]
fn brokers_that_are_away_are_waited_for_and_a_signal_ends_that() {
    let bench = Bench::new();
    one_file(&bench, 3);
    let (child, log) = started(&bench, bench.produce("127.0.0.1:1", &[]));
    wait_for(&log, "waiting for Kafka at 127.0.0.1:1 for ");
    let output = told_to_stop(child);
    let said = fs::read_to_string(&log).expect("a log");
    assert!(output.status.code() == Some(1) && said.contains("nothing was sent"), "{said}");
}

#[test]
fn a_folder_or_a_property_that_is_wrong_is_told_at_once() {
    let bench = Bench::new();
    let ended = |more: &[&str]| bench.produce("127.0.0.1:1", more).output().expect("the binary starts");
    assert!(refused(&ended(&[])).contains("has no file to send"));
    let message = refused(&ended(&["--kafka-properties-lingerms", "5"]));
    assert!(message.contains("kafka.properties.lingerms = \"5\": "), "{message}");
    let message = refused(&ended(&["--kafka-properties-enable-idempotence", "false"]));
    assert!(message.contains("kafka.properties.enable.idempotence cannot be set"), "{message}");
    fs::remove_dir(bench.input()).expect("an empty folder");
    assert!(refused(&ended(&[])).contains("give an existing folder"));
}
