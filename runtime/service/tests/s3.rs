//! The same service with its store behind the S3 protocol: a real Kafka, a real server, kills.
//!
//! A client takes its endpoint and keys from the environment, so whoever runs this has set them:
//! `.ci/s3 start DIR; . DIR/env; S3_STORE=s3://mill/test cargo test --workspace --test s3`.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use support::broker::{Broker, STREAMS};
use support::fire::{Fire, call, send, under_fire};
use support::held::Held;
use support::mill::{Mill, succeeded};
use support::slow::Slow;
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::topics::Sent;
use tidemill_oracle::traffic;

/// A mill on the server that the environment names, if it names one.
fn on_s3(seed: u64) -> Option<Mill> {
    let Ok(store) = std::env::var("S3_STORE") else {
        // Past the test's own output, which is shown only where it fails.
        let _ = writeln!(std::io::stderr(), "\n!!!! SKIPPED, nothing was tested on S3: S3_STORE is not set");
        return None;
    };
    let mut mill = Mill::for_traffic(seed);
    mill.keep_store_at(&format!("{store}/{seed}-{}", std::process::id()));
    mill.set("epoch-interval", "200ms");
    mill.set("lake-interval", "2s");
    Some(mill)
}

#[test]
fn a_mill_on_s3_that_is_killed_often_stays_equal_to_the_oracle() {
    let Some(mill) = on_s3(51) else { return };
    let Some(broker) = Broker::start() else { return };
    under_fire(mill, &broker, &Fire { seed: 51, records: traffic::SMALL * 3, kills: 10, workers: [2, 1] });
}

/// A conversation of so many bytes, which no other shares.
fn long_call(number: usize, bytes: usize) -> Sent {
    let answer = format!("{number} tide ").repeat(bytes / 10);
    Sent { partition: (number % 4) as i32, ..call(&format!("c{number}"), &answer) }
}

#[test]
fn a_store_that_takes_five_seconds_a_write_makes_the_lag_grow_and_not_the_memory() {
    let Some(mut mill) = on_s3(52) else { return };
    let Some(broker) = Broker::start() else { return };
    broker.create(&STREAMS, 4);
    mill.read_kafka(&broker.address);
    mill.configure(&json!({"tokens_max": 1_000_000}));
    mill.set("memory-bytes-max", "256MiB");
    // More than the bound of what the process may take below.
    let records: Vec<Sent> = (0..9000).map(|number| long_call(number, 40_000)).collect();
    for part in records.chunks(200) {
        send(&broker.producer(&[]), part, None).expect("delivered records");
    }
    let server = std::env::var("AWS_ENDPOINT_URL").expect("the server's address");
    let slow = Slow::before(&server, Duration::from_secs(5));
    mill.set_variable("AWS_ENDPOINT_URL", &slow.url);
    let running = mill.tail(2);
    let mut most = 0;
    for _ in 0..225 {
        std::thread::sleep(Duration::from_millis(200));
        most = most.max(running.resident_bytes());
    }
    let covered = |root: &Value| -> u64 {
        (0..4).filter_map(|partition| root["positions"]["calls"][partition.to_string()].as_u64()).sum()
    };
    let read = covered(&mill.newest().expect("a root"));
    eprintln!("{read} records of {} committed in 45 s, at most {} MB resident", records.len(), most >> 20);
    assert!((1..9000).contains(&read), "it goes on, slowly: {read}");
    // 360 MB wait.
    assert!(most < 256 << 20, "{} MB", most >> 20);
    slow.hurry();
    running.kill();
    mill.drain(2);
    assert_eq!(covered(&mill.newest().expect("a root")), 9000);
    let tables = succeeded(&mill.read(&["tables"]));
    let rows = tables.lines().find(|line| line.starts_with("raw.calls")).expect("the table");
    assert_eq!(rows.split_whitespace().nth(1), Some("9000"), "{tables}");
    succeeded(&mill.read(&["verify"]));
    let mut truth = Truth::default();
    truth.read_on(&broker.address).expect("what the topics hold");
    let held = Held::over(&mill, &truth.records);
    held.hold_drained();
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").expect("the server's key");
    for epoch in held.epochs() {
        let root = held.reader.root_text(epoch).expect("a root");
        assert!(!root.contains(&secret), "the key stands in root {epoch}");
    }
}
