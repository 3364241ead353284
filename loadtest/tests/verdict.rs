//! The verdict of the load `crash` finds what is lost, early and wrong in a real store: the store stays as it is, and
//! what the topics hold is told otherwise.
#![cfg(target_os = "linux")]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tidemill_loadtest::crash::verdict::{Judge, Verdict};
use tidemill_loadtest::drained::{self, Load};
use tidemill_oracle::files::read_all;
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::model::Record;

fn line(record: &Value) -> String {
    format!("{record}\n")
}

/// A drained store of three trajectories and two scores, and their records.
fn store(folder: &Path) -> (String, Vec<Record>) {
    let (input, store) = (folder.join("input"), folder.join("store"));
    fs::create_dir(&input).expect("a folder");
    let trajectories = (0..3).map(|n| {
        line(&json!({"id": format!("t{n}"), "task_id": "trip", "model": "m", "reward": 1, "messages": [
            {"role": "user", "content": format!("question {n}")}, {"role": "assistant", "content": "answer"}]}))
    });
    let scores = (0..2).map(|n| {
        let subject = json!({"file": "trajectories", "id": format!("t{n}")});
        line(&json!({"row_id": format!("s{n}"), "metric": "reward", "score": 1, "ref": subject}))
    });
    fs::write(input.join("trajectories.jsonl"), trajectories.collect::<String>()).expect("a file");
    fs::write(input.join("scores.jsonl"), scores.collect::<String>()).expect("a file");
    let load =
        Load { input: Some(input.clone()), store: Some(store.clone()), workers: Some(1), ..Load::default() };
    drained::run(load).expect("a drained run");
    (store.display().to_string(), read_all(&input))
}

fn held(store: &str, records: Vec<Record>) -> Verdict {
    let mut truth = Truth::default();
    truth.records = records;
    let judge = Judge::open(store).expect("a store");
    let mut verdict = judge.hold_drained(&truth).expect("a verdict");
    verdict.add(judge.hold_log().expect("a log"));
    verdict
}

#[test]
fn a_verdict_finds_what_is_lost_early_or_wrong_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, records) = store(folder.path());
    let clean = held(&store, records.clone());
    assert!(clean.is_clean() && clean.rows > 10, "{clean:?}");

    // The topics hold another record below the positions: its rows are lost.
    let mut more = records.clone();
    let value = br#"{"row_id": "s9", "metric": "reward", "score": 0}"#.to_vec();
    let last = records.iter().rfind(|record| record.stream == "scores").expect("a score").clone();
    more.push(Record { value: Some(value), ..last });
    let lost = held(&store, more);
    assert_eq!(lost.tables["raw.scores"].lost, 1, "{lost:?}");

    // They do not hold one that the store has made rows of.
    let fewer = records.iter().filter(|record| record.stream != "scores" || record.offset != 1);
    let wrong = held(&store, fewer.cloned().collect());
    assert_eq!(wrong.tables["raw.scores"].wrong, 1, "{wrong:?}");

    // They hold it beyond the positions.
    let beyond = |record: &Record| match record.stream == "scores" && record.offset == 1 {
        true => Record { offset: 99, ..record.clone() },
        false => record.clone(),
    };
    let early = held(&store, records.iter().map(beyond).collect());
    assert!(early.told.iter().any(|told| told.contains("covers 4 of the 5 records")), "{early:?}");
    assert_eq!(early.tables["evals.scores"].early, 1, "{early:?}");

    // A record has another value than the rows say.
    let other = |record: &Record| match record.stream == "scores" && record.offset == 1 {
        true => Record {
            value: Some(br#"{"row_id": "s1", "metric": "reward", "score": 0.5}"#.to_vec()),
            ..record.clone()
        },
        false => record.clone(),
    };
    let wrong = held(&store, records.iter().map(other).collect());
    assert_eq!(wrong.tables["raw.scores"].wrong, 1, "{wrong:?}");
}
