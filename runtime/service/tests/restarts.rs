//! Starts on a store that is there: with other settings, after kills, after a long pause, beside
//! another writer, over files that are no longer what they were.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Duration;
use support::held::{Held, rows};
use support::mill::{Mill, refused, succeeded};
use tidemill_oracle::model::Tables;
use tidemill_oracle::traffic;

const QUICK: Duration = Duration::from_millis(10);

/// A mill with a drained store of some traffic.
fn drained(seed: u64) -> Mill {
    drained_of(seed, traffic::SMALL)
}

fn drained_of(seed: u64, records: usize) -> Mill {
    let mill = Mill::for_traffic(seed);
    mill.write(&traffic::steps(seed, records));
    mill.drain(2);
    mill
}

/// The configuration of a seed with changes at its top level.
fn changed(seed: u64, changes: Value) -> Value {
    let mut configuration = traffic::configuration(seed);
    for (name, value) in changes.as_object().expect("an object") {
        configuration[name.as_str()] = value.clone();
    }
    configuration
}

/// Rows that stand in one set of tables and not in the other: how many, over derived tables.
fn rows_in_one_only(before: &Tables, after: &Tables) -> u64 {
    let texts = |tables: &Tables, name: &str| -> BTreeSet<String> {
        tables[name].iter().map(|row| Value::Object(row.clone()).to_string()).collect()
    };
    before
        .keys()
        .map(|name| texts(before, name).symmetric_difference(&texts(after, name)).count() as u64)
        .sum()
}

/// Starts with other settings: the first commit after the claim holds them, and of rows just those that
/// they move. How many rows came or went.
fn restarted_with(mill: &Mill, configuration: &Value) -> u64 {
    let before = mill.newest().expect("a root")["epoch"].as_u64().expect("an epoch");
    mill.configure(configuration);
    mill.drain(2);
    let held = Held::of(mill);
    held.hold_drained();
    held.hold_log();
    let (claim, first) = (held.root(before + 1), held.root(before + 2));
    assert!(claim.claim && !first.claim);
    assert_eq!(claim.program, held.root(before).program, "a claim repeats the settings");
    assert_ne!(first.program, claim.program, "the first commit carries the new ones");
    assert_eq!(first.positions, claim.positions, "the difference comes before any record");
    held.hold_commit(first.epoch);
    let changes: u64 = first
        .segments
        .iter()
        .flat_map(|segment| segment.tables.values())
        .map(|section| section.inserted + section.deleted)
        .sum();
    let (was, is) = (rows(&held.at(before)), rows(&held.at(first.epoch)));
    assert_eq!(changes, rows_in_one_only(&was, &is), "the commit carries rows that did not change");
    for name in first.segments.iter().flat_map(|segment| segment.tables.keys()) {
        let source = ["raw.", "_state.", "ops.", "ai."].iter().any(|prefix| name.starts_with(prefix));
        assert!(!source, "{name} changed by a setting");
    }
    changes
}

#[test]
fn other_settings_commit_exactly_the_difference_that_they_make_first_thing() {
    let mill = drained_of(31, 4 * traffic::SMALL);
    let mut seen = 0;
    for changes in [
        json!({"quality_min": 0.95}),
        json!({"quality_min": 0.1, "margin": 0.05, "per_task": 2}),
        json!({"metrics": {"style": {"low": -1, "high": 3, "weight": 9}, "reward": {"low": 0, "high": 1, "weight": 0}}}),
        json!({"metrics": {"helpfulness": {"low": 0, "high": 5, "weight": 1}}}),
        json!({"models": ["beta*"]}),
        json!({"holdout": {"tasks": [], "per_10k": 5000}}),
        json!({"judge_order": ["llm", "other", "programmatic", "human"], "same_model": true}),
        json!({"tokens_max": 20, "relevance_min": 0.2}),
        json!({}),
    ] {
        let rows = restarted_with(&mill, &changed(31, changes.clone()));
        eprintln!("{changes}: {rows} rows came or went");
        seen += rows;
    }
    assert!(seen > 100, "only {seen} rows changed over all settings");
    succeeded(&mill.read(&["verify", "--recompute"]));
}

#[test]
fn a_setting_that_changes_no_row_is_committed_and_published() {
    let mill = Mill::new(&json!({}));
    mill.drain(1);
    mill.configure(&json!({"per_task": 7}));
    mill.drain(1);
    let newest = mill.newest().expect("a root");
    assert_eq!(newest["program"]["settings"]["per_task"], 7);
    let held = Held::of(&mill);
    held.hold_drained();
    let published = newest["published"]["epoch"].as_u64().expect("a publication");
    assert_eq!(held.root(published).program.settings["per_task"], 7);
}

#[test]
fn another_model_version_is_activated_embeds_again_and_the_old_results_stay() {
    let mut mill = drained(32);
    let before = Held::of(&mill);
    let old = rows(&before.at(before.reader.newest.epoch))["ai.embeddings"].len();
    mill.set("model-dimensions", "16");
    mill.drain(2);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
    let newest = held.reader.newest.clone();
    let versions: Vec<&str> = newest.models.iter().map(|model| model.version.as_str()).collect();
    assert_eq!(versions, ["1-128", "1-16"]);
    let now = rows(&held.at(newest.epoch))["ai.embeddings"].len();
    assert!(now > old, "{now} embeddings after {old}");
    for epoch in before.reader.newest.epoch..=newest.epoch {
        held.hold_commit(epoch);
    }
    // Back to the first: it is in force again, and nothing is computed.
    mill.set("model-dimensions", "128");
    mill.drain(1);
    let back = Held::of(&mill);
    back.hold_drained();
    back.hold_log();
    let versions: Vec<String> = back.reader.newest.models.iter().map(|model| model.version.clone()).collect();
    assert_eq!(versions, ["1-16", "1-128"]);
    assert_eq!(rows(&back.at(back.reader.newest.epoch))["ai.embeddings"].len(), now);
}

#[test]
fn settings_that_the_first_commit_fixes_are_refused_by_name() {
    let mill = drained(33);
    let roots = mill.objects("catalog").len();
    for (changes, name) in [
        (json!({"record_bytes_max": 1_000_000}), "record_bytes_max"),
        (json!({"key": {"calls": "value"}}), "key"),
        (json!({"fields": {"calls": {"request_id": "/response/id"}}}), "fields"),
    ] {
        mill.configure(&changed(33, changes));
        let message = refused(&mill.drain_ended(1));
        assert!(message.contains(&format!("`{name}`")) && message.contains("first commit"), "{message}");
    }
    assert_eq!(mill.objects("catalog").len(), roots, "a refused start writes no root");
    mill.configure(&traffic::configuration(33));
    mill.drain(1);
}

#[test]
fn a_service_that_is_killed_more_often_than_it_publishes_still_publishes() {
    let mut mill = Mill::for_traffic(34);
    mill.set("lake-interval", "3s");
    let steps = traffic::steps(34, traffic::SMALL);
    let parts = steps.chunks(steps.len().div_ceil(8));
    let mut published = Vec::new();
    for part in parts {
        let running = mill.tail(2);
        mill.write_slowly(part, QUICK);
        std::thread::sleep(Duration::from_millis(1000));
        running.kill();
        published.extend(mill.newest().and_then(|root| root["published"]["epoch"].as_u64()));
    }
    published.dedup();
    assert!(published.len() >= 2, "publications that were named between kills: {published:?}");
    mill.drain(2);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
    held.hold_publications();
}

#[test]
fn a_store_that_was_left_idle_past_its_retention_goes_on_and_forgets_what_is_old() {
    let mut mill = Mill::for_traffic(35);
    mill.set("store-retention", "1s");
    let steps = traffic::steps(35, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    mill.write(first);
    mill.drain(2);
    let idle = Held::of(&mill);
    idle.hold_drained();
    let old = mill.newest().expect("a root")["epoch"].as_u64().expect("an epoch");
    std::thread::sleep(Duration::from_millis(2500));
    idle.hold_drained();
    let running = mill.tail(2);
    mill.write_slowly(rest, Duration::from_millis(60));
    running.stop();
    std::thread::sleep(Duration::from_millis(1500));
    mill.drain(1);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_publications();
    held.epochs().for_each(|epoch| drop(held.hold_commit(epoch)));
    assert!(
        *held.epochs().start() > old,
        "commits {:?} are kept, the first run ended at {old}",
        held.epochs()
    );
    let message = refused(&mill.read(&["show", "train.sft", "--at", "0"]));
    assert!(message.contains("no longer retained") && message.contains("store.retention"), "{message}");
    succeeded(&mill.read(&["verify", "--recompute"]));
}

#[test]
fn a_second_writer_takes_over_and_the_first_says_so_and_stops() {
    let mill = Mill::for_traffic(36);
    let steps = traffic::steps(36, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    let older = mill.tail(2);
    mill.write_slowly(first, QUICK);
    mill.wait_for("a commit of the first", |root| !root["claim"].as_bool().expect("a flag"));
    let newer = mill.tail(1);
    mill.wait_for("the second's claim", |root| root["generation"] == 2);
    mill.write_slowly(rest, QUICK);
    let (code, message) = older.ended();
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("another writer has taken over the store"), "{message}");
    newer.stop();
    mill.drain(2);
    let held = Held::of(&mill);
    held.hold_all();
    held.hold_drained();
}

/// A writer sleeps while another goes on, and wakes up: `past` the deletion of the name that it would use next, or
/// before. How it ends, and the mill.
fn slept(seed: u64, retention: &str, past: bool) -> (Mill, Option<i32>, String) {
    let mut mill = Mill::for_traffic(seed);
    mill.set("store-retention", retention);
    let steps = traffic::steps(seed, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    let sleeper = mill.tail(2);
    mill.write_slowly(first, QUICK);
    mill.wait_for("a commit", |root| root["epoch"].as_u64() > Some(2));
    sleeper.tell("STOP");
    let newer = mill.tail(1);
    let claim = mill.wait_for("the second's claim", |root| root["generation"] == 2);
    let (second, last) = rest.split_at(rest.len() * 3 / 4);
    mill.write_slowly(second, QUICK);
    // The claim, or a root after it: when that has gone, so have all before it.
    let name = format!("catalog/{:020}.json", claim["epoch"].as_u64().expect("an epoch"));
    let is_there = || mill.store().join(&name).exists();
    for number in (0..600).take_while(|_| past && is_there()) {
        let append = format!("{{\"row_id\":\"{number}\",\"metric\":\"reward\"}}\n").into_bytes();
        mill.write(&[traffic::Step { file: "scores-more.jsonl".into(), append }]);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(is_there(), !past, "{name}");
    newer.stop();
    sleeper.tell("CONT");
    mill.write_slowly(last, QUICK);
    let (code, message) = sleeper.ended();
    mill.drain(2);
    (mill, code, message)
}

#[test]
fn a_writer_that_slept_while_another_took_over_changes_nothing_and_stops() {
    let (mill, code, message) = slept(43, "24h", false);
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("another writer has taken over the store"), "{message}");
    let held = Held::of(&mill);
    held.hold_all();
    held.hold_drained();
}

#[test]
fn a_writer_that_slept_past_the_retention_changes_nothing_and_stops() {
    let (mill, code, message) = slept(44, "1s", true);
    let held = Held::of(&mill);
    held.hold_all();
    held.hold_drained();
    succeeded(&mill.read(&["verify", "--recompute"]));
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("another writer has taken over the store"), "{message}");
}

#[test]
fn an_orderly_stop_by_either_signal_publishes_the_last_change() {
    for (seed, signal) in [(37, "TERM"), (45, "INT")] {
        let mut mill = Mill::for_traffic(seed);
        mill.set("lake-interval", "1h");
        let running = mill.tail(2);
        mill.write_slowly(&traffic::steps(seed, traffic::SMALL), QUICK);
        mill.wait_for("some commits", |root| root["epoch"].as_u64() > Some(2));
        running.stop_by(signal);
        let held = Held::of(&mill);
        let newest = held.reader.newest.clone();
        let last = held.publications().pop().expect("a publication");
        assert_eq!(last.positions, newest.positions, "after SIG{signal}");
        assert_eq!(held.published(&last), rows(&held.at(newest.epoch)));
        held.hold(&last, &held.published(&last), "the publication of an orderly stop");
    }
}

#[test]
fn a_file_that_became_shorter_stops_the_run_with_its_name() {
    let mill = drained(38);
    let path = mill.input().join("calls.jsonl");
    let bytes = fs::read(&path).expect("a file of the traffic");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("writing");
    let message = refused(&mill.drain_ended(1));
    assert!(message.contains("calls.jsonl"), "{message}");
    fs::write(&path, &bytes).expect("writing");
    mill.drain(1);
    Held::of(&mill).hold_drained();
}

#[test]
fn a_file_that_became_shorter_while_it_is_tailed_stops_the_run_after_what_was_read_is_published() {
    let mill = Mill::for_traffic(39);
    mill.write(&traffic::steps(39, traffic::SMALL));
    let running = mill.tail(2);
    let whole = Held::records_of(&mill);
    mill.wait_for("all records", |root| Held::covered_by(root) == whole);
    let path = mill.input().join("scores.jsonl");
    let bytes = fs::read(&path).expect("a file of the traffic");
    fs::File::create(&path).and_then(|mut file| file.write_all(b"{}\n")).expect("writing");
    let (code, message) = running.ended();
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("scores.jsonl"), "{message}");
    fs::write(&path, bytes).expect("writing");
    let held = Held::of(&mill);
    let last = held.publications().pop().expect("a publication");
    assert_eq!(last.positions, held.reader.newest.positions);
    mill.drain(2);
    Held::of(&mill).hold_drained();
}

#[test]
fn a_compressed_file_that_is_cut_short_stops_a_drained_run_and_is_read_when_it_is_whole() {
    let mill = drained(40);
    let path = mill.input().join("trajectories-new.jsonl.gz");
    let line = r#"{"id":"gz","task_id":"late","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(format!("{line}\n").repeat(200).as_bytes()).expect("writing to memory");
    let bytes = encoder.finish().expect("writing to memory");
    fs::write(&path, &bytes[..bytes.len() - 9]).expect("writing");
    let message = refused(&mill.drain_ended(2));
    assert!(message.contains("trajectories-new.jsonl.gz"), "{message}");
    Held::of(&mill).hold_all();
    let running = mill.tail(1);
    std::thread::sleep(Duration::from_millis(300));
    fs::write(&path, &bytes).expect("writing");
    mill.wait_for("the rest of the file", |root| {
        root["positions"]["trajectories"]["trajectories-new.jsonl.gz"] == 200
    });
    running.stop();
    mill.drain(1);
    let held = Held::of(&mill);
    held.hold_all();
    held.hold_drained();
}

#[test]
fn a_file_that_disappears_after_it_was_read_deletes_nothing() {
    let mill = drained(41);
    let path = mill.input().join("calls.jsonl");
    let bytes = fs::read(&path).expect("a file of the traffic");
    fs::remove_file(&path).expect("removing");
    let before = mill.newest().expect("a root")["positions"].clone();
    mill.drain(2);
    assert_eq!(mill.newest().expect("a root")["positions"], before);
    let running = mill.tail(1);
    mill.write(&[traffic::Step {
        file: "scores-x.jsonl".into(),
        append: b"{\"row_id\":\"x\",\"metric\":\"reward\"}\n".to_vec(),
    }]);
    mill.wait_for("the new file", |root| root["positions"]["scores"]["scores-x.jsonl"] == 1);
    running.stop();
    fs::write(&path, bytes).expect("writing");
    let held = Held::of(&mill);
    held.hold_commit(held.reader.newest.epoch);
    mill.drain(1);
    Held::of(&mill).hold_drained();
}

#[test]
fn a_store_of_an_unknown_format_is_refused_by_readers_and_writers() {
    let mill = drained(42);
    let newest = mill.newest().expect("a root");
    let path = mill.store().join(format!("catalog/{:020}.json", newest["epoch"].as_u64().expect("an epoch")));
    let mut root = newest.clone();
    root["format"] = json!(2);
    fs::write(&path, root.to_string()).expect("writing");
    for output in [
        mill.drain_ended(1),
        mill.read(&["tables"]),
        mill.read(&["show", "train.sft"]),
        mill.read(&["verify"]),
    ] {
        let message = refused(&output);
        assert!(message.contains("format 2"), "{message}");
    }
    assert_eq!(
        mill.newest().expect("a root"),
        root,
        "nothing is written into a store that is not understood"
    );
}
