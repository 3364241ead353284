//! The typed rows of the three source tables.
//!
//! A row holds the columns that outsiders see, the body by reference, and the facts, which
//! were read out of the body. Strings are shared: a name that many rows hold (of a model, a task, a metric)
//! is one allocation among all rows that a decoder made while it remembered it.

use super::facts::{self, SampleFacts};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, sync::Arc};
use tidemill_core::source::SourceRow;
use tidemill_types::{Cell, CellReader, Kind, RowError, Text};

/// A 64-bit float that can stand in a row: equal when its bits are, in total order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Real(u64);

impl Real {
    /// The float.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Real {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.get().total_cmp(&other.get())
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A row of `raw.trajectories`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TrajectoryRow {
    /// The identity.
    pub id: Arc<str>,
    /// The task that was tried.
    pub task_id: Arc<str>,
    /// Who tried it.
    pub agent: Option<Arc<str>>,
    /// With which model.
    pub model: Option<Arc<str>>,
    /// What the environment paid; finite.
    pub reward: Option<Real>,
    /// How it ended.
    pub outcome: Option<Arc<str>>,
    /// Whose it is.
    pub tenant: Option<Arc<str>>,
    /// Of which user.
    pub user_id: Option<Arc<str>>,
    /// When, as the record says it.
    pub ts: Option<Arc<str>>,
    /// The value, byte for byte.
    pub body: Text,
    /// `None`: it has no sample.
    pub facts: Option<SampleFacts>,
}

/// A row of `raw.calls`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CallRow {
    /// The identity.
    pub request_id: Arc<str>,
    /// The model that answered.
    pub model: Option<Arc<str>>,
    /// The session that it belongs to.
    pub session_id: Option<Arc<str>>,
    /// The HTTP status.
    pub status: Option<i32>,
    /// Whose it is.
    pub tenant: Option<Arc<str>>,
    /// Of which user.
    pub user_id: Option<Arc<str>>,
    /// When, as the record says it.
    pub ts: Option<Arc<str>>,
    /// The value, byte for byte.
    pub body: Text,
    /// `None`: it has no sample.
    pub facts: Option<SampleFacts>,
}

/// A row of `raw.scores`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ScoreRow {
    /// The identity.
    pub row_id: Arc<str>,
    /// What was scored: `trajectory:<id>` or `call:<request_id>`.
    pub subject: Option<Arc<str>>,
    /// In which respect.
    pub metric: Arc<str>,
    /// The score; finite.
    pub score: Option<Real>,
    /// Who scored.
    pub judge: Option<Arc<str>>,
    /// What kind of judge that is.
    pub judge_type: Option<Arc<str>>,
    /// The value, byte for byte.
    pub body: Text,
}

fn optional(text: &Option<Arc<str>>) -> Cell<'_> {
    text.as_deref().map_or(Cell::Null, Cell::Str)
}

fn double(real: Option<Real>) -> Cell<'static> {
    real.map_or(Cell::Null, |real| Cell::Double(real.get()))
}

fn str(cells: &mut CellReader<'_>) -> Result<Arc<str>, RowError> {
    Ok(cells.str()?.into())
}

fn str_opt(cells: &mut CellReader<'_>) -> Result<Option<Arc<str>>, RowError> {
    Ok(cells.str_opt()?.map(Arc::from))
}

fn real_opt(cells: &mut CellReader<'_>) -> Result<Option<Real>, RowError> {
    Ok(cells.double_opt()?.map(Real::from))
}

impl SourceRow for TrajectoryRow {
    fn columns() -> Vec<(&'static str, Kind)> {
        vec![
            ("id*", Kind::String),
            ("task_id", Kind::String),
            ("agent?", Kind::String),
            ("model?", Kind::String),
            ("reward?", Kind::Double),
            ("outcome?", Kind::String),
            ("tenant?", Kind::String),
            ("user_id?", Kind::String),
            ("ts?", Kind::String),
            ("body", Kind::Text),
        ]
    }

    fn facts() -> Vec<(&'static str, Kind)> {
        facts::columns()
    }

    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.id));
        out(Cell::Str(&self.task_id));
        out(optional(&self.agent));
        out(optional(&self.model));
        out(double(self.reward));
        out(optional(&self.outcome));
        out(optional(&self.tenant));
        out(optional(&self.user_id));
        out(optional(&self.ts));
        out(Cell::Text(self.body));
    }

    fn fact_cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        facts::cells(self.facts.as_ref(), out);
    }

    fn read(cells: &mut CellReader<'_>) -> Result<Self, RowError> {
        Ok(Self {
            id: str(cells)?,
            task_id: str(cells)?,
            agent: str_opt(cells)?,
            model: str_opt(cells)?,
            reward: real_opt(cells)?,
            outcome: str_opt(cells)?,
            tenant: str_opt(cells)?,
            user_id: str_opt(cells)?,
            ts: str_opt(cells)?,
            body: cells.text()?,
            facts: facts::read(cells)?,
        })
    }

    fn identity(&self) -> &str {
        &self.id
    }

    fn body(&self) -> Text {
        self.body
    }
}

impl SourceRow for CallRow {
    fn columns() -> Vec<(&'static str, Kind)> {
        vec![
            ("request_id*", Kind::String),
            ("model?", Kind::String),
            ("session_id?", Kind::String),
            ("status?", Kind::Int),
            ("tenant?", Kind::String),
            ("user_id?", Kind::String),
            ("ts?", Kind::String),
            ("body", Kind::Text),
        ]
    }

    fn facts() -> Vec<(&'static str, Kind)> {
        facts::columns()
    }

    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.request_id));
        out(optional(&self.model));
        out(optional(&self.session_id));
        out(self.status.map_or(Cell::Null, Cell::Int));
        out(optional(&self.tenant));
        out(optional(&self.user_id));
        out(optional(&self.ts));
        out(Cell::Text(self.body));
    }

    fn fact_cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        facts::cells(self.facts.as_ref(), out);
    }

    fn read(cells: &mut CellReader<'_>) -> Result<Self, RowError> {
        Ok(Self {
            request_id: str(cells)?,
            model: str_opt(cells)?,
            session_id: str_opt(cells)?,
            status: cells.int_opt()?,
            tenant: str_opt(cells)?,
            user_id: str_opt(cells)?,
            ts: str_opt(cells)?,
            body: cells.text()?,
            facts: facts::read(cells)?,
        })
    }

    fn identity(&self) -> &str {
        &self.request_id
    }

    fn body(&self) -> Text {
        self.body
    }
}

impl SourceRow for ScoreRow {
    fn columns() -> Vec<(&'static str, Kind)> {
        vec![
            ("row_id*", Kind::String),
            ("subject?", Kind::String),
            ("metric", Kind::String),
            ("score?", Kind::Double),
            ("judge?", Kind::String),
            ("judge_type?", Kind::String),
            ("body", Kind::Text),
        ]
    }

    fn facts() -> Vec<(&'static str, Kind)> {
        Vec::new()
    }

    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.row_id));
        out(optional(&self.subject));
        out(Cell::Str(&self.metric));
        out(double(self.score));
        out(optional(&self.judge));
        out(optional(&self.judge_type));
        out(Cell::Text(self.body));
    }

    fn fact_cells<'a>(&'a self, _out: &mut dyn FnMut(Cell<'a>)) {}

    fn read(cells: &mut CellReader<'_>) -> Result<Self, RowError> {
        Ok(Self {
            row_id: str(cells)?,
            subject: str_opt(cells)?,
            metric: str(cells)?,
            score: real_opt(cells)?,
            judge: str_opt(cells)?,
            judge_type: str_opt(cells)?,
            body: cells.text()?,
        })
    }

    fn identity(&self) -> &str {
        &self.row_id
    }

    fn body(&self) -> Text {
        self.body
    }
}
