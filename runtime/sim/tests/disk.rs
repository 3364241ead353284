//! The local store under power cuts: many histories, the same history twice, and deliberate bugs.
//!
//! `SIM_SEEDS` asks for more or fewer seeds; the command `cargo run -p tidemill-sim -- --disk` for any.

use std::sync::Mutex;
use tidemill_sim::disk::{BUGS, Bug, Counts, Outcome, Plan, run};
use tidemill_sim::side_by_side;

/// In how many seeds a deliberate bug must be found.
const FOUND_WITHIN: u64 = 2000;

fn trial(seed: u64, bug: Option<Bug>) -> Outcome {
    run(Plan { seed, told: false, bug })
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

fn added(a: Counts, b: Counts) -> Counts {
    Counts {
        done: a.done + b.done,
        exist: a.exist + b.exist,
        unclear: a.unclear + b.unclear,
        read: a.read + b.read,
        killed: a.killed + b.killed,
        cuts: a.cuts + b.cuts,
        torn: a.torn + b.torn,
        undone: a.undone + b.undone,
    }
}

#[test]
fn what_was_answered_survives_and_nothing_is_torn() {
    let all = Mutex::new(Counts::default());
    side_by_side(0..seeds(), |seed| {
        let outcome = trial(seed, None);
        assert_eq!(
            outcome.broken, None,
            "seed {seed}: see `cargo run -p tidemill-sim -- --disk --seed {seed} --tell`"
        );
        let mut all = all.lock().unwrap();
        *all = added(*all, outcome.counts);
        true
    });
    let all = all.into_inner().unwrap();
    let few = [all.exist, all.unclear, all.read, all.killed, all.cuts, all.torn, all.undone];
    let tame = few.iter().any(|count| (*count as u64) < seeds());
    assert!(!tame && all.done as u64 > 20 * seeds(), "the trials were tame: {all:?}");
}

#[test]
fn the_same_seed_is_the_same_history_to_the_byte() {
    for seed in [3, 11, 42] {
        assert_eq!(trial(seed, None).digest, trial(seed, None).digest, "seed {seed}");
    }
    assert_ne!(trial(3, None).digest, trial(11, None).digest);
}

#[test]
fn every_deliberate_bug_is_found() {
    let missed = Mutex::new(Vec::new());
    side_by_side(0..BUGS.len() as u64, |number| {
        let bug = BUGS[number as usize];
        match (0..FOUND_WITHIN).find_map(|seed| Some((seed, trial(seed, Some(bug)).broken?))) {
            Some((seed, what)) => println!("{bug:?}: seed {seed}: {what}"),
            None => missed.lock().unwrap().push(bug),
        }
        true
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {FOUND_WITHIN} seeds: {missed:?}");
}
