//! The simulator: a seeded clock, a store that fails as real ones do, and trials of the commit over it.
//!
//! ```text
//!  seed ──> Clock        times and nonces
//!       ──> FaultyStore  an answer lost before the write, or after it
//!       ──> trial::run   writers that claim, commit, stall, die and come back, one store call at a time
//!                            │
//!                            v  the chain of roots that is left
//!                        types::invariants::follows, and what each writer believed
//! ```
//!
//! Only tests depend on this crate. What it drives is production's own code: the sans-IO machines of
//! `tidemill-core` take clock and randomness as arguments, so that the same seed is the same history and a
//! failure is repeated by its number.

mod clock;
mod faulty;
mod memory;
pub mod trial;

pub use clock::Clock;
pub use faulty::{Faults, FaultyStore};
pub use memory::MemoryStore;
