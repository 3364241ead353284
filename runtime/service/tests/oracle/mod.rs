//! The oracle: recomputes every table of the flywheel from scratch, in one batch, in the simplest
//! way, so that any commit of any store can be held against it; and hard traffic to hold it with.
//!
//! ```text
//! folder of files --files--> records --decode--> current rows, rejects
//!                                        |
//!                  samples (copies, tokens, texts) --model, train--> tables --compare-- the store's
//! ```
//!
//! It shares no code with the flow: where the two agree, two readings of the definition agree.

#![allow(dead_code, reason = "a support module: no test uses all of it")]

pub mod broken;
pub mod compare;
pub mod decode;
pub mod files;
pub mod json;
pub mod model;
pub mod noise;
pub mod samples;
pub mod talk;
pub mod topics;
pub mod traffic;
pub mod train;
