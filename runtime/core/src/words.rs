//! The two tables of a source stream: what outsiders read, and the words that recovery needs.
//!
//! The source table (`raw.calls`, say) holds each key's current row. The state table
//! (`_state.calls`) holds every partition's word on every key, rows and deletions, with the facts that
//! were extracted on arrival; it alone fills the flow at a restart, without a body being parsed again.
//! The body of a word that is not current stands in the state table, that of the current one in the
//! source table, so that every body has one owner.

use crate::source::{SourceRow, Word};
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;
use std::sync::Arc;
use tidemill_types::{Cell, CellReader, Digest, Kind, Partition, Row, RowError, TableSchema, Text};

/// A row of a source table: the current word, when it is a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(bound = "T: SourceRow")]
pub struct SourceTableRow<T>(pub Arc<Word<T>>);

impl<T: SourceRow> Row for SourceTableRow<T> {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        if let Some(row) = &self.0.value {
            row.cells(out);
        }
        out(Cell::Str(self.0.partition.text()));
        out(Cell::Long(self.0.offset as i64));
        out(self.0.timestamp.map_or(Cell::Null, Cell::Micros));
    }
}

/// A row of a state table: one partition's word on one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(bound = "T: SourceRow")]
pub struct StateRow<T> {
    /// The word.
    pub word: Arc<Word<T>>,
    /// Whether it is the one that counts.
    pub current: bool,
}

/// The schema of a stream's source table.
pub fn source_schema<T: SourceRow>(table: &str) -> TableSchema {
    let own = [
        ("source_partition", Kind::String),
        ("source_offset", Kind::Long),
        ("source_timestamp?", Kind::Timestamp),
    ];
    TableSchema::new(table, T::columns().into_iter().chain(own))
}

fn bare(name: &str) -> &str {
    name.trim_end_matches(['*', '?'])
}

/// The schema of a stream's state table: identity and partition as key; where the word stands; the
/// source table's other columns (all may be null) with the body by digest; the facts; the body of a
/// word that is not current.
pub fn state_schema<T: SourceRow>(table: &str) -> TableSchema {
    let columns = T::columns();
    let identity = bare(columns[0].0).to_string();
    let mut all = vec![
        (format!("{identity}*"), Kind::String),
        ("source_partition*".into(), Kind::String),
        ("source_offset".into(), Kind::Long),
        ("source_timestamp?".into(), Kind::Timestamp),
        ("deleted".into(), Kind::Boolean),
        ("current".into(), Kind::Boolean),
        ("body_digest?".into(), Kind::Binary),
        ("body_bytes?".into(), Kind::Long),
    ];
    let values = columns[1..].iter().filter(|(_, kind)| *kind != Kind::Text);
    all.extend(values.map(|(name, kind)| (format!("{}?", bare(name)), *kind)));
    all.extend(T::facts().into_iter().map(|(name, kind)| (format!("{}?", bare(name)), kind)));
    all.push(("body?".into(), Kind::Text));
    TableSchema::new(table, all.iter().map(|(name, kind)| (name.as_str(), *kind)))
}

impl<T: SourceRow> Row for StateRow<T> {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        let word = &*self.word;
        out(Cell::Str(&word.identity));
        out(Cell::Str(word.partition.text()));
        out(Cell::Long(word.offset as i64));
        out(word.timestamp.map_or(Cell::Null, Cell::Micros));
        out(Cell::Bool(word.value.is_none()));
        out(Cell::Bool(self.current));
        match &word.value {
            Some(row) => row_cells(&**row, self.current, out),
            None => {
                let empty = 2 + (T::columns().len() - 2) + T::facts().len() + 1;
                (0..empty).for_each(|_| out(Cell::Null));
            }
        }
    }
}

fn row_cells<'a, T: SourceRow>(row: &'a T, current: bool, out: &mut dyn FnMut(Cell<'a>)) {
    let mut cells = Vec::new();
    row.cells(&mut |cell| cells.push(cell));
    let body = row.body();
    out(Cell::Digest(body.digest));
    out(Cell::Long(body.len as i64));
    for cell in &cells[1..] {
        if !matches!(cell, Cell::Text(_)) {
            out(*cell);
        }
    }
    row.fact_cells(out);
    out(if current { Cell::Null } else { Cell::Text(body) });
}

/// Reads the words that stored rows of a state table stand for.
pub struct WordReader<T> {
    /// Whether each of the source table's columns after the identity is the body.
    texts: Vec<bool>,
    facts: usize,
    /// The last word's: words of a partition stand together, and share its name.
    partition: Option<Partition>,
    reads: PhantomData<T>,
}

impl<T: SourceRow> Default for WordReader<T> {
    fn default() -> Self {
        let texts = T::columns()[1..].iter().map(|(_, kind)| *kind == Kind::Text).collect();
        Self { texts, facts: T::facts().len(), partition: None, reads: PhantomData }
    }
}

impl<T: SourceRow> WordReader<T> {
    /// The columns of the state table that are read: all but the body, which is the last.
    pub fn columns(&self) -> Vec<usize> {
        (0..state_schema::<T>("state").columns.len() - 1).collect()
    }

    /// The word of a row's [`columns`](Self::columns).
    ///
    /// # Errors
    ///
    /// When they are not those of such a row.
    pub fn read(&mut self, cells: &[Cell<'_>]) -> Result<(Digest, Word<T>), RowError> {
        let mut reader = CellReader::new(cells);
        let identity: Arc<str> = reader.str()?.into();
        let partition = self.partition(reader.str()?);
        let offset = reader.long()? as u64;
        let timestamp = reader.micros_opt()?;
        let deleted = reader.bool()?;
        reader.bool()?;
        let digest = reader.bytes_opt()?;
        let len = reader.long_opt()?;
        let value = match (deleted, digest, len) {
            (false, Some(digest), Some(len)) => {
                let digest = digest.try_into().map(Digest::from_bytes);
                let digest = digest.map_err(|_| RowError {
                    column: 6,
                    found: "another length".into(),
                    expected: "16 bytes",
                })?;
                let row = self.lay_out(cells, Text { digest, len: len as u32, origin: None });
                Some(Arc::new(T::read(&mut CellReader::new(&row))?))
            }
            _ => None,
        };
        let key = crate::source::identity_digest(&identity);
        Ok((key, Word { timestamp, partition, offset, identity, value }))
    }

    fn partition(&mut self, text: &str) -> Partition {
        match &self.partition {
            Some(last) if last.text() == text => last.clone(),
            _ => self.partition.insert(Partition::parse(text)).clone(),
        }
    }

    /// The cells of `T::columns` and `T::facts` out of those of a state row, with the body in its place.
    fn lay_out<'a>(&self, cells: &[Cell<'a>], body: Text) -> Vec<Cell<'a>> {
        let mut rest = cells[8..].iter().copied();
        let mut row = Vec::with_capacity(1 + self.texts.len() + self.facts);
        row.push(cells[0]);
        for is_text in &self.texts {
            row.push(if *is_text { Cell::Text(body) } else { rest.next().unwrap_or(Cell::Null) });
        }
        row.extend(rest.take(self.facts));
        row
    }
}
