//! Tidemill keeps AI data as living tables: incrementally maintained, committed together, open to read.
//!
//! This crate is the facade and the command line. [`run`] wires a program (`tidemill_core`'s `Program`)
//! to sources, the store, the lake and a model; [`cli`] is the command line that every program gets by
//! one call in its `main`; [`config`] reads settings; [`flywheel`] is the program of the `tidemill`
//! binary, which uses nothing that another program could not.

pub mod cli;
pub mod config;
mod error;
pub mod flywheel;
mod http;
pub mod run;

pub use error::Error;
