//! How the lake gets a segment's bytes, and what it reads from them without decoding whole rows.

use super::LakeError;
use crate::store::SegmentCache;
use arrow::array::{Array, Int64Array};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use std::io::Cursor;
use std::sync::Arc;
use tidemill_core::columns::digests;
use tidemill_core::edge::SharedEdge;
use tidemill_core::segment::SegmentError;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_types::{Digest, SectionRef, SegmentRef};

/// Hands out a committed segment's bytes, its digest checked.
pub type SegmentBytes = Arc<dyn Fn(&SegmentRef) -> Result<Bytes, StoreError> + Send + Sync>;

/// Hands out a body that is at hand, by its digest.
pub type BodyCache = Arc<dyn Fn(Digest) -> Option<Bytes> + Send + Sync>;

/// One change of a table without its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub key: Digest,
    pub row: Digest,
    pub diff: i64,
}

/// The part of a segment that a section names.
pub(super) fn section_bytes(segment: &Bytes, section: &SectionRef) -> Result<Bytes, SegmentError> {
    let end = section.offset.checked_add(section.length).filter(|end| *end <= segment.len() as u64);
    let end = end.ok_or_else(|| ArrowError::IpcError("a byte range lies outside the segment".into()))?;
    Ok(segment.slice(section.offset as usize..end as usize))
}

/// The changes of a section, in order, read from its first three columns only.
pub(super) fn heads(table: &str, segment: &Bytes, section: &SectionRef) -> Result<Vec<Head>, LakeError> {
    let column = |source| SegmentError::Column { table: table.to_string(), source };
    let bytes = section_bytes(segment, section)?;
    let reader =
        StreamReader::try_new(Cursor::new(bytes), Some(vec![0, 1, 2])).map_err(SegmentError::from)?;
    let mut all = Vec::new();
    for batch in reader {
        let batch = batch.map_err(SegmentError::from)?;
        let diffs = batch.column(0).as_any().downcast_ref::<Int64Array>();
        let diffs =
            diffs.ok_or_else(|| SegmentError::from(ArrowError::SchemaError("_diff is not a long".into())))?;
        let keys = digests(batch.column(1)).map_err(column)?;
        let rows = digests(batch.column(2)).map_err(column)?;
        let heads = keys.into_iter().zip(rows).zip(diffs.values());
        all.extend(heads.map(|((key, row), diff)| Head { key, row, diff: *diff }));
    }
    Ok(all)
}

/// The digests of a segment's bodies, in order, without the bodies.
pub(super) fn body_digests(segment: &Bytes, section: &SectionRef) -> Result<Vec<Digest>, LakeError> {
    let column = |source| SegmentError::Column { table: "bodies".to_string(), source };
    let bytes = section_bytes(segment, section)?;
    let reader = StreamReader::try_new(Cursor::new(bytes), Some(vec![0])).map_err(SegmentError::from)?;
    let mut all = Vec::new();
    for batch in reader {
        let batch = batch.map_err(SegmentError::from)?;
        all.extend(digests(batch.column(0)).map_err(column)?);
    }
    Ok(all)
}

/// Segments from a store, checked; the latest stay in memory up to `bytes_max`. Holds up its caller.
pub fn stored_segments(store: SharedStore, edge: SharedEdge, bytes_max: u64) -> SegmentBytes {
    let cache = SegmentCache::new(bytes_max);
    Arc::new(move |segment: &SegmentRef| {
        let body = edge.block_on(cache.segment(store.as_ref(), segment))?;
        cache.insert(&segment.name, body.clone());
        Ok(body)
    })
}
