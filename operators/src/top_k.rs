//! The best few of each group.
//!
//! A group is an ordered multiset, of which the first rows are read before and after an epoch's
//! changes: O(k + log group) for a change, where differential's `reduce` would read the whole group.
//! What was best before is not stored; it is read again, which costs k clones instead of k rows of
//! memory for each key.

use crate::{
    keyed::{Output, Table, keyed},
    multiset::Multiset,
    rank::Rank,
};
use differential_dataflow::{ExchangeData, consolidation::consolidate};
use std::hash::Hash;

/// For each key the `k` values of the least ranks (of equal ranks the least values).
///
/// A row of multiplicity `n` takes up to `n` of the `k` places and comes out as often.
pub fn top_k<'scope, K, R, V>(rows: Table<'scope, (K, (R, V))>, k: usize) -> Table<'scope, (K, V)>
where
    K: ExchangeData + Hash,
    R: Rank + ExchangeData,
    V: ExchangeData,
{
    let k = isize::try_from(k).unwrap_or(isize::MAX);
    keyed(rows, "TopK", move |key: &K, group: &mut Multiset<(R, V)>, changes, out| {
        let mut best = Vec::new();
        read_best(group, k, -1, &mut best);
        changes.for_each(|(member, diff)| {
            group.update(member, diff);
        });
        read_best(group, k, 1, &mut best);
        consolidate(&mut best);
        out.extend(best.into_iter().map(|(value, diff)| ((key.clone(), value), diff)));
    })
}

/// Puts the values of the first `k` rows into `out`, `sign` times each.
fn read_best<R: Ord, V: Ord + Clone>(group: &Multiset<(R, V)>, k: isize, sign: isize, out: &mut Output<V>) {
    let mut places = k;
    for ((_, value), count) in group.present() {
        if places == 0 {
            return;
        }
        let taken = count.min(places);
        places -= taken;
        out.push((value.clone(), sign * taken));
    }
}
