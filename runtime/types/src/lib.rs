//! The nouns that two or more rooms of Tidemill share: digests, texts, schemas, rows, roots.
//!
//! Pure: no I/O, no clock, no randomness, no threads. What stands here is what crosses a wall:
//! a [`Row`] leaves the dataflow as [`Cell`]s, a [`Text`] is a long value as rows carry it,
//! a [`Root`] is what one commit wrote, and the predicates of [`invariants`] say when a chain of
//! roots is right.

mod digest;
mod partition;
mod root;
mod row;
mod schema;
mod text;

pub mod invariants;

pub use digest::Digest;
pub use partition::Partition;
pub use root::{
    Asked, Cursors, FORMAT, Gap, ModelId, Positions, ProgramId, Published, PublishedTable, Put, Root,
    SectionRef, SegmentRef, Tag, root_epoch, root_name,
};
pub use row::{Cell, CellReader, Row, RowError, Value, hex, key_digest, row_digest};
pub use schema::{Column, Kind, TableSchema};
pub use text::{Origin, Text};

/// A time in the dataflow and the number of its commit in one; none is ever left out.
pub type Epoch = u64;
