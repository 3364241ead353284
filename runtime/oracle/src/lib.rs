//! The oracle: recomputes every table of the flywheel from scratch, in one batch, in the simplest
//! way, so that any commit of any store can be held against it; and hard traffic to hold it with.
//!
//! ```text
//! folder --files--+--> records --decode--> current rows, rejects
//! topics --kafka--+                                 |
//!                  samples (copies, tokens, texts) --model, train--> tables --compare-- the store's
//! ```
//!
//! It shares no code with the flow: where the two agree, two readings of the definition agree. Of ours it knows
//! the types of stored values alone, since a store's rows are read as these ([`values`]).

pub mod broken;
pub mod compare;
pub mod decode;
pub mod files;
pub mod json;
pub mod kafka;
pub mod model;
pub mod noise;
pub mod samples;
pub mod talk;
pub mod topics;
pub mod traffic;
pub mod train;
pub mod values;
