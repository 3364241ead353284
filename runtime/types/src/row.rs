//! A row as it leaves the dataflow and as it is read back.
//!
//! Inside the dataflow a row is a Rust value of its own type. At the edge it is a sequence of
//! [`Cell`]s, one for each column of its schema, and so it is where it is read back: cells are borrowed from
//! the columns that were read. [`Value`]s are for whoever keeps them. The key digest and the row digest are
//! functions of the cells alone, so the log, the lake and the flow agree on them without sharing anything else.

use crate::{Digest, Kind, TableSchema, Text};
use serde::{Deserialize, Serialize};

/// One column's value, borrowed from a row or from stored columns.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Cell<'a> {
    /// Null of any kind.
    Null,
    /// [`Kind::String`]; also the resolved form of [`Kind::Text`].
    Str(&'a str),
    /// [`Kind::String`]: the lower-case hex of 32 bytes.
    Hex(&'a [u8; 32]),
    /// [`Kind::Text`] by reference.
    Text(Text),
    /// [`Kind::Long`].
    Long(i64),
    /// [`Kind::Int`].
    Int(i32),
    /// [`Kind::Double`].
    Double(f64),
    /// [`Kind::Boolean`].
    Bool(bool),
    /// [`Kind::Binary`].
    Bytes(&'a [u8]),
    /// [`Kind::Binary`]: the 16 bytes of a digest.
    Digest(Digest),
    /// [`Kind::Timestamp`], microseconds since 1970 in UTC.
    Micros(i64),
    /// [`Kind::Floats`].
    Floats(&'a [f32]),
}

/// One column's value, owned.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// See [`Cell::Null`].
    Null,
    /// See [`Cell::Str`].
    Str(String),
    /// See [`Cell::Text`].
    Text(Text),
    /// See [`Cell::Long`].
    Long(i64),
    /// See [`Cell::Int`].
    Int(i32),
    /// See [`Cell::Double`].
    Double(f64),
    /// See [`Cell::Bool`].
    Bool(bool),
    /// See [`Cell::Bytes`].
    Bytes(Vec<u8>),
    /// See [`Cell::Micros`].
    Micros(i64),
    /// See [`Cell::Floats`].
    Floats(Vec<f32>),
}

impl Value {
    /// The value as a cell.
    pub fn cell(&self) -> Cell<'_> {
        match self {
            Value::Null => Cell::Null,
            Value::Str(s) => Cell::Str(s),
            Value::Text(t) => Cell::Text(*t),
            Value::Long(n) => Cell::Long(*n),
            Value::Int(n) => Cell::Int(*n),
            Value::Double(x) => Cell::Double(*x),
            Value::Bool(b) => Cell::Bool(*b),
            Value::Bytes(b) => Cell::Bytes(b),
            Value::Micros(n) => Cell::Micros(*n),
            Value::Floats(v) => Cell::Floats(v),
        }
    }
}

impl Cell<'_> {
    /// The cell as an owned value.
    pub fn to_value(&self) -> Value {
        match *self {
            Cell::Null => Value::Null,
            Cell::Str(s) => Value::Str(s.to_string()),
            Cell::Hex(bytes) => Value::Str(hex(bytes)),
            Cell::Text(t) => Value::Text(t),
            Cell::Long(n) => Value::Long(n),
            Cell::Int(n) => Value::Int(n),
            Cell::Double(x) => Value::Double(x),
            Cell::Bool(b) => Value::Bool(b),
            Cell::Bytes(b) => Value::Bytes(b.to_vec()),
            Cell::Digest(d) => Value::Bytes(d.to_bytes().to_vec()),
            Cell::Micros(n) => Value::Micros(n),
            Cell::Floats(v) => Value::Floats(v.to_vec()),
        }
    }

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let (tag, bytes): (u8, &[u8]) = match self {
            Cell::Null => (0, &[]),
            Cell::Str(s) => (1, s.as_bytes()),
            Cell::Hex(bytes) => return Cell::Str(&hex(bytes)).hash_into(hasher),
            Cell::Text(t) => (2, &t.digest.to_bytes()),
            Cell::Long(n) => (3, &n.to_le_bytes()),
            Cell::Int(n) => (4, &n.to_le_bytes()),
            Cell::Double(x) => (5, &x.to_bits().to_le_bytes()),
            Cell::Bool(b) => (6, &[*b as u8]),
            Cell::Bytes(b) => (7, b),
            Cell::Digest(d) => (7, &d.to_bytes()),
            Cell::Micros(n) => (8, &n.to_le_bytes()),
            Cell::Floats(v) => {
                hasher.update(&[9]);
                hasher.update(&(v.len() as u64).to_le_bytes());
                for x in *v {
                    hasher.update(&x.to_bits().to_le_bytes());
                }
                return;
            }
        };
        let mut head = [0; 9];
        head[0] = tag;
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&head);
        hasher.update(bytes);
    }
}

/// The lower-case hex of 32 bytes.
pub fn hex(bytes: &[u8; 32]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A typed row that a table is made of.
pub trait Row {
    /// Hands out one cell for each column of `schema`'s table, in order.
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>));
}

/// The digest of a row's key columns. Texts cannot be keys.
pub fn key_digest<'a>(schema: &TableSchema, cells: impl IntoIterator<Item = Cell<'a>>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (column, cell) in schema.columns.iter().zip(cells) {
        if column.key {
            debug_assert!(column.kind != Kind::Text, "a text cannot be a key");
            cell.hash_into(&mut hasher);
        }
    }
    Digest::finish(&hasher.finalize())
}

/// The digest of a whole row; texts count by their digests.
pub fn row_digest<'a>(cells: impl IntoIterator<Item = Cell<'a>>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for cell in cells {
        cell.hash_into(&mut hasher);
    }
    Digest::finish(&hasher.finalize())
}

/// A stored row did not have the shape that its reader expects.
#[derive(Debug, thiserror::Error)]
#[error("column {column} of a stored row holds {found}, expected {expected}")]
pub struct RowError {
    /// The column's place, from 0.
    pub column: usize,
    /// What stood there.
    pub found: String,
    /// What was expected.
    pub expected: &'static str,
}

/// Takes the cells of a stored row one after the other, checking their kinds.
pub struct CellReader<'a> {
    cells: &'a [Cell<'a>],
    place: usize,
}

macro_rules! take {
    ($name:ident, $optional:ident, $ty:ty, $expected:literal, $($pattern:pat => $value:expr),+) => {
        #[doc = concat!("The next cell, ", $expected, ".")]
        pub fn $name(&mut self) -> Result<$ty, RowError> {
            match self.next() { $($pattern => Ok($value),)+ other => Err(self.wrong(other, $expected)) }
        }
        #[doc = concat!("The next cell, ", $expected, " or null.")]
        pub fn $optional(&mut self) -> Result<Option<$ty>, RowError> {
            match self.next() { Some(Cell::Null) => Ok(None), $($pattern => Ok(Some($value)),)+
                other => Err(self.wrong(other, $expected)) }
        }
    };
}

impl<'a> CellReader<'a> {
    /// Starts at the first cell.
    pub fn new(cells: &'a [Cell<'a>]) -> Self {
        Self { cells, place: 0 }
    }

    fn next(&mut self) -> Option<Cell<'a>> {
        self.place += 1;
        self.cells.get(self.place - 1).copied()
    }

    fn wrong(&self, found: Option<Cell<'_>>, expected: &'static str) -> RowError {
        RowError { column: self.place - 1, found: format!("{found:?}"), expected }
    }

    take!(str, str_opt, &'a str, "a string", Some(Cell::Str(s)) => s);
    take!(text, text_opt, Text, "a text", Some(Cell::Text(t)) => t);
    take!(long, long_opt, i64, "a long", Some(Cell::Long(n)) => n);
    take!(int, int_opt, i32, "an int", Some(Cell::Int(n)) => n);
    take!(double, double_opt, f64, "a double", Some(Cell::Double(x)) => x);
    take!(bool, bool_opt, bool, "a boolean", Some(Cell::Bool(b)) => b);
    take!(bytes, bytes_opt, &'a [u8], "bytes", Some(Cell::Bytes(b)) => b);
    take!(micros, micros_opt, i64, "a timestamp", Some(Cell::Micros(n)) => n);
    take!(floats, floats_opt, &'a [f32], "floats", Some(Cell::Floats(v)) => v);
}
