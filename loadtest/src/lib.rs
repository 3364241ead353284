//! Load tests: what a run costs, measured from inside its process.
//!
//! `crash` kills mills in every way and says what is wrong with what they left (Linux only);
//! `history` makes thousands of small commits and says whether the last cost as much as the first;
//! [`drained`] drains a folder or topics into a fresh store; [`freshness`] says how old records were when it
//! had them; [`report`] says what that took, as one JSON object and as
//! lines for people; [`machine`] asks the kernel for CPU time and peak memory.

#[cfg(target_os = "linux")]
pub mod crash;
pub mod drained;
pub mod freshness;
#[cfg(target_os = "linux")]
pub mod history;
pub mod machine;
pub mod report;
