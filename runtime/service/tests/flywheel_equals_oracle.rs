//! The flywheel against its oracle: randomized traffic, every commit and every publication.
//!
//! The traffic is written step by step while the mill runs over it: a drained run, one that tails and
//! is told to stop, and a drained run at the end, so that commits end in the middle of everything.

mod support;

use std::ops::Range;
use std::time::Duration;
use support::held::Held;
use support::mill::Mill;
use tidemill_oracle::traffic;

/// The seeds of a test: its own few, or, for a longer search, those that `ORACLE_SEEDS=100..200` says.
fn seeds(own: Range<u64>) -> Range<u64> {
    let Ok(given) = std::env::var("ORACLE_SEEDS") else { return own };
    let bounds = given.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.unwrap_or_else(|| panic!("ORACLE_SEEDS is {given}; give two numbers, such as 100..200"))
}

/// How the traffic of a seed is milled.
fn milled(seed: u64, records: usize, workers: [usize; 3]) -> Mill {
    let mill = Mill::for_traffic(seed);
    let steps = traffic::steps(seed, records);
    let (first, rest) = steps.split_at(steps.len() / 4);
    mill.write(first);
    mill.drain(workers[0]);
    let (second, last) = rest.split_at(rest.len() * 3 / 4);
    let running = mill.tail(workers[1]);
    mill.wait_for("the first commit", |root| root["generation"] == 2);
    mill.write_slowly(second, Duration::from_millis(25));
    running.stop();
    mill.write(last);
    mill.drain(workers[2]);
    mill
}

fn equal(seed: u64, workers: [usize; 3]) {
    let mill = milled(seed, traffic::SMALL, workers);
    let held = Held::of(&mill);
    let (commits, publications) = held.hold_all();
    held.hold_drained();
    for epoch in [2, held.reader.newest.epoch / 2, held.reader.newest.epoch] {
        held.hold_shown(&mill.store(), epoch);
    }
    eprintln!("seed {seed}: {commits} commits and {publications} publications equal the oracle");
    assert!(commits > 10 && publications > 3, "{commits} commits, {publications} publications");
}

#[test]
fn every_commit_and_publication_of_one_worker_equals_the_oracle() {
    seeds(1..4).for_each(|seed| equal(seed, [1, 1, 1]));
}

#[test]
fn every_commit_and_publication_of_three_workers_equals_the_oracle() {
    seeds(4..7).for_each(|seed| equal(seed, [3, 3, 3]));
}

#[test]
fn a_store_may_be_continued_by_another_number_of_workers() {
    equal(7, [2, 3, 1]);
}

#[test]
fn a_long_history_equals_the_oracle_at_its_end() {
    let mill = Mill::for_traffic(8);
    let steps = traffic::steps(8, traffic::MEDIUM);
    for part in steps.chunks(steps.len() / 3 + 1) {
        mill.write(part);
        mill.drain(2);
    }
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
    assert!(held.hold_publications() >= 3);
}
