//! `show`: the rows of a table at the newest commit or at any retained one.

use super::output::{Format, Out};
use super::tables::{schema_of, sorted};
use super::{Call, Tables};
use crate::Error;

/// Rows for people when no limit is given.
const LIMIT_FOR_PEOPLE: u64 = 20;

/// Prints a table's rows by their keys.
pub fn show(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let tables = call.tables(&reader)?;
    let schema = schema_of(&tables, call.text("table"))?;
    let format = call.format();
    let limit = call.number("limit").or((format == Format::Table).then_some(LIMIT_FOR_PEOPLE));
    let rows = sorted(&tables, schema, limit)?;
    out.rows(schema, &rows, format)?;
    let all = tables.count(&schema.name)?;
    if format == Format::Table && (rows.len() as u64) < all {
        out.line(&format!("{} of {all} rows at epoch {}; more with --limit N", rows.len(), tables.epoch()))?;
    }
    Ok(())
}
