//! The runtime's core: epochs, segments, commits, and the traits that the siblings implement.
//!
//! ```text
//!  Source ──> decode ──> timely workers (the program's flow) ──> seal ──> segments ──> root = the commit
//!  [`source`]            worker, [`program`]                     seal      [`segment`]   commit
//! ```
//!
//! Everything that a writer does to its store stands in [`writer`].
//!
//! What crosses the wall to `operators`, `connectors` and `gpu` are the traits of [`source`],
//! [`store`], [`model`], [`view`] and [`program`]; siblings never see each other. Timely's
//! worker threads do no I/O, and what decides (when an epoch closes, what a writer may put) is a sans-IO
//! state machine.

pub mod batch;
pub mod bodies;
pub mod builder;
pub mod columns;
pub mod combined;
pub mod commit;
pub mod conductor;
mod control;
pub mod edge;
pub mod epoch;
pub mod infer;
pub mod log;
pub mod model;
pub mod program;
pub mod reader;
pub mod seal;
pub mod segment;
pub mod sink;
pub mod source;
pub mod store;
pub mod view;
pub mod words;
pub mod worker;
pub mod writer;
