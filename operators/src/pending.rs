//! What is asked for and not yet answered: the queue of a model as a table.
//!
//! Many rows may ask for the same thing, under one key; it is asked of the model once, so each open key
//! comes out with one of its requests (the least: any would do, but it must be the same one in every
//! run). A key that has a result, for whatever reason, is not pending; when its result is taken back it
//! is pending again, as the requests are still there.
//!
//! An antijoin after a `reduce` would keep the requests three times; here they stand once.

use crate::{
    keyed::{KeyState, Side, Table, keyed_pair, replace},
    multiset::Multiset,
};
use differential_dataflow::ExchangeData;
use std::hash::Hash;

struct Group<R> {
    requests: Multiset<R>,
    results: isize,
}

impl<R> Default for Group<R> {
    fn default() -> Self {
        Self { requests: Multiset::default(), results: 0 }
    }
}

impl<R: Ord + 'static> KeyState for Group<R> {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.results == 0
    }
}

impl<R: Ord + Clone> Group<R> {
    fn update(&mut self, change: Side<R, ()>, diff: isize) {
        match change {
            Side::Left(request) => {
                self.requests.update(request, diff);
            }
            Side::Right(()) => self.results += diff,
        }
    }

    fn open(&self) -> Option<R> {
        if self.results > 0 { None } else { self.requests.least().cloned() }
    }
}

/// `(key, request)` for each key that has requests and no result: the least of its requests, once.
pub fn pending<'scope, K, R>(
    requests: Table<'scope, (K, R)>,
    results: Table<'scope, (K, ())>,
) -> Table<'scope, (K, R)>
where
    K: ExchangeData + Hash,
    R: ExchangeData,
{
    keyed_pair(requests, results, "Pending", |key: &K, group: &mut Group<R>, changes, out| {
        let before = group.open();
        changes.for_each(|(change, diff)| group.update(change, diff));
        let row = |request| (key.clone(), request);
        replace(before.map(row), group.open().map(row), out);
    })
}
