//! The flywheel's tables: their schemas and the rows that the flow makes for them.
//!
//! Rows hold their subject by reference and lend its columns; texts stand as handles that name the
//! subject's body and the part of it, from which a live row's text can be cut out anew.

use super::extract::{COMPLETION, MESSAGES, PROMPT, TOOLS};
use super::facts::SampleFacts;
use super::rows::{CallRow, Real, ScoreRow, TrajectoryRow};
use super::settings::MILLIONTHS;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidemill_core::builder::{failures_schema, results_schema};
use tidemill_core::source::rejects_schema;
use tidemill_core::words::{source_schema, state_schema};
use tidemill_types::{Cell, Digest, Kind, Origin, Row, TableSchema, Text};

/// Every table, in the order in which people read them.
// long: a list of columns, to be read as one.
pub fn schemas() -> Vec<TableSchema> {
    use Kind::{Boolean, Double, Int, Long, String, Text};
    let table =
        |name: &str, columns: &[(&'static str, Kind)]| TableSchema::new(name, columns.iter().copied());
    vec![
        source_schema::<TrajectoryRow>("raw.trajectories"),
        source_schema::<CallRow>("raw.calls"),
        source_schema::<ScoreRow>("raw.scores"),
        table(
            "curated.samples",
            &[
                ("sample_id*", String),
                ("kind", String),
                ("task", String),
                ("tenant?", String),
                ("user_id?", String),
                ("model?", String),
                ("ts?", String),
                ("messages", Text),
                ("tools?", Text),
                ("tokens", Long),
                ("text_only", Boolean),
                ("copies", Long),
            ],
        ),
        table(
            "evals.scores",
            &[
                ("eval_id*", String),
                ("sample_id", String),
                ("subject", String),
                ("metric", String),
                ("value", Double),
                ("judge?", String),
                ("judge_type?", String),
                ("origin", String),
            ],
        ),
        table("evals.summary", &[("model*", String), ("metric*", String), ("n", Long), ("mean", Double)]),
        table("evals.unused", &[("reason*", String), ("metric*", String), ("n", Long)]),
        table(
            "evals.holdout",
            &[
                ("sample_id*", String),
                ("task", String),
                ("tenant?", String),
                ("model?", String),
                ("messages", Text),
                ("tools?", Text),
                ("tokens", Long),
                ("quality?", Double),
            ],
        ),
        results_schema("ai.embeddings"),
        failures_schema("ai.failures"),
        table(
            "train.sft",
            &[
                ("sample_id*", String),
                ("task", String),
                ("tenant?", String),
                ("model?", String),
                ("ts?", String),
                ("messages", Text),
                ("tools?", Text),
                ("tokens", Long),
                ("quality", Double),
                ("copies", Long),
            ],
        ),
        table(
            "train.preferences",
            &[
                ("pair*", String),
                ("task", String),
                ("tenant?", String),
                ("prompt", Text),
                ("chosen", Text),
                ("rejected", Text),
                ("tools?", Text),
                ("chosen_id", String),
                ("rejected_id", String),
                ("chosen_model?", String),
                ("rejected_model?", String),
                ("chosen_quality", Double),
                ("rejected_quality", Double),
                ("chosen_turns", Int),
                ("rejected_turns", Int),
            ],
        ),
        rejects_schema("ops.rejects"),
        state_schema::<TrajectoryRow>("_state.trajectories"),
        state_schema::<CallRow>("_state.calls"),
        state_schema::<ScoreRow>("_state.scores"),
    ]
}

/// A short string that rows share.
pub type Str = Arc<str>;

/// A current trajectory or call that has a sample.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// `trajectory:<id>` or `call:<request_id>`.
    pub id: Str,
    /// The key of its row in the source table.
    pub key: Digest,
    /// The number of its stream.
    pub stream: u8,
    /// The digest of its body.
    pub body: Digest,
    /// The task.
    pub task: Str,
    /// Whose it is.
    pub tenant: Option<Str>,
    /// Of which user.
    pub user_id: Option<Str>,
    /// Which model answered.
    pub model: Option<Str>,
    /// When, as the record says it.
    pub ts: Option<Str>,
    /// What a trajectory reports of itself.
    pub reward: Option<Real>,
    /// All that its conversation was asked for.
    pub facts: SampleFacts,
}

impl Subject {
    /// `trajectory` or `call`.
    pub fn kind(&self) -> &str {
        self.id.split(':').next().unwrap_or_default()
    }

    /// A part of the subject's body, by reference.
    pub fn text(&self, digest: Digest, len: u32, part: u8) -> Text {
        Text { digest, len, origin: Some(Origin { stream: self.stream, key: self.key, part }) }
    }

    fn messages(&self) -> Cell<'_> {
        Cell::Text(self.text(self.facts.conversation(), self.facts.messages_len, MESSAGES))
    }

    fn tools(&self) -> Cell<'_> {
        let tools = self.facts.tools();
        tools.map_or(Cell::Null, |digest| Cell::Text(self.text(digest, self.facts.tools_len, TOOLS)))
    }

    fn prompt(&self) -> Cell<'_> {
        Cell::Text(self.text(self.facts.prompt(), self.facts.messages_len, PROMPT))
    }

    fn completion(&self) -> Cell<'_> {
        Cell::Text(self.text(self.facts.completion(), self.facts.messages_len, COMPLETION))
    }
}

fn optional(text: &Option<Str>) -> Cell<'_> {
    text.as_deref().map_or(Cell::Null, Cell::Str)
}

fn unit(millionths: i64) -> Cell<'static> {
    Cell::Double(millionths as f64 / MILLIONTHS)
}

/// A row of `curated.samples`: the subject that stands for all copies, and how many there are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The subject.
    pub subject: Arc<Subject>,
    /// How many subjects are copies of one another, itself included.
    pub copies: i64,
}

impl Row for Sample {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        let subject = &*self.subject;
        out(Cell::Str(&subject.id));
        out(Cell::Str(subject.kind()));
        out(Cell::Str(&subject.task));
        out(optional(&subject.tenant));
        out(optional(&subject.user_id));
        out(optional(&subject.model));
        out(optional(&subject.ts));
        out(subject.messages());
        out(subject.tools());
        out(Cell::Long(subject.facts.tokens as i64));
        out(Cell::Bool(subject.facts.text_only));
        out(Cell::Long(self.copies));
    }
}

/// A row of `evals.scores`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Eval {
    /// `score:<row_id>`, `reported:<id>` or `model:<sample_id>`.
    pub eval_id: Str,
    /// The sample that it counts for.
    pub sample_id: Str,
    /// What was judged: a subject, or the sample.
    pub subject: Str,
    /// In which respect.
    pub metric: Str,
    /// Millionths.
    pub value: i64,
    /// Who judged.
    pub judge: Option<Str>,
    /// What kind of judge that is.
    pub judge_type: Option<Str>,
    /// Where it comes from.
    pub origin: EvalOrigin,
}

/// Where an eval comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum EvalOrigin {
    /// A record of the scores' stream.
    Stream,
    /// The trajectory's own reward.
    Reported,
    /// A model's embeddings.
    Model,
}

impl Row for Eval {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.eval_id));
        out(Cell::Str(&self.sample_id));
        out(Cell::Str(&self.subject));
        out(Cell::Str(&self.metric));
        out(unit(self.value));
        out(optional(&self.judge));
        out(optional(&self.judge_type));
        out(Cell::Str(match self.origin {
            EvalOrigin::Stream => "stream",
            EvalOrigin::Reported => "reported",
            EvalOrigin::Model => "model",
        }));
    }
}

/// A row of `evals.summary`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The model of the samples.
    pub model: Str,
    /// The metric.
    pub metric: Str,
    /// The sum of the values, millionths.
    pub sum: i64,
    /// How many there are; never 0.
    pub n: i64,
}

impl Row for Summary {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.model));
        out(Cell::Str(&self.metric));
        out(Cell::Long(self.n));
        out(Cell::Double((self.sum as f64 / self.n as f64) / MILLIONTHS));
    }
}

/// A row of `evals.unused`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Unused {
    /// The first reason that applies.
    pub reason: Str,
    /// The metric.
    pub metric: Str,
    /// How many scores.
    pub n: i64,
}

impl Row for Unused {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.reason));
        out(Cell::Str(&self.metric));
        out(Cell::Long(self.n));
    }
}

/// A row of `evals.holdout`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HeldOut {
    /// The sample's subject.
    pub subject: Arc<Subject>,
    /// Millionths.
    pub quality: Option<i64>,
}

impl Row for HeldOut {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        let subject = &*self.subject;
        out(Cell::Str(&subject.id));
        out(Cell::Str(&subject.task));
        out(optional(&subject.tenant));
        out(optional(&subject.model));
        out(subject.messages());
        out(subject.tools());
        out(Cell::Long(subject.facts.tokens as i64));
        out(self.quality.map_or(Cell::Null, unit));
    }
}

/// A row of `train.sft`: an eligible sample that was selected.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Sft {
    /// The sample.
    pub sample: Sample,
    /// Millionths.
    pub quality: i64,
}

impl Row for Sft {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        let subject = &*self.sample.subject;
        out(Cell::Str(&subject.id));
        out(Cell::Str(&subject.task));
        out(optional(&subject.tenant));
        out(optional(&subject.model));
        out(optional(&subject.ts));
        out(subject.messages());
        out(subject.tools());
        out(Cell::Long(subject.facts.tokens as i64));
        out(unit(self.quality));
        out(Cell::Long(self.sample.copies));
    }
}

/// One side of a preference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Side {
    /// The sample's subject.
    pub subject: Arc<Subject>,
    /// Millionths.
    pub quality: i64,
}

/// A row of `train.preferences`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Preference {
    /// The hex of a digest of what the pair is grouped by.
    pub pair: Str,
    /// The better answer.
    pub chosen: Side,
    /// The worse one.
    pub rejected: Side,
}

impl Row for Preference {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        let (chosen, rejected) = (&*self.chosen.subject, &*self.rejected.subject);
        out(Cell::Str(&self.pair));
        out(Cell::Str(&chosen.task));
        out(optional(&chosen.tenant));
        out(chosen.prompt());
        out(chosen.completion());
        out(rejected.completion());
        out(chosen.tools());
        out(Cell::Str(&chosen.id));
        out(Cell::Str(&rejected.id));
        out(optional(&chosen.model));
        out(optional(&rejected.model));
        out(unit(self.chosen.quality));
        out(unit(self.rejected.quality));
        out(Cell::Int(chosen.facts.completion_turns() as i32));
        out(Cell::Int(rejected.facts.completion_turns() as i32));
    }
}
