//! The lake's I/O: blocking calls over the async store, Parquet files read by pages.
//!
//! Only what a projection and a selection of rows need is fetched: the footer once, then the pages of
//! the chosen columns that hold chosen rows (data files carry an offset index), neighbours in one
//! request, several requests at a time. A small object is fetched whole, and held to its digest then.
//!
//! Decoders of damaged bytes may panic. A panic while a file is fetched and decoded, not in what a caller does with its
//! rows, is an error that names the file, as any other.

use super::layout::is_whole;
use super::{LakeError, unreadable, unusable};
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use std::ops::{ControlFlow, Range};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tidemill_core::edge::SharedEdge;
use tidemill_core::store::{SharedStore, StoreError};

/// Objects up to this size are fetched whole.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// The end of a file that is fetched first: most footers fit in.
const FOOTER_BYTES: usize = 64 << 10;
/// What a decoded record batch should take at most.
const BATCH_BYTES: u64 = 8 << 20;

/// A store, and the edge that waits for it.
#[derive(Clone)]
pub(super) struct Io {
    pub store: SharedStore,
    pub edge: SharedEdge,
    /// Threads that work on one task side by side; with one there is none but the caller's.
    pub threads: usize,
}

/// A Parquet object: its name and size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileRef {
    pub name: String,
    pub bytes: u64,
}

impl Io {
    /// Reads an object.
    pub fn get(&self, name: &str) -> Result<Bytes, LakeError> {
        Ok(self.edge.block_on(self.store.get(name))?)
    }

    /// Reads an object that counts only as it was written, which `whole` tells of its bytes.
    pub fn get_whole(&self, name: &str, whole: impl FnOnce(&[u8]) -> bool) -> Result<Bytes, LakeError> {
        Ok(self.edge.block_on(fetch_whole(&self.store, name, whole))?)
    }

    /// Reads a Parquet file's rows, or those of a selection, batch by batch. `columns` are places of
    /// top-level columns in ascending order; `None` reads all.
    pub fn scan(
        &self,
        file: &FileRef,
        columns: Option<&[usize]>,
        selection: Option<RowSelection>,
        each: &mut dyn FnMut(RecordBatch) -> Result<ControlFlow<()>, LakeError>,
    ) -> Result<(), LakeError> {
        let mut stream = self.decoded(file, self.open(file, columns, selection))?;
        while let Some(batch) = self.decoded(file, async { stream.next().await.transpose() })? {
            if each(batch)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for something that is decoded from a file.
    fn decoded<T: Send>(
        &self,
        file: &FileRef,
        decoding: impl Future<Output = Result<T, ParquetError>> + Send,
    ) -> Result<T, LakeError> {
        match self.edge.block_on(AssertUnwindSafe(decoding).catch_unwind()) {
            Ok(decoded) => decoded.map_err(unreadable(&file.name)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
                Err(unusable(&file.name)(format!("its decoder stopped: {text}")))
            }
        }
    }

    async fn open(
        &self,
        file: &FileRef,
        columns: Option<&[usize]>,
        selection: Option<RowSelection>,
    ) -> Result<parquet::arrow::async_reader::ParquetRecordBatchStream<StoreReader>, ParquetError> {
        let reader = StoreReader::open(self.store.clone(), file).await?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
        let rows = batch_rows(builder.metadata(), columns);
        builder = builder.with_batch_size(rows);
        if let Some(columns) = columns {
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        builder.build()
    }

    /// The number of rows that a Parquet file's footer states.
    pub fn footer_rows(&self, file: &FileRef) -> Result<u64, LakeError> {
        let footer = self.decoded(file, async {
            let mut reader = StoreReader::open(self.store.clone(), file).await?;
            reader.get_metadata(None).await
        });
        Ok(footer?.file_metadata().num_rows() as u64)
    }
}

/// How many rows of the chosen columns fit a batch, by their average size.
fn batch_rows(metadata: &ParquetMetaData, columns: Option<&[usize]>) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    let descriptor = metadata.file_metadata().schema_descr();
    for group in metadata.row_groups() {
        rows += group.num_rows() as u64;
        for (leaf, column) in group.columns().iter().enumerate() {
            if columns.is_none_or(|chosen| chosen.contains(&descriptor.get_column_root_idx(leaf))) {
                bytes += column.uncompressed_size() as u64;
            }
        }
    }
    let average = bytes.checked_div(rows).unwrap_or(0).max(1);
    (BATCH_BYTES / average).clamp(1, 8192) as usize
}

/// The rows of `0..rows` for which `keep` holds, as a selection; `None` when it is all of them.
pub(super) fn select_positions(positions: &[u32]) -> RowSelection {
    let ranges = positions.chunk_by(|a, b| a + 1 == *b);
    let ranges = ranges.map(|run| run[0] as usize..*run.last().unwrap_or(&run[0]) as usize + 1);
    let end = positions.last().map_or(0, |last| *last as usize + 1);
    RowSelection::from_consecutive_ranges(ranges, end)
}

/// One Parquet object as the reader wants it.
struct StoreReader {
    store: SharedStore,
    file: FileRef,
    whole: Option<Bytes>,
}

/// Fetches an object, which must be what was written.
async fn fetch_whole(
    store: &SharedStore,
    name: &str,
    whole: impl FnOnce(&[u8]) -> bool,
) -> Result<Bytes, StoreError> {
    let body = store.get(name).await?;
    if whole(&body) {
        return Ok(body);
    }
    let problem =
        "is not what was written: its bytes do not have their digest; restore it from a copy of the store";
    Err(StoreError::Damaged(format!("{}/{name} {problem}", store.location())))
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl StoreReader {
    async fn open(store: SharedStore, file: &FileRef) -> Result<Self, ParquetError> {
        let whole = match file.bytes <= WHOLE_BYTES_MAX {
            true => {
                let body = fetch_whole(&store, &file.name, |body| is_whole(&file.name, body) != Some(false));
                Some(body.await.map_err(external)?)
            }
            false => None,
        };
        Ok(Self { store, file: file.clone(), whole })
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let Some(whole) = &self.whole else {
            return self.store.get_range(&self.file.name, range).await.map_err(external);
        };
        match range.end <= whole.len() as u64 {
            true => Ok(whole.slice(range.start as usize..range.end as usize)),
            false => Err(ParquetError::EOF(format!("{} ends at byte {}", self.file.name, whole.len()))),
        }
    }

    fn gap_bytes(&self) -> u64 {
        if self.store.is_local() { 32 << 10 } else { 1 << 20 }
    }
}

/// Ranges with small gaps between them become one.
fn coalesce(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end + gap => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

impl AsyncFileReader for StoreReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.read(range).await }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            let merged = coalesce(&ranges, self.gap_bytes());
            let fetched = try_join_all(merged.iter().map(|range| self.read(range.clone()))).await?;
            Ok(ranges.iter().map(|range| cut(&merged, &fetched, range)).collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.file.bytes;
            let reader = ParquetMetaDataReader::new()
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Optional)
                .with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

/// Cuts a range out of the merged range that holds it.
fn cut(merged: &[Range<u64>], fetched: &[Bytes], range: &Range<u64>) -> Bytes {
    let at = merged.partition_point(|m| m.end < range.end);
    let start = (range.start - merged[at].start) as usize;
    fetched[at].slice(start..start + (range.end - range.start) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_with_small_gaps_are_fetched_as_one() {
        let ranges = [10..20, 0..5, 100..110, 22..30];
        assert_eq!(coalesce(&ranges, 5), vec![0..30, 100..110]);
    }

    #[test]
    fn a_selection_names_exactly_its_positions() {
        let selection = select_positions(&[0, 1, 5, 7, 8]);
        assert_eq!((selection.row_count(), selection.skipped_row_count()), (5, 4));
    }

    /// A bit in a footer made the decoder panic, and with it the whole command.
    #[test]
    fn what_is_made_of_damaged_bytes_is_rows_or_an_error_that_names_the_file() {
        use crate::lake::data_file::{BatchBuilder, DataWriter};
        use tidemill_types::{Cell, Kind, TableSchema};
        let schema = TableSchema::new("t", [("id*", Kind::Long), ("name", Kind::String)]);
        let mut batch = BatchBuilder::new(&schema);
        (0..20).for_each(|id| batch.push([Cell::Long(id), Cell::Str("a name")]).unwrap());
        let mut writer = DataWriter::new(&schema, 8 << 20);
        writer.write(&batch.finish().unwrap()).unwrap();
        let body = writer.finish().unwrap().unwrap().body;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = crate::store::open("memory://lake-io-damaged").unwrap();
        let io = Io { store, edge: crate::edge::Tokio::shared(runtime.handle().clone()), threads: 1 };
        let file = FileRef { name: "f".into(), bytes: body.len() as u64 };
        let (mut refused, mut stopped) = (0, 0);
        for place in 0..body.len() {
            let mut damaged = body.to_vec();
            damaged[place] ^= 1 << (place % 8);
            runtime.block_on(io.store.put("f", damaged.into())).unwrap();
            let read = io.scan(&file, None, None, &mut |_| Ok(ControlFlow::Continue(())));
            for error in [read.err(), io.footer_rows(&file).err()].into_iter().flatten() {
                refused += 1;
                stopped += u32::from(error.to_string().contains("its decoder stopped"));
                assert!(error.to_string().starts_with("f cannot be used"), "{error}");
            }
        }
        assert!(refused > body.len() / 4, "{refused} of {} bytes", body.len());
        assert!(stopped > 0, "no decoder panics any more: what catches that can go");
    }

    /// 40 MiB of text make two files of about 8 MiB, each of more than one row group.
    #[test]
    fn single_rows_of_a_large_file_are_read_by_ranges() {
        use crate::lake::data_file::{BatchBuilder, DataWriter};
        use arrow::array::{Array, StringArray};
        use tidemill_types::{Cell, Kind, TableSchema};
        let schema = TableSchema::new("t", [("id*", Kind::Long), ("body", Kind::Text)]);
        let body = |id: u32| -> String {
            let hashes = (0..1600u32).map(|n| blake3::hash(&[id.to_le_bytes(), n.to_le_bytes()].concat()));
            hashes.map(|hash| hash.to_hex().to_string()).collect()
        };
        let mut writer = DataWriter::new(&schema, 8 << 20);
        let mut finished = Vec::new();
        for ids in (0..400u32).collect::<Vec<_>>().chunks(50) {
            let mut batch = BatchBuilder::new(&schema);
            ids.iter().for_each(|id| batch.push([Cell::Long(*id as i64), Cell::Str(&body(*id))]).unwrap());
            finished.extend(writer.write(&batch.finish().unwrap()).unwrap());
        }
        finished.extend(writer.finish().unwrap());
        assert_eq!((finished.len(), finished.iter().map(|file| file.rows).sum::<u32>()), (2, 400));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = crate::store::open("memory://lake-io-large").unwrap();
        let io = Io { store, edge: crate::edge::Tokio::shared(runtime.handle().clone()), threads: 2 };
        let first = &finished[0];
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(first.body.clone());
        assert!(reader.unwrap().metadata().num_row_groups() > 1);
        assert!(first.body.len() as u64 > WHOLE_BYTES_MAX);
        runtime.block_on(io.store.put("f", first.body.clone())).unwrap();
        let file = FileRef { name: "f".into(), bytes: first.body.len() as u64 };
        let wanted = [0, 7, 8, first.rows / 2, first.rows - 1];
        let mut got = Vec::new();
        io.scan(&file, Some(&[1]), Some(select_positions(&wanted)), &mut |batch| {
            let texts = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
            got.extend((0..texts.len()).map(|row| texts.value(row).to_string()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(got, wanted.map(body));
        assert_eq!(io.footer_rows(&file).unwrap(), first.rows as u64);
    }
}
