//! The changelog: what each commit changed of a table, read commit after commit.
//!
//! ```text
//!  publication q ──────> q+1 ── q+2 ── ... ── e        the roots in between, folded one by one
//!   (places of rows,      │      │             │        (source tables only: they own the bodies)
//!    file by file)        └──────┴──────┬──────┘
//!                                       v
//!         texts of the rows that e inserted = bodies of segments, or of files of q, as of e
//! ```
//!
//! A retraction needs the row's key alone. The texts of an inserted row are those as of its own epoch, whatever
//! came later: a body that a later commit deleted is still in the publication below the epoch, or in a segment
//! between the two. So the reader keeps the tables as of the epoch that it reads, and goes from one to the next by
//! what that one changed. When a root names a newer publication it starts from there, and of that reads only
//! the files that it does not know. So a commit costs what it changed, and the roots since its publication are
//! folded at most twice.
//!
//! Whoever follows from far behind may find that a publication is collected while the log still has the epoch. Then
//! one serves that a later root names and that is no younger than the epoch; if there is none, the epoch is gone.

use super::LakeError;
use super::fold::{EpochSegments, Fold, FoldContext};
use super::index::Place;
use super::io::{FileRef, Io};
use super::lookup::Lookup;
use super::segments::{BodyCache, SegmentBytes};
use super::snapshot::{Snapshot, SnapshotOptions};
use super::texts::{FoldBodies, Lake, Made, Texts, resolved};
use std::borrow::Cow;
use tidemill_core::log;
use tidemill_core::segment::{Change, decode_columns};
use tidemill_core::store::StoreError;
use tidemill_types::{Digest, Epoch, Published, Root, SegmentRef, TableSchema, Value};

/// Rows whose texts are made at once, and the bytes of these.
const CHUNK_ROWS: usize = 1024;
const CHUNK_TEXT_BYTES: u64 = 8 << 20;

/// What a changelog is read with.
#[derive(Clone)]
pub struct ChangelogOptions {
    /// As for a reader of tables.
    pub snapshots: SnapshotOptions,
    /// Committed segments.
    pub segments: SegmentBytes,
    /// Bodies at hand, if there is a cache.
    pub bodies: Option<BodyCache>,
}

/// Takes a row of which all columns are there if it came (`1`), and those of the key if it went (`-1`).
pub type EachChange<'e, E> = &'e mut dyn FnMut(Vec<Value>, i64) -> Result<(), E>;

/// Reads commits one after the other; see the module. Its calls block on the edge and must not be made
/// on the runtime's own threads.
pub struct Changelog {
    options: ChangelogOptions,
    io: Io,
    as_of: Option<AsOf>,
}

/// The source tables as of an epoch.
struct AsOf {
    base: Option<Published>,
    epoch: Epoch,
    fold: Fold,
    bodies: FoldBodies,
    tables: Vec<Lookup>,
}

impl Changelog {
    /// Reads nothing yet.
    pub fn new(options: ChangelogOptions) -> Self {
        let SnapshotOptions { store, edge, threads, .. } = &options.snapshots;
        let io = Io { store: store.clone(), edge: edge.clone(), threads: *threads };
        Self { options, io, as_of: None }
    }

    /// Hands out the changes of a table in a commit: all retractions, then all insertions.
    pub fn changes<E: From<LakeError>>(
        &mut self,
        root: &Root,
        table: &str,
        each: EachChange<'_, E>,
    ) -> Result<(), E> {
        let place = self.place_of(table)?;
        let schema = self.options.snapshots.schemas[place].clone();
        let sections = || root.segments.iter().filter_map(|s| Some((s, s.tables.get(table)?)));
        for (segment, _) in sections().filter(|(_, section)| section.deleted > 0) {
            for change in self.read(&schema, segment, |column| schema.columns[column].key)? {
                if change.diff < 0 {
                    each(change.values, -1)?;
                }
            }
        }
        for (segment, _) in sections().filter(|(_, section)| section.inserted > 0) {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            for change in self.read(&schema, segment, |_| true)?.into_iter().filter(|change| change.diff > 0)
            {
                bytes += change.values.iter().map(text_bytes).sum::<u64>();
                chunk.push((change.key, change.values));
                if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_TEXT_BYTES {
                    self.emit(root, place, std::mem::take(&mut chunk), each)?;
                    bytes = 0;
                }
            }
            self.emit(root, place, chunk, each)?;
        }
        Ok(())
    }

    /// The tables as of a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when the log no longer holds what it takes.
    pub fn whole(&self, root: &Root) -> Result<Snapshot, LakeError> {
        let options = || self.options.snapshots.clone();
        match Snapshot::of(options(), root.clone()) {
            Err(error @ LakeError::Store(StoreError::NotFound { .. })) => {
                let base = self.later_base(root, root.published.as_ref())?.ok_or(error)?;
                Snapshot::of(options(), Root { published: Some(base), ..root.clone() })
            }
            opened => opened,
        }
    }

    fn place_of(&self, table: &str) -> Result<usize, LakeError> {
        let place = self.options.snapshots.schemas.iter().position(|schema| schema.name == table);
        place.ok_or_else(|| LakeError::Refused(format!("there is no table {table}")))
    }

    fn read(
        &self,
        schema: &TableSchema,
        segment: &SegmentRef,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Change>, LakeError> {
        let Some(section) = segment.tables.get(&schema.name) else { return Ok(Vec::new()) };
        let bytes = (self.options.segments)(segment)?;
        Ok(decode_columns(schema, &bytes, section, wanted)?)
    }

    fn emit<E: From<LakeError>>(
        &mut self,
        root: &Root,
        table: usize,
        rows: Vec<(Digest, Vec<Value>)>,
        each: EachChange<'_, E>,
    ) -> Result<(), E> {
        let holds_text =
            rows.iter().flat_map(|(_, values)| values).any(|value| matches!(value, Value::Text(_)));
        let made = if holds_text { self.texts(root, table, &rows)? } else { Made::new() };
        for (_, values) in rows {
            each(resolved(&values, &made).map(|cell| cell.to_value()).collect(), 1)?;
        }
        Ok(())
    }

    /// The texts of rows that a commit inserted.
    fn texts(&mut self, root: &Root, table: usize, rows: &[(Digest, Vec<Value>)]) -> Result<Made, LakeError> {
        match self.advance(root).and_then(|()| self.resolve(table, rows)) {
            Err(error @ LakeError::Store(StoreError::NotFound { .. })) => {
                let base = self.as_of.take().map_or(root.published.clone(), |as_of| as_of.base);
                let base = self.later_base(root, base.as_ref())?.ok_or(error)?;
                self.begin(&Root { published: Some(base), ..root.clone() })?;
                self.resolve(table, rows)
            }
            made => made,
        }
    }

    /// The latest publication that is later than `base` and not after a root, of those that are named in the log.
    fn later_base(&self, root: &Root, base: Option<&Published>) -> Result<Option<Published>, LakeError> {
        let mut found = None;
        for epoch in root.epoch + 1.. {
            let named = match self.io.edge.block_on(log::read_root(self.io.store.as_ref(), epoch)) {
                Ok(next) => next.published,
                Err(StoreError::NotFound { .. }) => break,
                Err(error) => return Err(error.into()),
            };
            match named {
                Some(named) if named.epoch > root.epoch => break,
                Some(named) if base.is_none_or(|base| named.epoch > base.epoch) => found = Some(named),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Brings the tables to a root's epoch. Where that fails they are begun anew the next time.
    fn advance(&mut self, root: &Root) -> Result<(), LakeError> {
        let named = root.published.as_ref().map(|published| published.epoch);
        match self.as_of.take() {
            Some(as_of) if as_of.epoch == root.epoch => {
                self.as_of = Some(as_of);
                Ok(())
            }
            Some(mut as_of)
                if as_of.epoch < root.epoch && as_of.base.as_ref().map(|base| base.epoch) >= named =>
            {
                self.fold_up_to(&mut as_of, root)?;
                self.as_of = Some(as_of);
                Ok(())
            }
            known => {
                self.as_of = known;
                self.begin(root)
            }
        }
    }

    /// Begins at the publication that a root names.
    fn begin(&mut self, root: &Root) -> Result<(), LakeError> {
        let base = root.published.clone();
        let mut known = self.as_of.take().map(|as_of| as_of.tables).unwrap_or_default().into_iter();
        let table = |schema: &TableSchema| {
            let published = base.as_ref().and_then(|base| base.tables.get(&schema.name).cloned());
            match known.next() {
                Some(known) => known.next(published, &root.location),
                None => Lookup::new(published, &root.location),
            }
        };
        let tables = self.options.snapshots.schemas.iter().map(table).collect();
        let fold = Fold::empty(&self.context());
        let mut as_of = AsOf { epoch: 0, base, fold, bodies: FoldBodies::default(), tables };
        let folded = match as_of.base.as_ref().map(|base| base.epoch) {
            Some(epoch) => {
                as_of.epoch = epoch;
                self.fold_up_to(&mut as_of, root)
            }
            None => self.fold_from(&mut as_of, 0, root),
        };
        // What is known of files stays so where it failed.
        self.as_of = Some(as_of);
        folded.inspect_err(|_| self.forget_fold())
    }

    /// Leaves what is known of files, at no epoch.
    fn forget_fold(&mut self) {
        let fold = Fold::empty(&self.context());
        if let Some(as_of) = &mut self.as_of {
            (as_of.fold, as_of.bodies, as_of.epoch) = (fold, FoldBodies::default(), Epoch::MAX);
        }
    }

    fn fold_up_to(&self, as_of: &mut AsOf, root: &Root) -> Result<(), LakeError> {
        let first = as_of.epoch + 1;
        self.fold_from(as_of, first, root)
    }

    fn fold_from(&self, as_of: &mut AsOf, first: Epoch, root: &Root) -> Result<(), LakeError> {
        let context = self.context();
        for epoch in first..=root.epoch {
            let read = match epoch == root.epoch {
                true => None,
                false => Some(self.io.edge.block_on(log::read_root(self.io.store.as_ref(), epoch))?),
            };
            let root = read.as_ref().unwrap_or(root);
            let known = as_of.fold.segments.len();
            let streams = context.streams.iter().flat_map(|stream| [stream.raw, stream.words]);
            as_of.fold.extend(&context, EpochSegments { epoch, segments: &root.segments }, streams)?;
            as_of.bodies.list(&context, &as_of.fold, known)?;
            as_of.epoch = epoch;
        }
        Ok(())
    }

    fn resolve(&self, table: usize, rows: &[(Digest, Vec<Value>)]) -> Result<Made, LakeError> {
        let Some(as_of) = &self.as_of else { return Ok(Made::new()) };
        let context = self.context();
        let lake = Placed { io: &self.io, schemas: context.schemas, tables: &as_of.tables };
        let (extract, cache) = (self.options.snapshots.extract.as_ref(), self.options.bodies.as_ref());
        let bodies = Cow::Borrowed(&as_of.bodies);
        Texts::new(&self.io, &context, &as_of.fold, &lake, extract, cache, bodies).resolve(table, rows)
    }

    fn context(&self) -> FoldContext<'_> {
        FoldContext {
            schemas: &self.options.snapshots.schemas,
            streams: &self.options.snapshots.streams,
            segments: &self.options.segments,
            holds: &|_, _| None,
        }
    }
}

/// The publication below the fold.
struct Placed<'a> {
    io: &'a Io,
    schemas: &'a [TableSchema],
    tables: &'a [Lookup],
}

impl Lake for Placed<'_> {
    fn place(&self, table: usize, key: Digest) -> Result<Option<Place>, LakeError> {
        self.tables[table].place(self.io, &self.schemas[table], key)
    }

    fn file(&self, table: usize, number: u32) -> Option<FileRef> {
        self.tables[table].file(number)
    }
}

fn text_bytes(value: &Value) -> u64 {
    if let Value::Text(text) = value { text.len.into() } else { 0 }
}
