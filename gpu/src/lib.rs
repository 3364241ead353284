//! Inference: from single texts to batches on a device, and back to one outcome a row.
//!
//! ```text
//!  offer ──[admission]──> scheduler actor ──lease──> device actor ──blocking thread──> Model::embed
//!    │ full: the job          [batcher]     <──finished, or its death──      │
//!    └ comes back                                              one Done a row └──> the job's reply channel
//! ```
//!
//! Three promises, and where each is kept:
//!
//! - *Exactly one outcome a row.* A batch is lent to a device as a `lease`; each of its rows can be
//!   claimed once, by the device that answers it or by the scheduler that takes it back.
//! - *A bad row fails alone.* `device` halves a call that failed until its rows stand alone, and tries
//!   each of those a set number of times.
//! - *Everything is bounded.* `admission` counts rows and tokens before a job enters a mailbox, and
//!   gives them back when the row is answered.
//!
//! [`batcher`] decides which rows go together; it has no clock and does no I/O. A backend is an
//! implementation of [`Model`](tidemill_core::model::Model): today [`lexical`] alone. Each further one
//! becomes a module of its own beside it (an encoder on the processor, one on CUDA that supervises a
//! child process, one for HTTP servers), and several devices become several device actors under the one
//! scheduler; neither changes what stands above.

pub mod batcher;
pub mod lexical;
pub mod service;

mod admission;
mod device;
mod lease;
mod scheduler;

pub use admission::Metrics;
pub use batcher::{Batcher, BatcherOptions, Waiting};
pub use lexical::Lexical;
pub use service::{InferenceService, Options, OptionsError};
