//! What is asked of trials of any kind: that none breaks, that a seed is a history, that bugs are found.
//!
//! `SIM_SEEDS` asks for more or fewer seeds; the command `cargo run -p tidemill-sim` for any.

use std::fmt::Debug;
use std::sync::Mutex;
use tidemill_sim::{Outcome, Plan, side_by_side};

/// In how many seeds a deliberate bug must be found.
const FOUND_WITHIN: u64 = 2000;

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

/// The same seed is the same history to the byte, and another is another.
pub fn replays<B, C>(trial: impl Fn(Plan<B>) -> Outcome<C>) {
    let digest = |seed| trial(Plan { seed, told: false, bug: None }).digest;
    for seed in [3, 11, 42] {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
    assert_ne!(digest(3), digest(11));
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
