//! Every derived table from scratch: each body of the source tables decoded again, and the program's
//! own flow over what comes of them and the stored results.

use super::stream_tables;
use crate::Error;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tidemill_connectors::lake::{Snapshot, TextForm};
use tidemill_core::batch::{self, WordBatches};
use tidemill_core::program::Program;
use tidemill_core::source::{RawRecord, RawValue, SourceBatch};
use tidemill_core::view::Share;
use tidemill_types::{Cell, Kind, Partition, TableSchema, Value};

/// Recomputes a snapshot's derived tables; texts come as handles.
///
/// # Errors
///
/// When the snapshot cannot be read, or a stored body is no longer accepted by its decoder.
pub fn recompute(
    program: &Arc<dyn Program>,
    snapshot: &Arc<Snapshot>,
) -> Result<BTreeMap<String, Vec<Vec<Value>>>, Error> {
    let mut words = WordBatches::new();
    let schemas = program.tables();
    for (stream, tables) in stream_tables(&**program).into_iter().enumerate() {
        words.extend(decode(program, snapshot, stream, &schemas[tables.raw])?);
    }
    let models = snapshot.root().models.clone();
    Ok(batch::recompute(program.clone(), words, snapshot.clone(), models.into())?)
}

/// The words of a source table, its bodies decoded again.
fn decode(
    program: &Arc<dyn Program>,
    snapshot: &Snapshot,
    stream: usize,
    schema: &TableSchema,
) -> Result<WordBatches, Error> {
    let mut decoder = program.decoder(stream);
    let (mut words, mut wrong) = (WordBatches::new(), None);
    let body = schema.columns.iter().position(|column| column.kind == Kind::Text);
    let mut take = |row: &[Cell<'_>]| -> Option<()> {
        let count = row.len();
        let (Cell::Str(identity), Cell::Str(body)) = (row[0], row[body?]) else { return None };
        let Cell::Str(partition) = row[count - 3] else { return None };
        let Cell::Long(offset) = row[count - 2] else { return None };
        let partition = Partition::parse(partition);
        let timestamp = match row[count - 1] {
            Cell::Micros(at) => Some(at),
            _ => None,
        };
        let key = matches!(partition, Partition::Number(..)).then_some(identity.as_bytes());
        let value = RawValue::Bytes(body.as_bytes());
        let record = RawRecord { partition: &partition, offset: offset as u64, timestamp, key, value };
        let mut batch = SourceBatch::default();
        decoder.decode(&record, &mut batch);
        words.extend(decoder.take().map(|words| (stream, words)));
        batch.rejects.is_empty().then_some(())
    };
    snapshot.for_each_row(&schema.name, TextForm::Resolved, None, Share::ALL, &mut |row| {
        let shown = row.first().map(Cell::to_value);
        match take(row) {
            Some(()) => ControlFlow::Continue(()),
            None => {
                wrong = shown;
                ControlFlow::Break(())
            }
        }
    })?;
    match wrong {
        None => Ok(words),
        Some(row) => Err(Error::failed(format!(
            "the row {row:?} of {} cannot be decoded from its own body",
            schema.name
        ))),
    }
}
