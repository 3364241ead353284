//! Bodies that are in no cache, read back from the rows that own them.
//!
//! A row's place in the lake is looked up by its key, or its body stands in a segment of the log's tail, so
//! that what is read is what is wanted. The last snapshot is kept while texts are wanted: of tables whose
//! publication has not changed since, the next one knows already where rows stand.

use std::sync::{Arc, Mutex, PoisonError};
use tidemill_connectors::lake::{LakeError, Snapshot, SnapshotOptions};
use tidemill_core::infer::{BodyFinder, Wanted};
use tidemill_core::log::{Seen, newest_root};
use tidemill_core::store::StoreError;
use tidemill_core::view::{ViewError, ViewFailure};
use tidemill_types::Digest;

/// Finds bodies in the newest commit.
pub(super) struct Finder {
    options: SnapshotOptions,
    last: Mutex<Option<Arc<Snapshot>>>,
}

impl Finder {
    pub(super) fn new(options: SnapshotOptions) -> Self {
        Self { options, last: Mutex::default() }
    }

    fn newest(&self) -> Result<Arc<Snapshot>, LakeError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = last.as_ref().map(|snapshot| Seen::of(snapshot.root()));
        let root = self.options.edge.block_on(newest_root(&*self.options.store, seen.as_ref()))?;
        let snapshot = match (&*last, root) {
            (None, None) => Snapshot::open(self.options.clone(), None)?,
            (None, Some(root)) => Snapshot::of(self.options.clone(), root)?,
            (Some(known), Some(root)) if root.nonce != known.root().nonce => known.later(root)?,
            (Some(known), _) => return Ok(known.clone()),
        };
        Ok(last.insert(Arc::new(snapshot)).clone())
    }

    fn read(&self, wanted: &[Wanted], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), LakeError> {
        let snapshot = self.newest()?;
        for (stream, tables) in self.options.streams.iter().enumerate() {
            let of_stream = wanted.iter().enumerate().filter(|(_, (of, _, _))| usize::from(*of) == stream);
            let (places, rows): (Vec<usize>, Vec<(Digest, Digest)>) =
                of_stream.map(|(place, (_, key, body))| (place, (*key, *body))).unzip();
            if !rows.is_empty() {
                snapshot.bodies(tables.raw, &rows, &mut |place, body| found(places[place], body))?;
            }
        }
        Ok(())
    }
}

impl BodyFinder for Finder {
    fn find(&self, wanted: &[Wanted], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), ViewFailure> {
        match self.read(wanted, found) {
            Ok(()) => Ok(()),
            // What is gone was collected under a slow reader; the newest commit has it elsewhere.
            Err(LakeError::Store(error @ (StoreError::Failed(_) | StoreError::NotFound { .. }))) => {
                Err(error.into())
            }
            Err(error) => Err(ViewError::from(error).into()),
        }
    }

    fn rest(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
