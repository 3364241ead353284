//! What the demo's traffic promises: one seed makes one sequence, and everything comes up in it.

use super::DemoTraffic;
use super::records::{FILES, File, Record};
use super::texts::Texts;
use super::traffic::Traffic;
use crate::cli::{Demo, DemoOptions, Folder};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const SECOND: u64 = 1_000_000;

fn traffic(seed: u64, seconds: u64) -> Vec<Record> {
    Traffic::new(seed).take_while(|record| record.at <= seconds * SECOND).collect()
}

#[test]
fn one_seed_makes_one_sequence_and_another_seed_another() {
    let first = traffic(7, 3);
    assert_eq!(first, traffic(7, 3));
    assert_ne!(first[..50], traffic(8, 3)[..50]);
    assert!(first.is_sorted_by_key(|record| record.at), "records come in order of time");
    assert!(traffic(7, 4).starts_with(&first), "a longer demo begins as a shorter one does");
}

#[test]
fn it_comes_at_a_steady_pace_of_one_to_three_thousand_a_second() {
    let all = traffic(1, 12);
    for second in 3..12 {
        let here = all.iter().filter(|record| record.at / SECOND == second);
        let (records, bytes) = here.fold((0, 0), |(n, bytes), record| (n + 1, bytes + record.line.len()));
        assert!((1000..3000).contains(&records), "second {second}: {records} records, {bytes} bytes");
    }
}

#[test]
fn every_file_grows_and_one_of_them_appears_later() {
    let all = traffic(1, 4);
    for file in FILES {
        let first = all.iter().find(|record| record.file == file).map(|record| record.at);
        let late = file == File::TrajectoriesEu;
        assert!(first.is_some_and(|at| (at >= 2 * SECOND) == late), "{file:?} begins at {first:?}");
    }
}

#[test]
fn all_kinds_of_records_come_up_within_seconds() {
    let all = traffic(3, 6);
    let kinds = [
        (File::Trajectories, r#""tool_calls":[{"#),
        (File::Trajectories, r#""function_call":{"#),
        (File::Trajectories, r#""type":"image_url""#),
        (File::Trajectories, r#""outcome":"reopened""#),
        (File::Trajectories, r#""outcome":"moved""#),
        (File::Trajectories, "-again"),
        (File::Trajectories, r#""_deleted":true"#),
        (File::Calls, r#""response_tool_calls":[{"#),
        (File::Calls, r#""reasoning":""#),
        (File::Calls, r#""status":500"#),
        (File::Calls, "-retry"),
        (File::Calls, r#""_deleted":true"#),
        (File::Scores, r#""judge_type":"human""#),
        (File::Scores, r#""judge_type":"programmatic""#),
        (File::Scores, "overturns the model's score"),
        (File::Scores, r#""score":null"#),
        (File::Scores, r#""score":11"#),
        (File::Scores, "-staging"),
        (File::Scores, r#""metric":"helpfulness""#),
        (File::Scores, r#""_deleted":true"#),
    ];
    for (file, mark) in kinds {
        assert!(all.iter().any(|r| r.file == file && r.line.contains(mark)), "{file:?} has no {mark}");
    }
}

#[test]
fn files_give_every_reason_for_a_rejection_that_records_can() {
    let all = traffic(1, 6);
    let count = |test: &dyn Fn(&Record, Option<&Json>) -> bool| {
        all.iter().filter(|r| test(r, serde_json::from_str(&r.line).ok().as_ref())).count()
    };
    assert!(count(&|_, json| json.is_none()) > 4, "not_json");
    assert!(count(&|_, json| json.is_some_and(|json| !json.is_object())) > 1, "not_object");
    let trajectory = |record: &Record, json: Option<&Json>, test: &dyn Fn(&Json) -> bool| {
        record.file == File::Trajectories && json.is_some_and(|json| json.is_object() && test(json))
    };
    let deleted = |json: &Json| json["_deleted"] == true;
    let missing = |json: &Json| !deleted(json) && json.get("task_id").is_none();
    assert!(count(&|record, json| trajectory(record, json, &missing)) > 0, "missing_field");
    assert!(count(&|record, json| trajectory(record, json, &|json| json["messages"].is_string())) > 0);
}

#[test]
fn nothing_that_is_said_has_a_hole_in_it() {
    let texts = Texts::load();
    let mut names: BTreeSet<&str> = texts.words.keys().map(String::as_str).collect();
    names.extend(["order", "days", "day", "digit", "percent", "n", "amount", "subject"]);
    for record in traffic(5, 2) {
        let hole = names.iter().find(|name| record.line.contains(&format!("{{{name}}}")));
        assert!(hole.is_none(), "{hole:?} is not filled: {}", record.line);
    }
}

#[test]
fn tries_at_a_task_ask_the_same_and_answer_differently() {
    let mut tasks = BTreeMap::<String, Vec<Json>>::new();
    for record in traffic(2, 3).iter().filter(|record| record.file == File::Trajectories) {
        let Ok(Json::Object(json)) = serde_json::from_str(&record.line) else { continue };
        let (Some(task), Some(messages)) = (json.get("task_id"), json.get("messages")) else { continue };
        tasks.entry(task.to_string()).or_default().push(messages.clone());
    }
    let several: Vec<_> = tasks.values().filter(|tries| tries.len() > 1).collect();
    assert!(several.len() > 100);
    assert!(several.iter().all(|tries| tries.iter().all(|t| !t.is_array() || t[1] == tries[0][1])));
    assert!(several.iter().filter(|tries| tries[0] != tries[1]).count() * 10 > several.len() * 9);
}

#[test]
fn what_is_written_is_the_sequence_and_it_takes_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let elapsed = crate::run::stopwatch();
    let options = DemoOptions { seed: 4, lasts: Duration::from_millis(700) };
    DemoTraffic.write(options, &mut Folder::new(folder.path()), &AtomicBool::new(false)).unwrap();
    assert!(elapsed() >= 600_000);
    let all: Vec<Record> = Traffic::new(4).take_while(|record| record.at <= 700_000).collect();
    for file in FILES {
        let want: String = all.iter().filter(|r| r.file == file).map(|r| format!("{}\n", r.line)).collect();
        let found = std::fs::read_to_string(folder.path().join(file.name())).unwrap_or_default();
        assert!(found == want, "{file:?}");
    }
}
