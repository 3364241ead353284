//! What other settings change: `recomputed - stored`, table by table.
//!
//! Of the stored rows only digests are held, and of the recomputed ones only those that are not stored.
//! Where some stored rows are not there any more, they are read once again: they go with their values.

use crate::segment::ChangeBatch;
use crate::view::{Portion, Share, Stored, ViewError};
use std::collections::{BTreeMap, HashMap};
use tidemill_types::{Cell, Digest, TableSchema, Value, row_digest};

/// Changes of tables, by their places.
type Changes = Vec<(usize, Box<dyn ChangeBatch>)>;

/// The changes of a share of all derived tables from what is stored to what was recomputed; tables that
/// are not derived keep the changes that they have.
pub(super) fn subtract(
    schemas: &[TableSchema],
    tables: Changes,
    stored: &dyn Stored,
    share: Share,
    derived: impl Fn(&str) -> bool,
) -> Result<Changes, String> {
    let (mut recomputed, mut rest) = (HashMap::<usize, Vec<Box<dyn ChangeBatch>>>::new(), Vec::new());
    for (place, changes) in tables {
        match derived(&schemas[place].name) {
            true => recomputed.entry(place).or_default().push(changes),
            false => rest.push((place, changes)),
        }
    }
    for (place, schema) in schemas.iter().enumerate().filter(|(_, schema)| derived(&schema.name)) {
        let batches = recomputed.remove(&place).unwrap_or_default();
        let difference = difference(&schema.name, batches, stored, share);
        rest.push((place, Box::new(difference.map_err(|error| error.to_string())?)));
    }
    Ok(rest)
}

/// The changes of a share of one table from what is stored to what was recomputed.
pub(super) fn difference(
    table: &str,
    recomputed: Vec<Box<dyn ChangeBatch>>,
    stored: &dyn Stored,
    share: Share,
) -> Result<Vec<(Vec<Value>, i64)>, ViewError> {
    let mut only_stored: HashMap<Digest, i64> = HashMap::new();
    stored.for_each_row(table, None, Portion::Keys(share), &mut |row| {
        *only_stored.entry(row_digest(row.iter().copied())).or_default() += 1;
        Ok(())
    })?;
    let mut only_recomputed = Net::default();
    for mut batch in recomputed {
        batch.drain(&mut |row, diff| {
            let mut cells = Vec::new();
            row.cells(&mut |cell| cells.push(cell));
            let digest = row_digest(cells.iter().copied());
            match only_stored.get_mut(&digest).filter(|_| diff == 1) {
                Some(1) => drop(only_stored.remove(&digest)),
                Some(count) => *count -= 1,
                None => only_recomputed.add(digest, cells.iter().map(Cell::to_value).collect(), diff),
            }
        });
    }
    if !only_stored.is_empty() {
        stored.for_each_row(table, None, Portion::Keys(share), &mut |row| {
            let digest = row_digest(row.iter().copied());
            if let Some(count) = only_stored.remove(&digest) {
                only_recomputed.add(digest, row.iter().map(Cell::to_value).collect(), -count);
            }
            Ok(())
        })?;
    }
    Ok(only_recomputed.into_changes())
}

/// Rows and how often each is there, by their digests: in an order that is the same for the same rows, as
/// they go into a segment in it.
#[derive(Default)]
struct Net(BTreeMap<Digest, (Vec<Value>, i64)>);

impl Net {
    fn add(&mut self, digest: Digest, values: Vec<Value>, diff: i64) {
        self.0.entry(digest).or_insert((values, 0)).1 += diff;
    }

    fn into_changes(self) -> Vec<(Vec<Value>, i64)> {
        self.0.into_values().filter(|(_, diff)| *diff != 0).collect()
    }
}
