//! Bodies that are in no cache, read back from the rows that own them.

use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;
use tidemill_connectors::lake::{LakeError, Snapshot, SnapshotOptions, TextForm};
use tidemill_core::infer::{BodyFinder, Wanted};
use tidemill_core::view::{Share, ViewError};
use tidemill_types::{Digest, Kind, Value, key_digest};

/// Finds bodies in the newest commit.
pub(super) struct Finder(pub(super) SnapshotOptions);

impl BodyFinder for Finder {
    fn find(&self, wanted: &[Wanted]) -> Result<Vec<Option<Bytes>>, ViewError> {
        let snapshot = Snapshot::open(self.0.clone(), None)?;
        let mut found: HashMap<Wanted, Bytes> = HashMap::new();
        for (stream, tables) in self.0.streams.iter().enumerate() {
            let keys = wanted.iter().filter(|(of, _, _)| usize::from(*of) == stream);
            let mut keys: HashMap<Digest, Digest> = keys.map(|(_, key, body)| (*key, *body)).collect();
            if !keys.is_empty() {
                self.scan(&snapshot, tables.raw, &mut keys, &mut |key, digest, body| {
                    found.insert((stream as u8, key, digest), body);
                })?;
            }
        }
        Ok(wanted.iter().map(|want| found.get(want).cloned()).collect())
    }
}

impl Finder {
    /// Hands out the bodies of a source table's rows that are wanted, until all are found.
    fn scan(
        &self,
        snapshot: &Snapshot,
        table: usize,
        keys: &mut HashMap<Digest, Digest>,
        out: &mut dyn FnMut(Digest, Digest, Bytes),
    ) -> Result<(), LakeError> {
        let schema = &self.0.schemas[table];
        let body = schema.columns.iter().position(|column| column.kind == Kind::Text).unwrap_or(0);
        snapshot.for_each_row(&schema.name, TextForm::Resolved, None, Share::ALL, &mut |row: Vec<Value>| {
            let key = key_digest(schema, row.iter().map(Value::cell));
            if let (Some(digest), Value::Str(text)) = (keys.get(&key).copied(), &row[body])
                && Digest::of(text.as_bytes()) == digest
            {
                keys.remove(&key);
                out(key, digest, Bytes::copy_from_slice(text.as_bytes()));
            }
            if keys.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}
