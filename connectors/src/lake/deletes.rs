//! Positional delete files: which positions of which data files are gone.

use super::io::{FileRef, Io};
use super::layout::is_whole;
use super::{LakeError, unusable};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::Arc;

/// Iceberg's reserved field ids of a delete file's two columns.
const FILE_PATH_ID: i32 = 2147483546;
const POS_ID: i32 = 2147483545;
/// Rows of one record batch.
const BATCH_ROWS: usize = 64 << 10;

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind, id: i32| {
        let ids = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string())]);
        Field::new(name, kind, false).with_metadata(ids)
    };
    let path = field("file_path", DataType::Utf8, FILE_PATH_ID);
    Arc::new(Schema::new(vec![path, field("pos", DataType::Int64, POS_ID)]))
}

/// Encodes deletions as one file: `(address of the data file, its positions)`. Sorted by address and
/// position, as Iceberg asks.
pub(super) fn encode(mut deletions: Vec<(String, RoaringBitmap)>) -> Result<Bytes, LakeError> {
    deletions.sort_by(|a, b| a.0.cmp(&b.0));
    let what = "a positional delete file";
    let zstd = ZstdLevel::try_new(1).map(Compression::ZSTD).unwrap_or(Compression::SNAPPY);
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let made = ArrowWriter::try_new(Vec::new(), schema(), Some(properties));
    let mut writer = made.map_err(unusable(what))?;
    for (address, positions) in &deletions {
        let positions: Vec<i64> = positions.iter().map(i64::from).collect();
        for chunk in positions.chunks(BATCH_ROWS) {
            let paths = StringArray::from_iter_values(chunk.iter().map(|_| address.as_str()));
            let arrays: Vec<ArrayRef> = vec![Arc::new(paths), Arc::new(Int64Array::from(chunk.to_vec()))];
            let batch = RecordBatch::try_new(schema(), arrays).map_err(unusable(what))?;
            writer.write(&batch).map_err(unusable(what))?;
        }
    }
    Ok(writer.into_inner().map_err(unusable(what))?.into())
}

/// Reads a delete file, whole: positions by the address of their data file. Bytes that nobody wrote could bring rows
/// back.
pub(super) fn read(io: &Io, file: &FileRef) -> Result<HashMap<String, RoaringBitmap>, LakeError> {
    let name = &file.name;
    let body = io.get_whole(name, |body| is_whole(name, body) != Some(false))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).map_err(unusable(name))?;
    let mut deletions: HashMap<String, RoaringBitmap> = HashMap::new();
    for batch in reader.with_batch_size(BATCH_ROWS).build().map_err(unusable(name))? {
        let batch = batch.map_err(unusable(name))?;
        let paths = batch.column(0).as_any().downcast_ref::<StringArray>();
        let positions = batch.column(1).as_any().downcast_ref::<Int64Array>();
        let (Some(paths), Some(positions)) = (paths, positions) else {
            return Err(unusable(name)("it is no positional delete file"));
        };
        for row in 0..batch.num_rows() {
            let position = u32::try_from(positions.value(row)).map_err(unusable(name))?;
            match deletions.get_mut(paths.value(row)) {
                Some(positions) => positions.insert(position),
                None => deletions.entry(paths.value(row).to_string()).or_default().insert(position),
            };
        }
    }
    Ok(deletions)
}
