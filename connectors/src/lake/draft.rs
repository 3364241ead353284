//! A table's next snapshot while it is being made: nothing of it is in force until all of it is stored.

use super::commit::Delta;
use super::data_file::{DataWriter, Finished};
use super::files::{DataFile, DeleteFile, Files};
use super::index::Place;
use super::io::{FileRef, Io};
use super::layout::{Names, address};
use super::{LakeError, deletes};
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::channel::oneshot::{Receiver, channel};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tidemill_core::edge::SharedEdge;
use tidemill_core::store::StoreError;
use tidemill_types::{Digest, TableSchema};
use uuid::Uuid;

/// More delete files than this become one.
const DELETE_FILES_MAX: usize = 8;

/// Makes names and snapshot numbers from the edge's randomness.
#[derive(Clone)]
pub(super) struct Ids(pub SharedEdge);

impl Ids {
    pub fn uuid(&self) -> Uuid {
        self.0.uuid()
    }

    /// A positive number.
    pub fn snapshot_id(&self) -> i64 {
        let bits = self.uuid().as_u128();
        ((bits ^ (bits >> 64)) as u64 >> 1) as i64
    }
}

/// Puts under way; those that are not done hold at most `bytes_max` bytes.
pub(super) struct Uploads {
    io: Io,
    tasks: VecDeque<(Receiver<Result<(), StoreError>>, usize)>,
    in_flight: usize,
    bytes_max: usize,
    /// Objects put so far.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Uploads {
    pub fn new(io: Io, bytes_max: usize) -> Self {
        Self { io, tasks: VecDeque::new(), in_flight: 0, bytes_max, objects: 0, bytes: 0 }
    }

    /// Begins a put; waits for earlier ones while too many bytes are under way.
    pub fn put(&mut self, name: String, body: Bytes) -> Result<(), LakeError> {
        let (store, size) = (self.io.store.clone(), body.len());
        let (done, task) = channel();
        // Whoever waits for it may have given up.
        let put = async move { drop(done.send(store.put(&name, body).await)) };
        self.io.edge.spawn(Box::pin(put));
        self.tasks.push_back((task, size));
        self.in_flight += size;
        self.objects += 1;
        self.bytes += size as u64;
        while self.in_flight > self.bytes_max && !self.tasks.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), LakeError> {
        let Some((task, size)) = self.tasks.pop_front() else { return Ok(()) };
        self.in_flight -= size;
        let done = self.io.edge.block_on(task);
        let done = done.map_err(|_| StoreError::Failed("a put was cut off".to_string()))?;
        Ok(done?)
    }

    /// Waits until all is stored.
    pub fn finish(&mut self) -> Result<(), LakeError> {
        while !self.tasks.is_empty() {
            self.wait()?;
        }
        Ok(())
    }
}

/// What making a snapshot of one table needs.
pub(super) struct Making<'a> {
    pub schema: &'a TableSchema,
    pub names: &'a Names<'a>,
    pub location: &'a str,
    pub file_bytes_max: usize,
}

/// A table's next snapshot.
pub(super) struct TableDraft {
    pub snapshot_id: i64,
    pub sequence: i64,
    pub files: Files,
    pub delta: Delta,
    /// Index entries to set or remove.
    pub moves: Vec<(Digest, Option<Place>)>,
    /// Positions that this snapshot deletes.
    pub deleted: BTreeMap<u32, RoaringBitmap>,
}

impl TableDraft {
    pub fn new(files: Files, ids: &Ids, sequence: i64) -> Self {
        Self {
            snapshot_id: ids.snapshot_id(),
            sequence,
            files,
            delta: Delta::default(),
            moves: Vec::new(),
            deleted: BTreeMap::new(),
        }
    }

    /// Deletes the row at a place.
    pub fn delete(&mut self, place: Place) {
        self.deleted.entry(place.file).or_default().insert(place.position);
        self.delta.deleted += 1;
    }

    /// Leaves a data file out of the new snapshot.
    pub fn remove(&mut self, number: u32) {
        if let Some(file) = self.files.data.remove(&number) {
            self.delta.removed_files += 1;
            self.delta.removed_rows += file.rows as u64;
        }
        self.deleted.remove(&number);
    }

    /// Writes this snapshot's deletions and drops delete files that no data file needs.
    pub fn write_deletes(
        &mut self,
        making: &Making<'_>,
        uploads: &mut Uploads,
        rewrite: bool,
    ) -> Result<(), LakeError> {
        let new = std::mem::take(&mut self.deleted);
        for (number, positions) in &new {
            if let Some(file) = self.files.data.get_mut(number) {
                Arc::make_mut(file).deleted |= positions;
            }
        }
        let data = &self.files.data;
        self.files.deletes.retain(|file| file.targets.iter().any(|target| data.contains_key(target)));
        let many = self.files.deletes.len() + usize::from(!new.is_empty()) > DELETE_FILES_MAX;
        let mut written: BTreeMap<u32, &RoaringBitmap> = new.iter().map(|(n, p)| (*n, p)).collect();
        if many || rewrite {
            self.files.deletes.clear();
            let all = self.files.data.iter().filter(|(_, file)| !file.deleted.is_empty());
            written = all.map(|(number, file)| (*number, &file.deleted)).collect();
        }
        if written.is_empty() {
            return Ok(());
        }
        let deletions = written.iter().filter_map(|(number, positions)| {
            let file = self.files.data.get(number)?;
            Some((address(making.location, &file.file.name), (*positions).clone()))
        });
        let body = deletes::encode(deletions.collect())?;
        let name = making.names.deletes(&body);
        let made = DeleteFile {
            file: FileRef { name: name.clone(), bytes: body.len() as u64 },
            rows: written.values().map(|positions| positions.len()).sum(),
            snapshot_id: self.snapshot_id,
            sequence: self.sequence,
            targets: written.keys().copied().collect(),
        };
        self.delta.added_deletes += 1;
        self.delta.added_positions += made.rows;
        self.files.deletes.push(Arc::new(made));
        uploads.put(name, body)
    }
}

/// Writes rows into new data files of a draft.
pub(super) struct FileSink<'a> {
    making: &'a Making<'a>,
    writer: DataWriter<'a>,
}

impl<'a> FileSink<'a> {
    pub fn new(making: &'a Making<'a>) -> Self {
        Self { making, writer: DataWriter::new(making.schema, making.file_bytes_max) }
    }

    /// Writes a batch; `keys` are the key digests of its rows.
    pub fn write(
        &mut self,
        draft: &mut TableDraft,
        uploads: &mut Uploads,
        batch: &RecordBatch,
        keys: &[Digest],
    ) -> Result<(), LakeError> {
        let first = self.writer.position();
        let file = draft.files.next;
        let places = keys.iter().zip(first..).map(|(key, position)| (*key, Some(Place { file, position })));
        draft.moves.extend(places);
        match self.writer.write(batch)? {
            Some(finished) => self.add(draft, uploads, finished),
            None => Ok(()),
        }
    }

    /// Closes the last file.
    pub fn finish(mut self, draft: &mut TableDraft, uploads: &mut Uploads) -> Result<(), LakeError> {
        match self.writer.finish()? {
            Some(finished) => self.add(draft, uploads, finished),
            None => Ok(()),
        }
    }

    fn add(
        &self,
        draft: &mut TableDraft,
        uploads: &mut Uploads,
        finished: Finished,
    ) -> Result<(), LakeError> {
        let name = self.making.names.data(&finished.body);
        let bytes = finished.body.len() as u64;
        let made = DataFile {
            file: FileRef { name: name.clone(), bytes },
            rows: finished.rows,
            snapshot_id: draft.snapshot_id,
            sequence: draft.sequence,
            deleted: RoaringBitmap::new(),
        };
        draft.delta.added_files += 1;
        draft.delta.added_rows += made.rows as u64;
        draft.delta.added_bytes += bytes;
        draft.files.data.insert(draft.files.next, Arc::new(made));
        draft.files.next += 1;
        uploads.put(name, finished.body)
    }
}
