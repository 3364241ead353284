//! `diff`: the rows that came and went between two commits.
//!
//! Rows are compared by their digests, in which texts count by what they say and not by how they are
//! spelt; only rows that differ are kept, so memory is 32 bytes a row of the table plus the difference.

use super::app::key_of;
use super::output::{Format, Out, json_row, shown};
use super::reader::StoreTables;
use super::tables::{by_key, schema_of};
use super::{Call, Tables};
use crate::Error;
use std::collections::{HashMap, HashSet};
use tidemill_types::{Digest, TableSchema, Value};

/// Prints each row that is in only one of two commits, with `_diff` 1 or -1.
pub fn diff(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let (from, to) = (call.epoch("from", &reader)?, call.epoch("to", &reader)?);
    let (from, to) = (reader.tables(from)?, reader.tables(to)?);
    let schema = schema_of(&to, call.text("table"))?;
    schema_of(&from, call.text("table"))?;
    let rows = difference(&from, &to, schema)?;
    print(schema, &rows, call.format(), out)
}

fn print(
    schema: &TableSchema,
    rows: &[(Vec<Value>, i8)],
    format: Format,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let mut names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    if format == Format::Json {
        let line = |(row, diff): &(Vec<Value>, i8)| json_row(&names, row, &format!(",\"_diff\":{diff}"));
        return rows.iter().try_for_each(|row| out.line(&line(row)));
    }
    names.insert(0, "_diff");
    let cells =
        |(row, diff): &(Vec<Value>, i8)| [vec![diff.to_string()], row.iter().map(shown).collect()].concat();
    out.grid(&names, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// The rows of one table that went and came, by key, those that went first.
pub fn difference(
    from: &StoreTables,
    to: &StoreTables,
    schema: &TableSchema,
) -> Result<Vec<(Vec<Value>, i8)>, Error> {
    let mut gone: HashMap<Digest, Digest> = HashMap::new();
    from.digests(schema, &mut |key, row| {
        gone.insert(key, row);
    })?;
    let mut came: HashSet<Digest> = HashSet::new();
    to.digests(schema, &mut |key, row| match gone.get(&key) {
        Some(earlier) if *earlier == row => {
            gone.remove(&key);
        }
        _ => {
            came.insert(key);
        }
    })?;
    let mut rows = Vec::new();
    if !gone.is_empty() {
        pick(from, schema, -1, |key| gone.contains_key(key), &mut rows)?;
    }
    if !came.is_empty() {
        pick(to, schema, 1, |key| came.contains(key), &mut rows)?;
    }
    rows.sort_by(|a, b| by_key(schema, &a.0, &b.0).then(a.1.cmp(&b.1)));
    Ok(rows)
}

fn pick(
    tables: &StoreTables,
    schema: &TableSchema,
    diff: i8,
    wanted: impl Fn(&Digest) -> bool,
    out: &mut Vec<(Vec<Value>, i8)>,
) -> Result<(), Error> {
    tables.for_each(&schema.name, &mut |row| {
        if wanted(&key_of(schema, &row)) {
            out.push((row, diff));
        }
        Ok(())
    })
}
