//! Load tests: what a run costs, measured from inside its process.
//!
//! [`drained`] drains a folder or topics into a fresh store; [`freshness`] says how old records were when it
//! had them; [`report`] says what that took, as one JSON object and as
//! lines for people; [`machine`] asks the kernel for CPU time and peak memory.

pub mod drained;
pub mod freshness;
pub mod machine;
pub mod report;
