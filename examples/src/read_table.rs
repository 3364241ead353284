//! Reading a table of a store from Rust: open, pin an epoch, walk over its rows.

use tidemill::Error;
use tidemill::cli::{StoreReader, Tables, json_row};

/// Rows of a table at the store's newest commit, at most `limit`, each as one line of JSON.
///
/// A reader pins the epoch that it opened: commits that come meanwhile do not change what it sees.
///
/// # Errors
///
/// When there is no such store or table, or the store cannot be read.
pub fn read_table(store: &str, table: &str, limit: usize) -> Result<Vec<String>, Error> {
    let reader = StoreReader::open(&tidemill::flywheel::app(), store)?;
    let tables = reader.tables(None)?;
    let known = || tables.schemas().iter().map(|schema| schema.name.as_str()).collect::<Vec<_>>().join(", ");
    let schema = tables.schemas().iter().find(|schema| schema.name == table);
    let schema =
        schema.ok_or_else(|| Error::failed(format!("there is no table {table}; there are {}", known())))?;
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_ref()).collect();
    let mut lines = Vec::new();
    tables.for_each(table, &mut |row| {
        if lines.len() < limit {
            lines.push(json_row(&names, &row, ""));
        }
        Ok(())
    })?;
    Ok(lines)
}
