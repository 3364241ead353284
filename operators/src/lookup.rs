//! A row's counterpart, if there is one: the left outer join with a table that has one row a key.
//!
//! From differential's operators this would be a join, a distinct, an antijoin and a concat: four
//! arrangements, two of them of the left rows. Here each side stands once. A change on the left costs
//! O(log group); a change of a key's counterpart costs its group, all of whose rows do change.

use crate::{
    keyed::{Changes, KeyState, Output, Side, Table, keyed_pair},
    multiset::Multiset,
};
use differential_dataflow::ExchangeData;
use std::hash::Hash;

struct Group<V, W> {
    rows: Multiset<V>,
    counterparts: Multiset<W>,
}

impl<V, W> Default for Group<V, W> {
    fn default() -> Self {
        Self { rows: Multiset::default(), counterparts: Multiset::default() }
    }
}

impl<V: Ord + 'static, W: Ord + 'static> KeyState for Group<V, W> {
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.counterparts.is_empty()
    }
}

impl<V: Ord + Clone, W: Ord + Clone> Group<V, W> {
    /// Applies the changes. Rows before the changes are retracted with the old counterpart, if that
    /// changed, and rows after them inserted with the new one; otherwise only their differences pass.
    fn apply(&mut self, changes: Changes<'_, Side<V, W>>, out: &mut Output<(V, Option<W>)>) {
        let old = self.counterparts.least().cloned();
        let mut left = Vec::new();
        for (change, diff) in changes {
            match change {
                Side::Left(row) => left.push((row, diff)),
                Side::Right(counterpart) => {
                    self.counterparts.update(counterpart, diff);
                }
            }
        }
        let new = self.counterparts.least().cloned();
        if old == new {
            for (row, diff) in left {
                self.rows.update(row.clone(), diff);
                out.push(((row, new.clone()), diff));
            }
        } else {
            self.emit(&old, -1, out);
            for (row, diff) in left {
                self.rows.update(row, diff);
            }
            self.emit(&new, 1, out);
        }
    }

    fn emit(&self, counterpart: &Option<W>, sign: isize, out: &mut Output<(V, Option<W>)>) {
        let rows = self.rows.iter();
        out.extend(rows.map(|(row, count)| ((row.clone(), counterpart.clone()), sign * count)));
    }
}

/// Each row with the counterpart that its key has, or `None`. All rows come out, with their
/// multiplicities; if a key has several counterparts, against the contract, the least is taken.
pub fn lookup<'scope, K, V, W>(
    rows: Table<'scope, (K, V)>,
    counterparts: Table<'scope, (K, W)>,
) -> Table<'scope, (K, (V, Option<W>))>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    W: ExchangeData,
{
    keyed_pair(rows, counterparts, "Lookup", |key: &K, group: &mut Group<V, W>, changes, out| {
        let mut found = Vec::new();
        group.apply(changes, &mut found);
        out.extend(found.into_iter().map(|(row, diff)| ((key.clone(), row), diff)));
    })
}
