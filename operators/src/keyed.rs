//! State by key, changed once an epoch: the mechanism under the operators of this crate that keep
//! ordered or compact state of their own.
//!
//! ```text
//!  (key, value), epoch, diff ──exchange by key──> buffer by epoch ──frontier passes e──> group by key
//!                                                                                            │
//!                          output changes at e <── logic(key, state of the key, changes) <───┘
//! ```
//!
//! Why it is right:
//!
//! - A key's changes all reach one worker, so its state stands in one place.
//! - The logic runs for an epoch only when the frontier says that no more changes of that epoch can
//!   come, and in the order of epochs, so what it sees is the consolidated difference between two
//!   complete versions of the key's group. In which order changes arrived, how they were spread over
//!   messages, and what cancelled on the way cannot be observed.
//! - A capability is held for every epoch that is buffered, and only as long as it is buffered, so
//!   that outputs may be sent at that epoch and nobody waits for the operator afterwards. The time of
//!   a message can be earlier than the times of the records in it; the capability is for the record's.
//!
//! A call costs what the epoch's changes cost: only keys that changed are visited. A key whose state
//! is empty again is forgotten.
//!
//! A worker's keys are divided into parts by their hashes, each with a map of its own, and so are the changes
//! of an epoch that has many (the first of a start has all that is stored): they are sorted and applied part by
//! part, in what a processor's cache holds, and a map that grows moves its own part of the keys alone.
//!
//! Differential's `reduce` has the same contract for any lattice of times, but hands the logic the
//! whole group and keeps input and output as arrangements; the operators that build on this module
//! need less than that of either, and times are totally ordered here.

use differential_dataflow::{
    AsCollection, Data, ExchangeData, Hashable, VecCollection, consolidation::consolidate,
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, hash::Hash, vec::Drain};
use tidemill_types::Epoch;
use timely::{
    dataflow::{
        channels::pact::Exchange,
        operators::{Capability, InputCapability, generic::Operator},
    },
    progress::frontier::MutableAntichain,
};

/// An incrementally maintained table: rows of type `D` with multiplicities, by epoch.
pub type Table<'scope, D> = VecCollection<'scope, Epoch, D, isize>;

/// What an operator remembers of one key. The default is what it knows of a key never seen.
pub trait KeyState: Default + 'static {
    /// Whether nothing is remembered, so that the key can be forgotten.
    fn is_empty(&self) -> bool;
}

/// The consolidated changes of one key in one epoch: no value twice, no difference of zero, values
/// ascending. Never empty.
pub type Changes<'a, V> = Drain<'a, (V, isize)>;

/// The output changes of one key in one epoch; need not be consolidated.
pub type Output<O> = Vec<(O, isize)>;

/// Puts `new` in the place of `old` in an output: nothing, if they are equal.
pub fn replace<O: PartialEq>(old: Option<O>, new: Option<O>, out: &mut Output<O>) {
    if old != new {
        out.extend(old.map(|row| (row, -1)));
        out.extend(new.map(|row| (row, 1)));
    }
}

/// Maintains state by key: `logic` is called for every key whose group changed in an epoch, with the
/// key, its state, its changes, and where to put the changes of the output.
///
/// The output is a function of keys, states and changes only; `logic` must not depend on the order of
/// calls for different keys.
pub fn keyed<'scope, K, V, S, O, L>(input: Table<'scope, (K, V)>, name: &str, logic: L) -> Table<'scope, O>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    S: KeyState,
    O: Data,
    L: FnMut(&K, &mut S, Changes<'_, V>, &mut Output<O>) + 'static,
{
    keyed_routed(input, name, |key| key.hashed(), logic)
}

/// As [`keyed`], with the number that decides which worker holds a key (modulo the workers).
pub fn keyed_routed<'scope, K, V, S, O, L>(
    input: Table<'scope, (K, V)>,
    name: &str,
    route: fn(&K) -> u64,
    mut logic: L,
) -> Table<'scope, O>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    S: KeyState,
    O: Data,
    L: FnMut(&K, &mut S, Changes<'_, V>, &mut Output<O>) + 'static,
{
    let exchange = Exchange::new(move |update: &((K, V), Epoch, isize)| route(&update.0.0));
    input
        .inner
        .unary_frontier(exchange, name, move |_capability, _info| {
            let mut buffer = EpochBuffer::new(route);
            let mut groups = Groups::<K, V, S, O>::new(route);
            move |(input, frontier), output| {
                let port = output.output_index();
                input.for_each(|capability, data| buffer.take(&capability, port, data));
                while let Some(complete) = buffer.next_complete(frontier) {
                    let epoch = *complete.capability.time();
                    let mut session = output.session(&complete.capability);
                    for part in complete.parts {
                        groups.apply(part.consolidated(), &mut logic, |row, diff| {
                            session.give((row, epoch, diff));
                        });
                    }
                }
            }
        })
        .as_collection()
}

/// The value of a two-input operator's change, by the input that it came from. All changes of the left
/// input precede those of the right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Side<V, W> {
    /// From the left input.
    Left(V),
    /// From the right input.
    Right(W),
}

/// As [`keyed`], over two inputs: the logic runs for an epoch when it is complete in both.
pub fn keyed_pair<'scope, K, V, W, S, O, L>(
    left: Table<'scope, (K, V)>,
    right: Table<'scope, (K, W)>,
    name: &str,
    logic: L,
) -> Table<'scope, O>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    W: ExchangeData,
    S: KeyState,
    O: Data,
    L: FnMut(&K, &mut S, Changes<'_, Side<V, W>>, &mut Output<O>) + 'static,
{
    let left = left.map(|(key, value)| (key, Side::Left(value)));
    let right = right.map(|(key, value)| (key, Side::Right(value)));
    keyed(left.concat(right), name, logic)
}

/// The parts that a worker's keys are divided into.
const PARTS: usize = 64;

/// The part of a key, by the number that decides its worker: all keys of a worker have that in common modulo the
/// workers, so the high bits of a product with the golden ratio are taken.
fn part_of(route: u64) -> usize {
    (route.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PARTS.ilog2())) as usize
}

/// Changes that wait for their epochs to be complete, each epoch with the right to send at it.
struct EpochBuffer<K, V> {
    epochs: BTreeMap<Epoch, OpenEpoch<K, V>>,
    route: fn(&K) -> u64,
}

struct OpenEpoch<K, V> {
    capability: Capability<Epoch>,
    /// One for all keys, or one for each part of them.
    parts: Vec<Waiting<K, V>>,
}

struct Waiting<K, V> {
    updates: Vec<((K, V), isize)>,
    /// At how many updates what cancels is removed next, and at how many for the first time.
    consolidate_at: usize,
    consolidate_at_min: usize,
}

/// At how many changes what cancels is removed from them for the first time.
const CONSOLIDATE_AT_MIN: usize = 4096;

/// The same, for those of a part.
const CONSOLIDATE_PART_AT_MIN: usize = 512;

/// Entries of scratch space that are kept from one epoch to the next.
const SCRATCH_MAX: usize = 4096;

/// Room for so many states is kept in each part.
const STATES_MIN: usize = SCRATCH_MAX / PARTS;

impl<K: Ord, V: Ord> EpochBuffer<K, V> {
    fn new(route: fn(&K) -> u64) -> Self {
        Self { epochs: BTreeMap::new(), route }
    }

    fn take(
        &mut self,
        capability: &InputCapability<Epoch>,
        port: usize,
        data: &mut Vec<((K, V), Epoch, isize)>,
    ) {
        for (datum, epoch, diff) in data.drain(..) {
            let open = self.epochs.entry(epoch).or_insert_with(|| OpenEpoch {
                capability: capability.delayed(&epoch, port),
                parts: vec![Waiting::new(CONSOLIDATE_AT_MIN)],
            });
            open.push(datum, diff, self.route);
        }
    }

    /// Hands out the earliest epoch if no more changes of it can come.
    fn next_complete(&mut self, frontier: &MutableAntichain<Epoch>) -> Option<OpenEpoch<K, V>> {
        let earliest = self.epochs.first_entry()?;
        (!frontier.less_equal(earliest.key())).then(|| earliest.remove())
    }
}

impl<K: Ord, V: Ord> OpenEpoch<K, V> {
    fn push(&mut self, datum: (K, V), diff: isize, route: fn(&K) -> u64) {
        match &mut *self.parts {
            [all] => {
                all.push(datum, diff);
                if all.stays() {
                    self.parts = divided(std::mem::take(&mut all.updates), route);
                }
            }
            parts => parts[part_of(route(&datum.0))].push(datum, diff),
        }
    }
}

fn divided<K: Ord, V: Ord>(updates: Vec<((K, V), isize)>, route: fn(&K) -> u64) -> Vec<Waiting<K, V>> {
    let mut parts: Vec<_> = (0..PARTS).map(|_| Waiting::new(CONSOLIDATE_PART_AT_MIN)).collect();
    for (datum, diff) in updates {
        parts[part_of(route(&datum.0))].push(datum, diff);
    }
    parts
}

impl<K: Ord, V: Ord> Waiting<K, V> {
    fn new(consolidate_at_min: usize) -> Self {
        Self { updates: Vec::new(), consolidate_at: consolidate_at_min, consolidate_at_min }
    }

    /// Doubling the limit makes early consolidation cost a constant number of sorts a change.
    fn push(&mut self, datum: (K, V), diff: isize) {
        self.updates.push((datum, diff));
        if self.updates.len() >= self.consolidate_at {
            consolidate(&mut self.updates);
            self.consolidate_at = self.consolidate_at_min.max(2 * self.updates.len());
        }
    }

    /// Whether it has been consolidated, and most of it did not cancel.
    fn stays(&self) -> bool {
        self.consolidate_at > self.consolidate_at_min
    }

    fn consolidated(mut self) -> Vec<((K, V), isize)> {
        consolidate(&mut self.updates);
        self.updates
    }
}

/// The states of a worker's keys, and scratch space that outlives a call. The map's own order, which
/// differs from run to run, is never looked at.
struct Groups<K, V, S, O> {
    /// By parts.
    states: [HashMap<K, S>; PARTS],
    route: fn(&K) -> u64,
    changes: Vec<(V, isize)>,
    out: Output<O>,
}

impl<K: Eq + Hash, V, S: KeyState, O> Groups<K, V, S, O> {
    fn new(route: fn(&K) -> u64) -> Self {
        let states = std::array::from_fn(|_| HashMap::new());
        Self { states, route, changes: Vec::new(), out: Vec::new() }
    }

    /// Applies consolidated updates of an epoch, key by key.
    fn apply(
        &mut self,
        updates: Vec<((K, V), isize)>,
        logic: &mut impl FnMut(&K, &mut S, Changes<'_, V>, &mut Output<O>),
        mut emit: impl FnMut(O, isize),
    ) {
        let mut updates = updates.into_iter().peekable();
        while let Some(((key, value), diff)) = updates.next() {
            self.changes.push((value, diff));
            while let Some(((_, value), diff)) = updates.next_if(|((next, _), _)| *next == key) {
                self.changes.push((value, diff));
            }
            self.visit(key, logic);
            self.out.drain(..).for_each(|(row, diff)| emit(row, diff));
        }
        // One large epoch must not hold its memory for good.
        self.changes.shrink_to(SCRATCH_MAX);
        self.out.shrink_to(SCRATCH_MAX);
    }

    fn visit(&mut self, key: K, logic: &mut impl FnMut(&K, &mut S, Changes<'_, V>, &mut Output<O>)) {
        let changes = self.changes.drain(..);
        let states = &mut self.states[part_of((self.route)(&key))];
        if let Some(state) = states.get_mut(&key) {
            logic(&key, state, changes, &mut self.out);
            if state.is_empty() {
                states.remove(&key);
                give_back_memory(states);
            }
        } else {
            let mut state = S::default();
            logic(&key, &mut state, changes, &mut self.out);
            if !state.is_empty() {
                states.insert(key, state);
            }
        }
    }
}

/// Each shrinking is paid for by the changes that emptied what is shrunk.
fn give_back_memory<K: Eq + Hash, S>(states: &mut HashMap<K, S>) {
    if states.capacity() > STATES_MIN && states.len() < states.capacity() / 8 {
        states.shrink_to(2 * states.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Total(isize);

    impl KeyState for Total {
        fn is_empty(&self) -> bool {
            self.0 == 0
        }
    }

    fn apply(
        groups: &mut Groups<u32, char, Total, (u32, isize)>,
        updates: Vec<((u32, char), isize)>,
    ) -> Vec<((u32, isize), isize)> {
        let mut emitted = Vec::new();
        let mut logic = |key: &u32, state: &mut Total, changes: Changes<'_, char>, out: &mut Output<_>| {
            state.0 += changes.map(|(_, diff)| diff).sum::<isize>();
            out.push(((*key, state.0), 1));
        };
        groups.apply(updates, &mut logic, |row, diff| emitted.push((row, diff)));
        emitted
    }

    #[test]
    fn each_key_is_visited_once_with_all_its_changes() {
        let mut groups = Groups::new(u32::hashed);
        let emitted = apply(&mut groups, vec![((1, 'a'), 2), ((1, 'b'), 3), ((2, 'a'), 1)]);
        assert_eq!(emitted, [((1, 5), 1), ((2, 1), 1)]);
    }

    #[test]
    fn a_key_whose_state_is_empty_is_forgotten() {
        let mut groups = Groups::new(u32::hashed);
        let known = |groups: &Groups<u32, char, Total, _>| {
            let mut keys: Vec<u32> = groups.states.iter().flat_map(|states| states.keys().copied()).collect();
            keys.sort_unstable();
            keys
        };
        apply(&mut groups, vec![((1, 'a'), 2), ((2, 'a'), 1)]);
        assert_eq!(known(&groups), [1, 2]);
        apply(&mut groups, vec![((1, 'a'), -2), ((3, 'a'), 1), ((3, 'b'), -1)]);
        assert_eq!(known(&groups), [2]);
    }

    #[test]
    fn what_emptied_gives_its_memory_back() {
        let mut groups = Groups::new(u32::hashed);
        let keys = || 0..200_000u32;
        apply(&mut groups, keys().map(|key| ((key, 'a'), 1)).collect());
        let room = |groups: &Groups<u32, char, Total, _>| {
            groups.states.iter().map(|states| states.capacity()).sum::<usize>()
        };
        assert!(room(&groups) >= 200_000);
        apply(&mut groups, keys().map(|key| ((key, 'a'), -1)).collect());
        assert!(room(&groups) <= 2 * SCRATCH_MAX, "{}", room(&groups));
    }

    #[test]
    fn the_changes_of_a_large_epoch_are_divided_and_none_is_lost() {
        let keys = 50_000u32;
        let mut updates = Vec::new();
        for value in ['a', 'b', 'c'] {
            updates.extend((0..keys).map(|key| ((key, value), 1)));
        }
        // Of every second key one change is taken back.
        updates.extend((0..keys).step_by(2).map(|key| ((key, 'b'), -1)));
        let parts = divided(updates, u32::hashed);
        let most = parts.iter().map(|part| part.updates.len()).max().unwrap_or_default();
        assert!(most < 2 * 4 * keys as usize / PARTS, "{most} of {keys} keys are in one part");
        let mut groups = Groups::new(u32::hashed);
        let mut emitted: Vec<_> =
            parts.into_iter().flat_map(|part| apply(&mut groups, part.consolidated())).collect();
        emitted.sort_unstable();
        let expected = (0..keys).map(|key| ((key, if key % 2 == 0 { 2 } else { 3 }), 1));
        assert_eq!(emitted, expected.collect::<Vec<_>>());
    }

    #[test]
    fn replacing_a_row_by_its_equal_says_nothing() {
        let mut out = Vec::new();
        replace(Some(1), Some(1), &mut out);
        replace::<i32>(None, None, &mut out);
        assert_eq!(out, []);
        replace(Some(1), Some(2), &mut out);
        assert_eq!(out, [(1, -1), (2, 1)]);
    }
}
