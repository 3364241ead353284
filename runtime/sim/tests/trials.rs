//! The runtime under simulation: many histories, the same history twice, and deliberate bugs.
//!
//! `SIM_SEEDS` asks for more or fewer seeds; the command `cargo run -p tidemill-sim` for any.

use std::sync::Mutex;
use tidemill_sim::mutants::{ALL, Mutant};
use tidemill_sim::trial::{Outcome, Plan, run};
use tidemill_sim::{Counts, side_by_side};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// In how many seeds a deliberate bug must be found.
const FOUND_WITHIN: u64 = 2000;

fn trial(seed: u64, mutant: Option<Mutant>) -> Outcome {
    run(Plan { seed, told: false, mutant })
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

fn added(a: Counts, b: Counts) -> Counts {
    Counts {
        roots: a.roots + b.roots,
        claims: a.claims + b.claims,
        publications: a.publications + b.publications,
        dropped: a.dropped + b.dropped,
        in_holes: a.in_holes + b.in_holes,
        read: a.read + b.read,
        fenced: a.fenced + b.fenced,
        killed: a.killed + b.killed,
        stopped: a.stopped + b.stopped,
        asked: a.asked + b.asked,
        sent: a.sent + b.sent,
        rolled_back: a.rolled_back + b.rolled_back,
        left: a.left + b.left,
        files: a.files.max(b.files),
    }
}

#[test]
fn no_history_breaks_an_invariant() {
    let all = Mutex::new(Counts::default());
    side_by_side(0..seeds(), |seed| {
        let outcome = trial(seed, None);
        assert_eq!(
            outcome.broken, None,
            "seed {seed}: see `cargo run -p tidemill-sim -- --seed {seed} --tell`"
        );
        let mut all = all.lock().unwrap();
        *all = added(*all, outcome.counts);
        true
    });
    let all = all.into_inner().unwrap();
    let few = |counts: &[usize], least: u64| counts.iter().any(|n| (*n as u64) < least);
    let tame = few(&[all.fenced, all.killed, all.stopped, all.read], seeds() / 2)
        || few(&[all.rolled_back, all.left], seeds() / 20);
    assert!(all.sent as u64 > seeds(), "little was sent: {all:?}");
    assert!(!tame && all.in_holes > 0 && all.dropped as u64 > 50 * seeds(), "the trials were tame: {all:?}");
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
    side_by_side(0..ALL.len() as u64, |number| {
        let mutant = ALL[number as usize];
        match (0..FOUND_WITHIN).find(|seed| trial(*seed, Some(mutant)).broken.is_some()) {
            Some(seed) => println!("{mutant:?}: seed {seed}"),
            None => missed.lock().unwrap().push(mutant),
        }
        true
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {FOUND_WITHIN} seeds: {missed:?}");
}
