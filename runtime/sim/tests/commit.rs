//! The commit under simulation: many histories of several writers over a store that loses answers.
//!
//! `SIM_SEEDS` asks for more of them than the default; a failure names its seed.

use tidemill_sim::Faults;
use tidemill_sim::trial::{Outcome, Plan, Trial};

const FAULTS: Faults = Faults { before: 80, after: 80, reads: 40, create_replaces: false };

fn plan(seed: u64) -> Plan {
    Plan { seed, writers: 2, steps: 400, faults: FAULTS, deaths: 5 }
}

fn run(plan: Plan) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    runtime.block_on(Trial::new(plan).run())
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn two_writers_over_a_faulty_store_leave_a_true_chain() {
    let (mut roots, mut fenced, mut died) = (0, 0, 0);
    for seed in 0..seeds() {
        let outcome = run(plan(seed)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        roots += outcome.roots;
        fenced += outcome.fenced;
        died += outcome.died;
    }
    assert!(roots > 1000 && fenced > 100 && died > 100, "the trials were tame: {roots} {fenced} {died}");
}

#[test]
fn a_crowd_of_writers_is_no_different() {
    for seed in 0..seeds() / 4 {
        let plan = Plan { writers: 5, steps: 800, ..plan(seed) };
        run(plan).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[test]
fn without_faults_nobody_is_fenced_by_himself() {
    let alone = Plan { writers: 1, faults: Faults::default(), deaths: 0, ..plan(7) };
    let outcome = run(alone).unwrap();
    assert_eq!((outcome.claims, outcome.fenced, outcome.died), (1, 0, 0));
    assert!(outcome.roots > 100);
}

#[test]
fn the_same_seed_is_the_same_history() {
    assert_eq!(run(plan(11)).unwrap(), run(plan(11)).unwrap());
}

#[test]
fn a_store_whose_create_replaces_is_found_out() {
    let faults = Faults { create_replaces: true, ..FAULTS };
    let found = (0..20).filter(|seed| run(Plan { faults, ..plan(*seed) }).is_err()).count();
    assert!(found > 10, "only {found} of 20 trials noticed that the fence is gone");
}
