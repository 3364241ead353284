//! placeholder
pub mod cli;
pub mod config;
mod error;
pub mod flywheel;
pub mod run;

pub use error::Error;
