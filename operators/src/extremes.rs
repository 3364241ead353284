//! The best and the worst of each group, as a pair.
//!
//! Both ends have orders of their own, and not every row may be best, so a group is two ordered
//! multisets; a change costs O(log group). The pair is built when both ends are there, are two, and
//! satisfy the caller's condition.

use crate::{
    keyed::{KeyState, Table, keyed, replace},
    multiset::Multiset,
    rank::Rank,
};
use differential_dataflow::ExchangeData;
use serde::{Deserialize, Serialize};
use std::hash::Hash;

/// A row that may be one end of its group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Candidate<B, W, V> {
    /// Its rank as the best (the least is the best); `None`: it may not be the best.
    pub best: Option<B>,
    /// Its rank as the worst (the least is the worst).
    pub worst: W,
    /// What comes out. Kept twice, so cheap to clone.
    pub value: V,
}

struct Group<B, W, V> {
    best: Multiset<(B, V)>,
    worst: Multiset<(W, V)>,
}

impl<B, W, V> Default for Group<B, W, V> {
    fn default() -> Self {
        Self { best: Multiset::default(), worst: Multiset::default() }
    }
}

impl<B: Ord + 'static, W: Ord + 'static, V: Ord + 'static> KeyState for Group<B, W, V> {
    fn is_empty(&self) -> bool {
        self.best.is_empty() && self.worst.is_empty()
    }
}

impl<B: Ord, W: Ord, V: Ord + Clone> Group<B, W, V> {
    fn update(&mut self, candidate: Candidate<B, W, V>, diff: isize) {
        let Candidate { best, worst, value } = candidate;
        if let Some(best) = best {
            self.best.update((best, value.clone()), diff);
        }
        self.worst.update((worst, value), diff);
    }

    fn pair(&self, accept: &impl Fn(&V, &V) -> bool) -> Option<(V, V)> {
        let (_, best) = self.best.least()?;
        let (_, worst) = self.worst.least()?;
        (best != worst && accept(best, worst)).then(|| (best.clone(), worst.clone()))
    }
}

/// For each key `(best, worst)`: the value of the least `best` rank among those that have one, and that
/// of the least `worst` rank among all (of equal ranks the least value), where the two values differ
/// and `accept(best, worst)` holds. There is no pair, rather than a second choice, where it does not.
///
/// `accept` must be a function of its arguments.
pub fn pair_extremes<'scope, K, B, W, V, A>(
    candidates: Table<'scope, (K, Candidate<B, W, V>)>,
    accept: A,
) -> Table<'scope, (K, (V, V))>
where
    K: ExchangeData + Hash,
    B: Rank + ExchangeData,
    W: Rank + ExchangeData,
    V: ExchangeData,
    A: Fn(&V, &V) -> bool + 'static,
{
    keyed(candidates, "PairExtremes", move |key: &K, group: &mut Group<B, W, V>, changes, out| {
        let before = group.pair(&accept);
        changes.for_each(|(candidate, diff)| group.update(candidate, diff));
        let row = |pair| (key.clone(), pair);
        replace(before.map(row), group.pair(&accept).map(row), out);
    })
}
