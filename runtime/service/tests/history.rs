//! History as people handle it: tags that keep a commit for ever, and commits that go back to an earlier one,
//! with no writer at work and beside one.

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::held::Held;
use support::mill::{Mill, refused, succeeded};
use tidemill_oracle::traffic::{self, Step};

/// Rows of a table at a commit, as lines, sorted.
fn rows(mill: &Mill, table: &str, at: &str) -> Vec<String> {
    let shown = succeeded(&mill.read(&["show", table, "--format", "json", "--at", at]));
    let mut rows: Vec<String> = shown.lines().map(str::to_string).collect();
    rows.sort();
    rows
}

fn epoch(mill: &Mill) -> u64 {
    mill.newest().expect("a root")["epoch"].as_u64().expect("a number")
}

const TABLES: [&str; 5] = ["raw.calls", "raw.trajectories", "curated.samples", "evals.scores", "ops.rejects"];

/// Flags by which `rollback` finds the mill's input.
fn roll_back(mill: &Mill, to: &str) -> std::process::Output {
    let mut command = support::mill::binary();
    command.arg("rollback").arg("--to").arg(to).arg("--config").arg(mill.configuration());
    command.arg("--input").arg(mill.input()).arg("--store").arg(mill.address());
    command.args(["--http-listen", "off", "--workers", "2"]).output().expect("the binary starts")
}

/// A score of nothing, so that there is something to commit.
fn heartbeat(number: u32) -> Step {
    let line = json!({"row_id": format!("beat {number}"), "metric": "reward"}).to_string() + "\n";
    Step { file: "scores-beat.jsonl".to_string(), append: line.into_bytes() }
}

#[test]
fn a_tag_keeps_a_commit_when_all_around_it_is_gone() {
    let mut mill = Mill::for_traffic(71);
    mill.set("store-retention", "1s");
    let steps = traffic::steps(71, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 3);
    mill.write(first);
    mill.drain(2);
    let kept = epoch(&mill);
    let said = succeeded(&mill.read(&["tag", "before"]));
    assert!(said.contains(&format!("epoch {kept} is kept as before")), "{said}");
    let before: Vec<_> = TABLES.iter().map(|table| rows(&mill, table, "before")).collect();
    assert!(!before[0].is_empty());
    // Beside a run, whose collector takes all else.
    let running = mill.tail(2);
    mill.write_slowly(rest, Duration::from_millis(60));
    mill.wait_for("a log that begins later", |root| root["log_from"].as_u64() > Some(kept + 3));
    std::thread::sleep(Duration::from_secs(2));
    let said = succeeded(&mill.read(&["tag", "after", "--at", &(epoch(&mill) - 1).to_string()]));
    assert!(said.contains("is kept as after"), "{said}");
    running.stop();
    for (table, rows_before) in TABLES.iter().zip(&before) {
        assert_eq!(rows(&mill, table, "before"), *rows_before, "{table}");
    }
    succeeded(&mill.read(&["verify", "--at", "before"]));
    let gone = refused(&mill.read(&["show", "raw.calls", "--at", &(kept + 1).to_string()]));
    assert!(gone.contains("no longer retained"), "{gone}");
    let taken = refused(&mill.read(&["tag", "before"]));
    assert!(taken.contains(&format!("the tag before names epoch {kept}")), "{taken}");
    let listed = succeeded(&mill.read(&["tag"]));
    assert!(listed.contains("before") && listed.contains("after"), "{listed}");
    // Without its name it goes as everything else.
    succeeded(&mill.read(&["tag", "before", "--delete"]));
    let running = mill.tail(1);
    let root = format!("{kept:020}.json");
    let there = || mill.objects("catalog").iter().any(|path| path.ends_with(&root));
    for number in 0..600 {
        if !there() {
            break;
        }
        mill.write(&[heartbeat(number)]);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!there(), "root {kept} is still there");
    running.stop();
    succeeded(&mill.read(&["verify", "--recompute"]));
}

#[test]
fn a_rollback_brings_back_what_was_and_a_run_reads_on_from_there() {
    let mill = Mill::for_traffic(74);
    let steps = traffic::steps(74, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    mill.write(first);
    mill.drain(2);
    let old = mill.newest().expect("a root");
    let to = old["epoch"].to_string();
    let before: Vec<_> = TABLES.iter().map(|table| rows(&mill, table, &to)).collect();
    mill.write(rest);
    mill.drain(1);
    let newest = epoch(&mill).to_string();
    let after: Vec<_> = TABLES.iter().map(|table| rows(&mill, table, &newest)).collect();
    assert_ne!(before, after);
    let results = rows(&mill, "ai.embeddings", &newest);
    let said = succeeded(&roll_back(&mill, &to));
    assert!(said.contains(&format!("went back to epoch {to}")), "{said}");
    let back = mill.newest().expect("a root");
    assert_eq!(back["positions"], old["positions"]);
    let at = back["epoch"].to_string();
    for (table, rows_before) in TABLES.iter().zip(&before) {
        let shown = rows(&mill, table, &at);
        if table.starts_with("evals") {
            // Judged by results that are there already: there may be more than there was.
            assert!(rows_before.iter().all(|row| shown.contains(row)), "{table}");
        } else {
            assert_eq!(shown, *rows_before, "{table}");
        }
    }
    assert_eq!(rows(&mill, "ai.embeddings", &at), results, "nothing is paid for again");
    succeeded(&mill.read(&["verify", "--recompute"]));
    let told = succeeded(&mill.read(&["log"]));
    assert!(told.contains(&format!("back to {to}")), "{told}");
    // Read again from there it comes to the same.
    mill.drain(2);
    let newest = epoch(&mill).to_string();
    for (table, rows_after) in TABLES.iter().zip(&after) {
        assert_eq!(rows(&mill, table, &newest), *rows_after, "{table}");
    }
    assert_eq!(rows(&mill, "ai.embeddings", &newest), results);
    Held::of(&mill).hold_drained();
}

#[test]
fn a_rollback_beside_a_run_is_carried_out_by_it() {
    let mut mill = Mill::for_traffic(75);
    mill.set("log-level", "info");
    let steps = traffic::steps(75, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    mill.write(first);
    mill.drain(2);
    let to = epoch(&mill).to_string();
    let mut running = mill.tail(2);
    mill.write_slowly(rest, Duration::from_millis(5));
    mill.wait_for("more commits", |root| root["epoch"].as_u64() > to.parse::<u64>().ok().map(|to| to + 4));
    let said = succeeded(&roll_back(&mill, &to));
    assert!(said.contains(&format!("went back to epoch {to}")), "{said}");
    assert!(running.is_running(), "{}", running.said());
    let back = |root: &Value| root["rolled_back_to"].as_u64() == to.parse().ok();
    let log = succeeded(&mill.read(&["log", "--format", "json"]));
    let roots = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(roots.filter(back).count(), 1);
    let refusal = refused(&roll_back(&mill, "1000000"));
    assert!(refusal.contains("is not committed"), "{refusal}");
    running.stop();
    mill.drain(1);
    Held::of(&mill).hold_drained();
}
