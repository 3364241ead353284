//! History as people handle it: tags that keep a commit for ever, and commits that go back to an earlier one,
//! with no writer at work and beside one.

mod support;

use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
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

/// A start that hangs: a segment of the log's tail gives no bytes until it is let go.
struct Hung {
    segment: PathBuf,
    aside: PathBuf,
}

impl Hung {
    /// Of a mill whose newest commits are not published.
    fn start_of(mill: &Mill) -> Hung {
        let root = mill.newest().expect("a root");
        let last = (0..=root["epoch"].as_u64().expect("a number")).rev().map(|epoch| mill.root(epoch));
        let name = last.filter_map(|root| root["segments"][0]["name"].as_str().map(str::to_string)).next();
        let segment = mill.store().join(name.expect("a segment"));
        let aside = mill.configuration().with_file_name("segment");
        fs::rename(&segment, &aside).expect("moving a segment");
        assert!(Command::new("mkfifo").arg(&segment).status().expect("mkfifo starts").success());
        Hung { segment, aside }
    }

    /// Whoever waits for its bytes gets them, and whoever comes later.
    fn let_go(self) {
        let bytes = fs::read(&self.aside).expect("a segment");
        let mut pipe = OpenOptions::new().write(true).open(&self.segment).expect("a reader");
        fs::rename(&self.aside, &self.segment).expect("moving a segment");
        pipe.write_all(&bytes).expect("a reader");
    }

    /// It is as it was for whoever comes later; who waits for its bytes can be given others.
    fn mend_but_for_who_waits(self) -> File {
        let pipe = OpenOptions::new().write(true).open(&self.segment).expect("a reader");
        self.mend();
        pipe
    }

    /// It is as it was, and nobody waits.
    fn mend(self) {
        fs::rename(&self.aside, &self.segment).expect("moving a segment");
    }
}

/// A mill with commits that are not published, and an epoch among them.
fn unpublished(seed: u64) -> (Mill, u64) {
    let mut mill = Mill::for_traffic(seed);
    mill.set("lake-interval", "1h");
    mill.set("log-level", "info");
    let steps = traffic::steps(seed, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    let running = mill.tail(2);
    mill.write(first);
    let to = mill.wait_for("a commit", |root| root["positions"].as_object().is_some_and(|p| p.len() > 1));
    let to = to["epoch"].as_u64().expect("a number");
    mill.write_slowly(rest, Duration::from_millis(5));
    mill.wait_for("more commits", |root| root["epoch"].as_u64() > Some(to + 4));
    running.kill();
    (mill, to)
}

/// Waits until a request is wanted of the writer that took it up.
fn wait_until_taken_up(mill: &Mill) {
    for _ in 0..1500 {
        let texts = mill.objects("requests").into_iter().filter_map(|path| fs::read_to_string(path).ok());
        if texts.into_iter().any(|text| text.contains("\"of\"")) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing was taken up");
}

fn claimed_after(mill: &Mill, before: &Value) -> Value {
    let generation = before["generation"].as_u64();
    mill.wait_for("a claim", |root| root["generation"].as_u64() > generation)
}

fn rollbacks_to(mill: &Mill, to: u64) -> usize {
    let log = succeeded(&mill.read(&["log", "--format", "json"]));
    let roots = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    roots.filter(|root| root["rolled_back_to"].as_u64() == Some(to)).count()
}

#[test]
fn a_tag_keeps_a_commit_when_all_around_it_is_gone() {
    let mut mill = Mill::for_traffic(71);
    mill.set("store-retention", "1s");
    let steps = traffic::steps(71, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 3);
    // Two publications: what is kept lists one that goes.
    for part in first.chunks(first.len().div_ceil(2)) {
        mill.write(part);
        mill.drain(2);
    }
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
    assert_eq!(rollbacks_to(&mill, to.parse().expect("a number")), 1);
    let refusal = refused(&roll_back(&mill, "1000000"));
    assert!(refusal.contains("is not committed"), "{refusal}");
    // It was ready before, left to go back, and is ready again.
    assert_eq!(running.said().matches(" ready ").count(), 2, "{}", running.said());
    running.stop();
    mill.drain(1);
    Held::of(&mill).hold_drained();
}

/// It took the store from the run after five seconds, and the run ended.
#[test]
fn a_tag_beside_a_run_that_takes_long_to_start_waits_for_it() {
    let (mill, to) = unpublished(76);
    let (hung, before) = (Hung::start_of(&mill), mill.newest().expect("a root"));
    let mut running = mill.tail(2);
    let claim = claimed_after(&mill, &before);
    std::thread::scope(|scope| {
        let tagged = scope.spawn(|| mill.read(&["tag", "kept", "--at", &to.to_string()]));
        std::thread::sleep(Duration::from_secs(9));
        assert!(!tagged.is_finished() && running.is_running(), "{}", running.said());
        assert_eq!(mill.newest(), Some(claim));
        hung.let_go();
        let said = succeeded(&tagged.join().expect("a thread"));
        assert!(said.contains(&format!("epoch {to} is kept as kept")), "{said}");
    });
    assert!(running.is_running(), "{}", running.said());
    assert!(mill.objects("requests").is_empty());
    running.stop();
    succeeded(&mill.read(&["verify", "--recompute"]));
}

#[test]
fn a_commit_puts_one_object_more_than_there_are_workers() {
    let (mill, _) = unpublished(80);
    let stats = succeeded(&mill.read(&["log", "--stats", "--format", "json"]));
    let roots = stats.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let puts: Vec<u64> = roots.filter_map(|root| root["asked"]["puts"].as_u64()).collect();
    // Two workers. The next epoch's segments may be there already, and now and then the hint is put.
    let (all, most) = (puts.iter().sum::<u64>(), 3 * puts.len() as u64 + 2 + 1 + puts.len() as u64 / 64);
    assert!(puts.len() > 3 && (1..=most).contains(&all), "{puts:?}");
    let told = succeeded(&mill.read(&["log", "--stats"]));
    assert!(told.contains("a commit: ") && told.contains("$ a day"), "{told}");
}

/// It said what it could not read, and whatever watched over it would have started it again.
#[test]
fn a_run_that_is_superseded_while_it_starts_says_so_and_exits_with_3() {
    let (mill, _) = unpublished(78);
    let (hung, before) = (Hung::start_of(&mill), mill.newest().expect("a root"));
    let first = mill.tail(2);
    let claim = claimed_after(&mill, &before);
    let mut pipe = hung.mend_but_for_who_waits();
    let mut second = mill.tail(1);
    claimed_after(&mill, &claim);
    pipe.write_all(b"something else").expect("a reader");
    drop(pipe);
    let (code, said) = first.ended();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("another writer has taken over the store"), "{said}");
    assert!(second.is_running(), "{}", second.said());
    second.stop();
    succeeded(&mill.read(&["verify", "--recompute"]));
}

/// Whichever of the two does it in the end.
#[test]
fn a_tag_that_a_run_had_taken_up_which_is_told_to_stop_is_done_all_the_same() {
    let (mill, to) = unpublished(79);
    let (hung, before) = (Hung::start_of(&mill), mill.newest().expect("a root"));
    let running = mill.tail(2);
    claimed_after(&mill, &before);
    std::thread::scope(|scope| {
        let tagged = scope.spawn(|| mill.read(&["tag", "kept", "--at", &to.to_string()]));
        wait_until_taken_up(&mill);
        running.tell("TERM");
        hung.let_go();
        assert_eq!(running.ended().0, Some(0));
        let said = succeeded(&tagged.join().expect("a thread"));
        assert!(said.contains(&format!("epoch {to} is kept as kept")), "{said}");
    });
    assert!(mill.objects("requests").is_empty());
    succeeded(&mill.read(&["show", "raw.calls", "--at", "kept"]));
}

/// Whoever asked waited for ever, and the next run took the request for answered.
#[test]
fn a_rollback_that_a_killed_run_had_taken_up_is_carried_out_by_the_next_one() {
    let (mill, to) = unpublished(77);
    let (hung, before) = (Hung::start_of(&mill), mill.newest().expect("a root"));
    let running = mill.tail(2);
    claimed_after(&mill, &before);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| roll_back(&mill, &to.to_string()));
        wait_until_taken_up(&mill);
        running.kill();
        hung.mend();
        std::thread::sleep(Duration::from_secs(7));
        assert!(!asked.is_finished());
        let mut running = mill.tail(2);
        let said = succeeded(&asked.join().expect("a thread"));
        assert!(said.contains(&format!("went back to epoch {to}")), "{said}");
        assert!(running.is_running(), "{}", running.said());
        running.stop();
    });
    assert!(mill.objects("requests").is_empty());
    assert_eq!(rollbacks_to(&mill, to), 1);
    mill.drain(1);
    Held::of(&mill).hold_drained();
}

#[test]
fn a_rollback_behind_a_file_that_is_gone_is_refused_and_a_run_beside_goes_on() {
    let mill = Mill::for_traffic(78);
    mill.write(&traffic::steps(78, traffic::SMALL));
    mill.drain(2);
    let to = epoch(&mill);
    let mut running = mill.tail(2);
    mill.write(&[heartbeat(0)]);
    let read = |root: &Value| root["positions"]["scores"]["scores-beat.jsonl"].as_u64() == Some(1);
    mill.wait_for("its position", read);
    let (file, aside) = (mill.input().join("scores-beat.jsonl"), mill.configuration().with_file_name("beat"));
    fs::rename(&file, &aside).expect("moving a file");
    let why = refused(&roll_back(&mill, &to.to_string()));
    assert!(why.contains("scores-beat.jsonl is gone"), "{why}");
    assert!(running.is_running(), "{}", running.said());
    let before = epoch(&mill);
    mill.write(&[Step { file: "scores-more.jsonl".to_string(), ..heartbeat(1) }]);
    mill.wait_for("another commit", |root| root["epoch"].as_u64() > Some(before));
    running.stop();
    // Without a run likewise, and nothing has changed.
    let before = epoch(&mill);
    let why = refused(&roll_back(&mill, &to.to_string()));
    assert!(why.contains("scores-beat.jsonl is gone"), "{why}");
    assert_eq!((epoch(&mill), rollbacks_to(&mill, to)), (before, 0));
    fs::rename(&aside, &file).expect("moving a file");
    succeeded(&roll_back(&mill, &to.to_string()));
    mill.drain(1);
    Held::of(&mill).hold_drained();
}
