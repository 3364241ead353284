//! Equijoins.
//!
//! The inner join is differential's: bilinear in its inputs, so it works on differences alone, for any
//! multiplicities and any size of group; an operator of our own could only be smaller, not better.

use crate::keyed::Table;
use differential_dataflow::{Data, ExchangeData};
use std::hash::Hash;

/// For each pair of rows of equal key what `merge(key, left, right)` makes of them; multiplicities
/// multiply.
///
/// `merge` is called again for a retraction and must then give the same.
pub fn join<'scope, K, V, W, O, M>(
    left: Table<'scope, (K, V)>,
    right: Table<'scope, (K, W)>,
    merge: M,
) -> Table<'scope, O>
where
    K: ExchangeData + Hash,
    V: ExchangeData,
    W: ExchangeData,
    O: Data,
    M: FnMut(&K, &V, &W) -> O + 'static,
{
    left.join_map(right, merge)
}
