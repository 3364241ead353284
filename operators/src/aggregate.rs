//! A fold of each key's small table of sums.
//!
//! What is wanted of a key is often no sum but a function of a few sums: a mean of means, the mean of
//! the most trusted source. Its rows fall under sub keys (a metric and a judge, say), of which a key
//! has a handful however many rows it has; the sums of the sub keys are its whole state, and the fold
//! is computed from all of them. They stand in a sorted array, allocated to measure, as a tree would
//! cost several times the memory: a change costs the number of the key's sub keys.

use crate::{
    keyed::{KeyState, Table, keyed, replace},
    sums::Sum,
};
use differential_dataflow::{Data, ExchangeData};
use std::hash::Hash;

/// What a key has under one of its sub keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubSum<S> {
    /// The sub key.
    pub sub: S,
    /// The sum of the values.
    pub sum: i64,
    /// How many values there are; never 0.
    pub n: i64,
}

struct Sums<S>(Vec<SubSum<S>>);

impl<S> Default for Sums<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: 'static> KeyState for Sums<S> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Ord> Sums<S> {
    fn add(&mut self, sub: S, value: i64, diff: isize) {
        let place = match self.0.binary_search_by(|entry| entry.sub.cmp(&sub)) {
            Ok(place) => place,
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, SubSum { sub, sum: 0, n: 0 });
                place
            }
        };
        let entry = &mut self.0[place];
        let mut sum = Sum { sum: entry.sum, n: entry.n };
        sum.add(value, diff);
        (entry.sum, entry.n) = (sum.sum, sum.n);
        if sum.is_empty() {
            self.0.remove(place);
        }
    }
}

/// For each key what `fold` makes of its sums by sub key, ascending; no row where it makes `None`.
///
/// A key without values has no row and is not asked for. `fold` must be a function of its argument: it
/// is called before and after a change, and what it made before is not kept.
pub fn aggregate<'scope, K, S, O, F>(values: Table<'scope, (K, (S, i64))>, fold: F) -> Table<'scope, (K, O)>
where
    K: ExchangeData + Hash,
    S: ExchangeData,
    O: Data,
    F: Fn(&[SubSum<S>]) -> Option<O> + 'static,
{
    let fold = move |sums: &Sums<S>| (!sums.0.is_empty()).then(|| fold(&sums.0)).flatten();
    keyed(values, "Aggregate", move |key: &K, sums: &mut Sums<S>, changes, out| {
        let before = fold(sums);
        changes.for_each(|((sub, value), diff)| sums.add(sub, value, diff));
        let row = |folded| (key.clone(), folded);
        replace(before.map(row), fold(sums).map(row), out);
    })
}
