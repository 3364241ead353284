//! Cells to Arrow columns and back.
//!
//! One builder serves segments and data files: in a segment a text stands as a handle (a struct of
//! digest, length and origin), in a data file as its string. Reading is the inverse: a column's type is looked at
//! once, and then its cells are borrowed from it, row by row.

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
use tidemill_types::{Cell, Digest, Kind, Origin, Text};

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

/// An array of digests.
fn sixteen(array: &dyn Array, kind: Kind) -> Result<&FixedSizeBinaryArray, ColumnError> {
    let digests: &FixedSizeBinaryArray = typed(array, kind)?;
    match digests.value_length() {
        16 => Ok(digests),
        _ => Err(ColumnError::Array { kind, found: array.data_type().clone() }),
    }
}

fn digest_at(array: &FixedSizeBinaryArray, row: usize) -> Digest {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&array.value(row)[..16]);
    Digest::from_bytes(bytes)
}

struct Handles<'a> {
    rows: &'a StructArray,
    digest: &'a FixedSizeBinaryArray,
    len: &'a UInt32Array,
    stream: &'a UInt8Array,
    key: &'a FixedSizeBinaryArray,
    part: &'a UInt8Array,
}

impl<'a> Handles<'a> {
    fn of(rows: &'a StructArray) -> Result<Self, ColumnError> {
        let found = || ColumnError::Array { kind: Kind::Text, found: rows.data_type().clone() };
        let column = |place: usize| rows.columns().get(place).ok_or_else(found);
        Ok(Self {
            rows,
            digest: sixteen(column(0)?, Kind::Text)?,
            len: typed(column(1)?, Kind::Text)?,
            stream: typed(column(2)?, Kind::Text)?,
            key: sixteen(column(3)?, Kind::Text)?,
            part: typed(column(4)?, Kind::Text)?,
        })
    }

    fn text(&self, row: usize) -> Text {
        let origin = self.key.is_valid(row).then(|| Origin {
            stream: self.stream.value(row),
            key: digest_at(self.key, row),
            part: self.part.value(row),
        });
        Text { digest: digest_at(self.digest, row), len: self.len.value(row), origin }
    }
}

enum Typed<'a> {
    Str(&'a StringArray),
    Handle(Handles<'a>),
    Long(&'a Int64Array),
    Int(&'a Int32Array),
    Double(&'a Float64Array),
    Bool(&'a BooleanArray),
    Bytes(&'a BinaryArray),
    Micros(&'a TimestampMicrosecondArray),
    Floats(&'a ListArray, &'a Float32Array),
}

/// Reads the cells of one column.
pub struct ColumnReader<'a>(Typed<'a>);

impl<'a> ColumnReader<'a> {
    /// Over an array. A text comes as a handle or a string, whichever the array holds.
    ///
    /// # Errors
    ///
    /// If the array is not of the kind's type.
    pub fn of(array: &'a dyn Array, kind: Kind) -> Result<Self, ColumnError> {
        Ok(Self(match kind {
            Kind::Text if matches!(array.data_type(), DataType::Struct(_)) => {
                Typed::Handle(Handles::of(typed(array, kind)?)?)
            }
            Kind::String | Kind::Text => Typed::Str(typed(array, kind)?),
            Kind::Long => Typed::Long(typed(array, kind)?),
            Kind::Int => Typed::Int(typed(array, kind)?),
            Kind::Double => Typed::Double(typed(array, kind)?),
            Kind::Boolean => Typed::Bool(typed(array, kind)?),
            Kind::Binary => Typed::Bytes(typed(array, kind)?),
            Kind::Timestamp => Typed::Micros(typed(array, kind)?),
            Kind::Floats => {
                let lists: &ListArray = typed(array, kind)?;
                Typed::Floats(lists, typed(&**lists.values(), kind)?)
            }
        }))
    }

    /// The cell of a row.
    ///
    /// # Panics
    ///
    /// If the column has no such row.
    pub fn cell(&self, row: usize) -> Cell<'a> {
        fn there<'a, A: Array>(array: &A, row: usize, cell: impl FnOnce() -> Cell<'a>) -> Cell<'a> {
            if array.is_null(row) { Cell::Null } else { cell() }
        }
        match &self.0 {
            Typed::Str(array) => there(*array, row, || Cell::Str(array.value(row))),
            Typed::Handle(handles) => there(handles.rows, row, || Cell::Text(handles.text(row))),
            Typed::Long(array) => there(*array, row, || Cell::Long(array.value(row))),
            Typed::Int(array) => there(*array, row, || Cell::Int(array.value(row))),
            Typed::Double(array) => there(*array, row, || Cell::Double(array.value(row))),
            Typed::Bool(array) => there(*array, row, || Cell::Bool(array.value(row))),
            Typed::Bytes(array) => there(*array, row, || Cell::Bytes(array.value(row))),
            Typed::Micros(array) => there(*array, row, || Cell::Micros(array.value(row))),
            Typed::Floats(lists, items) => there(*lists, row, || {
                let [from, to] = [row, row + 1].map(|at| lists.value_offsets()[at] as usize);
                Cell::Floats(&items.values()[from..to])
            }),
        }
    }
}

/// The digests of a 16-byte column.
pub fn digests(array: &dyn Array) -> Result<Vec<Digest>, ColumnError> {
    let array = sixteen(array, Kind::Binary)?;
    Ok((0..array.len()).map(|row| digest_at(array, row)).collect())
}
