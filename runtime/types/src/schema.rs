//! Table schemas: what the lake, the log and the readers know of a table.

use serde::{Deserialize, Serialize};

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A short UTF-8 string, by value. Iceberg `string`.
    String,
    /// A long UTF-8 string, by reference ([`crate::Text`]). Iceberg `string`.
    Text,
    /// 64-bit integer. Iceberg `long`.
    Long,
    /// 32-bit integer. Iceberg `int`.
    Int,
    /// 64-bit float. Iceberg `double`.
    Double,
    /// Iceberg `boolean`.
    Boolean,
    /// Bytes, by value. Iceberg `binary`.
    Binary,
    /// Microseconds since 1970 in UTC. Iceberg `timestamptz`.
    Timestamp,
    /// A list of 32-bit floats that are never null. Iceberg `list<float>`.
    Floats,
}

/// One column of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name in Arrow and Iceberg.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether it is part of the key.
    pub key: bool,
    /// Whether null is allowed. Key columns are never null.
    pub nullable: bool,
}

/// A named, keyed table. At every epoch the rows have distinct keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSchema {
    /// `namespace.table`, such as `raw.calls`.
    pub name: String,
    /// The columns, in order; Iceberg field ids are their places from 1.
    pub columns: Vec<Column>,
}

impl TableSchema {
    /// A table from `(name, kind)` pairs; a trailing `*` marks a key column and a trailing `?` one
    /// that may be null: `("sample_id*", Kind::String), ("tenant?", Kind::String)`.
    pub fn new<'a>(name: &str, columns: impl IntoIterator<Item = (&'a str, Kind)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(column, kind)| Column {
                name: column.trim_end_matches(['*', '?']).to_string(),
                kind,
                key: column.ends_with('*'),
                nullable: column.ends_with('?'),
            })
            .collect();
        Self { name: name.to_string(), columns }
    }

    /// The place of a column by its name.
    pub fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }

    /// The places of the key columns, in order.
    pub fn key_places(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().enumerate().filter(|(_, c)| c.key).map(|(place, _)| place)
    }
}
