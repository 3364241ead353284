//! The lake's writer: folds committed epochs and publishes all tables as of one of them.
//!
//! A publication is staged whole (data files, deletions, metadata, the index's changes) and stored before
//! anything in memory changes; if the store fails midway, what was written are orphans of this
//! generation, and the next call begins anew from the same state.

use super::checkpoint::{self, Covered, Opened};
use super::commit::{Commit, Delta};
use super::compact::compact;
use super::data_file::BatchBuilder;
use super::draft::{FileSink, Ids, Making, TableDraft, Uploads};
use super::files::{Files, Stored, listed, load};
use super::fold::{EpochSegments, Fold, FoldContext};
use super::index::{KeyIndex, Place};
use super::io::{FileRef, Io};
use super::layout::{Names, address, epoch_of, generation_of};
use super::segments::{BodyCache, SegmentBytes};
use super::snapshot::SnapshotOptions;
use super::texts::{FoldBodies, Lake, Texts, resolved};
use super::{LakeError, StreamTable, unusable};
use iceberg::spec::TableMetadata;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::read_root;
use tidemill_core::program::Extract;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::{Cost, View, ViewError, ViewFailure};
use tidemill_types::{
    Digest, Epoch, ModelId, ProgramId, Published, PublishedTable, Put, Root, SegmentRef, TableSchema, Value,
};

/// Texts of the rows that are written at once, in bytes: a sixteenth of the publication's memory within these bounds.
/// Several threads hold as much as strings and again as columns.
const CHUNK_TEXT_BYTES: (u64, u64) = (1 << 20, 16 << 20);
/// Rows that are written at once.
const CHUNK_ROWS: usize = 8192;
/// The size at which a data file is closed.
const FILE_BYTES: usize = 128 << 20;
/// Tables that are opened at once.
const TABLES_OPENED: usize = 4;
/// What compaction may read in one publication.
const COMPACTION_BYTES: u64 = 256 << 20;

/// Publications of a table whose lists of objects are kept in memory.
const LISTED_TABLES: usize = 2;

/// Threads that stage tables of one publication side by side, at most.
const STAGERS: usize = 2;

fn panicked() -> LakeError {
    LakeError::Refused("a thread of the publication stopped by an internal error".to_string())
}

/// What a publisher works with.
pub struct LakeOptions {
    /// The store.
    pub store: SharedStore,
    /// Clock, randomness, waiting. The publisher itself must not run on its threads of I/O.
    pub edge: SharedEdge,
    /// Threads that work side by side on one publication; with one there is none but the caller's.
    pub threads: usize,
    /// The program's tables.
    pub schemas: Arc<[TableSchema]>,
    /// The source streams' tables.
    pub streams: Vec<StreamTable>,
    /// Makes texts again from bodies.
    pub extract: Arc<dyn Extract>,
    /// Committed segments.
    pub segments: SegmentBytes,
    /// Bodies at hand, if there is a cache.
    pub bodies: Option<BodyCache>,
    /// Bounds bodies in memory, puts under way and open files: each takes at most about a third.
    pub memory_bytes_max: usize,
}

/// What the last publication cost.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PublishStats {
    /// Its epoch.
    pub epoch: Epoch,
    /// How long it took.
    pub millis: i64,
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that came.
    pub inserted: u64,
    /// Rows that went.
    pub deleted: u64,
    /// Bytes that compaction read.
    pub compacted_bytes: u64,
}

/// One table in memory.
struct Table {
    metadata: Option<TableMetadata>,
    published: Option<PublishedTable>,
    files: Files,
    index: KeyIndex,
    covered: Covered,
    moved: bool,
}

/// A root that was taken in.
struct Taken {
    epoch: Epoch,
    segments: Vec<SegmentRef>,
}

/// One table's part of a publication that is not in force yet.
struct Staged {
    metadata: TableMetadata,
    published: PublishedTable,
    files: Files,
    covered: Covered,
    moves: Vec<(Digest, Option<Place>)>,
    delta: Delta,
}

/// The lake's writer; see the module.
pub struct LakePublisher {
    options: LakeOptions,
    io: Io,
    ids: Ids,
    tables: Vec<Table>,
    published: Option<Published>,
    generation: u64,
    /// Roots after the last publication, in order.
    taken: Vec<Taken>,
    next_root: Epoch,
    gap: Option<String>,
    /// The newest of `taken` that changed a table, the program or the models.
    changed: Option<Epoch>,
    program: Option<(ProgramId, Vec<ModelId>)>,
    named: Option<Epoch>,
    stats: PublishStats,
    /// See [`View::expire`].
    listed_from: Epoch,
    /// Objects of published tables, by the address of their metadata; the oldest answer first.
    listed: Mutex<VecDeque<(String, Arc<BTreeSet<String>>)>>,
}

impl LakePublisher {
    /// Reads the state of the publication that `base` names, or begins with empty tables. Reads the
    /// checkpoints of the indexes, and the key columns of the data files that came since.
    pub fn open(options: LakeOptions, base: &Root) -> Result<Self, LakeError> {
        let io = Io { store: options.store.clone(), edge: options.edge.clone(), threads: options.threads };
        let tables = open_tables(&io, &options.schemas, base)?;
        let program = match &base.published {
            Some(published) => published_program(&io, published.epoch, base)?,
            None => None,
        };
        Ok(Self {
            ids: Ids(options.edge.clone()),
            io,
            options,
            tables,
            next_root: base.published.as_ref().map_or(0, |published| published.epoch + 1),
            published: base.published.clone(),
            generation: base.generation,
            taken: Vec::new(),
            gap: None,
            changed: None,
            program,
            named: base.published.as_ref().map(|published| published.epoch),
            stats: PublishStats::default(),
            listed_from: base.log_from,
            listed: Mutex::default(),
        })
    }

    /// The epoch of the first root that [`View::committed`] has not seen: after `open` the one after the
    /// publication, or 0. Older roots are ignored; a gap makes `publish` fail.
    pub fn next_root(&self) -> Epoch {
        self.next_root
    }

    /// Roots taken in since the last publication.
    pub fn lag(&self) -> u64 {
        self.taken.len() as u64
    }

    /// What the last publication cost.
    pub fn stats(&self) -> PublishStats {
        self.stats
    }

    /// The last publication, and whether a root has named it.
    pub fn last(&self) -> Option<(&Published, bool)> {
        self.published.as_ref().map(|published| (published, self.named >= Some(published.epoch)))
    }

    /// The names of a published table's objects. Whoever collects asks for one publication after the other,
    /// each twice: the last answers are kept.
    fn table_objects(
        &self,
        table: &str,
        published: &PublishedTable,
    ) -> Result<Arc<BTreeSet<String>>, LakeError> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = listed.iter().find(|(location, _)| *location == published.metadata_location);
        if let Some((_, objects)) = known {
            return Ok(objects.clone());
        }
        let objects = Arc::new(table_objects(&self.io, &self.options.schemas, table, published)?);
        listed.push_back((published.metadata_location.clone(), objects.clone()));
        if listed.len() > LISTED_TABLES * self.tables.len() {
            listed.pop_front();
        }
        Ok(objects)
    }

    fn stage(&self, epoch: Epoch, stats: &mut PublishStats) -> Result<Vec<Option<Staged>>, LakeError> {
        let holds = |table: usize, key: Digest| Some(self.tables[table].index.get(key).is_some());
        let context = FoldContext {
            schemas: &self.options.schemas,
            streams: &self.options.streams,
            segments: &self.options.segments,
            holds: &holds,
        };
        let epochs = self.taken.iter();
        let epochs = epochs.map(|taken| EpochSegments { epoch: taken.epoch, segments: &taken.segments });
        let fold = Fold::of(&context, epochs)?;
        let (extract, cache) = (self.options.extract.as_ref(), self.options.bodies.as_ref());
        let third = self.options.memory_bytes_max / 3;
        let bodies = Cow::Owned(FoldBodies::load(&context, &fold, cache, third)?);
        let texts = Texts::new(&self.io, &context, &fold, self, extract, cache, bodies);
        let budget = AtomicU64::new(COMPACTION_BYTES);
        // Another table comes first each time, so that none is always left without budget.
        let turns = (0..self.tables.len()).map(|turn| (turn + epoch as usize) % self.tables.len());
        let works = turns.map(|table| TableWork {
            publisher: self,
            context: &context,
            fold: &fold,
            texts: &texts,
            table,
            epoch,
        });
        let works: Mutex<VecDeque<TableWork<'_>>> = Mutex::new(works.filter(TableWork::is_due).collect());
        let stagers = STAGERS.min(self.io.threads);
        let turn = || self.stage_some(&works, &budget, third / stagers);
        let parts = std::thread::scope(|scope| {
            let others: Vec<_> = (1..stagers).map(|_| scope.spawn(turn)).collect();
            let mut parts = vec![turn()];
            parts.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(panicked()))));
            parts
        });
        let mut staged: Vec<Option<Staged>> = self.tables.iter().map(|_| None).collect();
        for part in parts {
            let (tables, written) = part?;
            stats.objects += written.objects;
            stats.bytes += written.bytes;
            for (table, made) in tables {
                stats.inserted += made.delta.inserted;
                stats.deleted += made.delta.deleted;
                staged[table] = Some(made);
            }
        }
        stats.compacted_bytes = COMPACTION_BYTES - budget.into_inner();
        Ok(staged)
    }

    /// Stages tables until none waits; several threads take turns. Gives the tables and what was put.
    fn stage_some(
        &self,
        works: &Mutex<VecDeque<TableWork<'_>>>,
        budget: &AtomicU64,
        uploads_bytes_max: usize,
    ) -> Result<(Vec<(usize, Staged)>, PublishStats), LakeError> {
        let mut uploads = Uploads::new(self.io.clone(), uploads_bytes_max);
        let mut staged = Vec::new();
        loop {
            let next = works.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(work) = next else { break };
            let granted = budget.swap(0, Ordering::AcqRel);
            let made = work.stage(&mut uploads, granted);
            let (made, read) =
                made.inspect_err(|_| works.lock().unwrap_or_else(PoisonError::into_inner).clear())?;
            budget.fetch_add(granted - read, Ordering::AcqRel);
            staged.push((work.table, made));
        }
        uploads.finish()?;
        let written =
            PublishStats { objects: uploads.objects, bytes: uploads.bytes, ..PublishStats::default() };
        Ok((staged, written))
    }

    fn apply(&mut self, stats: &PublishStats, staged: Vec<Option<Staged>>) -> Published {
        let epoch = stats.epoch;
        let mut tables = BTreeMap::new();
        for ((table, staged), schema) in self.tables.iter_mut().zip(staged).zip(self.options.schemas.iter()) {
            if let Some(staged) = staged {
                table.apply(staged);
            }
            if let Some(published) = &table.published {
                tables.insert(schema.name.clone(), published.clone());
            }
        }
        let put = Put { objects: stats.objects, bytes: stats.bytes };
        let published = Published { epoch, tables, put: Some(put) };
        self.published = Some(published.clone());
        self.taken.clear();
        self.changed = None;
        published
    }
}

impl View for LakePublisher {
    fn committed(&mut self, root: &Root) {
        if root.epoch < self.next_root {
            return;
        }
        if root.epoch > self.next_root && self.gap.is_none() {
            let (next, got) = (self.next_root, root.epoch);
            self.gap = Some(format!("the lake was handed root {got} but has not seen root {next}; restart"));
        }
        let program = (root.program.clone(), root.models.clone());
        let reprogrammed = self.program.as_ref() != Some(&program);
        if reprogrammed || root.segments.iter().any(|segment| !segment.tables.is_empty()) {
            self.changed = Some(root.epoch);
        }
        self.program = Some(program);
        self.generation = self.generation.max(root.generation);
        self.next_root = root.epoch + 1;
        self.taken.push(Taken { epoch: root.epoch, segments: root.segments.clone() });
    }

    fn publish(&mut self) -> Result<Option<Published>, ViewFailure> {
        if let Some(gap) = &self.gap {
            return Err(ViewError(gap.clone()).into());
        }
        let Some(epoch) = self.unpublished() else { return Ok(None) };
        let started = self.io.edge.now_ms();
        let mut stats = PublishStats { epoch, ..PublishStats::default() };
        let staged = self.stage(epoch, &mut stats)?;
        let published = self.apply(&stats, staged);
        stats.millis = self.io.edge.now_ms() - started;
        self.stats = stats;
        Ok(Some(published))
    }

    fn named(&mut self, epoch: Epoch) {
        self.named = Some(epoch);
    }

    fn unpublished(&self) -> Option<Epoch> {
        match &self.published {
            Some(_) => self.changed,
            None => self.changed.or_else(|| self.next_root.checked_sub(1)),
        }
    }

    fn cost(&self) -> Cost {
        let held_bytes = self.tables.iter().map(|table| table.index.bytes() as u64).sum();
        Cost { objects: self.stats.objects, bytes: self.stats.bytes, held_bytes }
    }

    fn objects(&self, published: &Published) -> Result<BTreeSet<String>, ViewFailure> {
        let mut all = BTreeSet::new();
        for (table, published) in &published.tables {
            all.extend(self.table_objects(table, published)?.iter().cloned());
        }
        Ok(all)
    }

    fn garbage(&self, older: &Published, newer: &Published) -> Result<Vec<String>, ViewFailure> {
        let mut dropped = BTreeSet::new();
        for (table, old) in &older.tables {
            let new = newer.tables.get(table);
            if new == Some(old) {
                continue;
            }
            let objects = self.table_objects(table, old)?;
            let kept = new.map(|new| self.table_objects(table, new)).transpose()?.unwrap_or_default();
            dropped.extend(objects.difference(&kept).cloned());
        }
        Ok(dropped.into_iter().collect())
    }

    fn folder(&self) -> &str {
        "tables/"
    }

    fn made_for(&self, name: &str) -> Option<(Epoch, u64)> {
        epoch_of(name).zip(generation_of(name))
    }

    fn expire(&mut self, before: Epoch) {
        self.listed_from = before;
    }
}

impl Lake for LakePublisher {
    fn place(&self, table: usize, key: Digest) -> Result<Option<Place>, LakeError> {
        Ok(self.tables[table].index.get(key))
    }

    fn file(&self, table: usize, number: u32) -> Option<FileRef> {
        self.tables[table].files.data.get(&number).map(|file| file.file.clone())
    }
}

/// Opens all tables, several at a time.
fn open_tables(io: &Io, schemas: &[TableSchema], base: &Root) -> Result<Vec<Table>, LakeError> {
    let mut tables = Vec::new();
    if io.threads == 1 {
        let published =
            |schema: &TableSchema| base.published.as_ref().and_then(|p| p.tables.get(&schema.name));
        let opened = schemas.iter().map(|schema| Table::open(io, &base.location, schema, published(schema)));
        return opened.collect();
    }
    for some in schemas.chunks(TABLES_OPENED) {
        std::thread::scope(|scope| {
            let opening: Vec<_> = some
                .iter()
                .map(|schema| {
                    let published = base.published.as_ref().and_then(|p| p.tables.get(&schema.name));
                    scope.spawn(move || Table::open(io, &base.location, schema, published))
                })
                .collect();
            for (table, schema) in opening.into_iter().zip(some) {
                let opened = table.join();
                tables.push(opened.map_err(|_| unusable(&schema.name)("its reader panicked"))??);
            }
            Ok::<_, LakeError>(())
        })?;
    }
    Ok(tables)
}

impl Table {
    fn open(
        io: &Io,
        location: &str,
        schema: &TableSchema,
        published: Option<&PublishedTable>,
    ) -> Result<Self, LakeError> {
        let Some(published) = published else {
            let (files, index, covered) = (Files::default(), KeyIndex::default(), Covered::default());
            return Ok(Self { metadata: None, published: None, files, index, covered, moved: false });
        };
        let stored = load(io, location, schema, published)?;
        let Opened { index, covered } = checkpoint::open(io, schema, &stored.files, published)?;
        Ok(Self {
            metadata: Some(stored.metadata),
            published: Some(published.clone()),
            files: stored.files,
            index,
            covered,
            moved: stored.moved,
        })
    }

    fn apply(&mut self, staged: Staged) {
        for (key, place) in staged.moves {
            match place {
                Some(place) => self.index.insert(key, place),
                None => self.index.remove(key),
            };
        }
        self.metadata = Some(staged.metadata);
        self.published = Some(staged.published);
        self.files = staged.files;
        self.covered = staged.covered;
        self.moved = false;
    }
}

/// Stages one table.
struct TableWork<'a> {
    publisher: &'a LakePublisher,
    context: &'a FoldContext<'a>,
    fold: &'a Fold,
    texts: &'a Texts<'a>,
    table: usize,
    epoch: Epoch,
}

impl TableWork<'_> {
    fn current(&self) -> &Table {
        &self.publisher.tables[self.table]
    }

    fn schema(&self) -> &TableSchema {
        &self.context.schemas[self.table]
    }

    /// Whether the table gets a new snapshot.
    fn is_due(&self) -> bool {
        let table = self.current();
        let changes = &self.fold.tables[self.table].keys;
        table.published.is_none() || table.moved || changes.values().any(|change| change.is_net())
    }

    /// The staged table, and the bytes that compaction read.
    fn stage(&self, uploads: &mut Uploads, budget: u64) -> Result<(Staged, u64), LakeError> {
        let (publisher, table) = (self.publisher, self.current());
        let names = Names { table: &self.schema().name, epoch: self.epoch, generation: publisher.generation };
        let making = Making {
            schema: self.schema(),
            names: &names,
            location: publisher.io.store.location(),
            file_bytes_max: FILE_BYTES.min(publisher.options.memory_bytes_max / 3).max(1 << 20),
        };
        let sequence = table.metadata.as_ref().map_or(1, |metadata| metadata.next_sequence_number());
        let mut draft = TableDraft::new(table.files.clone(), &publisher.ids, sequence);
        let first_new = draft.files.next;
        self.delete(&mut draft)?;
        self.insert(&making, &mut draft, uploads)?;
        let read = compact(&publisher.io, &making, &mut draft, uploads, first_new, budget)?;
        draft.write_deletes(&making, uploads, table.moved)?;
        self.check(&draft)?;
        let covered = self.checkpoint(&names, &draft, uploads)?;
        Ok((self.commit(&names, draft, covered, uploads)?, read))
    }

    /// Makes another checkpoint of the index if the last one is outgrown.
    fn checkpoint(
        &self,
        names: &Names<'_>,
        draft: &TableDraft,
        uploads: &mut Uploads,
    ) -> Result<Covered, LakeError> {
        let (table, files) = (self.current(), &draft.files);
        if !table.covered.is_outgrown(files) {
            return Ok(table.covered.clone());
        }
        let moved = draft.moves.iter().filter_map(|(key, place)| Some((*key, (*place)?)));
        let body = checkpoint::encode(files, table.index.iter().chain(moved))?;
        let name = names.index(&body);
        uploads.put(name.clone(), body)?;
        Ok(Covered { name: Some(name), files: files.data.keys().copied().collect() })
    }

    fn delete(&self, draft: &mut TableDraft) -> Result<(), LakeError> {
        for (key, change) in &self.fold.tables[self.table].keys {
            if !change.is_net() || change.held.is_none() {
                continue;
            }
            let Some(place) = self.current().index.get(*key) else {
                return Err(self.contract(format!("key {key} is retracted but not there")));
            };
            draft.delete(place);
            if change.current.is_none() {
                draft.moves.push((*key, None));
            }
        }
        Ok(())
    }

    fn insert(
        &self,
        making: &Making<'_>,
        draft: &mut TableDraft,
        uploads: &mut Uploads,
    ) -> Result<(), LakeError> {
        let mut sink = FileSink::new(making);
        let mut chunk = Chunk::default();
        let memory = self.publisher.options.memory_bytes_max as u64;
        let texts_max = (memory / 16).clamp(CHUNK_TEXT_BYTES.0, CHUNK_TEXT_BYTES.1);
        for (number, segment, section) in self.fold.sections(&self.schema().name) {
            let changes = self.context.changes(self.table, segment, section)?;
            for (place, change) in changes.into_iter().enumerate() {
                let folded = self.fold.tables[self.table].keys.get(&change.key);
                let last = folded.filter(|folded| folded.is_net()).and_then(|folded| folded.current);
                if last.is_some_and(|at| (at.segment, at.place) == (number, place as u32)) {
                    chunk.push(change.key, change.values);
                    if chunk.is_full(texts_max) {
                        self.write(&mut chunk, &mut sink, draft, uploads)?;
                    }
                }
            }
        }
        self.write(&mut chunk, &mut sink, draft, uploads)?;
        sink.finish(draft, uploads)
    }

    fn write(
        &self,
        chunk: &mut Chunk,
        sink: &mut FileSink<'_>,
        draft: &mut TableDraft,
        uploads: &mut Uploads,
    ) -> Result<(), LakeError> {
        let rows = std::mem::take(chunk).rows;
        if rows.is_empty() {
            return Ok(());
        }
        let made = self.texts.resolve(self.table, &rows)?;
        let mut batch = BatchBuilder::new(self.schema());
        for (_, values) in &rows {
            batch.push(resolved(values, &made))?;
        }
        let keys: Vec<Digest> = rows.iter().map(|(key, _)| *key).collect();
        draft.delta.inserted += rows.len() as u64;
        sink.write(draft, uploads, &batch.finish()?, &keys)
    }

    /// The number of rows must follow from the changes.
    fn check(&self, draft: &TableDraft) -> Result<(), LakeError> {
        let before = self.current().files.rows();
        let expected = before + draft.delta.inserted - draft.delta.deleted;
        match draft.files.rows() == expected {
            true => Ok(()),
            false => Err(self.contract(format!(
                "{} rows would be published, {expected} follow from the changes",
                draft.files.rows()
            ))),
        }
    }

    fn commit(
        &self,
        names: &Names<'_>,
        draft: TableDraft,
        covered: Covered,
        uploads: &mut Uploads,
    ) -> Result<Staged, LakeError> {
        let (publisher, table) = (self.publisher, self.current());
        let location = publisher.io.store.location();
        let previous_address = table.published.as_ref().map(|p| p.metadata_location.clone());
        let commit = Commit {
            edge: &publisher.io.edge,
            location,
            schema: self.schema(),
            names,
            ids: &publisher.ids,
            previous: table.metadata.as_ref().zip(previous_address),
            moved: table.moved,
            files: &draft.files,
            snapshot_id: draft.snapshot_id,
            sequence: draft.sequence,
            now_ms: publisher.io.edge.now_ms(),
            delta: draft.delta,
            listed_from: publisher.listed_from,
        };
        let committed = commit.make()?;
        let metadata_digests =
            committed.objects.iter().map(|(_, body)| Digest::of(body).to_string()).collect();
        for (name, body) in committed.objects {
            uploads.put(name, body)?;
        }
        let published = PublishedTable {
            metadata_location: address(location, &committed.metadata_name),
            snapshot_id: committed.snapshot_id,
            rows: draft.files.rows(),
            metadata_digests,
            index: covered.name.clone(),
        };
        let (metadata, moves, delta) = (committed.metadata, draft.moves, draft.delta);
        Ok(Staged { metadata, published, files: draft.files, covered, moves, delta })
    }

    fn contract(&self, problem: String) -> LakeError {
        LakeError::Contract { table: self.schema().name.clone(), epoch: self.epoch, problem }
    }
}

/// Rows that are written at once.
#[derive(Default)]
struct Chunk {
    rows: Vec<(Digest, Vec<Value>)>,
    text_bytes: u64,
}

impl Chunk {
    fn push(&mut self, key: Digest, values: Vec<Value>) {
        let texts = values.iter().map(|value| if let Value::Text(text) = value { text.len } else { 0 });
        self.text_bytes += texts.map(u64::from).sum::<u64>();
        self.rows.push((key, values));
    }

    fn is_full(&self, texts_max: u64) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.text_bytes >= texts_max
    }
}

/// The names of all objects that a publication is made of.
pub fn published_objects(
    options: &SnapshotOptions,
    published: &Published,
) -> Result<BTreeSet<String>, LakeError> {
    let io = Io { store: options.store.clone(), edge: options.edge.clone(), threads: options.threads };
    all_objects(&io, &options.schemas, published)
}

fn all_objects(
    io: &Io,
    schemas: &[TableSchema],
    published: &Published,
) -> Result<BTreeSet<String>, LakeError> {
    let mut all = BTreeSet::new();
    for (table, published) in &published.tables {
        all.extend(table_objects(io, schemas, table, published)?);
    }
    Ok(all)
}

/// The names of a published table's objects.
fn table_objects(
    io: &Io,
    schemas: &[TableSchema],
    table: &str,
    published: &PublishedTable,
) -> Result<BTreeSet<String>, LakeError> {
    let Some(schema) = schemas.iter().find(|schema| schema.name == *table) else {
        return Ok(BTreeSet::new());
    };
    let mut objects = objects(&listed(io, io.store.location(), schema, published)?.0);
    objects.extend(published.index.clone());
    Ok(objects)
}

/// All objects of a published table, by name.
fn objects(stored: &Stored) -> BTreeSet<String> {
    let data = stored.files.data.values().map(|file| file.file.name.clone());
    let deletes = stored.files.deletes.iter().map(|file| file.file.name.clone());
    let metadata = std::iter::once(stored.name.clone()).chain(stored.manifests.iter().cloned());
    data.chain(deletes).chain(metadata).collect()
}

/// Program and models of the root whose epoch was published.
fn published_program(
    io: &Io,
    epoch: Epoch,
    base: &Root,
) -> Result<Option<(ProgramId, Vec<ModelId>)>, LakeError> {
    if epoch == base.epoch {
        return Ok(Some((base.program.clone(), base.models.clone())));
    }
    match io.edge.block_on(read_root(&*io.store, epoch)) {
        Ok(root) => Ok(Some((root.program, root.models))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
