//! Cells to Arrow columns and back.
//!
//! One builder serves segments and data files: in a segment a text stands as a handle (a struct of
//! digest, length and origin), in a data file as its string. Reading is the inverse, cell by cell.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, FixedSizeBinaryArray,
    FixedSizeBinaryBuilder, Float32Array, Float32Builder, Float64Array, Float64Builder, Int32Array,
    Int32Builder, Int64Array, Int64Builder, ListArray, ListBuilder, NullBufferBuilder, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondArray, TimestampMicrosecondBuilder, UInt8Array,
    UInt8Builder, UInt32Array, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;
use std::sync::Arc;
use tidemill_types::{Cell, Digest, Kind, Origin, Text, Value};

/// A stored column did not have the type that its schema says.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// A cell of another kind.
    #[error("a cell {found} cannot stand in a column of kind {kind:?}")]
    Cell {
        /// The column's kind.
        kind: Kind,
        /// The cell.
        found: String,
    },
    /// An array of another type.
    #[error("an array of type {found} where kind {kind:?} was expected")]
    Array {
        /// The column's kind.
        kind: Kind,
        /// The array's type.
        found: DataType,
    },
    /// Arrow's own.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// How texts stand in the columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Texts {
    /// As handles (segments).
    Handles,
    /// As strings (data files).
    Strings,
}

fn handle_fields() -> Fields {
    Fields::from(vec![
        Field::new("digest", DataType::FixedSizeBinary(16), false),
        Field::new("len", DataType::UInt32, false),
        Field::new("stream", DataType::UInt8, true),
        Field::new("key", DataType::FixedSizeBinary(16), true),
        Field::new("part", DataType::UInt8, true),
    ])
}

/// The type of the items of [`Kind::Floats`] as Iceberg's Arrow schema has it.
pub fn float_item() -> FieldRef {
    Arc::new(Field::new("element", DataType::Float32, false))
}

/// The Arrow type of a kind.
pub fn arrow_type(kind: Kind, texts: Texts) -> DataType {
    match (kind, texts) {
        (Kind::Text, Texts::Handles) => DataType::Struct(handle_fields()),
        (Kind::String | Kind::Text, _) => DataType::Utf8,
        (Kind::Long, _) => DataType::Int64,
        (Kind::Int, _) => DataType::Int32,
        (Kind::Double, _) => DataType::Float64,
        (Kind::Boolean, _) => DataType::Boolean,
        (Kind::Binary, _) => DataType::Binary,
        (Kind::Timestamp, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        (Kind::Floats, _) => DataType::List(float_item()),
    }
}

struct HandleBuilder {
    nulls: NullBufferBuilder,
    digest: FixedSizeBinaryBuilder,
    len: UInt32Builder,
    stream: UInt8Builder,
    key: FixedSizeBinaryBuilder,
    part: UInt8Builder,
}

impl HandleBuilder {
    fn new() -> Self {
        Self {
            nulls: NullBufferBuilder::new(0),
            digest: FixedSizeBinaryBuilder::new(16),
            len: UInt32Builder::new(),
            stream: UInt8Builder::new(),
            key: FixedSizeBinaryBuilder::new(16),
            part: UInt8Builder::new(),
        }
    }

    fn append(&mut self, text: Option<Text>) -> Result<(), ColumnError> {
        self.nulls.append(text.is_some());
        let shown = text.unwrap_or(Text { digest: Digest::default(), len: 0, origin: None });
        self.digest.append_value(shown.digest.to_bytes())?;
        self.len.append_value(shown.len);
        self.stream.append_option(shown.origin.map(|o| o.stream));
        match shown.origin {
            Some(origin) => self.key.append_value(origin.key.to_bytes())?,
            None => self.key.append_null(),
        }
        self.part.append_option(shown.origin.map(|o| o.part));
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ColumnError> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.digest.finish()),
            Arc::new(self.len.finish()),
            Arc::new(self.stream.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.part.finish()),
        ];
        Ok(Arc::new(StructArray::try_new(handle_fields(), arrays, self.nulls.finish())?))
    }
}

enum Building {
    Str(StringBuilder),
    Handle(Box<HandleBuilder>),
    Long(Int64Builder),
    Int(Int32Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
    Bytes(BinaryBuilder),
    Micros(TimestampMicrosecondBuilder),
    Floats(ListBuilder<Float32Builder>),
}

/// Builds one column.
pub struct ColumnBuilder {
    kind: Kind,
    building: Building,
}

impl ColumnBuilder {
    /// An empty column.
    pub fn new(kind: Kind, texts: Texts) -> Self {
        let building = match (kind, texts) {
            (Kind::Text, Texts::Handles) => Building::Handle(Box::new(HandleBuilder::new())),
            (Kind::String | Kind::Text, _) => Building::Str(StringBuilder::new()),
            (Kind::Long, _) => Building::Long(Int64Builder::new()),
            (Kind::Int, _) => Building::Int(Int32Builder::new()),
            (Kind::Double, _) => Building::Double(Float64Builder::new()),
            (Kind::Boolean, _) => Building::Bool(BooleanBuilder::new()),
            (Kind::Binary, _) => Building::Bytes(BinaryBuilder::new()),
            (Kind::Timestamp, _) => {
                Building::Micros(TimestampMicrosecondBuilder::new().with_timezone("+00:00"))
            }
            (Kind::Floats, _) => {
                Building::Floats(ListBuilder::new(Float32Builder::new()).with_field(float_item()))
            }
        };
        Self { kind, building }
    }

    /// Appends a cell; an error if it is of another kind.
    pub fn append(&mut self, cell: Cell<'_>) -> Result<(), ColumnError> {
        match (&mut self.building, cell) {
            (Building::Str(b), Cell::Str(s)) => b.append_value(s),
            (Building::Str(b), Cell::Hex(bytes)) => b.append_value(tidemill_types::hex(bytes)),
            (Building::Str(b), Cell::Null) => b.append_null(),
            (Building::Handle(b), Cell::Text(t)) => b.append(Some(t))?,
            (Building::Handle(b), Cell::Null) => b.append(None)?,
            (Building::Long(b), Cell::Long(n)) => b.append_value(n),
            (Building::Long(b), Cell::Null) => b.append_null(),
            (Building::Int(b), Cell::Int(n)) => b.append_value(n),
            (Building::Int(b), Cell::Null) => b.append_null(),
            (Building::Double(b), Cell::Double(x)) => b.append_value(x),
            (Building::Double(b), Cell::Null) => b.append_null(),
            (Building::Bool(b), Cell::Bool(x)) => b.append_value(x),
            (Building::Bool(b), Cell::Null) => b.append_null(),
            (Building::Bytes(b), Cell::Bytes(x)) => b.append_value(x),
            (Building::Bytes(b), Cell::Digest(d)) => b.append_value(d.to_bytes()),
            (Building::Bytes(b), Cell::Null) => b.append_null(),
            (Building::Micros(b), Cell::Micros(n)) => b.append_value(n),
            (Building::Micros(b), Cell::Null) => b.append_null(),
            (Building::Floats(b), Cell::Floats(v)) => {
                b.values().append_slice(v);
                b.append(true);
            }
            (Building::Floats(b), Cell::Null) => b.append(false),
            (_, cell) => return Err(ColumnError::Cell { kind: self.kind, found: format!("{cell:?}") }),
        }
        Ok(())
    }

    /// The column; the builder is empty again.
    pub fn finish(&mut self) -> Result<ArrayRef, ColumnError> {
        Ok(match &mut self.building {
            Building::Str(b) => Arc::new(b.finish()),
            Building::Handle(b) => b.finish()?,
            Building::Long(b) => Arc::new(b.finish()),
            Building::Int(b) => Arc::new(b.finish()),
            Building::Double(b) => Arc::new(b.finish()),
            Building::Bool(b) => Arc::new(b.finish()),
            Building::Bytes(b) => Arc::new(b.finish()),
            Building::Micros(b) => Arc::new(b.finish()),
            Building::Floats(b) => Arc::new(b.finish()),
        })
    }
}

fn typed<A: 'static>(array: &dyn Array, kind: Kind) -> Result<&A, ColumnError> {
    let found = || ColumnError::Array { kind, found: array.data_type().clone() };
    array.as_any().downcast_ref().ok_or_else(found)
}

fn digest_at(array: &FixedSizeBinaryArray, row: usize) -> Digest {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&array.value(row)[..16]);
    Digest::from_bytes(bytes)
}

fn handle_at(array: &StructArray, row: usize) -> Result<Value, ColumnError> {
    let kind = Kind::Text;
    let digest = digest_at(typed(array.column(0), kind)?, row);
    let len = typed::<UInt32Array>(array.column(1), kind)?.value(row);
    let key: &FixedSizeBinaryArray = typed(array.column(3), kind)?;
    let origin = match key.is_null(row) {
        true => None,
        false => Some(Origin {
            stream: typed::<UInt8Array>(array.column(2), kind)?.value(row),
            key: digest_at(key, row),
            part: typed::<UInt8Array>(array.column(4), kind)?.value(row),
        }),
    };
    Ok(Value::Text(Text { digest, len, origin }))
}

/// The value at a row of a column; a text as a handle or a string, whichever the column holds.
pub fn value_at(array: &dyn Array, kind: Kind, row: usize) -> Result<Value, ColumnError> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match kind {
        Kind::Text if matches!(array.data_type(), DataType::Struct(_)) => {
            handle_at(typed(array, kind)?, row)?
        }
        Kind::String | Kind::Text => Value::Str(typed::<StringArray>(array, kind)?.value(row).to_string()),
        Kind::Long => Value::Long(typed::<Int64Array>(array, kind)?.value(row)),
        Kind::Int => Value::Int(typed::<Int32Array>(array, kind)?.value(row)),
        Kind::Double => Value::Double(typed::<Float64Array>(array, kind)?.value(row)),
        Kind::Boolean => Value::Bool(typed::<BooleanArray>(array, kind)?.value(row)),
        Kind::Binary => Value::Bytes(typed::<BinaryArray>(array, kind)?.value(row).to_vec()),
        Kind::Timestamp => Value::Micros(typed::<TimestampMicrosecondArray>(array, kind)?.value(row)),
        Kind::Floats => {
            let items = typed::<ListArray>(array, kind)?.value(row);
            Value::Floats(typed::<Float32Array>(&items, kind)?.values().to_vec())
        }
    })
}

/// The digests of a 16-byte column.
pub fn digests(array: &dyn Array) -> Result<Vec<Digest>, ColumnError> {
    let array: &FixedSizeBinaryArray = typed(array, Kind::Binary)?;
    Ok((0..array.len()).map(|row| digest_at(array, row)).collect())
}
