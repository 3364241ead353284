//! The verdict: a commit's tables against a recomputation, from scratch, of what Kafka holds below its positions.
//!
//! ```text
//!  Kafka ──read_committed──> Truth ──below the root's positions──> oracle ──> tables that must be
//!  store ──library's reader──────────────────────────────────────────────────> tables that are
//! ```
//!
//! What differs is counted by rows: *lost* must be there and is not; *duplicated* is there twice; *early* is not of this
//! prefix but would be right for all that Kafka holds by now, so it follows from records beyond the positions; *wrong* is
//! every other row that is not what it must be.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tidemill::Error;
use tidemill::cli::{StoreReader, StoreTables, Tables as _};
use tidemill_oracle::compare::{Difference, Problem, differences};
use tidemill_oracle::files::{Positions, input_of};
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::model::{Input, Record, Row, Tables, pending_texts, recompute};
use tidemill_oracle::values::row;
use tidemill_types::invariants::follows;
use tidemill_types::{Root, TableSchema};

/// Rows of one table that are not as they must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wrong {
    /// Not there.
    pub lost: u64,
    /// There more than once.
    pub duplicated: u64,
    /// Right only for more records than the commit covers.
    pub early: u64,
    /// Anything else.
    pub wrong: u64,
}

/// What was found in one commit or more.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Verdict {
    /// Commits that were held against the oracle.
    pub commits: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// By table; tables without a wrong row are not in it.
    pub tables: BTreeMap<String, Wrong>,
    /// The first differences, and whatever else is amiss, in words.
    pub told: Vec<String>,
}

/// How many differences are told.
const TOLD_MAX: usize = 20;

impl Wrong {
    /// All of them.
    pub fn sum(self) -> u64 {
        self.lost + self.duplicated + self.early + self.wrong
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { lost, duplicated, early, wrong } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {early} early, {wrong} wrong")
    }
}

impl Verdict {
    /// Rows that are not as they must be, in all tables.
    pub fn total(&self) -> Wrong {
        self.tables.values().fold(Wrong::default(), |sum, table| Wrong {
            lost: sum.lost + table.lost,
            duplicated: sum.duplicated + table.duplicated,
            early: sum.early + table.early,
            wrong: sum.wrong + table.wrong,
        })
    }

    /// Whether nothing is amiss.
    pub fn is_clean(&self) -> bool {
        self.total() == Wrong::default() && self.told.is_empty()
    }

    /// Adds another's findings.
    pub fn add(&mut self, other: Verdict) {
        self.commits += other.commits;
        self.rows += other.rows;
        for (table, found) in other.tables {
            let sum = self.tables.entry(table).or_default();
            sum.lost += found.lost;
            sum.duplicated += found.duplicated;
            sum.early += found.early;
            sum.wrong += found.wrong;
        }
        let room = TOLD_MAX.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
    }

    /// Tells of something that is amiss beside rows.
    pub fn tell(&mut self, what: impl Into<String>) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what.into());
        }
    }
}

/// A store as it is read for a verdict.
pub struct Judge {
    reader: StoreReader,
}

impl Judge {
    /// Opens a store that has commits.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(store: &str) -> Result<Judge, Error> {
        Ok(Judge { reader: StoreReader::open(&tidemill::flywheel::app::app(), store)? })
    }

    /// The newest root.
    pub fn newest(&self) -> &Root {
        &self.reader.newest
    }

    /// Whether a commit can still be read.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub fn keeps(&self, epoch: u64) -> Result<bool, Error> {
        Ok(epoch >= self.reader.oldest_readable()?)
    }

    /// Holds a commit against what Kafka holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn hold(&self, epoch: u64, truth: &Truth) -> Result<Verdict, Error> {
        let tables = self.reader.tables(Some(epoch))?;
        let got = rows(&tables)?;
        let root = serde_json::to_value(&tables.root).map_err(Error::failed)?;
        let mut verdict = Verdict { commits: 1, ..Verdict::default() };
        let input = input(&root, covered(&root, &truth.records), &got, &mut verdict);
        let want = recompute(&input);
        verdict.rows = want.values().map(|rows| rows.len() as u64).sum();
        let found = differences(&want, &got, usize::MAX);
        if !found.is_empty() {
            let all = input_of(&root, truth.records.clone(), &[], &[]);
            let later = Input { records: all.records, ..input };
            count(&found, &got, &recompute(&later), epoch, &mut verdict);
        }
        Ok(verdict)
    }

    /// Holds a drained store: its newest commit covers all that Kafka holds, nothing is pending, and it is published.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn hold_drained(&self, truth: &Truth) -> Result<Verdict, Error> {
        let newest = self.newest();
        let mut verdict = self.hold(newest.epoch, truth)?;
        let root = serde_json::to_value(newest).map_err(Error::failed)?;
        let covered = covered(&root, &truth.records);
        if covered.len() != truth.records.len() {
            let (covered, all) = (covered.len(), truth.records.len());
            verdict.tell(format!("a drained run covers {covered} of the {all} records that Kafka holds"));
        }
        let got = rows(&self.reader.tables(None)?)?;
        let pending = pending_texts(&input(&root, covered, &got, &mut verdict)).len();
        if pending > 0 {
            verdict.tell(format!("{pending} texts are pending after a drained run"));
        }
        match &newest.published {
            None => verdict.tell("a drained run published nothing"),
            Some(published) => {
                for (table, published) in &published.tables {
                    let rows = got.get(table).map_or(0, Vec::len) as u64;
                    if published.rows != rows {
                        let said = published.rows;
                        verdict.tell(format!("{table} is published with {said} rows, it has {rows}"));
                    }
                }
            }
        }
        Ok(verdict)
    }

    /// Holds the log: each retained root follows from the one before.
    ///
    /// # Errors
    ///
    /// When a root cannot be read.
    pub fn hold_log(&self) -> Result<Verdict, Error> {
        let mut verdict = Verdict::default();
        let mut older = self.reader.root(Some(self.reader.oldest()?))?;
        for epoch in older.epoch + 1..=self.newest().epoch {
            let newer = self.reader.root(Some(epoch))?;
            if let Err(broken) = follows(&older, &newer) {
                verdict.tell(format!("root {epoch}: {broken}"));
            }
            older = newer;
        }
        Ok(verdict)
    }
}

/// The records that a root covers.
fn covered(root: &Value, records: &[Record]) -> Vec<Record> {
    let positions: Positions = serde_json::from_value(root["positions"].clone()).unwrap_or_default();
    let below = |record: &&Record| {
        let next = positions.get(&record.stream).and_then(|partitions| partitions.get(&record.partition));
        next.is_some_and(|next| record.offset < *next)
    };
    records.iter().filter(below).cloned().collect()
}

/// What a commit covers. A result that stands twice is told, and counts once.
fn input(root: &Value, records: Vec<Record>, got: &Tables, verdict: &mut Verdict) -> Input {
    let mut once = |table: &str| {
        let mut seen = BTreeSet::new();
        let rows = got.get(table).cloned().unwrap_or_default();
        let all = rows.len();
        let request = |row: &Row| ["text_digest", "model", "version"].map(|column| row[column].to_string());
        let rows: Vec<Row> = rows.into_iter().filter(|row| seen.insert(request(row))).collect();
        if rows.len() < all {
            verdict.tables.entry(table.to_string()).or_default().duplicated += (all - rows.len()) as u64;
        }
        rows
    };
    let (embeddings, failures) = (once("ai.embeddings"), once("ai.failures"));
    input_of(root, records, &embeddings, &failures)
}

/// All rows of all tables.
fn rows(tables: &StoreTables) -> Result<Tables, Error> {
    let of_table = |schema: &TableSchema| {
        let mut found: Vec<Row> = Vec::new();
        tables.for_each(&schema.name, &mut |values| {
            found.push(row(schema, &values));
            Ok(())
        })?;
        Ok((schema.name.clone(), found))
    };
    tables.schemas().iter().map(of_table).collect()
}

/// Counts differences by rows: a row with several wrong columns counts once.
fn count(found: &[Difference], got: &Tables, later: &Tables, epoch: u64, verdict: &mut Verdict) {
    let ahead = differences(later, got, usize::MAX);
    let still: BTreeSet<(&str, &str)> =
        ahead.iter().map(|difference| (&*difference.table, &*difference.key)).collect();
    let mut counted = BTreeSet::new();
    for difference in found {
        verdict.tell(format!("epoch {epoch}: {difference}"));
        let place = (&*difference.table, &*difference.key);
        if !counted.insert((place, difference.problem)) {
            continue;
        }
        let sum = verdict.tables.entry(difference.table.clone()).or_default();
        match difference.problem {
            Problem::Twice => sum.duplicated += 1,
            Problem::Extra | Problem::Column if !still.contains(&place) => sum.early += 1,
            Problem::Missing => sum.lost += 1,
            Problem::Extra | Problem::Column => sum.wrong += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scores(values: &[(&str, f64)]) -> Tables {
        let row = |(id, score): &(&str, f64)| {
            let row = json!({"row_id": id, "metric": "reward", "score": score, "body": "", "source_partition": "0",
                "source_offset": 1});
            row.as_object().expect("an object").clone()
        };
        Tables::from([("raw.scores".to_string(), values.iter().map(row).collect())])
    }

    #[test]
    fn what_differs_is_counted_by_rows_and_kinds() {
        let want = scores(&[("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)]);
        let later = scores(&[("a", 0.0), ("b", 1.0), ("c", 0.0), ("d", 0.0), ("e", 0.0)]);
        // b as it will be, c wrong, d lost, e too early, f from nowhere, a twice.
        let got = scores(&[("a", 0.0), ("a", 0.0), ("b", 1.0), ("c", 9.0), ("e", 0.0), ("f", 0.0)]);
        let mut verdict = Verdict::default();
        count(&differences(&want, &got, usize::MAX), &got, &later, 7, &mut verdict);
        assert_eq!(verdict.total(), Wrong { lost: 1, duplicated: 1, early: 2, wrong: 2 });
        assert!(!verdict.is_clean() && verdict.told[0].contains("epoch 7"));
        let mut clean = Verdict::default();
        assert!(clean.is_clean() && differences(&want, &want, usize::MAX).is_empty());
        clean.add(verdict);
        assert_eq!(clean.total().sum(), 6);
    }
}
