//! A long value as it travels in a row: its digest, its length, and where its bytes come from.
//!
//! Two texts are equal when their digests are. A *body* (what a source received) is owned by its row
//! of the source table and has no origin. A text that `extract` made from a body names that body's
//! row and the part, so that it can be made again from the row for as long as the row lives.
//!
//! `Ord` serves arrangements only. Operators that rank (`top_k`, `arg_min`) ask for a trait that
//! `Text` lacks, so that ranking by a digest does not compile.

use crate::Digest;
use serde::{Deserialize, Serialize};

/// A long value by reference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Text {
    /// Identity of the content. Of a body the digest of its bytes; of an extracted text whatever
    /// identity the extractor gives it (for JSON: of its canonical form).
    pub digest: Digest,
    /// Length in bytes; of an extracted text an upper bound that serves memory accounting.
    pub len: u32,
    /// `None`: a body. Otherwise the row and the part that the text is made from.
    pub origin: Option<Origin>,
}

/// Where an extracted text is made from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The number of the source stream (its place in the program's list of streams).
    pub stream: u8,
    /// The key digest of the row in that stream's source table.
    pub key: Digest,
    /// Which text of the body; numbers are the program's own.
    pub part: u8,
}

impl Text {
    /// A body: owned by the row that it stands in.
    pub fn body(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), len: bytes.len() as u32, origin: None }
    }
}
