//! Encrypted and authenticated connections to a real Kafka, in a build with the feature `tls`.

#![cfg(feature = "tls")]

mod support;

use serde_json::json;
use support::broker::{Broker, STREAMS};
use support::fire::send;
use support::held::Held;
use support::mill::{Mill, refused};
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::topics;

#[test]
fn a_mill_reads_over_tls_as_a_user_with_a_password_and_a_wrong_password_is_told() {
    let Some((broker, encrypted)) = Broker::start_with_tls() else { return };
    broker.create(&STREAMS, 2);
    send(&broker.producer(&[]), &topics::records(61, 200, 2), None).expect("delivered records");
    let mut mill = Mill::for_traffic(61);
    mill.read_kafka(&encrypted);
    let password = std::fs::read_to_string(broker.file("tls/password")).expect("a password");
    let authority = broker.file("tls/ca.pem").to_str().expect("a path that is text").to_string();
    let properties = [
        ("security-protocol", "SASL_SSL"),
        ("ssl-ca-location", &authority),
        ("sasl-username", "mill"),
        ("sasl-mechanism", "PLAIN"),
        ("sasl-password", "wrong"),
    ];
    for (name, value) in properties {
        mill.set(&format!("kafka-properties-{name}"), value);
    }
    let message = refused(&mill.drain_ended(1));
    assert!(message.contains("cannot be spoken to") && !message.contains(password.trim()), "{message}");
    assert_eq!(mill.newest(), None);
    mill.set("kafka-properties-sasl-password", password.trim());
    mill.drain(1);
    mill.set("kafka-properties-sasl-mechanism", "SCRAM-SHA-256");
    send(&broker.producer(&[]), &topics::records(62, 200, 2), None).expect("delivered records");
    mill.drain(2);
    let mut truth = Truth::default();
    truth.read_on(&broker.address).expect("what the topics hold");
    Held::over(&mill, &truth.records).hold_drained();
    // Nothing of it stands in the store.
    let newest = json!(mill.newest()).to_string();
    assert!(!newest.contains(password.trim()) && !newest.contains("sasl"), "{newest}");
}
