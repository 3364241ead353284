//! What a run of kills found, for people and as JSON.

use super::recovery::Recovered;
use super::trouble::Lie;
use super::verdict::{Verdict, Wrong};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use tidemill::run::percentile;

/// Kills of one kind, and what was found in the commits after them.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Kills {
    /// How many.
    pub kills: u64,
    /// Rows that were not as they must be.
    pub wrong: Wrong,
}

/// All that was found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Of the traffic and of all that happened.
    pub seed: u64,
    /// Where the stores stood: `folder`, `s3`.
    pub stores: &'static str,
    /// By what was being done when the kill came.
    pub kills: BTreeMap<String, Kills>,
    /// Faults, how often they were brought about.
    pub faults: BTreeMap<String, u64>,
    /// False answers, how often they were given.
    pub lies: BTreeMap<Lie, u64>,
    /// Writes that spells refused.
    pub refused: u64,
    /// Most failed tries to write one object.
    pub tries_most: u64,
    /// What the mills warned of, how often.
    pub warnings: BTreeMap<String, u64>,
    /// Points that did not come in a life that waited for them.
    pub missed: BTreeMap<String, u64>,
    /// What could not be tried here, and why.
    pub skipped: Vec<String>,
    /// From the start of a process to its first new commit, under all this, microseconds.
    pub recovered_us: Vec<u64>,
    /// Records that Kafka held at the ends of the rounds.
    pub records: u64,
    /// Rounds, each with a store of its own.
    pub rounds: u64,
    /// What is wrong.
    pub verdict: Verdict,
    /// Recovery by size of the store.
    pub recovery: Vec<Recovered>,
    /// What is kept for inspection.
    pub kept: Option<String>,
}

impl Outcome {
    /// Counts a kill, and what is held against it.
    pub fn killed(&mut self, what: &str, wrong: Wrong) {
        let kills = self.kills.entry(what.to_string()).or_default();
        kills.kills += 1;
        kills.wrong.lost += wrong.lost;
        kills.wrong.duplicated += wrong.duplicated;
        kills.wrong.early += wrong.early;
        kills.wrong.wrong += wrong.wrong;
    }

    /// Counts a fault.
    pub fn met(&mut self, fault: impl fmt::Display) {
        *self.faults.entry(fault.to_string()).or_default() += 1;
    }

    /// Says once what could not be tried.
    pub fn skip(&mut self, what: String) {
        if !self.skipped.contains(&what) {
            eprintln!("!!!! SKIPPED {what}");
            self.skipped.push(what);
        }
    }

    /// All kills.
    pub fn count(&self) -> u64 {
        self.kills.values().map(|kills| kills.kills).sum()
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.kills.values().all(|kills| kills.wrong == Wrong::default())
    }

    /// The figures as one object.
    pub fn json(&self) -> Value {
        let wrong = |wrong: &Wrong| json!({"lost": wrong.lost, "duplicated": wrong.duplicated, "early": wrong.early, "wrong": wrong.wrong});
        let points: serde_json::Map<String, Value> = self
            .kills
            .iter()
            .map(|(point, kills)| {
                (point.clone(), json!({"kills": kills.kills, "wrong_rows": kills.wrong.sum()}))
            })
            .collect();
        let tables: serde_json::Map<String, Value> =
            self.verdict.tables.iter().map(|(table, found)| (table.clone(), wrong(found))).collect();
        let lies: serde_json::Map<String, Value> =
            self.lies.iter().map(|(lie, count)| (lie.to_string(), json!(count))).collect();
        json!({
            "ok": self.is_clean(),
            "seed": self.seed,
            "stores": self.stores,
            "kills": self.count(),
            "rounds": self.rounds,
            "records": self.records,
            "commits_compared": self.verdict.commits,
            "rows_compared": self.verdict.rows,
            "rows": wrong(&self.verdict.total()),
            "wrong_tables": tables,
            "amiss": self.verdict.told,
            "kill_points": points,
            "faults": self.faults,
            "answers": lies,
            "refused": self.refused,
            "tries_most": self.tries_most,
            "warnings": self.warnings,
            "missed": self.missed,
            "skipped": self.skipped,
            "start_to_commit_ms": percentiles(&self.recovered_us),
            "recovery": self.recovery.iter().map(Recovered::json).collect::<Vec<Value>>(),
            "kept": self.kept,
        })
    }
}

/// Median and tails in milliseconds.
pub fn percentiles(durations_us: &[u64]) -> Value {
    let ms = |percent| percentile(durations_us, percent) as f64 / 1e3;
    json!({"n": durations_us.len(), "p50": ms(50), "p99": ms(99), "max": ms(100)})
}

fn table<K: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    rows: impl Iterator<Item = (K, String)>,
) -> fmt::Result {
    let mut titled = false;
    for (name, said) in rows {
        if !titled {
            writeln!(f, "\n{title}")?;
            titled = true;
        }
        writeln!(f, "  {:<60} {said}", name.to_string())?;
    }
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, total) = (&self.verdict, self.verdict.total());
        table(
            f,
            "kill point                                                     kills  wrong rows",
            self.kills
                .iter()
                .map(|(point, kills)| (point, format!("{:>5} {:>11}", kills.kills, kills.wrong.sum()))),
        )?;
        let counted = |count: &u64| format!("{count:>5}");
        table(f, "fault", self.faults.iter().map(|(fault, count)| (fault, counted(count))))?;
        table(f, "answer of the store", self.lies.iter().map(|(lie, count)| (lie, counted(count))))?;
        table(f, "the mills warned", self.warnings.iter().map(|(said, count)| (said, counted(count))))?;
        table(f, "waited for in vain, then killed", self.missed.iter().map(|(at, n)| (at, counted(n))))?;
        table(f, "wrong rows", verdict.tables.iter().map(|(table, found)| (table, found.to_string())))?;
        table(f, "skipped", self.skipped.iter().map(|what| (what, String::new())))?;
        table(f, "amiss", verdict.told.iter().map(|told| (told, String::new())))?;
        table(f, "recovery", self.recovery.iter().map(|size| (size.title(), size.to_string())))?;
        let ms = |percent| percentile(&self.recovered_us, percent) as f64 / 1e3;
        writeln!(f)?;
        if self.rounds > 0 {
            writeln!(
                f,
                "start to first new commit, between kills: {:.0} ms median, {:.0} ms p99, {:.0} ms at most",
                ms(50),
                ms(99),
                ms(100)
            )?;
            if self.refused > 0 {
                writeln!(
                    f,
                    "{} requests were refused; no object was tried more than {} times in vain",
                    self.refused, self.tries_most
                )?;
            }
            writeln!(
                f,
                "{} kills in {} rounds over {} records; {} commits of {} rows compared: {total}",
                self.count(),
                self.rounds,
                self.records,
                verdict.commits,
                verdict.rows
            )?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "kept for inspection: {kept}")?;
        }
        write!(
            f,
            "seed {}: {}",
            self.seed,
            if self.is_clean() { "nothing is wrong" } else { "SOMETHING IS WRONG" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_row_or_a_word_makes_it_unclean() {
        let mut outcome = Outcome { seed: 7, rounds: 1, ..Outcome::default() };
        outcome.killed("root, before", Wrong::default());
        assert!(outcome.is_clean() && outcome.to_string().ends_with("seed 7: nothing is wrong"));
        outcome.killed("root, before", Wrong { early: 1, ..Wrong::default() });
        assert_eq!((outcome.count(), outcome.is_clean()), (2, false));
        assert_eq!(outcome.json()["kill_points"]["root, before"], json!({"kills": 2, "wrong_rows": 1}));
        let mut told = Outcome::default();
        told.verdict.tell("a mill hangs");
        assert!(!told.is_clean() && told.to_string().contains("SOMETHING IS WRONG"));
    }
}
