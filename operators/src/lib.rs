//! Dataflow operators: from the tables of an epoch to the tables of the next step.
//!
//! An operator is a function from collections to a collection, generic over rows, one to a file. Times
//! are epochs: totally ordered, complete when the frontier has passed them. At every epoch the output
//! is the same function of the inputs at that epoch, whatever path of insertions and retractions led
//! there; the tests hold each operator against that function, recomputed from scratch.
//!
//! Where differential dataflow's operators serve, they are used ([`mod@join`]); where a change of a large
//! group must not cost the group, or memory decides, operators keep state of their own on the common
//! mechanism of [`keyed`]. Each module says which and why.

pub mod aggregate;
pub mod arg_min;
pub mod extremes;
pub mod join;
pub mod json;
pub mod keyed;
pub mod latest_pair;
pub mod lookup;
pub mod multiset;
pub mod pending;
pub mod rank;
pub mod sums;
pub mod top_k;
pub mod upsert;

pub use aggregate::{SubSum, aggregate};
pub use arg_min::arg_min;
pub use extremes::{Candidate, pair_extremes};
pub use join::join;
pub use keyed::Table;
pub use latest_pair::{Pair, Slot, latest_pair};
pub use lookup::lookup;
pub use pending::pending;
pub use rank::Rank;
pub use sums::sums;
pub use top_k::top_k;
pub use upsert::{StateWord, Upserted, upsert};
