//! The harness: random histories of a table, an operator run over them, and a recomputation from
//! scratch at every epoch.
//!
//! A history is a list of epochs, each a list of changes. It is fed to the operator in ways that must
//! not matter: spread over workers, shuffled, several epochs ahead of the frontier, with and without
//! waiting for what was sent before. A trial that hangs holds a capability too long.

use differential_dataflow::{Data, ExchangeData, input::Input};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, mpsc},
};
use tidemill_operators::Table;
use tidemill_types::Epoch;
use timely::dataflow::ProbeHandle;

/// A row and the change of its multiplicity.
pub type Change<D> = (D, isize);

/// Changes by epoch, from epoch 0.
pub type History<D> = Vec<Vec<Change<D>>>;

/// Rows with their multiplicities, none of which is 0.
pub type Counts<D> = BTreeMap<D, isize>;

/// What an operator said: rows, epochs and changes, of all workers.
pub type Said<D> = Vec<(D, Epoch, isize)>;

const EPOCHS: usize = 18;
const SEEDS: u64 = 4;
const WORKERS: [usize; 3] = [1, 2, 4];

/// Adds to a row's multiplicity.
pub fn add<D: Ord>(counts: &mut Counts<D>, row: D, diff: isize) {
    let count = counts.entry(row).or_insert(0);
    *count += diff;
    if *count == 0 {
        counts.retain(|_, count| *count != 0);
    }
}

/// Holds an operator against its definition on random histories of rows that `draw` makes: at every
/// epoch the sum of what it said must be `define` of the sum of what it was given. It must also be
/// terse: at most one change of a row in an epoch.
pub fn holds<D, O, F, B>(draw: impl Fn(&mut ChaCha8Rng) -> D, flow: F, define: B)
where
    D: ExchangeData + Sync,
    O: Data + Send,
    F: for<'a> Fn(Table<'a, D>) -> Table<'a, O> + Clone + Send + Sync + 'static,
    B: Fn(&Counts<D>) -> Counts<O>,
{
    let histories = |rng: &mut ChaCha8Rng| history(rng, &draw);
    holds_on(histories, flow, |changes| {
        let mut given = Counts::new();
        for (row, diff) in changes.iter().flatten().cloned() {
            add(&mut given, row, diff);
        }
        assert!(given.values().all(|count| *count > 0), "the history itself is not well-formed");
        define(&given)
    });
}

/// As [`holds`], on histories that `make` makes, and for definitions in terms of all epochs so far.
pub fn holds_on<D, O, F, B>(make: impl Fn(&mut ChaCha8Rng) -> History<D>, flow: F, define: B)
where
    D: ExchangeData + Sync,
    O: Data + Send,
    F: for<'a> Fn(Table<'a, D>) -> Table<'a, O> + Clone + Send + Sync + 'static,
    B: Fn(&[Vec<Change<D>>]) -> Counts<O>,
{
    for seed in 0..SEEDS {
        let history = make(&mut ChaCha8Rng::seed_from_u64(seed));
        for workers in WORKERS {
            let trial = || {
                let said = run(history.clone(), workers, seed, flow.clone());
                compare(&history, said, &define);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(trial)) {
                eprintln!("failed with seed {seed} on {workers} workers");
                resume_unwind(panic);
            }
        }
    }
}

fn compare<D, O: Data>(
    history: &History<D>,
    mut said: Said<O>,
    define: &impl Fn(&[Vec<Change<D>>]) -> Counts<O>,
) {
    said.sort_by_key(|(_, epoch, _)| *epoch);
    let mut said = said.into_iter().peekable();
    let mut got = Counts::new();
    for epoch in 0..history.len() {
        let mut at_epoch = BTreeSet::new();
        while let Some((row, _, diff)) = said.next_if(|said| said.1 <= epoch as u64) {
            assert!(at_epoch.insert(row.clone()), "at epoch {epoch} it changed {row:?} twice");
            add(&mut got, row, diff);
        }
        let want = define(&history[..=epoch]);
        assert_eq!(got, want, "at epoch {epoch} (left: the operator, right: its definition)");
    }
    assert!(said.next().is_none(), "it said something at an epoch that never was");
}

/// A random history: insertions, deletions, replacements, multiplicities, changes that cancel within
/// their epoch, retractions listed before insertions, empty epochs, and at times everything deleted.
pub fn history<D: Ord + Clone>(rng: &mut ChaCha8Rng, draw: &impl Fn(&mut ChaCha8Rng) -> D) -> History<D> {
    let mut live = Counts::<D>::new();
    (0..EPOCHS)
        .map(|_| {
            let mut changes = Vec::new();
            match rng.random_range(0..10) {
                0 => {}
                1 => changes.extend(live.iter().map(|(row, count)| (row.clone(), -count))),
                _ => {
                    for _ in 0..rng.random_range(1..16) {
                        changes.extend(edit(rng, &live, draw));
                    }
                }
            }
            accept(rng, &mut live, changes)
        })
        .collect()
}

fn edit<D: Ord + Clone>(
    rng: &mut ChaCha8Rng,
    live: &Counts<D>,
    draw: &impl Fn(&mut ChaCha8Rng) -> D,
) -> Vec<Change<D>> {
    let standing = live.iter().nth(rng.random_range(0..live.len().max(1)));
    let standing = standing.map(|(row, count)| (row.clone(), *count));
    match (rng.random_range(0..8), standing) {
        (0, _) => {
            let row = draw(rng);
            vec![(row.clone(), 2), (row, -2)]
        }
        (1 | 2, Some((row, count))) => vec![(row, -count)],
        (3, Some((row, _))) => vec![(row, -1)],
        (4 | 5, Some((row, count))) => vec![(row, -count), (draw(rng), count)],
        (6, _) => vec![(draw(rng), rng.random_range(1..4i32) as isize)],
        _ => vec![(draw(rng), 1)],
    }
}

/// Applies the changes to what is live, without those that would take more than there is.
fn accept<D: Ord + Clone>(
    rng: &mut ChaCha8Rng,
    live: &mut Counts<D>,
    mut changes: Vec<Change<D>>,
) -> Vec<Change<D>> {
    for (row, diff) in &changes {
        add(live, row.clone(), *diff);
    }
    for (row, count) in std::mem::take(live) {
        if count < 0 {
            changes.push((row, -count));
        } else {
            live.insert(row, count);
        }
    }
    changes.shuffle(rng);
    changes
}

/// Runs a flow over a history on some workers.
pub fn run<D, O, F>(history: History<D>, workers: usize, seed: u64, flow: F) -> Said<O>
where
    D: ExchangeData + Sync,
    O: Data + Send,
    F: for<'a> Fn(Table<'a, D>) -> Table<'a, O> + Send + Sync + 'static,
{
    let (sender, receiver) = mpsc::channel();
    let history = Arc::new(history);
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let sender = sender.clone();
        let probe = ProbeHandle::new();
        let mut input = worker.dataflow(|scope| {
            let (input, rows) = scope.new_collection();
            flow(rows)
                .inspect(move |change| {
                    // The receiver lives until all workers have ended.
                    sender.send(change.clone()).expect("the trial waits for the workers");
                })
                .probe_with(&probe);
            input
        });
        // The same decisions on every worker; what a worker sends is its share of the changes.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut next = 0;
        while next < history.len() {
            let end = history.len().min(next + rng.random_range(1..5));
            let mut changes = Vec::new();
            for (epoch, of_epoch) in history.iter().enumerate().take(end).skip(next) {
                changes.extend(of_epoch.iter().map(|change| (epoch, change)));
            }
            changes.shuffle(&mut rng);
            for (number, (epoch, (row, diff))) in changes.into_iter().enumerate() {
                if number % worker.peers() == worker.index() {
                    input.update_at(row.clone(), epoch as u64, *diff);
                }
            }
            next = end;
            input.advance_to(next as u64);
            input.flush();
            match rng.next_u32() % 3 {
                0 => {}
                1 => _ = worker.step(),
                _ => worker.step_while(|| probe.less_than(&(next as u64))),
            }
        }
    });
    drop(guards.expect("the workers start"));
    receiver.into_iter().collect()
}
