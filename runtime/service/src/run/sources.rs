//! What a run reads: a folder, Kafka's topics, or both side by side.

use super::clock::{now_rfc3339, stopwatch};
use super::edge::BATCHES;
use super::gauges::Gauges;
use crate::Error;
use crate::cli::{RunSettings, Until};
use std::sync::Arc;
use tidemill_connectors::files::{FilesFactory, FilesOptions};
use tidemill_connectors::kafka::{Connection, KafkaFactory, KafkaOptions};
use tidemill_core::combined::Combined;
use tidemill_core::program::Program;
use tidemill_core::reader::BATCH_BYTES;
use tidemill_core::source::{SourceError, SourceFactory};
use tidemill_types::Root;

/// What Kafka's clients may hold: the sources' share, less what waits on its way to the workers.
fn fetched_bytes(run: &RunSettings) -> u64 {
    let workers = run.settings.workers as u64;
    let waiting = workers * (BATCHES as u64 + 1) * BATCH_BYTES;
    run.settings.memory.source_bytes().saturating_sub(waiting).max(workers * BATCH_BYTES)
}

/// The sources that the settings name.
pub(super) fn open(
    run: &RunSettings,
    program: &dyn Program,
    gauges: &Arc<Gauges>,
) -> Result<Box<dyn SourceFactory>, Error> {
    let mut sources: Vec<Box<dyn SourceFactory>> = Vec::new();
    let drain = matches!(run.until, Until::Drained);
    if let Some(folder) = &run.input_dir {
        let mut files = FilesOptions::new(folder, program.streams());
        files.drain = drain;
        sources.push(Box::new(FilesFactory::new(files)?));
    }
    let kafka = &run.settings.kafka;
    if let Some(brokers) = &kafka.brokers {
        let gauges = gauges.clone();
        let options = KafkaOptions {
            connection: Connection {
                brokers: brokers.clone(),
                properties: kafka.properties.clone(),
                ..Connection::default()
            },
            group: kafka.group.clone(),
            streams: program.streams(),
            topics: kafka.topics.clone(),
            drain,
            accept_gap: run.accept_gap,
            fetched_bytes_max: fetched_bytes(run),
            now: Arc::new(now_rfc3339),
            stopwatch: stopwatch(),
            waits: Arc::new(move |what| gauges.waiting(what)),
        };
        sources.push(Box::new(KafkaFactory::new(options)?));
    }
    match sources.pop() {
        Some(only) if sources.is_empty() => Ok(only),
        last => Ok(Box::new(Combined(sources.into_iter().chain(last).collect()))),
    }
}

/// Makes sure that what followed a commit can be read again, unless gaps are accepted.
pub(super) fn hold(
    sources: &dyn SourceFactory,
    accept_gap: bool,
    back: &Root,
    newest: &Root,
) -> Result<(), SourceError> {
    if accept_gap {
        return Ok(());
    }
    sources.holds((&back.positions, &back.cursors), (&newest.positions, &newest.cursors))
}
