//! Load tests: what a run costs, measured from inside its process.
//!
//! [`files`] drains a folder into a fresh store; [`report`] says what that took, as one JSON object and as
//! lines for people; [`machine`] asks the kernel for CPU time and peak memory.

pub mod files;
pub mod machine;
pub mod report;
