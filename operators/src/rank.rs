//! What rows may be ranked by.
//!
//! Handles of long values ([`Digest`](tidemill_types::Digest), [`Text`](tidemill_types::Text)) have an
//! order, because arrangements need one, but it is the order of hashes: "the least text" would be a
//! random one. [`Rank`] keeps that from being asked for by accident: operators that choose by order
//! want it of their ranks, and handles lack it. No other crate can add it to them, as neither trait nor
//! type is theirs; for types of its own a program may, where their order means something.
//!
//! Ties are broken by the values themselves, which need `Ord` only: which of two equally ranked rows is
//! chosen must be the same in every run, not meaningful.
//!
//! ```
//! use tidemill_operators::{keyed::Table, top_k};
//!
//! fn longest<'a>(texts: Table<'a, (u64, (std::cmp::Reverse<u32>, u64))>) -> Table<'a, (u64, u64)> {
//!     top_k(texts, 3)
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use tidemill_operators::{keyed::Table, top_k};
//! use tidemill_types::Text;
//!
//! fn least<'a>(texts: Table<'a, (u64, (Text, u64))>) -> Table<'a, (u64, u64)> {
//!     top_k(texts, 3)
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use tidemill_operators::{arg_min, keyed::Table};
//! use tidemill_types::Digest;
//!
//! fn least<'a>(rows: Table<'a, (u64, ((u32, Option<Digest>), u64))>) -> Table<'a, (u64, (u64, i64))> {
//!     arg_min(rows)
//! }
//! ```

use std::{cmp::Reverse, sync::Arc};

/// An order that means something: the least is the best.
#[diagnostic::on_unimplemented(
    message = "rows cannot be ranked by `{Self}`",
    note = "the order of digests and texts is the order of hashes; rank by a number, a flag, a string or a tuple of them"
)]
pub trait Rank: Ord {}

macro_rules! ranks {
    ($($type:ty),+ $(,)?) => { $(impl Rank for $type {})+ };
}

ranks!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, bool, char, (), str, String);

impl Rank for Arc<str> {}
impl<const N: usize> Rank for [u8; N] {}
impl<R: Rank> Rank for Reverse<R> {}
impl<R: Rank> Rank for Option<R> {}

macro_rules! rank_tuples {
    ($(($($name:ident)+))+) => { $(impl<$($name: Rank),+> Rank for ($($name,)+) {})+ };
}

rank_tuples!((A)(A B)(A B C)(A B C D)(A B C D E)(A B C D E F));
