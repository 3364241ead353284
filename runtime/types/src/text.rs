//! A long value as it travels in a row: its digest, its length, and where its bytes come from.
//!
//! Two texts are equal when their digests are. A *body* (what a source received) belongs to the
//! source table's row for it and has no origin. An extracted text names the row whose body it was cut
//! from, and the part, so that it can be cut out anew while that row is live.
//!
//! `Ord` is there for arrangements: the order of digests means nothing. What `top_k` and `arg_min` rank
//! by needs a trait of its own, which `Text` has not, so the compiler refuses a digest as a rank.

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
