//! The flywheel beside a real Kafka: hard traffic in transactions of which some are aborted, while the mill is
//! killed, stopped and continued, and the broker is killed and started again; and what is told where Kafka
//! no longer holds what is to be read.

mod support;

use rdkafka::producer::Producer;
use serde_json::json;
use std::time::Duration;
use support::broker::{Broker, STREAMS};
use support::fire::{Fire, PATIENCE, call, calls, send, to_record, under_fire};
use support::held::Held;
use support::mill::{Mill, refused, succeeded};
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::topics::Sent;
use tidemill_oracle::traffic;

fn fired_at(seed: u64, workers: [usize; 2]) {
    let Some(broker) = Broker::start() else { return };
    let fire = Fire { seed, records: traffic::SMALL * 4, kills: 15, workers };
    under_fire(Mill::for_traffic(seed), &broker, &fire);
}

#[test]
fn a_mill_beside_kafka_that_is_killed_often_stays_equal_to_the_oracle() {
    fired_at(41, [2, 2]);
}

#[test]
fn a_mill_beside_kafka_that_is_killed_and_started_with_other_numbers_of_workers_stays_equal_to_the_oracle() {
    fired_at(42, [1, 3]);
}

/// A broker with the flywheel's topics, and a mill beside it.
fn beside_kafka(partitions: i32) -> Option<(Broker, Mill)> {
    let broker = Broker::start()?;
    broker.create(&STREAMS, partitions);
    let mut mill = Mill::new(&json!({}));
    mill.read_kafka(&broker.address);
    Some((broker, mill))
}

/// Sends records outside of transactions.
fn put(broker: &Broker, records: &[Sent]) {
    send(&broker.producer(&[]), records, None).expect("delivered records");
}

#[test]
fn records_that_were_deleted_before_they_were_read_stop_the_run_until_the_gap_is_accepted() {
    let Some((broker, mill)) = beside_kafka(1) else { return };
    put(&broker, &calls(0..10));
    mill.drain(2);
    let before = mill.newest().expect("a root");
    put(&broker, &calls(10..20));
    broker.delete_records("calls", 0, 15);
    let message = refused(&mill.drain_ended(1));
    for part in ["topic calls, partition 0", "from offset 10 to 15", "--accept-gap"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(mill.newest(), Some(before), "a run that cannot begin claims nothing");
    succeeded(&mill.drain_with(2, &["--accept-gap"]));
    let newest = mill.newest().expect("a root");
    let gap = &newest["gaps"][0];
    assert_eq!((&gap["from"], &gap["to"], &gap["partition"]), (&json!(10), &json!(15), &json!("0")));
    assert_eq!(newest["positions"]["calls"]["0"], 20);
    let rows = succeeded(&mill.read(&["show", "raw.calls", "--format", "json", "--limit", "100"]));
    assert_eq!(rows.lines().count(), 15);
    // It was accepted once and for all, and is not forgotten.
    put(&broker, &calls(20..21));
    mill.drain(1);
    let newest = mill.newest().expect("a root");
    assert_eq!(
        (newest["gaps"].as_array().map(Vec::len), &newest["positions"]["calls"]["0"]),
        (Some(1), &json!(21))
    );
}

#[test]
fn a_topic_that_was_made_anew_stops_the_run_until_the_gap_is_accepted() {
    let Some((broker, mut mill)) = beside_kafka(1) else { return };
    put(&broker, &calls(0..10));
    mill.drain(2);
    broker.delete("calls");
    let message = refused(&mill.drain_ended(1));
    assert!(message.contains("the topic calls of stream calls does not exist"), "{message}");
    broker.create(&["calls"], 1);
    // More than before: its offsets alone would not tell.
    put(&broker, &calls(5..25));
    let message = refused(&mill.drain_ended(2));
    for part in ["topic calls, partition 0", "created again", "position 10"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    succeeded(&mill.drain_with(2, &["--accept-gap"]));
    let newest = mill.newest().expect("a root");
    assert_eq!(newest["positions"]["calls"], json!({"0": 10, "0@2": 20}));
    assert_eq!(newest["gaps"][0]["resumed_in"], "0@2");
    let rows = succeeded(&mill.read(&["show", "raw.calls", "--format", "json", "--limit", "100"]));
    assert_eq!(rows.lines().count(), 25);
    mill.drain(1);
    // And while it runs.
    mill.set("lake-interval", "1s");
    let running = mill.tail(1);
    let generation = newest["generation"].as_u64();
    mill.wait_for("a claim", |root| root["generation"].as_u64() > generation.map(|g| g + 1));
    std::thread::sleep(Duration::from_millis(1500));
    broker.delete("calls");
    broker.create(&["calls"], 1);
    let (code, message) = running.ended();
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("the topic calls was deleted and created again"), "{message}");
}

#[test]
fn partitions_that_are_added_while_a_mill_runs_are_read_and_the_group_shows_how_far() {
    let Some((broker, mill)) = beside_kafka(2) else { return };
    put(&broker, &calls(0..3));
    let running = mill.tail(2);
    mill.wait_for("the first records", |root| root["positions"]["calls"]["0"] == 3);
    broker.grow("calls", 5);
    let elsewhere: Vec<Sent> = calls(3..9).into_iter().map(|sent| Sent { partition: 4, ..sent }).collect();
    put(&broker, &elsewhere);
    mill.wait_for("records of a new partition", |root| root["positions"]["calls"]["4"] == 6);
    for _ in 0..200 {
        // The others are empty; where they begin is committed all the same.
        let all = [Some(3), Some(0), Some(0), Some(0), Some(6)];
        if broker.group_offsets("tidemill", "calls", 5) == all {
            running.stop();
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the group shows {:?}", broker.group_offsets("tidemill", "calls", 5));
}

#[test]
fn a_drained_run_ends_where_aborted_records_stand_before_an_open_transaction() {
    let Some((broker, mill)) = beside_kafka(1) else { return };
    put(&broker, &calls(0..3));
    let two = ["one", "two"].map(|id| broker.producer(&[("transactional.id", id)]));
    for (number, producer) in two.iter().enumerate() {
        producer.init_transactions(PATIENCE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        for sent in &calls(10 * (number as u32 + 1)..10 * (number as u32 + 1) + 5) {
            producer.send(to_record(sent)).map_err(|(error, _)| error).expect("a record");
        }
        producer.flush(PATIENCE).expect("records of a transaction");
    }
    two[0].abort_transaction(PATIENCE).expect("an aborted transaction");
    mill.drain(2);
    let rows = || {
        succeeded(&mill.read(&["show", "raw.calls", "--format", "json", "--limit", "100"])).lines().count()
    };
    assert_eq!(rows(), 3);
    two[1].commit_transaction(PATIENCE).expect("a committed transaction");
    mill.drain(1);
    assert_eq!(rows(), 8);
    let mut truth = Truth::default();
    truth.read_on(&broker.address).expect("what the topics hold");
    Held::over(&mill, &truth.records).hold_drained();
}

#[test]
fn a_broker_that_is_away_is_waited_for_and_a_stop_is_heard_meanwhile() {
    let Some((broker, mill)) = beside_kafka(1) else { return };
    put(&broker, &calls(0..5));
    broker.kill();
    let waiting = mill.tail(1);
    std::thread::sleep(Duration::from_secs(7));
    assert!(waiting.said().contains("does not answer since"), "{}", waiting.said());
    assert_eq!(mill.newest(), None, "nothing is claimed before the topics were seen");
    waiting.stop();
    let running = mill.tail(2);
    std::thread::sleep(Duration::from_millis(500));
    broker.start_again();
    mill.wait_for("the records", |root| root["positions"]["calls"]["0"] == 5);
    broker.kill();
    std::thread::sleep(Duration::from_secs(7));
    broker.start_again();
    put(&broker, &calls(5..9));
    mill.wait_for("the records after it", |root| root["positions"]["calls"]["0"] == 9);
    assert!(running.said().contains("answers again"), "{}", running.said());
    running.stop();
}

#[test]
fn what_cannot_be_is_told_at_the_start() {
    let Some((broker, mut mill)) = beside_kafka(1) else { return };
    let told = |mill: &Mill, arguments: &[&str]| {
        String::from_utf8_lossy(&mill.drain_with(1, arguments).stderr).to_string()
    };
    let message = told(&mill, &["--kafka-topics-calls", "nowhere"]);
    assert!(message.contains("the topic nowhere of stream calls does not exist"), "{message}");
    let message = told(&mill, &["--kafka-topics-cals", "x"]);
    assert!(message.contains("there is no stream cals"), "{message}");
    let message = told(&mill, &["--kafka-properties-auto-offset-reset", "latest"]);
    assert!(message.contains("auto.offset.reset cannot be set"), "{message}");
    let message = told(&mill, &["--kafka-properties-fetch-wait-max-ms", "soon"]);
    assert!(message.contains("fetch.wait.max.ms"), "{message}");
    let message = told(&mill, &["--kafka-topics-calls", "scores"]);
    assert!(message.contains("the same topic scores"), "{message}");
    assert_eq!(mill.newest(), None);
    // A stream that is left out is not missed.
    broker.delete("calls");
    mill.set("kafka-topics-calls", "");
    mill.drain(1);
}

#[test]
fn a_stream_whose_keys_are_no_identities_is_read_by_its_values() {
    let Some((broker, mill)) = beside_kafka(2) else { return };
    mill.configure(&json!({"key": {"calls": "value"}}));
    let by_session = |sent: Sent, key: Option<&str>| Sent { key: key.map(|key| key.into()), ..sent };
    let deletion = Sent { value: Some(br#"{"request_id":"c1","_deleted":true}"#.to_vec()), ..call("c1", "") };
    put(
        &broker,
        &[
            by_session(call("c1", "one"), Some("session")),
            by_session(call("c2", "two"), None),
            by_session(call("c3", "three"), Some("session")),
            by_session(deletion, Some("session")),
            Sent { value: None, ..call("c2", "") },
        ],
    );
    mill.drain(2);
    let mut truth = Truth::default();
    truth.read_on(&broker.address).expect("what the topics hold");
    let held = Held::over(&mill, &truth.records);
    held.hold_drained();
    let rejects = succeeded(&mill.read(&["show", "ops.rejects", "--format", "json"]));
    assert!(rejects.contains("key_missing") && rejects.lines().count() == 1, "{rejects}");
}

#[test]
fn large_records_pass_or_are_rejected_as_the_settings_say() {
    let Some((broker, mut mill)) = beside_kafka(1) else { return };
    mill.set("memory-bytes-max", "256MiB");
    let text = |bytes: usize| "tide ".repeat(bytes / 5);
    let large = [
        call("a", &text(4 << 20)),
        call("b", &text(17 << 20)),
        call("c", "small"),
        call("d", &text(9 << 20)),
    ];
    put(&broker, &large);
    mill.drain(2);
    let mut truth = Truth::default();
    truth.read_on(&broker.address).expect("what the topics hold");
    Held::over(&mill, &truth.records).hold_drained();
    let rejects = succeeded(&mill.read(&["show", "ops.rejects", "--format", "json"]));
    assert!(rejects.contains("too_large") && rejects.lines().count() == 1, "{rejects}");

    let mut wide = Mill::new(&json!({"record_bytes_max": "18MiB"}));
    wide.read_kafka(&broker.address);
    wide.set("memory-bytes-max", "256MiB");
    wide.drain(1);
    let mut shown = succeeded(&wide.read(&["show", "raw.calls", "--format", "json", "--limit", "9"]));
    shown.retain(|c| c == '\n');
    assert_eq!(shown.len(), large.len());
}

#[test]
fn records_that_are_deleted_before_a_running_mill_reads_them_stop_it_with_partition_and_offsets() {
    let Some((broker, mill)) = beside_kafka(1) else { return };
    put(&broker, &calls(0..10));
    let running = mill.tail(1);
    mill.wait_for("the first records", |root| root["positions"]["calls"]["0"] == 10);
    running.tell("STOP");
    // What answers the fetch that is under way, and then what no fetch has asked for.
    put(&broker, &calls(10..12));
    std::thread::sleep(Duration::from_secs(1));
    put(&broker, &calls(12..30));
    broker.delete_records("calls", 0, 25);
    running.tell("CONT");
    let (code, message) = running.ended();
    assert_eq!(code, Some(1), "{message}");
    // Whatever of it had been fetched is committed; the rest is told.
    let position = mill.newest().expect("a root")["positions"]["calls"]["0"].as_u64().expect("a position");
    assert!((10..25).contains(&position), "{position}");
    let told = format!("topic calls, partition 0: records from offset {position} to 25 were deleted before");
    assert!(message.contains(&told) && message.contains("--accept-gap"), "{told}: {message}");
}

#[test]
fn what_came_to_an_empty_partition_and_was_deleted_before_the_next_start_is_gone_too() {
    let Some((broker, mill)) = beside_kafka(2) else { return };
    mill.drain(1);
    let begun = mill.newest().expect("a root")["positions"]["calls"].clone();
    assert_eq!(begun, json!({"0": 0, "1": 0}));
    put(&broker, &calls(0..5));
    broker.delete_records("calls", 0, 4);
    let message = refused(&mill.drain_ended(1));
    assert!(
        message.contains("topic calls, partition 0: records from offset 0 to 4 were deleted"),
        "{message}"
    );
}

#[test]
fn markers_behind_the_last_record_are_part_of_the_last_commit() {
    let Some((broker, mill)) = beside_kafka(1) else { return };
    let producer = broker.producer(&[("transactional.id", "one")]);
    producer.init_transactions(PATIENCE).expect("transactions");
    send(&producer, &calls(0..3), Some(true)).expect("a transaction");
    let running = mill.tail(1);
    mill.wait_for("the records", |root| root["positions"]["calls"]["0"].as_u64() >= Some(3));
    std::thread::sleep(Duration::from_millis(500));
    running.stop();
    assert_eq!(mill.newest().expect("a root")["positions"]["calls"]["0"], 4);
    // Whatever Kafka forgets of it now, nothing is missing.
    broker.delete_records("calls", 0, 4);
    mill.drain(1);
    assert_eq!(mill.newest().expect("a root").get("gaps"), None);
}
