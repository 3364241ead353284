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

/// The newest row that entered, and the newest that left, a line each.
pub fn late_scores(store: &StoreReader) -> Result<Vec<String>, Error> {
    let schemas = store.program(&store.newest)?.tables();
    let (mut entered, mut left) = (None, None);
    for epoch in (store.oldest()?..=store.newest.epoch).rev() {
        if entered.is_some() && left.is_some() {
            break;
        }
        let commit = Commit::read(store, &schemas, epoch)?;
        entered = entered.or_else(|| commit.moved(&commit.came, &commit.went, "entered"));
        left = left.or_else(|| commit.moved(&commit.went, &commit.came, "left"));
    }
    Ok(entered.into_iter().chain(left).collect())
}

/// What one commit did to samples.
struct Commit {
    root: Root,
    /// Samples with a score that came, and what it says.
    scored: BTreeMap<String, String>,
    /// Samples whose own row changed, or that a model judged.
    changed: BTreeSet<String>,
    came: BTreeSet<String>,
    went: BTreeSet<String>,
}

fn text<'a>(schema: &TableSchema, change: &'a Change, column: &str) -> &'a str {
    match schema.place(column).map(|place| &change.values[place]) {
        Some(Value::Str(text)) => text,
        _ => "",
    }
}

fn score(schema: &TableSchema, change: &Change) -> String {
    let value = schema.place("value").map(|place| &change.values[place]);
    let value = match value {
        Some(Value::Double(value)) => value.to_string(),
        _ => "?".to_string(),
    };
    let judge = match text(schema, change, "judge_type") {
        "" => "a judge of unstated kind".to_string(),
        kind => format!("a judge of kind {kind}"),
    };
    format!("{judge} gave {} {value}", text(schema, change, "metric"))
}

impl Commit {
    fn read(store: &StoreReader, schemas: &[TableSchema], epoch: u64) -> Result<Self, Error> {
        let root = store.root(Some(epoch))?;
        let (scored, changed) = (BTreeMap::new(), BTreeSet::new());
        let mut commit = Self { root, scored, changed, came: BTreeSet::new(), went: BTreeSet::new() };
        let changes = |table: &str, root: &Root| {
            let schema = schemas.iter().find(|schema| schema.name == table);
            let schema = schema.ok_or_else(|| Error::failed(format!("the program has no table {table}")))?;
            Ok::<_, Error>((schema, store.changes(root, schema)?))
        };
        let (schema, sft) = changes("train.sft", &commit.root)?;
        for change in &sft {
            let ids = if change.diff > 0 { &mut commit.came } else { &mut commit.went };
            ids.insert(text(schema, change, "sample_id").to_string());
        }
        if commit.came == commit.went {
            return Ok(commit);
        }
        let (schema, samples) = changes("curated.samples", &commit.root)?;
        commit.changed.extend(samples.iter().map(|change| text(schema, change, "sample_id").to_string()));
        let (schema, evals) = changes("evals.scores", &commit.root)?;
        for change in evals.iter().filter(|change| change.diff > 0) {
            let id = text(schema, change, "sample_id").to_string();
            match text(schema, change, "origin") {
                "stream" => drop(commit.scored.insert(id, score(schema, change))),
                _ => drop(commit.changed.insert(id)),
            }
        }
        Ok(commit)
    }

    fn moved(&self, there: &BTreeSet<String>, other: &BTreeSet<String>, verb: &str) -> Option<String> {
        let alone = there.difference(other).filter(|id| !self.changed.contains(*id));
        let (id, score) = alone.filter_map(|id| Some((id, self.scored.get(id)?))).next()?;
        Some(format!("{id} {verb} train.sft in commit {}, because {score}", self.root.epoch))
    }
}
