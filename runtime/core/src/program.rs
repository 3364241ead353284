//! A program: streams, tables, and the flow from one to the other.
//!
//! The flow itself makes collections out of collections and nothing more; a [`Program`] wires it to
//! sources, results and tables through a [`Builder`].

use crate::source::{ErasedDecode, StreamSpec};
use tidemill_types::{Digest, ProgramId, TableSchema};

pub use crate::builder::Builder;

/// How texts are made again from bodies.
pub trait Extract: Send + Sync {
    /// The text that is `part` of a body of stream `stream`.
    fn text(&self, stream: u8, part: u8, body: &[u8]) -> Result<String, String>;
    /// The identity of an extracted text (the digest that its handle holds), from its bytes.
    fn identity(&self, text: &str) -> Digest;
}

/// What the runtime runs.
pub trait Program: Extract + Send + Sync + 'static {
    /// Name, version and settings.
    fn id(&self) -> ProgramId;
    /// The top-level settings that the first commit fixes.
    fn fixed_settings(&self) -> Vec<&'static str>;
    /// The source streams; their places are their numbers.
    fn streams(&self) -> Vec<StreamSpec>;
    /// Of each stream, the source table and the state table.
    fn source_tables(&self) -> Vec<(String, String)>;
    /// A decoder of a stream.
    fn decoder(&self, stream: usize) -> Box<dyn ErasedDecode>;
    /// Every table, in order; `_state.*` tables included.
    fn tables(&self) -> Vec<TableSchema>;
    /// Tables that are recomputed when program or settings change (not source tables, rejects, words,
    /// results).
    fn is_derived(&self, table: &str) -> bool;
    /// The table of what was rejected.
    fn rejects_table(&self) -> &str {
        "ops.rejects"
    }
    /// Builds the flow on one worker.
    fn build(&self, builder: &mut Builder<'_>);
}
