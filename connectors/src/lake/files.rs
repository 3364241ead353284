//! The files of one published table, and how they are read back from its metadata.

use super::index::{KeyIndex, Place};
use super::io::{FileRef, Io, select_positions};
use super::layout::name_of;
use super::schema::check_same;
use super::{LakeError, deletes, unusable};
use arrow::array::RecordBatch;
use iceberg::spec::{
    DataContentType, FormatVersion, Manifest, ManifestContentType, ManifestList, TableMetadata,
};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use tidemill_core::columns::ColumnReader;
use tidemill_types::{Cell, Digest, PublishedTable, TableSchema, key_digest};

/// Data files whose keys are read at once.
const READERS: usize = 4;

/// A data file that the current snapshot lists.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    pub file: FileRef,
    pub rows: u32,
    pub snapshot_id: i64,
    pub sequence: i64,
    /// The positions that delete files name.
    pub deleted: RoaringBitmap,
}

impl DataFile {
    /// How many rows are live.
    pub fn live_rows(&self) -> u64 {
        u64::from(self.rows) - self.deleted.len()
    }

    /// The positions that are live, in ascending order, apart from those of `also`.
    pub fn live(&self, also: Option<&RoaringBitmap>) -> Vec<u32> {
        let gone = |position: &u32| {
            self.deleted.contains(*position) || also.is_some_and(|more| more.contains(*position))
        };
        (0..self.rows).filter(|position| !gone(position)).collect()
    }
}

/// A positional delete file that the current snapshot lists.
#[derive(Clone, Debug)]
pub(super) struct DeleteFile {
    pub file: FileRef,
    pub rows: u64,
    pub snapshot_id: i64,
    pub sequence: i64,
    /// The data files that it names.
    pub targets: BTreeSet<u32>,
}

/// The files of a table as of one snapshot. Data files have numbers, for the index; they are never
/// used twice while the process runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub data: BTreeMap<u32, Arc<DataFile>>,
    pub deletes: Vec<Arc<DeleteFile>>,
    pub next: u32,
}

impl Files {
    /// Live rows.
    pub fn rows(&self) -> u64 {
        self.data.values().map(|file| file.live_rows()).sum()
    }

    /// Bytes of data and delete files.
    pub fn bytes(&self) -> u64 {
        let data = self.data.values().map(|file| file.file.bytes);
        data.chain(self.deletes.iter().map(|file| file.file.bytes)).sum()
    }
}

/// A table as a publication has it.
pub(super) struct Stored {
    pub metadata: TableMetadata,
    /// The relative name of the metadata file.
    pub name: String,
    pub files: Files,
    /// Manifest list and manifests, by relative name.
    pub manifests: Vec<String>,
    /// Whether some address begins with another location than the store's.
    pub moved: bool,
}

/// Reads a published table: metadata, manifests and deletions. `location` is that of the root that
/// names it.
pub(super) fn load(
    io: &Io,
    location: &str,
    schema: &TableSchema,
    published: &PublishedTable,
) -> Result<Stored, LakeError> {
    let (mut stored, addresses) = listed(io, location, schema, published)?;
    read_deletes(io, &mut stored.files, &addresses)?;
    Ok(stored)
}

/// As [`load`], without reading what is deleted; and the numbers of the data files by their addresses. Each object is
/// held to the digest that the root tells before it is read for the names of others: bytes that nobody wrote could name
/// anything.
pub(super) fn listed(
    io: &Io,
    location: &str,
    schema: &TableSchema,
    published: &PublishedTable,
) -> Result<(Stored, HashMap<String, u32>), LakeError> {
    let mut digests = published.metadata_digests.iter();
    let name = name_of(location, &published.metadata_location)?;
    let body = io.get_whole(&name, is_as_told(digests.next_back()))?;
    let metadata: TableMetadata = serde_json::from_slice(&body).map_err(unusable(&name))?;
    check_same(schema, metadata.current_schema())?;
    let mut stored = Stored {
        moved: !is_here(io, &published.metadata_location),
        metadata,
        name,
        files: Files::default(),
        manifests: Vec::new(),
    };
    let mut addresses = HashMap::new();
    for entry in entries(io, location, &mut stored, published.snapshot_id, digests)? {
        take_entry(io, location, &mut stored, &mut addresses, entry)?;
    }
    Ok((stored, addresses))
}

/// Whether an absolute address lies in the store as it is addressed now.
fn is_here(io: &Io, address: &str) -> bool {
    address.strip_prefix(io.store.location()).is_some_and(|rest| rest.starts_with('/'))
}

/// One live entry of a manifest.
struct Entry {
    content: DataContentType,
    address: String,
    rows: u64,
    bytes: u64,
    snapshot_id: i64,
    sequence: i64,
}

/// Whether bytes have the digest that a root tells of them; where it tells none, they are taken as they are.
fn is_as_told(digest: Option<&String>) -> impl FnOnce(&[u8]) -> bool {
    move |body| digest.is_none_or(|digest| Digest::of(body).to_string() == *digest)
}

/// The live entries of a snapshot's manifests. `digests`: of its manifest list, and of its manifests.
fn entries<'a>(
    io: &Io,
    location: &str,
    stored: &mut Stored,
    snapshot_id: i64,
    mut digests: impl Iterator<Item = &'a String>,
) -> Result<Vec<Entry>, LakeError> {
    let Some(snapshot) = stored.metadata.snapshot_by_id(snapshot_id) else {
        return Err(unusable(&stored.name)(format!("it has no snapshot {snapshot_id}")));
    };
    let list = name_of(location, snapshot.manifest_list())?;
    let body = io.get_whole(&list, is_as_told(digests.next()))?;
    let parsed = ManifestList::parse_with_version(&body, FormatVersion::V2).map_err(unusable(&list))?;
    stored.manifests.push(list);
    let mut all = Vec::new();
    for manifest in parsed.entries() {
        let name = name_of(location, &manifest.manifest_path)?;
        let body = io.get_whole(&name, is_as_told(digests.next()))?;
        let read = Manifest::parse_avro(&body).map_err(unusable(&name))?;
        for entry in read.entries().iter().filter(|entry| entry.is_alive()) {
            all.push(Entry {
                content: match manifest.content {
                    ManifestContentType::Data => DataContentType::Data,
                    ManifestContentType::Deletes => entry.content_type(),
                },
                address: entry.file_path().to_string(),
                rows: entry.record_count(),
                bytes: entry.file_size_in_bytes(),
                snapshot_id: entry.snapshot_id().unwrap_or(manifest.added_snapshot_id),
                sequence: entry.sequence_number().unwrap_or(manifest.sequence_number),
            });
        }
        stored.manifests.push(name);
    }
    Ok(all)
}

fn take_entry(
    io: &Io,
    location: &str,
    stored: &mut Stored,
    addresses: &mut HashMap<String, u32>,
    entry: Entry,
) -> Result<(), LakeError> {
    let name = name_of(location, &entry.address)?;
    stored.moved |= !is_here(io, &entry.address);
    let file = FileRef { name: name.clone(), bytes: entry.bytes };
    let (snapshot_id, sequence) = (entry.snapshot_id, entry.sequence);
    match entry.content {
        DataContentType::Data => {
            let rows = u32::try_from(entry.rows).map_err(unusable(&name))?;
            let made = DataFile { file, rows, snapshot_id, sequence, deleted: RoaringBitmap::new() };
            addresses.insert(entry.address, stored.files.next);
            stored.files.data.insert(stored.files.next, Arc::new(made));
            stored.files.next += 1;
        }
        DataContentType::PositionDeletes => {
            let made = DeleteFile { file, rows: entry.rows, snapshot_id, sequence, targets: BTreeSet::new() };
            stored.files.deletes.push(Arc::new(made));
        }
        DataContentType::EqualityDeletes => {
            return Err(unusable(&name)("it is an equality delete file, which Tidemill never writes"));
        }
    }
    Ok(())
}

/// Reads which rows are deleted, by the delete files.
pub(super) fn read_deletes(
    io: &Io,
    files: &mut Files,
    addresses: &HashMap<String, u32>,
) -> Result<(), LakeError> {
    for delete in &mut files.deletes {
        let delete = Arc::make_mut(delete);
        for (address, positions) in deletes::read(io, &delete.file)? {
            let target = addresses.get(&address).copied();
            let Some((number, data)) = target.and_then(|n| Some((n, files.data.get_mut(&n)?))) else {
                continue;
            };
            if data.sequence <= delete.sequence {
                delete.targets.insert(number);
                Arc::make_mut(data).deleted |= positions;
            }
        }
    }
    Ok(())
}

/// Takes a batch and its rows' positions.
pub(super) type EachBatch<'e> = &'e mut dyn FnMut(&[u32], RecordBatch) -> Result<ControlFlow<()>, LakeError>;

/// Reads live rows of a data file and hands out, batch by batch, the batch and its positions.
pub(super) fn scan_live(
    io: &Io,
    file: &DataFile,
    columns: Option<&[usize]>,
    also_deleted: Option<&RoaringBitmap>,
    each: EachBatch<'_>,
) -> Result<(), LakeError> {
    scan_positions(io, file, columns, file.live(also_deleted), each)
}

/// Reads rows of a data file by their positions, which ascend.
pub(super) fn scan_positions(
    io: &Io,
    file: &DataFile,
    columns: Option<&[usize]>,
    live: Vec<u32>,
    each: EachBatch<'_>,
) -> Result<(), LakeError> {
    if live.is_empty() {
        return Ok(());
    }
    let selection = (live.len() < file.rows as usize).then(|| select_positions(&live));
    let mut from = 0;
    io.scan(&file.file, columns, selection, &mut |batch| {
        let to = from + batch.num_rows();
        let Some(positions) = live.get(from..to) else {
            return Err(unusable(&file.file.name)("it holds more rows than its manifest says"));
        };
        from = to;
        each(positions, batch)
    })
}

/// The key digests of a batch's rows; `places` says where in the batch the table's columns stand.
pub(super) fn batch_keys(
    schema: &TableSchema,
    batch: &RecordBatch,
    columns: &[usize],
) -> Result<Vec<Digest>, LakeError> {
    let error = |source| LakeError::Column { table: schema.name.clone(), source };
    let mut keys = Vec::with_capacity(batch.num_rows());
    let key_at = columns.iter().enumerate().filter(|(_, place)| schema.columns[**place].key);
    let key_at = key_at.map(|(at, place)| {
        let column = ColumnReader::of(batch.column(at), schema.columns[*place].kind);
        Ok((*place, column.map_err(error)?))
    });
    let key_at = key_at.collect::<Result<Vec<_>, LakeError>>()?;
    let mut cells = vec![Cell::Null; schema.columns.len()];
    for row in 0..batch.num_rows() {
        for (place, column) in &key_at {
            cells[*place] = column.cell(row);
        }
        keys.push(key_digest(schema, cells.iter().copied()));
    }
    Ok(keys)
}

/// Reads the key columns of all data files: where each live row stands. Two rows of one key are an error.
pub(super) fn read_index(io: &Io, schema: &TableSchema, files: &Files) -> Result<KeyIndex, LakeError> {
    let mut index = KeyIndex::default();
    read_keys_of(io, schema, files, |_| true, &mut index)?;
    Ok(index)
}

/// Adds where each live row of the files that are wanted stands, several files at a time. A key that is there already
/// is an error.
pub(super) fn read_keys_of(
    io: &Io,
    schema: &TableSchema,
    files: &Files,
    wanted: impl Fn(u32) -> bool,
    index: &mut KeyIndex,
) -> Result<(), LakeError> {
    let of: Vec<(u32, &Arc<DataFile>)> =
        files.data.iter().filter(|(number, _)| wanted(**number)).map(|(n, file)| (*n, file)).collect();
    let readers = READERS.min(io.threads).min(of.len());
    if readers <= 1 {
        for (number, file) in of {
            let mut filled = Ok(());
            read_keys(io, schema, file, &mut |keys| {
                filled = add_keys(index, files, number, keys);
                filled.is_ok()
            })?;
            filled?;
        }
        return Ok(());
    }
    let waiting = Mutex::new(of.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (send, receive) = mpsc::sync_channel::<(u32, Result<Keys, LakeError>)>(READERS);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some((number, file)) = next() {
                    let read = read_keys(io, schema, file, &mut |keys| send.send((number, Ok(keys))).is_ok());
                    if let Err(error) = read {
                        // The receiver is gone only if it met an error of its own.
                        let _ = send.send((number, Err(error)));
                    }
                }
            });
        }
        drop(send);
        for (file, keys) in receive {
            add_keys(index, files, file, keys?)?;
        }
        Ok(())
    })
}

type Keys = Vec<(Digest, u32)>;

fn add_keys(index: &mut KeyIndex, files: &Files, file: u32, keys: Keys) -> Result<(), LakeError> {
    for (key, position) in keys {
        if index.insert(key, Place { file, position }).is_some() {
            return Err(unusable(&files.data[&file].file.name)("a row's key stands in the table twice"));
        }
    }
    Ok(())
}

/// Hands out the keys and positions of a file's live rows, batch by batch, while they are wanted.
fn read_keys(
    io: &Io,
    schema: &TableSchema,
    file: &DataFile,
    each: &mut dyn FnMut(Keys) -> bool,
) -> Result<(), LakeError> {
    let columns: Vec<usize> = schema.key_places().collect();
    scan_live(io, file, Some(&columns), None, &mut |positions, batch| {
        let keys = batch_keys(schema, &batch, &columns)?.into_iter().zip(positions.iter().copied());
        Ok(if each(keys.collect()) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })
}
