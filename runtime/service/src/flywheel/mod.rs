//! The flywheel: production logs in, scored samples, eval tables and training sets out.
//!
//! ```text
//!  record ──decode──> TrajectoryRow / CallRow / ScoreRow ──> the flow ──> tables
//!            │  fields     columns + facts (extracted once)
//!            └ conversation: messages in one normal form      extract: a text again, from a body
//! ```
//!
//! [`settings`] says what a user may choose; [`fields`] finds a record's fields, wherever they were
//! mapped to; [`decode`] makes a typed row, a deletion or a reject of a record; [`conversation`]
//! normalises messages and [`facts`] measures them, so that no later operator reads a body;
//! [`extract`] makes a text of a body again where one is to be shown or embedded; [`demo`] makes traffic up.

pub mod app;
pub mod conversation;
pub mod decode;
pub mod demo;
pub mod export;
pub mod extract;
pub mod facts;
pub mod fields;
pub mod flow;
pub mod keying;
pub mod program;
pub mod rows;
pub mod settings;
pub mod story;
pub mod tables;
pub mod tally;

pub use app::app;

#[cfg(test)]
mod tests;
