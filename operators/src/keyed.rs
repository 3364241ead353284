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
            let mut buffer = EpochBuffer::new();
            let mut groups = Groups::<K, V, S, O>::new();
            move |(input, frontier), output| {
                let port = output.output_index();
                input.for_each(|capability, data| buffer.take(&capability, port, data));
                while let Some(complete) = buffer.next_complete(frontier) {
                    let OpenEpoch { capability, updates, .. } = complete;
                    let epoch = *capability.time();
                    let mut session = output.session(&capability);
                    groups.apply(updates, &mut logic, |row, diff| {
                        session.give((row, epoch, diff));
                    });
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

/// Changes that wait for their epochs to be complete, each epoch with the right to send at it.
struct EpochBuffer<D> {
    epochs: BTreeMap<Epoch, OpenEpoch<D>>,
}

struct OpenEpoch<D> {
    capability: Capability<Epoch>,
    updates: Vec<(D, isize)>,
    /// At how many updates what cancels is removed next.
    consolidate_at: usize,
}

const CONSOLIDATE_AT_MIN: usize = 4096;

/// Entries of scratch space that are kept from one epoch to the next.
const SCRATCH_MAX: usize = 4096;

impl<D: Ord> EpochBuffer<D> {
    fn new() -> Self {
        Self { epochs: BTreeMap::new() }
    }

    fn take(&mut self, capability: &InputCapability<Epoch>, port: usize, data: &mut Vec<(D, Epoch, isize)>) {
        for (datum, epoch, diff) in data.drain(..) {
            let open = self.epochs.entry(epoch).or_insert_with(|| OpenEpoch {
                capability: capability.delayed(&epoch, port),
                updates: Vec::new(),
                consolidate_at: CONSOLIDATE_AT_MIN,
            });
            open.push(datum, diff);
        }
    }

    /// Hands out the earliest epoch, consolidated, if no more changes of it can come.
    fn next_complete(&mut self, frontier: &MutableAntichain<Epoch>) -> Option<OpenEpoch<D>> {
        let earliest = self.epochs.first_entry()?;
        if frontier.less_equal(earliest.key()) {
            return None;
        }
        let mut complete = earliest.remove();
        consolidate(&mut complete.updates);
        Some(complete)
    }
}

impl<D: Ord> OpenEpoch<D> {
    /// Doubling the limit makes early consolidation cost a constant number of sorts a change.
    fn push(&mut self, datum: D, diff: isize) {
        self.updates.push((datum, diff));
        if self.updates.len() >= self.consolidate_at {
            consolidate(&mut self.updates);
            self.consolidate_at = CONSOLIDATE_AT_MIN.max(2 * self.updates.len());
        }
    }
}

/// The states of a worker's keys, and scratch space that outlives a call. The map's own order, which
/// differs from run to run, is never looked at.
struct Groups<K, V, S, O> {
    states: HashMap<K, S>,
    changes: Vec<(V, isize)>,
    out: Output<O>,
}

impl<K: Eq + Hash, V, S: KeyState, O> Groups<K, V, S, O> {
    fn new() -> Self {
        Self { states: HashMap::new(), changes: Vec::new(), out: Vec::new() }
    }

    /// Applies the consolidated updates of an epoch, key by key.
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
        self.give_back_memory();
    }

    /// One large epoch must not hold its memory for good. Each shrinking is paid for by the changes
    /// that emptied what is shrunk.
    fn give_back_memory(&mut self) {
        self.changes.shrink_to(SCRATCH_MAX);
        self.out.shrink_to(SCRATCH_MAX);
        if self.states.capacity() > SCRATCH_MAX && self.states.len() < self.states.capacity() / 8 {
            self.states.shrink_to(2 * self.states.len());
        }
    }

    fn visit(&mut self, key: K, logic: &mut impl FnMut(&K, &mut S, Changes<'_, V>, &mut Output<O>)) {
        let changes = self.changes.drain(..);
        if let Some(state) = self.states.get_mut(&key) {
            logic(&key, state, changes, &mut self.out);
            if state.is_empty() {
                self.states.remove(&key);
            }
        } else {
            let mut state = S::default();
            logic(&key, &mut state, changes, &mut self.out);
            if !state.is_empty() {
                self.states.insert(key, state);
            }
        }
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
        let mut groups = Groups::new();
        let emitted = apply(&mut groups, vec![((1, 'a'), 2), ((1, 'b'), 3), ((2, 'a'), 1)]);
        assert_eq!(emitted, [((1, 5), 1), ((2, 1), 1)]);
    }

    #[test]
    fn a_key_whose_state_is_empty_is_forgotten() {
        let mut groups = Groups::new();
        apply(&mut groups, vec![((1, 'a'), 2), ((2, 'a'), 1)]);
        assert_eq!(groups.states.len(), 2);
        apply(&mut groups, vec![((1, 'a'), -2), ((3, 'a'), 1), ((3, 'b'), -1)]);
        assert_eq!(groups.states.len(), 1);
        assert!(groups.states.contains_key(&2));
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
