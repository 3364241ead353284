//! What end-to-end tests share: a mill of their own (folders, settings, the binary), its traffic, and
//! its store held against the oracle.
//!
//! ```text
//!  traffic ──appends──> input/ ──tidemill run (the binary)──> store/ ──held──> oracle
//! ```
//!
//! The mill is the binary, started, stopped and killed as people would; the store is read with the
//! library, which is quick enough to look at every commit.

#![allow(dead_code, reason = "a support module: no test uses all of it")]

pub mod broker;
pub mod fire;
pub mod held;
pub mod mill;
pub mod slow;
pub mod sunk;
