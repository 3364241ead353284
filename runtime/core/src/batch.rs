//! A program's flow run once, over given words: every source table and derived table as it must be.
//!
//! The same flow as in a run, on one worker, in one epoch. `verify` decodes every body of the source
//! tables again and compares what is stored with what comes of them here.

use crate::builder::Builder;
use crate::program::Program;
use crate::segment::ChangeBatch;
use crate::view::{Portion, Share, Stored, ViewError};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_types::{Epoch, ModelId, TableSchema, Value};

/// Batches of words of each stream; see [`crate::source::ErasedDecode::take`].
pub type WordBatches = Vec<(usize, Box<dyn Any + Send>)>;

/// The rows of each source table and of each derived table, texts as handles: from words, and from the
/// results that are stored.
///
/// # Errors
///
/// When the stored results cannot be read.
pub fn recompute(
    program: Arc<dyn Program>,
    words: WordBatches,
    results: Arc<dyn Stored>,
    models: Arc<[ModelId]>,
) -> Result<BTreeMap<String, Vec<Vec<Value>>>, ViewError> {
    let words = Mutex::new(words);
    timely::execute::execute_directly(move |worker| {
        let schemas: Arc<[TableSchema]> = program.tables().into();
        let mut wired = worker.dataflow::<Epoch, _, _>(|scope| {
            let (wired, _tokens) = Builder::new(scope, schemas.clone(), models, None).wire(&*program);
            wired
        });
        for (stream, batch) in words.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(input) = wired.words.get_mut(&stream) {
                input.feed(batch);
            }
        }
        let restored = wired.results.as_mut().map(|input| input.restore(&*results, Portion::Any(Share::ALL)));
        // Dropping the inputs says that nothing more will come.
        wired.words.clear();
        (wired.results, wired.rejects) = (None, None);
        while worker.has_dataflows() {
            worker.step_or_park(None);
        }
        restored.transpose()?;
        let sources: Vec<String> = program.source_tables().into_iter().map(|(table, _)| table).collect();
        let made = |table: &String| program.is_derived(table) || sources.contains(table);
        let made = wired.tables.iter().filter(|(place, _)| made(&schemas[*place].name));
        Ok(made.map(|(place, buffer)| (schemas[*place].name.clone(), rows(buffer.take(0)))).collect())
    })
}

fn rows(changes: Option<Box<dyn ChangeBatch>>) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    if let Some(mut changes) = changes {
        changes.drain(&mut |row, diff| {
            let mut values = Vec::new();
            row.cells(&mut |cell| values.push(cell.to_value()));
            (0..diff).for_each(|_| rows.push(values.clone()));
        });
    }
    rows
}
