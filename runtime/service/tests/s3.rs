//! The same service with its store behind the S3 protocol: a real Kafka, a real server, kills.
//!
//! A client takes its endpoint and keys from the environment, so whoever runs this has set them:
//! `.ci/s3 start DIR; . DIR/env; S3_STORE=s3://mill/test cargo test --workspace --test s3`.

mod oracle;
mod support;

use oracle::traffic;
use support::broker::Broker;
use support::fire::{Fire, under_fire};
use support::mill::Mill;

/// A mill on the server that the environment names, if it names one.
fn on_s3(seed: u64) -> Option<Mill> {
    let Ok(store) = std::env::var("S3_STORE") else {
        eprintln!("!!!! SKIPPED, nothing was tested on S3: S3_STORE is not set");
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
