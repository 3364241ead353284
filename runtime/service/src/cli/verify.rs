//! `verify`: whether everything that is retained, or that one commit refers to, is there and whole, and, with `--recompute`,
//! whether every table is what the source tables make of it.

use super::output::{Format, Out, json_row, shown};
use super::reader::StoreTables;
use super::{Call, Tables};
use crate::Error;
use std::collections::HashMap;
use tidemill_connectors::lake::Verified;
use tidemill_types::{Digest, TableSchema, Value, key_digest, row_digest};

/// Differences that are printed of one table.
const SHOWN_MAX: usize = 5;

/// Prints what is amiss, or a last line that begins with `ok:`.
pub fn verify(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    // Without a commit that is asked for, all that is retained.
    let (root, Verified { mut problems, unnamed }, kept) = match call.epoch("at", &reader)? {
        Some(epoch) => {
            let root = reader.readable_root(Some(epoch))?;
            let problems = reader.check(&root)?;
            (root, Verified { problems, unnamed: Vec::new() }, String::new())
        }
        None => {
            let (root, verified) = reader.check_all()?;
            let kept = format!("commits {} to {} are whole; ", root.log_from, root.epoch);
            (root, verified, kept)
        }
    };
    let mut checked = format!("{kept}epoch {}: {} segments", root.epoch, root.segments.len());
    if problems.is_empty() {
        let tables = reader.tables(Some(root.epoch))?;
        let sizes = tables.sizes()?;
        let rows: u64 = sizes.iter().map(|size| size.rows).sum();
        let files: u64 = sizes.iter().map(|size| size.files).sum();
        checked = format!("{checked}, {files} files, {} tables, {rows} rows", sizes.len());
        if call.matches.get_flag("recompute") {
            problems.extend(recomputed(&tables)?);
            checked += ", every table equal to its recomputation";
        }
    }
    for problem in &problems {
        tell("problem", problem, call.format(), out)?;
    }
    if let Some(note) = of_unnamed(&unnamed) {
        tell("note", &note, call.format(), out)?;
    }
    if problems.is_empty() {
        return match call.format() {
            Format::Table => out.line(&format!("ok: {checked}")),
            Format::Json => out.line(&json_row(&["ok"], &[Value::Str(checked)], "")),
        };
    }
    let many = format!("amiss: {} problems at epoch {}", problems.len(), root.epoch);
    if call.format() == Format::Table {
        out.line(&many)?;
    }
    out.flush()?;
    Err(Error::Amiss)
}

fn tell(kind: &str, what: &str, format: Format, out: &mut Out<'_>) -> Result<(), Error> {
    match format {
        Format::Table => out.line(what),
        Format::Json => out.line(&json_row(&[kind], &[Value::Str(what.to_string())], "")),
    }
}

/// What is said of objects that no commit names.
fn of_unnamed(names: &[String]) -> Option<String> {
    let mut shown = names.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX {
        shown += ", ...";
    }
    (!names.is_empty()).then(|| {
        format!(
            "{} objects are named by no commit, and no row of a table is in them: what a publication left that was cut \
             off, which a run removes, or what one is making now: {shown}",
            names.len()
        )
    })
}

/// The differences between the stored tables and those that the program makes of the source tables.
fn recomputed(tables: &StoreTables) -> Result<Vec<String>, Error> {
    let mut problems = Vec::new();
    for (table, rows) in super::engine::recompute(&tables.program, &tables.snapshot)? {
        let Some(schema) = tables.schemas().iter().find(|schema| schema.name == table) else { continue };
        let want: HashMap<Digest, &Vec<Value>> = rows.iter().map(|row| (key(schema, row), row)).collect();
        problems.extend(compared(tables, schema, want)?);
    }
    Ok(problems)
}

fn key(schema: &TableSchema, row: &[Value]) -> Digest {
    key_digest(schema, row.iter().map(Value::cell))
}

fn described(schema: &TableSchema, row: &[Value]) -> String {
    let keys =
        schema.key_places().map(|place| format!("{}={}", schema.columns[place].name, shown(&row[place])));
    keys.collect::<Vec<_>>().join(" ")
}

fn compared(
    tables: &StoreTables,
    schema: &TableSchema,
    mut want: HashMap<Digest, &Vec<Value>>,
) -> Result<Vec<String>, Error> {
    let (mut problems, mut wrong, mut extra) = (Vec::new(), 0u64, 0u64);
    let name = &schema.name;
    tables.handles(name, &mut |row| {
        match want.remove(&key(schema, &row)) {
            Some(other)
                if row_digest(other.iter().map(Value::cell)) == row_digest(row.iter().map(Value::cell)) => {}
            Some(other) => {
                wrong += 1;
                let differs = |place: &usize| {
                    other[*place].cell() != row[*place].cell() && !same_text(&other[*place], &row[*place])
                };
                let place = (0..row.len()).find(differs).unwrap_or(0);
                let (column, stored, computed) =
                    (&schema.columns[place].name, shown(&row[place]), shown(&other[place]));
                problems.push(format!(
                    "{name}: {}: {column} is {stored}, recomputed {computed}",
                    described(schema, &row)
                ));
            }
            None => {
                extra += 1;
                problems.push(format!("{name}: {}: is stored, but not recomputed", described(schema, &row)));
            }
        }
        problems.truncate(SHOWN_MAX);
        Ok(())
    })?;
    let missing = want.len();
    let mut absent: Vec<String> = want.values().map(|row| described(schema, row)).collect();
    absent.sort();
    absent.truncate(SHOWN_MAX);
    problems.extend(absent.into_iter().map(|row| format!("{name}: {row}: is recomputed, but not stored")));
    if wrong + extra + missing as u64 > problems.len() as u64 {
        problems.push(format!("{name}: {wrong} rows differ, {extra} too many, {missing} missing"));
    }
    Ok(problems)
}

/// Texts are equal when their digests are, wherever they come from.
fn same_text(a: &Value, b: &Value) -> bool {
    matches!((a, b), (Value::Text(a), Value::Text(b)) if a.digest == b.digest)
}
