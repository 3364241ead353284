//! The simulator: production's own parts over a clock, a scheduler and a store that a seed drives.
//!
//! ```text
//!  seed ──> schedule   time, turns, crashes, sleeps of hours
//!       ──> storage    delays, lost answers, writes that happen late or twice, lists that lag
//!       ──> topics     lost answers, producers that are shut out
//!       ──> trial      writers, readers and records against each other, then calm
//!                          │ every write
//!                          v
//!                       judge  the invariants, there and then
//!
//!  seed ──> disk       the local store, call by call, over a disk that loses what was not synced
//! ```
//!
//! Only tests depend on this crate. What it drives is what a service runs: claim, commits, uploads, publishing,
//! compaction, collection and sweeping of `tidemill-core` and `tidemill-connectors`, the conductor and the
//! driver of epochs on a timely worker, the reader of a source, snapshots, and the sink. These take clock, randomness
//! and waiting as arguments, so that the same seed is the same history to the byte, and a failure is repeated
//! by its number.
//!
//! The store of these trials keeps what it has answered, and tears nothing. That the local store is like that, through
//! kills, power cuts and calls that fail, is what the trials of [`disk`] show: they drive its code over simulated
//! system calls.

pub mod disk;
mod edge;
mod judge;
pub mod mutants;
mod plan;
mod process;
mod program;
#[cfg(test)]
mod requests;
mod schedule;
mod side;
mod storage;
mod topics;
pub mod trial;

pub use judge::Counts;
pub use plan::{Outcome, Plan, twice};
pub use side::side_by_side;
