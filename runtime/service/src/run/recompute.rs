//! What other settings change: `recomputed - stored`, table by table.

use std::collections::HashMap;
use tidemill_core::segment::ChangeBatch;
use tidemill_core::view::{Share, Stored};
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
    let (mut recomputed, mut rest) = (HashMap::<usize, Net>::new(), Vec::new());
    for (place, mut changes) in tables {
        match derived(&schemas[place].name) {
            true => recomputed.entry(place).or_default().add_batch(changes.as_mut()),
            false => rest.push((place, changes)),
        }
    }
    for (place, schema) in schemas.iter().enumerate().filter(|(_, schema)| derived(&schema.name)) {
        let net = recomputed.entry(place).or_default();
        for values in stored.rows(&schema.name, share).map_err(|error| error.to_string())? {
            net.add(values, -1);
        }
    }
    for (place, net) in recomputed {
        rest.push((place, Box::new(net.into_changes())));
    }
    Ok(rest)
}

/// Rows and how often each is there, by their digests.
#[derive(Default)]
struct Net(HashMap<Digest, (Vec<Value>, i64)>);

impl Net {
    fn add_batch(&mut self, changes: &mut dyn ChangeBatch) {
        changes.drain(&mut |row, diff| {
            let mut values = Vec::new();
            row.cells(&mut |cell: Cell<'_>| values.push(cell.to_value()));
            self.add(values, diff);
        });
    }

    fn add(&mut self, values: Vec<Value>, diff: i64) {
        let digest = row_digest(values.iter().map(Value::cell));
        self.0.entry(digest).or_insert((values, 0)).1 += diff;
    }

    fn into_changes(self) -> Vec<(Vec<Value>, i64)> {
        self.0.into_values().filter(|(_, diff)| *diff != 0).collect()
    }
}
