//! Sums and counts by key.
//!
//! Sums are linear, so a key's state is two integers, whatever the size of its group; the rows are not
//! kept. Differential's `explode` and `count_total` do the same over an arrangement of the differences;
//! a hash map needs a third of that memory.
//!
//! Integers make sums exact and free of order. They wrap at the ends of `i64`, so that a sum that came
//! into range again is right whatever it passed through.

use crate::keyed::{KeyState, Table, keyed, replace};
use differential_dataflow::ExchangeData;
use std::hash::Hash;

/// A sum of values and how many there were.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sum {
    pub(crate) sum: i64,
    pub(crate) n: i64,
}

impl Sum {
    pub(crate) fn add(&mut self, value: i64, diff: isize) {
        let diff = diff as i64;
        self.sum = self.sum.wrapping_add(value.wrapping_mul(diff));
        self.n = self.n.wrapping_add(diff);
    }
}

impl KeyState for Sum {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// For each key that has values, `(sum, n)`: their sum and their number.
pub fn sums<'scope, K>(values: Table<'scope, (K, i64)>) -> Table<'scope, (K, (i64, i64))>
where
    K: ExchangeData + Hash,
{
    keyed(values, "Sums", |key: &K, state: &mut Sum, changes, out| {
        let row = |state: &Sum| (state.n > 0).then(|| (key.clone(), (state.sum, state.n)));
        let before = row(state);
        changes.for_each(|(value, diff)| state.add(value, diff));
        replace(before, row(state), out);
    })
}
