//! Writes rows as Parquet data files.
//!
//! Text columns are plain (no dictionary, no statistics); a page holds 64 KiB of rows' texts at most, and
//! an offset index leads to it, so that the text of one row can be had by reading one page. A row group
//! holds a bounded amount of text before compression, so that one batch never outgrows Arrow's 32-bit
//! offsets and a reader's memory stays small. A file that has reached its size is closed and the next
//! one begun.

use super::schema::{arrow_schema, conform};
use super::{LakeError, unusable};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tidemill_core::columns::{ColumnBuilder, ColumnError, Texts};
use tidemill_types::{Cell, Kind, TableSchema};

/// The greatest size of a page of a text column that holds more than one row.
const TEXT_PAGE_BYTES: usize = 64 << 10;
/// Rows between two looks at a page's size, where the table has texts.
const TEXT_ROWS_CHECKED: usize = 8;
/// Bytes before compression that a row group may hold, at most. Of small files it holds less: while it is open its
/// columns lie in memory.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// A finished data file.
pub(super) struct Finished {
    pub body: Bytes,
    pub rows: u32,
}

/// Builds one record batch of rows.
pub(super) struct BatchBuilder<'s> {
    schema: &'s TableSchema,
    arrow: SchemaRef,
    columns: Vec<ColumnBuilder>,
}

impl<'s> BatchBuilder<'s> {
    pub fn new(schema: &'s TableSchema) -> Self {
        let columns = schema.columns.iter().map(|c| ColumnBuilder::new(c.kind, Texts::Strings)).collect();
        Self { schema, arrow: arrow_schema(schema), columns }
    }

    /// Appends a row; texts are resolved.
    pub fn push<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) -> Result<(), LakeError> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.append(cell).map_err(|source| column_error(self.schema, source))?;
        }
        Ok(())
    }

    /// The rows pushed since the last call.
    pub fn finish(&mut self) -> Result<RecordBatch, LakeError> {
        let arrays = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>();
        let arrays = arrays.map_err(|source| column_error(self.schema, source))?;
        conform_batch(self.schema, &self.arrow, arrays)
    }
}

fn column_error(schema: &TableSchema, source: ColumnError) -> LakeError {
    LakeError::Column { table: schema.name.clone(), source }
}

/// A batch of exactly the schema of the table's data files.
pub(super) fn conform_batch(
    schema: &TableSchema,
    arrow: &SchemaRef,
    arrays: Vec<ArrayRef>,
) -> Result<RecordBatch, LakeError> {
    let conformed = arrays.into_iter().zip(arrow.fields()).map(|(array, field)| conform(array, field));
    let conformed = conformed.collect::<Result<Vec<_>, _>>().map_err(|e| column_error(schema, e))?;
    RecordBatch::try_new(arrow.clone(), conformed).map_err(|e| column_error(schema, e.into()))
}

fn properties(schema: &TableSchema) -> WriterProperties {
    let zstd = ZstdLevel::try_new(1).map(Compression::ZSTD).unwrap_or(Compression::SNAPPY);
    let mut builder = WriterProperties::builder()
        .set_compression(zstd)
        .set_created_by("tidemill".to_string())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(32));
    let texts = schema.columns.iter().filter(|c| c.kind == Kind::Text);
    let mut any = false;
    for column in texts {
        any = true;
        let path = ColumnPath::new(vec![column.name.clone()]);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
            .set_column_data_page_size_limit(path, TEXT_PAGE_BYTES);
    }
    if any {
        builder = builder.set_write_batch_size(TEXT_ROWS_CHECKED);
    }
    builder.build()
}

/// Writes the batches of one table into files of bounded size, in memory.
pub(super) struct DataWriter<'s> {
    schema: &'s TableSchema,
    arrow: SchemaRef,
    properties: WriterProperties,
    file_bytes_max: usize,
    open: Option<Open>,
}

struct Open {
    writer: ArrowWriter<Vec<u8>>,
    rows: u32,
    group_bytes: usize,
}

impl<'s> DataWriter<'s> {
    pub fn new(schema: &'s TableSchema, file_bytes_max: usize) -> Self {
        let (arrow, properties) = (arrow_schema(schema), properties(schema));
        Self { schema, arrow, properties, file_bytes_max, open: None }
    }

    /// The position that the next row gets in its file.
    pub fn position(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.rows)
    }

    fn open(&mut self) -> Result<&mut Open, LakeError> {
        if self.open.is_none() {
            let made = ArrowWriter::try_new(Vec::new(), self.arrow.clone(), Some(self.properties.clone()));
            let writer = made.map_err(unusable(&self.schema.name))?;
            self.open = Some(Open { writer, rows: 0, group_bytes: 0 });
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }

    /// Writes a batch into the open file; the file, if it is full now.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Option<Finished>, LakeError> {
        let (table, bytes_max) = (self.schema.name.clone(), self.file_bytes_max);
        let open = self.open()?;
        open.writer.write(batch).map_err(unusable(&table))?;
        open.rows += batch.num_rows() as u32;
        open.group_bytes += batch_bytes(batch);
        if open.group_bytes >= bytes_max.min(ROW_GROUP_BYTES) {
            open.writer.flush().map_err(unusable(&table))?;
            open.group_bytes = 0;
        }
        match open.writer.bytes_written() >= bytes_max {
            true => self.finish(),
            false => Ok(None),
        }
    }

    /// Closes the open file, if there is one.
    pub fn finish(&mut self) -> Result<Option<Finished>, LakeError> {
        let Some(open) = self.open.take() else { return Ok(None) };
        let body = open.writer.into_inner().map_err(unusable(&self.schema.name))?;
        Ok(Some(Finished { body: body.into(), rows: open.rows }))
    }
}

/// What a batch's rows take, not what its buffers were allocated with.
fn batch_bytes(batch: &RecordBatch) -> usize {
    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    sizes.sum()
}
