//! Which rows entered and left a training set because a score came late: told from the log alone.
//!
//! In one commit, a sample that was there before and whose row did not change, that was not judged by a
//! model in that commit, but that got a score, and that came into `train.sft` or left it, did so because
//! of the score.

use crate::Error;
use crate::cli::StoreReader;
use std::collections::{BTreeMap, BTreeSet};
use tidemill_core::segment::Change;
use tidemill_types::{Root, TableSchema, Value};

/// A row that entered and a row that left, a line each: the newest for which a person spoke, or else the
/// newest.
pub fn late_scores(store: &StoreReader) -> Result<Vec<String>, Error> {
    let schemas = store.program(&store.newest)?.tables();
    let (mut entered, mut left) = (None, None);
    for epoch in (store.oldest()?..=store.newest.epoch).rev() {
        if [&entered, &left].into_iter().all(|found: &Option<Moved>| found.as_ref().is_some_and(|m| m.human))
        {
            break;
        }
        let commit = Commit::read(store, &schemas, epoch)?;
        better(&mut entered, commit.entered());
        better(&mut left, commit.left());
    }
    let told = |found: Option<Moved>, verb: &str| match found {
        Some(moved) => moved.line,
        None => format!("no row {verb} train.sft by a late score alone; let it run longer"),
    };
    Ok(vec![told(entered, "entered"), told(left, "left")])
}

/// A row that a score moved.
struct Moved {
    line: String,
    human: bool,
}

fn better(best: &mut Option<Moved>, found: Option<Moved>) {
    let Some(found) = found else { return };
    if best.as_ref().is_none_or(|best| found.human && !best.human) {
        *best = Some(found);
    }
}

/// Rows of `train.sft`: sample and quality.
type Rows = BTreeMap<String, f64>;

/// What one commit did to samples.
struct Commit {
    root: Root,
    /// Samples with a score that came; of several one that a person gave.
    scored: BTreeMap<String, Said>,
    /// Samples whose own row changed, or that a model judged.
    changed: BTreeSet<String>,
    came: Rows,
    went: Rows,
}

fn text<'a>(schema: &TableSchema, change: &'a Change, column: &str) -> &'a str {
    match schema.place(column).map(|place| &change.values[place]) {
        Some(Value::Str(text)) => text,
        _ => "",
    }
}

fn number(schema: &TableSchema, change: &Change, column: &str) -> f64 {
    match schema.place(column).map(|place| &change.values[place]) {
        Some(Value::Double(value)) => *value,
        _ => 0.0,
    }
}

/// What a score says.
struct Said {
    human: bool,
    value: f64,
    words: String,
}

impl Said {
    fn of(schema: &TableSchema, change: &Change) -> Self {
        let kind = text(schema, change, "judge_type");
        let judge = match (kind, text(schema, change, "judge")) {
            ("", "") => "somebody".to_string(),
            (kind, "") => format!("a judge of kind {kind}"),
            ("", judge) => judge.to_string(),
            (kind, judge) => format!("{judge} ({kind})"),
        };
        let (metric, value) = (text(schema, change, "metric"), number(schema, change, "value"));
        Self { human: kind == "human", value, words: format!("{judge} gave {metric} {value}") }
    }
}

impl Commit {
    fn read(store: &StoreReader, schemas: &[TableSchema], epoch: u64) -> Result<Self, Error> {
        let root = store.root(Some(epoch))?;
        let (scored, changed) = (BTreeMap::new(), BTreeSet::new());
        let mut commit = Self { root, scored, changed, came: Rows::new(), went: Rows::new() };
        let changes = |table: &str, root: &Root| {
            let schema = schemas.iter().find(|schema| schema.name == table);
            let schema = schema.ok_or_else(|| Error::failed(format!("the program has no table {table}")))?;
            Ok::<_, Error>((schema, store.changes(root, schema)?))
        };
        let (schema, sft) = changes("train.sft", &commit.root)?;
        for change in &sft {
            let rows = if change.diff > 0 { &mut commit.came } else { &mut commit.went };
            let id = text(schema, change, "sample_id").to_string();
            rows.insert(id, number(schema, change, "quality"));
        }
        if commit.came.keys().eq(commit.went.keys()) {
            return Ok(commit);
        }
        let (schema, samples) = changes("curated.samples", &commit.root)?;
        commit.changed.extend(samples.iter().map(|change| text(schema, change, "sample_id").to_string()));
        let (schema, evals) = changes("evals.scores", &commit.root)?;
        for change in evals.iter().filter(|change| change.diff > 0) {
            let id = text(schema, change, "sample_id").to_string();
            match text(schema, change, "origin") {
                "stream" => {
                    let said = Said::of(schema, change);
                    if said.human || !commit.scored.contains_key(&id) {
                        commit.scored.insert(id, said);
                    }
                }
                _ => drop(commit.changed.insert(id)),
            }
        }
        Ok(commit)
    }

    /// The row that entered by the best score.
    fn entered(&self) -> Option<Moved> {
        let (id, quality, said) =
            self.alone(&self.came, &self.went).max_by(|a, b| order(a.2, b.2, |said| said.value))?;
        let line = format!("{id} entered train.sft in commit {} at quality {quality}", self.root.epoch);
        Some(Moved { line: format!("{line} because of a late score: {}", said.words), human: said.human })
    }

    /// The row that left by the worst score.
    fn left(&self) -> Option<Moved> {
        let (id, quality, said) =
            self.alone(&self.went, &self.came).max_by(|a, b| order(a.2, b.2, |said| -said.value))?;
        let line = format!("{id} left train.sft in commit {} from quality {quality}", self.root.epoch);
        Some(Moved { line: format!("{line} because of a late score: {}", said.words), human: said.human })
    }

    /// Rows that are only in `there`, of samples to which nothing happened but a score.
    fn alone<'a>(
        &'a self,
        there: &'a Rows,
        other: &'a Rows,
    ) -> impl Iterator<Item = (&'a str, f64, &'a Said)> {
        let alone = there.iter().filter(|(id, _)| !other.contains_key(*id) && !self.changed.contains(*id));
        alone.filter_map(|(id, quality)| Some((id.as_str(), *quality, self.scored.get(id)?)))
    }
}

/// People before all others, then by the value.
fn order(a: &Said, b: &Said, value: impl Fn(&Said) -> f64) -> std::cmp::Ordering {
    a.human.cmp(&b.human).then(value(a).total_cmp(&value(b)))
}
