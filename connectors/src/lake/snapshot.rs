//! The reader: all tables as of one retained epoch.
//!
//! A snapshot is the publication that the epoch's root names, changed by the segments of the roots after
//! it. Of a table it reads the live rows of the data files whose keys the tail does not touch, then the
//! tail's rows. Nothing is kept but the tail's net changes (and, where a text of the tail must be made
//! from a body in the lake, the index of that source table). A later snapshot takes over what it shares
//! with an earlier one.

use super::checkpoint;
use super::files::{Files, Stored as StoredTable, batch_keys, load, scan_positions};
use super::fold::{EpochSegments, Fold, FoldContext};
use super::index::{KeyIndex, Place};
use super::io::{FileRef, Io};
use super::segments::{SegmentBytes, stored_segments};
use super::texts::{FoldBodies, Lake, Made, Texts, resolved};
use super::{LakeError, StreamTable};
use arrow::array::RecordBatch;
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_core::columns::ColumnReader;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log;
use tidemill_core::program::Extract;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::{EachRow, Portion, Share, Stored, ViewError};
use tidemill_core::writer::Bodied;
use tidemill_types::{Cell, Digest, Epoch, Kind, PublishedTable, Root, TableSchema, Text, Value};

/// Rows of the tail whose texts are made at once.
const CHUNK_ROWS: usize = 1024;
/// Rows of a file that several read a part of.
const DIVIDED_ROWS: usize = 4096;
/// Their texts.
const CHUNK_TEXT_BYTES: u64 = 16 << 20;

/// What a reader works with.
#[derive(Clone)]
pub struct SnapshotOptions {
    /// The store.
    pub store: SharedStore,
    /// Waits for the store. The reader itself must not run on its threads of I/O.
    pub edge: SharedEdge,
    /// Threads that read side by side; with one there is none but the caller's.
    pub threads: usize,
    /// The program's tables.
    pub schemas: Arc<[TableSchema]>,
    /// The source streams' tables.
    pub streams: Vec<StreamTable>,
    /// Makes texts again from bodies.
    pub extract: Arc<dyn Extract>,
    /// Bounds segments and bodies in memory: each takes at most half.
    pub memory_bytes_max: usize,
}

/// How texts come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextForm {
    /// As strings.
    Resolved,
    /// As handles without origin: a body's digest and length, an extracted text's identity.
    Handles,
}

/// The files of a table's publication.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TableFiles {
    /// Data files.
    pub data_files: usize,
    /// Positional delete files.
    pub delete_files: usize,
    /// Bytes of both.
    pub bytes: u64,
}

/// Takes the cells of a row, and says whether more are wanted.
pub type Each<'e> = &'e mut dyn FnMut(&[Cell<'_>]) -> ControlFlow<()>;

/// A value that is made when it is first wanted.
struct Lazy<T>(Mutex<Option<Arc<T>>>);

impl<T> Lazy<T> {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn get(&self, make: impl FnOnce() -> Result<T, LakeError>) -> Result<Arc<T>, LakeError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*slot {
            return Ok(value.clone());
        }
        let value = Arc::new(make()?);
        *slot = Some(value.clone());
        Ok(value)
    }
}

/// One table of the publication.
struct Base {
    published: Option<PublishedTable>,
    stored: Lazy<Option<StoredTable>>,
    index: Lazy<KeyIndex>,
}

/// All tables as of one epoch; see the module. Its calls hold up their thread, which must not be one of I/O.
pub struct Snapshot {
    options: SnapshotOptions,
    io: Io,
    root: Root,
    segments: SegmentBytes,
    tables: Vec<Arc<Base>>,
    fold: Fold,
}

impl Snapshot {
    /// The tables as of a committed and retained epoch, or of the newest.
    pub fn open(options: SnapshotOptions, epoch: Option<Epoch>) -> Result<Self, LakeError> {
        let edge = options.edge.clone();
        let root = edge.block_on(find_root(&options.store, epoch))?;
        Self::of(options, root)
    }

    /// The tables as of a root.
    pub fn of(options: SnapshotOptions, root: Root) -> Result<Self, LakeError> {
        let (store, edge) = (options.store.clone(), options.edge.clone());
        let segments = stored_segments(store, edge, options.memory_bytes_max as u64 / 2);
        Self::with(options, root, segments, &[])
    }

    /// The tables as of a later root, with what this one has read of them.
    pub fn later(&self, root: Root) -> Result<Self, LakeError> {
        Self::with(self.options.clone(), root, self.segments.clone(), &self.tables)
    }

    fn with(
        options: SnapshotOptions,
        root: Root,
        segments: SegmentBytes,
        known: &[Arc<Base>],
    ) -> Result<Self, LakeError> {
        let (store, edge) = (options.store.clone(), options.edge.clone());
        let tail = edge.block_on(tail(&store, &root))?;
        let context = FoldContext {
            schemas: &options.schemas,
            streams: &options.streams,
            segments: &segments,
            holds: &|_, _| None,
        };
        let epochs = tail.iter().map(|r| EpochSegments { epoch: r.epoch, segments: &r.segments });
        let fold = Fold::of(&context, epochs)?;
        let published = |name: &str| root.published.as_ref().and_then(|p| p.tables.get(name).cloned());
        let tables = options.schemas.iter().enumerate().map(|(place, schema)| {
            let published = published(&schema.name);
            match known.get(place).filter(|base| base.published == published) {
                Some(base) => base.clone(),
                None => Arc::new(Base { published, stored: Lazy::new(), index: Lazy::new() }),
            }
        });
        let tables = tables.collect();
        let io = Io { store, edge, threads: options.threads };
        Ok(Self { io, segments, tables, fold, root, options })
    }

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The tables' schemas.
    pub fn schemas(&self) -> &[TableSchema] {
        &self.options.schemas
    }

    /// Rows of a table.
    pub fn count(&self, table: &str) -> Result<u64, LakeError> {
        let table = self.table(table)?;
        let base = self.tables[table].published.as_ref().map_or(0, |published| published.rows);
        let changes = self.fold.tables[table].keys.values();
        let net = changes.map(|c| i64::from(c.current.is_some()) - i64::from(c.held.is_some()));
        Ok(base.saturating_add_signed(net.sum()))
    }

    /// The files of a table's publication.
    pub fn files(&self, table: &str) -> Result<TableFiles, LakeError> {
        let files = self.base_files(self.table(table)?)?;
        Ok(TableFiles {
            data_files: files.data.len(),
            delete_files: files.deletes.len(),
            bytes: files.bytes(),
        })
    }

    /// The address of a table's Iceberg metadata, and the epoch that it is as of; `None` before the first
    /// publication.
    pub fn metadata_location(&self, table: &str) -> Result<Option<(&str, Epoch)>, LakeError> {
        let table = self.table(table)?;
        let epoch = self.root.published.as_ref().map(|published| published.epoch);
        let location = self.tables[table].published.as_ref().map(|p| p.metadata_location.as_str());
        Ok(location.zip(epoch))
    }

    /// The rows of a table whose keys lie in a share, in no order. `columns` are places; `None` is all.
    pub fn rows(
        &self,
        table: &str,
        form: TextForm,
        columns: Option<&[usize]>,
        share: Share,
    ) -> Result<Vec<Vec<Value>>, LakeError> {
        let mut rows = Vec::new();
        self.for_each_row(table, form, columns, share, &mut |row| {
            rows.push(row.iter().map(Cell::to_value).collect());
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }

    /// Hands out the cells of the rows of a table whose keys lie in a share one by one, in no order, until told to
    /// break. Only a bounded number is in memory at a time. `columns` are places; `None` is all.
    pub fn for_each_row(
        &self,
        table: &str,
        form: TextForm,
        columns: Option<&[usize]>,
        share: Share,
        each: Each<'_>,
    ) -> Result<(), LakeError> {
        self.read(table, form, columns, Portion::Keys(share), each)
    }

    fn read(
        &self,
        table: &str,
        form: TextForm,
        columns: Option<&[usize]>,
        portion: Portion,
        each: Each<'_>,
    ) -> Result<(), LakeError> {
        let table = self.table(table)?;
        let all: Vec<usize> = (0..self.options.schemas[table].columns.len()).collect();
        let reading = Reading { snapshot: self, table, form, columns: columns.unwrap_or(&all), portion };
        match reading.lake(each)? {
            ControlFlow::Continue(()) => reading.tail(each),
            ControlFlow::Break(()) => Ok(()),
        }
    }

    /// Hands out the bodies of rows of a source table or of words, `(key, body's digest)`, by their places in `wanted`
    /// and in no order; what is not there is left out. One body is in memory at a time.
    pub fn bodies(
        &self,
        table: usize,
        wanted: &[(Digest, Digest)],
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), LakeError> {
        let (context, extract) = (self.context(), self.options.extract.as_ref());
        self.texts(&context, extract, 0)?.bodies(table, wanted, each)
    }

    fn texts<'a>(
        &'a self,
        context: &'a FoldContext<'a>,
        extract: &'a dyn Extract,
        bytes_max: usize,
    ) -> Result<Texts<'a>, LakeError> {
        let bodies = Cow::Owned(FoldBodies::load(context, &self.fold, None, bytes_max)?);
        Ok(Texts::new(&self.io, context, &self.fold, self, extract, None, bodies))
    }

    fn table(&self, name: &str) -> Result<usize, LakeError> {
        let place = self.options.schemas.iter().position(|schema| schema.name == name);
        place.ok_or_else(|| LakeError::Refused(format!("there is no table {name}")))
    }

    fn base_files(&self, table: usize) -> Result<Files, LakeError> {
        Ok(self.stored(table)?.as_ref().as_ref().map(|stored| stored.files.clone()).unwrap_or_default())
    }

    fn stored(&self, table: usize) -> Result<Arc<Option<StoredTable>>, LakeError> {
        let base = &self.tables[table];
        let schema = &self.options.schemas[table];
        base.stored.get(|| {
            let published = base.published.as_ref();
            published.map(|published| load(&self.io, &self.root.location, schema, published)).transpose()
        })
    }

    fn context(&self) -> FoldContext<'_> {
        FoldContext {
            schemas: &self.options.schemas,
            streams: &self.options.streams,
            segments: &self.segments,
            holds: &|_, _| None,
        }
    }
}

impl Stored for Snapshot {
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        portion: Portion,
        each: EachRow<'_>,
    ) -> Result<(), ViewError> {
        let mut ended = Ok(());
        self.read(table, TextForm::Handles, columns, portion, &mut |row| {
            ended = each(row);
            if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        ended
    }
}

impl Bodied for Snapshot {
    fn bodies(
        &self,
        table: &str,
        wanted: &[(Digest, Digest)],
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ViewError> {
        Ok(Snapshot::bodies(self, self.table(table)?, wanted, each)?)
    }
}

impl Lake for Snapshot {
    fn place(&self, table: usize, key: Digest) -> Result<Option<Place>, LakeError> {
        let schema = &self.options.schemas[table];
        let base = &self.tables[table];
        let Some(published) = &base.published else { return Ok(None) };
        let read = || Ok(checkpoint::open(&self.io, schema, &self.base_files(table)?, published)?.index);
        Ok(base.index.get(read)?.get(key))
    }

    fn file(&self, table: usize, number: u32) -> Option<FileRef> {
        let stored = self.stored(table).ok()?;
        let files = &stored.as_ref().as_ref()?.files;
        files.data.get(&number).map(|file| file.file.clone())
    }
}

/// One pass over a table.
struct Reading<'a> {
    snapshot: &'a Snapshot,
    table: usize,
    form: TextForm,
    columns: &'a [usize],
    portion: Portion,
}

impl Reading<'_> {
    fn schema(&self) -> &TableSchema {
        &self.snapshot.options.schemas[self.table]
    }

    fn lake(&self, each: Each<'_>) -> Result<ControlFlow<()>, LakeError> {
        let mut read: Vec<usize> = self.columns.to_vec();
        let wants_keys = self.wants_keys();
        if wants_keys {
            read.extend(self.schema().key_places());
            read.sort_unstable();
            read.dedup();
        }
        let mut flow = ControlFlow::Continue(());
        for (number, file) in &self.snapshot.base_files(self.table)?.data {
            let live = portion_of(self.portion, *number, file.live(None));
            scan_positions(&self.snapshot.io, file, Some(&read), live, &mut |_, batch| {
                let keys = wants_keys.then(|| batch_keys(self.schema(), &batch, &read)).transpose()?;
                flow = self.batch(&read, &batch, keys, each)?;
                Ok(flow)
            })?;
            if flow.is_break() {
                break;
            }
        }
        Ok(flow)
    }

    /// Whether it takes a row's key to know if the row is wanted.
    fn wants_keys(&self) -> bool {
        let touched = &self.snapshot.fold.tables[self.table].keys;
        !touched.is_empty() || matches!(self.portion, Portion::Keys(share) if share != Share::ALL)
    }

    /// Whether a key is in the portion, where it goes by keys.
    fn holds(&self, key: Digest) -> bool {
        if let Portion::Keys(share) = self.portion { share.holds(key) } else { true }
    }

    fn batch(
        &self,
        read: &[usize],
        batch: &RecordBatch,
        keys: Option<Vec<Digest>>,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, LakeError> {
        let touched = &self.snapshot.fold.tables[self.table].keys;
        let columns = self.columns.iter().map(|column| {
            let kind = self.schema().columns[*column].kind;
            let at = read.partition_point(|place| place < column);
            let error = |source| LakeError::Column { table: self.schema().name.clone(), source };
            let column = ColumnReader::of(batch.column(at), kind).map_err(error)?;
            Ok((column, kind == Kind::Text && self.form == TextForm::Handles))
        });
        let columns = columns.collect::<Result<Vec<_>, LakeError>>()?;
        let mut cells = Vec::with_capacity(columns.len());
        for row in 0..batch.num_rows() {
            let key = keys.as_ref().map(|keys| keys[row]);
            if key.is_some_and(|key| !self.holds(key) || touched.contains_key(&key)) {
                continue;
            }
            cells.clear();
            cells.extend(columns.iter().map(|(column, by_handle)| match column.cell(row) {
                Cell::Str(text) if *by_handle => Cell::Text(self.handle(text)),
                cell => cell,
            }));
            if each(&cells).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The handle of a text that stands in a data file.
    fn handle(&self, text: &str) -> Text {
        let snapshot = self.snapshot;
        let digest = match snapshot.context().partner(self.table) {
            Some(_) => Digest::of(text.as_bytes()),
            None => snapshot.options.extract.identity(text),
        };
        Text { digest, len: text.len() as u32, origin: None }
    }

    fn tail(&self, each: Each<'_>) -> Result<(), LakeError> {
        let snapshot = self.snapshot;
        let context = snapshot.context();
        let texts = match self.form {
            TextForm::Handles => None,
            TextForm::Resolved => {
                let extract = snapshot.options.extract.as_ref();
                Some(snapshot.texts(&context, extract, snapshot.options.memory_bytes_max / 2)?)
            }
        };
        let keys = &snapshot.fold.tables[self.table].keys;
        let (Portion::Keys(share) | Portion::Any(share)) = self.portion;
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for (number, segment, section) in snapshot.fold.sections(&self.schema().name) {
            for (place, change) in context.changes(self.table, segment, section)?.into_iter().enumerate() {
                let current = keys.get(&change.key).and_then(|folded| folded.current);
                let here = current.is_some_and(|at| (at.segment, at.place) == (number, place as u32));
                if !here || !share.holds(change.key) {
                    continue;
                }
                let values: Vec<Value> = self.columns.iter().map(|c| change.values[*c].clone()).collect();
                bytes += values.iter().map(text_bytes).sum::<u64>();
                chunk.push((change.key, values));
                let full = chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_TEXT_BYTES;
                if full && self.emit(texts.as_ref(), std::mem::take(&mut chunk), each)?.is_break() {
                    return Ok(());
                }
                bytes = if full { 0 } else { bytes };
            }
        }
        self.emit(texts.as_ref(), chunk, each).map(|_| ())
    }

    fn emit(
        &self,
        texts: Option<&Texts<'_>>,
        rows: Vec<(Digest, Vec<Value>)>,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, LakeError> {
        let made = texts.map_or(Ok(Made::new()), |texts| texts.resolve(self.table, &rows))?;
        for (_, values) in rows {
            let cells: Vec<Cell<'_>> = match texts {
                Some(_) => resolved(&values, &made).collect(),
                None => values.iter().map(|value| without_origin(value.cell())).collect(),
            };
            if each(&cells).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A portion of a file's positions. A small file is read by one alone, of a large one each reads a run.
fn portion_of(portion: Portion, number: u32, mut live: Vec<u32>) -> Vec<u32> {
    let Portion::Any(share) = portion else { return live };
    if live.len() < DIVIDED_ROWS {
        return if number as usize % share.of == share.number { live } else { Vec::new() };
    }
    let [from, to] = [share.number, share.number + 1].map(|part| live.len() * part / share.of);
    live.truncate(to);
    live.split_off(from)
}

fn text_bytes(value: &Value) -> u64 {
    if let Value::Text(text) = value { text.len as u64 } else { 0 }
}

fn without_origin(cell: Cell<'_>) -> Cell<'_> {
    match cell {
        Cell::Text(text) => Cell::Text(Text { origin: None, ..text }),
        other => other,
    }
}

/// The root of an epoch, or the newest; clear errors where it is not there.
async fn find_root(store: &SharedStore, epoch: Option<Epoch>) -> Result<Root, LakeError> {
    let newest = log::newest_root(store.as_ref(), None).await?;
    let newest = newest
        .ok_or_else(|| LakeError::Refused(format!("the store {} holds no commit yet", store.location())))?;
    match epoch {
        None => Ok(newest),
        Some(epoch) if epoch == newest.epoch => Ok(newest),
        Some(epoch) if epoch > newest.epoch => {
            Err(LakeError::Refused(format!("epoch {epoch} is not committed; the newest is {}", newest.epoch)))
        }
        Some(epoch) => match log::read_root(store.as_ref(), epoch).await {
            Err(StoreError::NotFound { .. }) => {
                let from = log::log_start(store.as_ref()).await?.unwrap_or(newest.epoch);
                Err(LakeError::Refused(format!(
                    "epoch {epoch} is no longer retained; epochs {from} to {} are",
                    newest.epoch
                )))
            }
            found => Ok(found?),
        },
    }
}

/// The roots after a root's publication, up to itself.
pub(super) async fn tail(store: &SharedStore, root: &Root) -> Result<Vec<Root>, LakeError> {
    let first = root.published.as_ref().map_or(0, |published| published.epoch + 1);
    let mut roots = match first < root.epoch {
        true => log::roots(store.as_ref(), first..=root.epoch - 1).await?,
        false => Vec::new(),
    };
    if first <= root.epoch {
        roots.push(root.clone());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_of_a_file_is_in_one_portion() {
        for rows in [0, 1, 7, DIVIDED_ROWS - 1, DIVIDED_ROWS, 3 * DIVIDED_ROWS + 1] {
            let live: Vec<u32> = (0..rows as u32).map(|n| 2 * n).collect();
            for of in 1..5 {
                let part = |number| portion_of(Portion::Any(Share { number, of }), 7, live.clone());
                assert_eq!((0..of).flat_map(part).collect::<Vec<u32>>(), live, "{rows} rows for {of}");
            }
            let keys = Portion::Keys(Share { number: 1, of: 2 });
            assert_eq!(portion_of(keys, 7, live.clone()), live, "keys decide, not positions");
        }
    }
}
