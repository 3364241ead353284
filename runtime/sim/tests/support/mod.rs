//! What is asked of trials of any kind: that none breaks, that a seed is a history, that bugs are found.
//!
//! `SIM_SEEDS` asks for more or fewer seeds; the command `cargo run -p tidemill-sim` for any.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Mutex;
use tidemill_sim::{Outcome, Plan, side_by_side, twice};

/// In how many seeds a deliberate bug must be found.
const FOUND_WITHIN: u64 = 2000;
/// How many seeds are run twice.
const REPLAYED: u64 = 40;

/// How many seeds are tried.
pub fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// The sum of what happened in all trials, none of which may break. `flags`: those of the command that repeats one.
pub fn none_breaks<B, C: Default + Send>(
    trial: impl Fn(Plan<B>) -> Outcome<C> + Sync,
    added: impl Fn(&C, C) -> C + Sync,
    flags: &str,
) -> C {
    let all = Mutex::new(C::default());
    side_by_side(0..seeds(), |seed| {
        let outcome = trial(Plan { seed, told: false, bug: None });
        let again = format!("see `cargo run -p tidemill-sim --{flags} --seed {seed} --tell`");
        assert_eq!(outcome.broken, None, "seed {seed}: {again}");
        let mut all = all.lock().unwrap();
        *all = added(&all, outcome.counts);
        true
    });
    all.into_inner().unwrap()
}

/// The same seed is the same history to the byte, and another is another. What depends on the order of a hash
/// map shows in some runs of some seeds only, so many are asked.
pub fn replays<B: Copy, C>(trial: impl Fn(Plan<B>) -> Outcome<C> + Sync) {
    let digests = Mutex::new(BTreeSet::new());
    side_by_side(0..REPLAYED, |seed| {
        let outcome = twice(Plan { seed, told: false, bug: None }, &trial);
        assert_eq!(outcome.broken, None, "seed {seed}");
        digests.lock().unwrap().insert(outcome.digest)
    });
    assert_eq!(digests.into_inner().unwrap().len() as u64, REPLAYED);
}

/// Every deliberate bug is found.
pub fn all_are_found<B: Copy + Debug + Send + Sync, C>(
    bugs: &[B],
    trial: impl Fn(Plan<B>) -> Outcome<C> + Sync,
) {
    let missed = Mutex::new(Vec::new());
    side_by_side(0..bugs.len() as u64, |number| {
        let bug = bugs[number as usize];
        let broken = |seed| Some((seed, trial(Plan { seed, told: false, bug: Some(bug) }).broken?));
        match (0..FOUND_WITHIN).find_map(broken) {
            Some((seed, what)) => println!("{bug:?}: seed {seed}: {what}"),
            None => missed.lock().unwrap().push(bug),
        }
        true
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {FOUND_WITHIN} seeds: {missed:?}");
}
