//! The first of each group, and how many the group has.
//!
//! Differential's `reduce` could say the same, but reads the whole group for each change; a
//! conversation that was copied a million times would cost a million for the next copy. Here a group
//! is an ordered multiset: O(log group) for a change.

use crate::{
    keyed::{KeyState, Table, keyed, replace},
    multiset::Multiset,
    rank::Rank,
};
use differential_dataflow::ExchangeData;
use std::hash::Hash;

struct Group<T> {
    members: Multiset<T>,
    /// The sum of the counts of those that are there.
    total: i64,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { members: Multiset::default(), total: 0 }
    }
}

impl<T: Ord + 'static> KeyState for Group<T> {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl<R: Ord, V: Ord + Clone> Group<(R, V)> {
    fn update(&mut self, member: (R, V), diff: isize) {
        let (before, after) = self.members.update(member, diff);
        self.total += (after.max(0) - before.max(0)) as i64;
    }

    fn first(&self) -> Option<(V, i64)> {
        self.members.least().map(|(_, value)| (value.clone(), self.total))
    }
}

/// For each key the value of the least rank (of equal ranks the least value), and the number of rows
/// that the key has, multiplicities included.
pub fn arg_min<'scope, K, R, V>(rows: Table<'scope, (K, (R, V))>) -> Table<'scope, (K, (V, i64))>
where
    K: ExchangeData + Hash,
    R: Rank + ExchangeData,
    V: ExchangeData,
{
    keyed(rows, "ArgMin", |key: &K, group: &mut Group<(R, V)>, changes, out| {
        let before = group.first();
        changes.for_each(|(member, diff)| group.update(member, diff));
        let row = |first| (key.clone(), first);
        replace(before.map(row), group.first().map(row), out);
    })
}
