//! The flywheel as a program: its streams, decoders and tables, wired to its flow.

use super::decode::Decoder;
use super::extract::{self, Extractor};
use super::fields::Stream;
use super::flow::{Inputs, flywheel};
use super::rows::{CallRow, ScoreRow, TrajectoryRow};
use super::settings::{FIXED, FlywheelSettings};
use super::tables::schemas;
use std::sync::Arc;
use tidemill_core::program::{Builder, Extract, Program};
use tidemill_core::source::{ErasedDecode, SourceRow, StreamSpec, Word, erase};
use tidemill_core::words::{SourceTableRow, StateRow};
use tidemill_operators::{Table, upsert};
use tidemill_types::{Digest, ProgramId, TableSchema};

/// What the author declares: another version means that stored tables are recomputed at the next start.
const VERSION: &str = "1";

/// The flywheel under some settings.
pub struct Flywheel {
    settings: Arc<FlywheelSettings>,
    extractor: Extractor,
}

impl Flywheel {
    /// The program under checked settings.
    pub fn new(settings: FlywheelSettings) -> Self {
        let extractor = Extractor::new(&settings);
        Self { settings: Arc::new(settings), extractor }
    }

    /// Its settings.
    pub fn settings(&self) -> &Arc<FlywheelSettings> {
        &self.settings
    }
}

impl Extract for Flywheel {
    fn text(&self, stream: u8, part: u8, body: &[u8]) -> Result<String, String> {
        self.extractor.text(stream, part, body)
    }

    fn identity(&self, text: &str) -> Digest {
        extract::identity(text)
    }
}

/// Reads a stream: commits its words and its current rows, and gives the latter.
fn source<'s, T: SourceRow>(builder: &mut Builder<'s>, stream: Stream) -> Table<'s, Arc<Word<T>>> {
    let state = format!("_state.{}", stream.name());
    let records = builder.words::<T>(usize::from(stream.number()), &state);
    let upserted = upsert(records);
    let words = upserted.words.map(|(_, word)| StateRow { word: word.word, current: word.current });
    builder.table(&state, words);
    let current = upserted.current.map(|(_, word)| word);
    builder.table(&format!("raw.{}", stream.name()), current.clone().map(SourceTableRow));
    current
}

impl Program for Flywheel {
    fn id(&self) -> ProgramId {
        let settings = self.settings.to_value();
        ProgramId { name: "flywheel".into(), version: VERSION.into(), settings }
    }

    fn fixed_settings(&self) -> Vec<&'static str> {
        FIXED.to_vec()
    }

    fn streams(&self) -> Vec<StreamSpec> {
        let spec = |stream: Stream| StreamSpec {
            name: stream.name().to_string(),
            file_prefixes: stream.file_prefixes().iter().map(ToString::to_string).collect(),
            topic: stream.name().to_string(),
            value_bytes_max: self.settings.record_bytes_max,
        };
        Stream::ALL.into_iter().map(spec).collect()
    }

    fn source_tables(&self) -> Vec<(String, String)> {
        let tables = |stream: Stream| (format!("raw.{}", stream.name()), format!("_state.{}", stream.name()));
        Stream::ALL.into_iter().map(tables).collect()
    }

    fn decoder(&self, stream: usize) -> Box<dyn ErasedDecode> {
        let (settings, max) = (&*self.settings, self.settings.record_bytes_max);
        match Stream::ALL.get(stream) {
            Some(Stream::Trajectories) => erase("trajectories", max, Decoder::<TrajectoryRow>::new(settings)),
            Some(Stream::Calls) => erase("calls", max, Decoder::<CallRow>::new(settings)),
            _ => erase("scores", max, Decoder::<ScoreRow>::new(settings)),
        }
    }

    fn tables(&self) -> Vec<TableSchema> {
        schemas()
    }

    fn is_derived(&self, table: &str) -> bool {
        let kept = ["raw.", "_state.", "ai.", "ops."];
        !kept.iter().any(|prefix| table.starts_with(prefix))
    }

    fn build(&self, builder: &mut Builder<'_>) {
        let models = builder.models();
        let inputs = Inputs {
            trajectories: source(builder, Stream::Trajectories),
            calls: source(builder, Stream::Calls),
            scores: source(builder, Stream::Scores),
            results: builder.results("ai.embeddings", "ai.failures"),
        };
        let rejects = builder.rejects();
        builder.table("ops.rejects", rejects);
        let outputs = flywheel(inputs, &self.settings, &models);
        builder.table("curated.samples", outputs.samples);
        builder.table("evals.scores", outputs.evals);
        builder.table("evals.summary", outputs.summary);
        builder.table("evals.unused", outputs.unused);
        builder.table("evals.holdout", outputs.holdout);
        builder.table("train.sft", outputs.sft);
        builder.table("train.preferences", outputs.preferences);
        builder.pending(outputs.pending);
    }
}
