//! Segments: what a worker changed in an epoch, all its tables in one object.
//!
//! A segment is a sequence of Arrow IPC streams (LZ4 frames inside), one for each table that changed
//! and one for the bodies that arrived; its [`SegmentRef`](tidemill_types::SegmentRef) holds a byte
//! range for each. A table's stream has three columns of ours, `_diff`, `_key` and `_row` (the digests of
//! key and row), then the table's columns; a text stands as its digest, length and origin. Rows of one table and epoch are
//! consolidated: no row twice, no diff zero. Encoding and decoding are pure.

use crate::columns::{ColumnBuilder, ColumnError, ColumnReader, Texts, arrow_type, digests};
use arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, Int64Builder,
    RecordBatch,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_types::{Cell, Digest, Epoch, Row, SectionRef, TableSchema, Value, row_digest};

/// Bodies of one record batch: enough to compress well, little enough to read one of them.
const BODIES_BATCH_BYTES: usize = 1 << 20;

/// Changes of one record batch, and bytes of their strings: columns have offsets of 32 bits.
const CHANGES_BATCH_ROWS: usize = 32_768;
const CHANGES_BATCH_BYTES: usize = 64 << 20;

/// A segment could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A column is not what its schema says.
    #[error("table {table}: {source}")]
    Column {
        /// The table.
        table: String,
        /// What is wrong.
        source: ColumnError,
    },
    /// The bytes are not an Arrow stream of the expected shape.
    #[error("the segment's bytes cannot be read: {0}")]
    Arrow(#[from] ArrowError),
    /// Two different rows of one key at once: the flow broke its table's contract.
    #[error("table {table} would hold two rows of one key: {row}")]
    Contract {
        /// The table.
        table: String,
        /// One of the rows.
        row: String,
    },
}

/// One change of a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The digest of the row's key.
    pub key: Digest,
    /// The digest of the row.
    pub row: Digest,
    /// How many times it came (positive) or went.
    pub diff: i64,
    /// The row.
    pub values: Vec<Value>,
}

/// The changes of one table in one epoch on one worker, of whatever row type.
pub trait ChangeBatch: Send {
    /// Consolidates the changes and hands out each that is left.
    fn drain(&mut self, out: &mut dyn FnMut(&dyn Row, i64));
}

/// Typed changes.
pub struct Updates<R>(pub Vec<(R, isize)>);

impl<R: Row + Ord + Send> ChangeBatch for Updates<R> {
    fn drain(&mut self, out: &mut dyn FnMut(&dyn Row, i64)) {
        differential_dataflow::consolidation::consolidate(&mut self.0);
        for (row, diff) in self.0.drain(..) {
            out(&row, diff as i64);
        }
    }
}

/// Changes that are already values.
impl ChangeBatch for Vec<(Vec<Value>, i64)> {
    fn drain(&mut self, out: &mut dyn FnMut(&dyn Row, i64)) {
        for (values, diff) in self.drain(..) {
            out(&ValuesRow(&values), diff);
        }
    }
}

/// A row of values.
pub struct ValuesRow<'v>(pub &'v [Value]);

impl Row for ValuesRow<'_> {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        self.0.iter().for_each(|value| out(value.cell()));
    }
}

/// What a worker gathered for one epoch.
pub struct SegmentDraft {
    /// The epoch.
    pub epoch: Epoch,
    /// The worker.
    pub worker: usize,
    /// `(the table's place, its changes)`.
    pub tables: Vec<(usize, Box<dyn ChangeBatch>)>,
    /// The bodies that arrived.
    pub bodies: Vec<(Digest, Bytes)>,
}

/// An encoded segment.
pub struct Encoded {
    /// The object.
    pub bytes: Bytes,
    /// A byte range for each table that changed.
    pub tables: BTreeMap<String, SectionRef>,
    /// The byte range of the bodies.
    pub bodies: Option<SectionRef>,
}

impl Encoded {
    /// Whether nothing is in it, so that it need not be written.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.bodies.is_none()
    }
}

fn ipc_options() -> Result<IpcWriteOptions, ArrowError> {
    IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))
}

fn change_schema(schema: &TableSchema) -> Schema {
    let own = [
        Field::new("_diff", DataType::Int64, false),
        Field::new("_key", DataType::FixedSizeBinary(16), false),
        Field::new("_row", DataType::FixedSizeBinary(16), false),
    ];
    let columns =
        schema.columns.iter().map(|c| Field::new(&c.name, arrow_type(c.kind, Texts::Handles), c.nullable));
    Schema::new(own.into_iter().chain(columns).collect::<Vec<_>>())
}

struct ChangesBuilder<'s> {
    schema: &'s TableSchema,
    arrow: Arc<Schema>,
    /// Rows and bytes of texts since the last flush.
    rows: usize,
    bytes: usize,
    diff: Int64Builder,
    key: FixedSizeBinaryBuilder,
    row: FixedSizeBinaryBuilder,
    columns: Vec<ColumnBuilder>,
    section: SectionRef,
}

impl<'s> ChangesBuilder<'s> {
    fn new(schema: &'s TableSchema) -> Self {
        Self {
            schema,
            arrow: Arc::new(change_schema(schema)),
            rows: 0,
            bytes: 0,
            diff: Int64Builder::new(),
            key: FixedSizeBinaryBuilder::new(16),
            row: FixedSizeBinaryBuilder::new(16),
            columns: schema.columns.iter().map(|c| ColumnBuilder::new(c.kind, Texts::Handles)).collect(),
            section: SectionRef::default(),
        }
    }

    fn push(&mut self, row: &dyn Row, diff: i64) -> Result<(), ColumnError> {
        let mut cells = Vec::with_capacity(self.columns.len());
        row.cells(&mut |cell| cells.push(cell));
        self.rows += 1;
        self.bytes += cells.iter().map(cell_bytes).sum::<usize>();
        self.diff.append_value(diff);
        self.key.append_value(tidemill_types::key_digest(self.schema, cells.iter().copied()).to_bytes())?;
        self.row.append_value(row_digest(cells.iter().copied()).to_bytes())?;
        match diff > 0 {
            true => self.section.inserted += 1,
            false => self.section.deleted += 1,
        }
        debug_assert_eq!(
            cells.len(),
            self.columns.len(),
            "{} has another number of columns",
            self.schema.name
        );
        self.columns.iter_mut().zip(cells).try_for_each(|(column, cell)| column.append(cell))
    }

    fn is_full(&self) -> bool {
        self.rows >= CHANGES_BATCH_ROWS || self.bytes >= CHANGES_BATCH_BYTES
    }

    /// The changes since the last flush.
    fn flush(&mut self) -> Result<RecordBatch, ColumnError> {
        (self.rows, self.bytes) = (0, 0);
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(self.diff.finish()), Arc::new(self.key.finish()), Arc::new(self.row.finish())];
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        Ok(RecordBatch::try_new(self.arrow.clone(), arrays)?)
    }
}

/// What a cell adds to a column that has offsets.
fn cell_bytes(cell: &Cell<'_>) -> usize {
    match cell {
        Cell::Str(text) => text.len(),
        Cell::Bytes(bytes) => bytes.len(),
        Cell::Floats(floats) => floats.len() * 4,
        _ => 0,
    }
}

/// Writes the changes of a table, in batches of bounded size.
fn write_table(
    schema: &TableSchema,
    changes: &mut dyn ChangeBatch,
    out: &mut Vec<u8>,
) -> Result<Option<SectionRef>, SegmentError> {
    let column = |source| SegmentError::Column { table: schema.name.clone(), source };
    let offset = out.len();
    let mut builder = ChangesBuilder::new(schema);
    let mut writer = StreamWriter::try_new_with_options(&mut *out, &builder.arrow, ipc_options()?)?;
    let mut failed = None;
    changes.drain(&mut |row, diff| {
        let mut take = || {
            check_diff(schema, row, diff)?;
            builder.push(row, diff).map_err(column)?;
            if builder.is_full() {
                writer.write(&builder.flush().map_err(column)?)?;
            }
            Ok(())
        };
        if failed.is_none() {
            failed = take().err();
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if builder.rows > 0 {
        writer.write(&builder.flush().map_err(column)?)?;
    }
    writer.finish()?;
    drop(writer);
    let mut section = builder.section;
    if section.inserted + section.deleted == 0 {
        out.truncate(offset);
        return Ok(None);
    }
    (section.offset, section.length) = (offset as u64, (out.len() - offset) as u64);
    Ok(Some(section))
}

/// Tables are keyed: a row comes or goes once. Anything else is a flow that broke its contract.
fn check_diff(schema: &TableSchema, row: &dyn Row, diff: i64) -> Result<(), SegmentError> {
    if diff == 1 || diff == -1 {
        return Ok(());
    }
    let mut cells = Vec::new();
    row.cells(&mut |cell| cells.push(format!("{cell:?}")));
    Err(SegmentError::Contract {
        table: schema.name.clone(),
        row: format!("{} ({diff} times)", cells.join(", ")),
    })
}

/// Writes bodies in batches of bounded size, one after the other, so that only one is in memory twice.
fn write_bodies(bodies: &[(Digest, Bytes)], out: &mut Vec<u8>) -> Result<(u64, u64), ArrowError> {
    let offset = out.len() as u64;
    let schema = Arc::new(Schema::new(vec![
        Field::new("digest", DataType::FixedSizeBinary(16), false),
        Field::new("body", DataType::Binary, false),
    ]));
    let mut writer = StreamWriter::try_new_with_options(&mut *out, &schema, ipc_options()?)?;
    let mut rest = bodies;
    while !rest.is_empty() {
        let mut size = 0;
        let full = |(_, body): &(Digest, Bytes)| {
            size += body.len();
            size >= BODIES_BATCH_BYTES
        };
        let count = rest.iter().position(full).map_or(rest.len(), |place| place + 1);
        let (batch, later) = rest.split_at(count);
        let digests = FixedSizeBinaryArray::try_from_iter(batch.iter().map(|(digest, _)| digest.to_bytes()))?;
        let bytes = BinaryArray::from_iter_values(batch.iter().map(|(_, body)| body));
        let arrays: Vec<ArrayRef> = vec![Arc::new(digests), Arc::new(bytes)];
        writer.write(&RecordBatch::try_new(schema.clone(), arrays)?)?;
        rest = later;
    }
    writer.finish()?;
    drop(writer);
    Ok((offset, out.len() as u64 - offset))
}

/// Encodes a draft. `schemas` are the program's tables in their order.
pub fn encode(schemas: &[TableSchema], mut draft: SegmentDraft) -> Result<Encoded, SegmentError> {
    let body_bytes: usize = draft.bodies.iter().map(|(_, body)| body.len()).sum();
    let mut out = Vec::with_capacity(body_bytes / 2 + (64 << 10));
    let mut tables = BTreeMap::new();
    let bodies = match draft.bodies.is_empty() {
        true => None,
        false => {
            let (offset, length) = write_bodies(&draft.bodies, &mut out)?;
            Some(SectionRef { offset, length, inserted: draft.bodies.len() as u64, deleted: 0 })
        }
    };
    for (table, changes) in &mut draft.tables {
        let schema = &schemas[*table];
        if let Some(section) = write_table(schema, changes.as_mut(), &mut out)? {
            tables.insert(schema.name.clone(), section);
        }
    }
    Ok(Encoded { bytes: out.into(), tables, bodies })
}

fn range(segment: &Bytes, section: &SectionRef) -> Result<Bytes, SegmentError> {
    let end = section.offset.checked_add(section.length).filter(|end| *end <= segment.len() as u64);
    let end = end.ok_or_else(|| ArrowError::IpcError("a byte range lies outside the segment".into()))?;
    Ok(segment.slice(section.offset as usize..end as usize))
}

/// The changes of one table of a segment, given the whole segment.
pub fn decode_changes(
    schema: &TableSchema,
    segment: &Bytes,
    section: &SectionRef,
) -> Result<Vec<Change>, SegmentError> {
    decode_columns(schema, segment, section, |_| true)
}

/// As [`decode_changes`], but only the columns at the places for which `wanted` holds; the others are null.
pub fn decode_columns(
    schema: &TableSchema,
    segment: &Bytes,
    section: &SectionRef,
    wanted: impl Fn(usize) -> bool,
) -> Result<Vec<Change>, SegmentError> {
    let column = |source| SegmentError::Column { table: schema.name.clone(), source };
    let mut changes = Vec::new();
    for batch in StreamReader::try_new(std::io::Cursor::new(range(segment, section)?), None)? {
        let batch = batch?;
        let places = schema.columns.iter().map(|c| batch.schema().index_of(&c.name));
        let places = places.collect::<Result<Vec<usize>, _>>()?;
        let read = schema.columns.iter().zip(places).enumerate().map(|(column, (c, at))| {
            wanted(column).then(|| ColumnReader::of(batch.column(at), c.kind)).transpose()
        });
        let read = read.collect::<Result<Vec<Option<ColumnReader<'_>>>, _>>().map_err(column)?;
        let diff = batch.column(0).as_any().downcast_ref::<Int64Array>();
        let diff = diff.ok_or_else(|| ArrowError::SchemaError("_diff is not a long".into()))?;
        let keys = digests(batch.column(1)).map_err(column)?;
        let rows = digests(batch.column(2)).map_err(column)?;
        for place in 0..batch.num_rows() {
            let value = |column: &Option<ColumnReader<'_>>| {
                column.as_ref().map_or(Value::Null, |column| column.cell(place).to_value())
            };
            changes.push(Change {
                key: keys[place],
                row: rows[place],
                diff: diff.value(place),
                values: read.iter().map(value).collect(),
            });
        }
    }
    Ok(changes)
}

/// The bodies of a segment for which `wanted` holds, given the whole segment.
pub fn decode_bodies(
    segment: &Bytes,
    section: &SectionRef,
    mut wanted: impl FnMut(Digest) -> bool,
) -> Result<Vec<(Digest, Bytes)>, SegmentError> {
    let column = |source| SegmentError::Column { table: "bodies".into(), source };
    let mut bodies = Vec::new();
    for batch in StreamReader::try_new(std::io::Cursor::new(range(segment, section)?), None)? {
        let batch = batch?;
        let of = digests(batch.column(0)).map_err(column)?;
        let body = batch.column(1).as_any().downcast_ref::<BinaryArray>();
        let body = body.ok_or_else(|| ArrowError::SchemaError("body is not binary".into()))?;
        for (place, digest) in of.into_iter().enumerate() {
            if wanted(digest) {
                bodies.push((digest, Bytes::copy_from_slice(body.value(place))));
            }
        }
    }
    Ok(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_types::{Kind, Origin, Text};

    #[test]
    fn a_segment_reads_back_as_it_was_written() {
        let schema = TableSchema::new(
            "t",
            [
                ("id*", Kind::String),
                ("body", Kind::Text),
                ("n?", Kind::Long),
                ("v?", Kind::Floats),
                ("at?", Kind::Timestamp),
                ("b?", Kind::Binary),
            ],
        );
        let origin = Some(Origin { stream: 1, key: Digest(7), part: 3 });
        let rows: Vec<(Vec<Value>, i64)> = vec![
            (
                vec![
                    Value::Str("a".into()),
                    Value::Text(Text::body(b"x")),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    Value::Null,
                ],
                1,
            ),
            (
                vec![
                    Value::Str("b".into()),
                    Value::Text(Text { digest: Digest(9), len: 4, origin }),
                    Value::Long(-5),
                    Value::Floats(vec![1.5, -0.0]),
                    Value::Micros(77),
                    Value::Bytes(vec![0, 255]),
                ],
                -1,
            ),
        ];
        let bodies =
            vec![(Digest::of(b"x"), Bytes::from_static(b"x")), (Digest(1), Bytes::from(vec![1; 3 << 20]))];
        let draft = SegmentDraft {
            epoch: 1,
            worker: 0,
            tables: vec![(0, Box::new(rows.clone()))],
            bodies: bodies.clone(),
        };
        let encoded = encode(std::slice::from_ref(&schema), draft).unwrap();
        let section = &encoded.tables["t"];
        assert_eq!((section.inserted, section.deleted), (1, 1));
        let back = decode_changes(&schema, &encoded.bytes, section).unwrap();
        let got: Vec<_> = back.iter().map(|c| (c.values.clone(), c.diff)).collect();
        assert_eq!(got, rows);
        assert_ne!(back[0].key, back[1].key);
        let got = decode_bodies(&encoded.bytes, encoded.bodies.as_ref().unwrap(), |_| true).unwrap();
        assert_eq!(got, bodies);
    }

    #[test]
    fn a_row_that_would_stand_twice_is_an_error() {
        let schema = TableSchema::new("t", [("id*", Kind::String)]);
        let rows = vec![(vec![Value::Str("a".into())], 2)];
        let draft = SegmentDraft { epoch: 1, worker: 0, tables: vec![(0, Box::new(rows))], bodies: vec![] };
        let error = encode(std::slice::from_ref(&schema), draft).err().unwrap();
        assert!(error.to_string().contains("two rows of one key"), "{error}");
    }
}
