//! A service that is killed again and again, at any moment, and loses nothing, repeats nothing and
//! pays for nothing twice.

mod support;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use support::held::Held;
use support::mill::{Mill, succeeded};
use tidemill_oracle::traffic::{self, Step};

/// Kills of one test; a longer search says `KILLS=100`.
fn kills() -> usize {
    let given = std::env::var("KILLS").ok();
    given.map_or(12, |given| given.parse().unwrap_or_else(|_| panic!("KILLS is {given}; give a number")))
}

/// Runs over the traffic and is killed at a random moment while more of it is written: now and then
/// while it starts, mostly some time after its claim.
fn run_and_kill(mill: &Mill, steps: &[Step], workers: usize, rng: &mut ChaCha8Rng) {
    let before = mill.newest().map_or(0, |root| root["generation"].as_u64().expect("a number"));
    let running = mill.tail(workers);
    if rng.random_bool(0.8) {
        mill.wait_for("a claim", |root| root["generation"].as_u64() > Some(before));
    }
    let pause = Duration::from_millis(rng.random_range(0..300));
    let (during, after) = steps.split_at(steps.len() / 2);
    mill.write_slowly(during, Duration::from_millis(rng.random_range(0..20)));
    std::thread::sleep(pause);
    mill.write(after);
    std::thread::sleep(Duration::from_millis(rng.random_range(0..40)));
    running.kill();
}

/// Settings that differ from start to start: one of the program's, and the model's version.
fn change(mill: &mut Mill, seed: u64, rng: &mut ChaCha8Rng) {
    let mut configuration = traffic::configuration(seed);
    configuration["quality_min"] = json!(rng.random_range(0..10) as f64 / 10.0);
    configuration["per_task"] = json!(rng.random_range(1..4));
    mill.configure(&configuration);
    mill.set("model-dimensions", ["16", "32"][rng.random_range(0..2)]);
}

/// A score of nothing, so that there is something to commit.
fn heartbeat(number: u32) -> Step {
    let line = json!({"row_id": format!("beat {number}"), "metric": "reward"}).to_string() + "\n";
    Step { file: "scores-beat.jsonl".to_string(), append: line.into_bytes() }
}

/// Kills a service again and again over the traffic of a seed, then holds what is left to the oracle.
fn killed_often(seed: u64, workers: [usize; 2], changing: bool) {
    let mut mill = Mill::for_traffic(seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let steps = traffic::steps(seed, traffic::SMALL * 2);
    let parts = steps.chunks(steps.len().div_ceil(kills()));
    for (number, part) in parts.enumerate() {
        if changing {
            change(&mut mill, seed, &mut rng);
        }
        run_and_kill(&mill, part, workers[number % 2], &mut rng);
    }
    mill.drain(workers[0]);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
    let generations: BTreeSet<u64> = held.roots().iter().map(|root| root.generation).collect();
    assert!(generations.len() > kills() / 2, "only {} of the killed runs had claimed", generations.len());
    // Around every claim, and some commits between.
    let roots = held.roots();
    let claims = roots.iter().filter(|root| root.claim).map(|root| root.epoch);
    let mut sampled: BTreeSet<u64> = claims.flat_map(|epoch| [epoch.max(1) - 1, epoch, epoch + 1]).collect();
    sampled.extend(held.epochs().step_by(7));
    sampled.iter().filter(|epoch| held.epochs().contains(epoch)).for_each(|epoch| {
        held.hold_commit(*epoch);
    });
    let publications = held.hold_publications();
    eprintln!(
        "seed {seed}: {} commits of {} generations, {publications} publications",
        roots.len(),
        generations.len()
    );
    let verified = succeeded(&mill.read(&["verify", "--recompute"]));
    assert!(verified.contains("ok: "), "{verified}");
    drained_again_writes_nothing(&mill, workers[1]);
}

/// A drained run that finds nothing new claims the store and writes no file of a table.
fn drained_again_writes_nothing(mill: &Mill, workers: usize) {
    let before = (mill.objects("tables"), mill.objects("segments"));
    let newest = mill.newest().expect("a root");
    mill.drain(workers);
    // What killed runs left and no root names may go; nothing may come.
    let came =
        |before: &[_], now: Vec<_>| now.into_iter().filter(|path| !before.contains(path)).collect::<Vec<_>>();
    let came = (came(&before.0, mill.objects("tables")), came(&before.1, mill.objects("segments")));
    assert_eq!(came, (vec![], vec![]));
    let now = mill.newest().expect("a root");
    assert_eq!((&now["positions"], &now["published"]), (&newest["positions"], &newest["published"]));
    succeeded(&mill.read(&["verify", "--recompute"]));
}

#[test]
fn a_service_of_two_workers_that_is_killed_at_random_moments_stays_equal_to_the_oracle() {
    killed_often(21, [2, 2], false);
}

#[test]
fn a_service_that_is_killed_and_started_with_other_numbers_of_workers_stays_equal_to_the_oracle() {
    killed_often(22, [1, 3], false);
}

#[test]
fn a_service_that_is_killed_and_started_with_other_settings_stays_equal_to_the_oracle() {
    killed_often(23, [2, 1], true);
}

#[test]
fn a_service_that_is_killed_while_it_forgets_what_is_old_stays_equal_to_the_oracle() {
    let mut mill = Mill::for_traffic(24);
    mill.set("store-retention", "1s");
    let mut rng = ChaCha8Rng::seed_from_u64(24);
    let steps = traffic::steps(24, traffic::SMALL * 2);
    for part in steps.chunks(steps.len().div_ceil(8)) {
        // Long enough to forget something in most runs, once a second.
        let running = mill.tail(2);
        mill.write_slowly(part, Duration::from_millis(15));
        std::thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
        for _ in 0..rng.random_range(1..6) {
            mill.write(&[heartbeat(rng.random_range(0..1000))]);
            std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
        }
        running.kill();
    }
    mill.drain(2);
    let held = Held::of(&mill);
    assert!(*held.epochs().start() > 0, "nothing was forgotten");
    held.hold_all();
    held.hold_drained();
    succeeded(&mill.read(&["verify", "--recompute"]));
    drained_again_writes_nothing(&mill, 1);
}
