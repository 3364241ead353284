//! A store of format 1 that is kept as it was written, and is opened for ever.
//!
//! `golden/store-1` holds a small input, the store that was made of it (packed, as it is many small
//! files), and what was printed of every commit then. The test reads a copy elsewhere and goes on writing into it. It is made anew
//! by `GOLDEN_WRITE=1 cargo test --test golden`, which is right only while no release has written the
//! format.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use support::held::Held;
use support::mill::{Mill, objects, read, succeeded};
use tidemill_oracle::traffic::Step;
use tidemill_oracle::values::rows_of_lines;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-1")
}

/// The settings that the store was written with.
fn mill() -> Mill {
    let mut mill = Mill::new(&json!({"holdout": {"tasks": ["eval/*"], "per_10k": 0}, "quality_min": 0.6}));
    mill.set("model-dimensions", "8");
    mill.set("lake-interval", "1h");
    mill
}

fn trajectory(id: &str, task: &str, answer: &str, reward: Value) -> String {
    let messages =
        json!([{"role": "human", "content": format!("solve {task}")}, {"role": "gpt", "content": answer}]);
    json!({"id": id, "task_id": task, "model": "alpha", "reward": reward, "messages": messages}).to_string()
}

fn call(id: &str, answer: &str) -> String {
    let prompt =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is a tide?"}]);
    json!({"request_id": id, "model": "beta", "tenant": "harbour", "status": 200, "prompt": prompt, "response": answer})
        .to_string()
}

fn score(id: &str, file: &str, subject: &str, score: Value) -> String {
    let of = json!({"file": file, "id": subject});
    json!({"row_id": id, "metric": "is_correct", "score": score, "judge_type": "human", "ref": of})
        .to_string()
}

fn step(file: &str, lines: &[String]) -> Step {
    Step { file: file.to_string(), append: (lines.join("\n") + "\n").into_bytes() }
}

fn first_part() -> Vec<Step> {
    let trajectories = [
        trajectory("t1", "moor", "with a rope", json!(0.9)),
        trajectory("t2", "moor", "with hope", json!(0.1)),
        trajectory("t3", "eval/anchor", "drop it", json!(1)),
        trajectory("t4", "moor", "with a rope", json!(0.8)),
        "{\"id\":\"broken\"".to_string(),
    ];
    let calls = [call("c1", "the sea breathing"), call("c2", "no idea")];
    vec![
        step("trajectories.jsonl", &trajectories),
        step("chat_logs.jsonl", &calls),
        step("scores.jsonl", &[score("s1", "calls", "c1", json!(1))]),
    ]
}

fn second_part() -> Vec<Step> {
    let scores = [score("s2", "calls", "c2", json!(0)), score("s3", "calls", "nobody", json!(1))];
    vec![
        step("scores.jsonl", &scores),
        step("trajectories.jsonl", &[r#"{"id":"t1","_deleted":true}"#.into()]),
    ]
}

fn third_part() -> Vec<Step> {
    vec![
        step("trajectories.jsonl", &[trajectory("t2", "moor", "with a chain", json!(0.7))]),
        step("evals.jsonl", &[score("s4", "trajectories", "t2", json!(1))]),
    ]
}

fn copy(from: &Path, to: &Path) {
    for path in objects(from) {
        let place = to.join(path.strip_prefix(from).expect("below the folder"));
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        fs::copy(&path, &place).expect("copying");
    }
}

/// All files of a folder in one: of each a line with its name, a line with its size, and its bytes.
fn pack(folder: &Path) -> Vec<u8> {
    let mut packed = Vec::new();
    for path in objects(folder) {
        let (name, bytes) =
            (path.strip_prefix(folder).expect("below the folder"), fs::read(&path).expect("a file"));
        packed.extend(format!("{}\n{}\n", name.display(), bytes.len()).into_bytes());
        packed.extend(bytes);
    }
    zstd::encode_all(&packed[..], 19).expect("compressing in memory")
}

fn unpack(packed: &[u8], folder: &Path) {
    let packed = zstd::decode_all(packed).expect("a zstd stream");
    let mut rest = &packed[..];
    let line = |rest: &mut &[u8]| {
        let mut line = String::new();
        rest.read_line(&mut line).expect("a line");
        line.trim_end().to_string()
    };
    while !rest.is_empty() {
        let path = folder.join(line(&mut rest));
        let bytes: usize = line(&mut rest).parse().expect("a size");
        let (bytes, more) = rest.split_at(bytes);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("writing");
        rest = more;
    }
}

/// What `show` prints of every table and what `log` prints, at every commit: by file name.
fn printed(store: &Path) -> BTreeMap<String, String> {
    let shown = |arguments: &[&str]| succeeded(&read(store, arguments));
    let roots = shown(&["log", "--format", "json"]);
    let mut printed = BTreeMap::new();
    for root in rows_of_lines(&roots) {
        let epoch = root["epoch"].to_string();
        let at = |arguments: &[&str]| shown(&[arguments, &["--at", &epoch, "--format", "json"]].concat());
        let mut text = String::new();
        for table in rows_of_lines(&at(&["tables"])) {
            let name = table["table"].as_str().expect("a name");
            text += &format!("{name}\n{}", at(&["show", name]));
        }
        printed.insert(format!("{epoch:0>2}.txt"), text);
    }
    printed.insert("log.txt".to_string(), roots);
    printed
}

/// Each row as it was, though there may be columns that were not there then.
fn same_rows(file: &str, was: &str, is: &str) {
    assert_eq!(was.lines().count(), is.lines().count(), "{file}");
    for (was, is) in was.lines().zip(is.lines()) {
        if !was.starts_with('{') {
            assert_eq!(was, is, "{file}");
            continue;
        }
        let (was, is) = (&rows_of_lines(was)[0], &rows_of_lines(is)[0]);
        was.iter().for_each(|(column, value)| {
            assert_eq!(Some(value), is.get(column), "{file}: {column} of {was:?}")
        });
    }
}

/// A copy of the golden store and its input in a mill of the same settings.
fn copied() -> Mill {
    let mill = mill();
    unpack(&fs::read(golden().join("store.zst")).expect("the packed store"), &mill.store());
    copy(&golden().join("input"), &mill.input());
    mill
}

#[test]
fn a_copy_of_the_golden_store_prints_what_it_printed_when_it_was_written() {
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        write();
    }
    let mill = copied();
    let printed = printed(&mill.store());
    let expected = objects(&golden().join("expected"));
    assert_eq!(expected.len(), printed.len());
    for path in expected {
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name").to_string();
        same_rows(&file, &fs::read_to_string(&path).expect("a text"), &printed[&file]);
    }
    for command in [&["verify", "--recompute"][..], &["log", "--last"], &["tables"], &["path", "train.sft"]] {
        succeeded(&mill.read(command));
    }
    succeeded(&mill.read(&["diff", "train.sft", "--from", "0", "--to", "3", "--format", "json"]));
    Held::of(&mill).hold_all();
}

#[test]
fn a_copy_of_the_golden_store_goes_on() {
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        return;
    }
    let mill = copied();
    mill.write(&[
        step(
            "trajectories.jsonl",
            &[trajectory("t9", "moor", "with two ropes", json!(1)), r#"{"id":"t3","_deleted":true}"#.into()],
        ),
        step("scores.jsonl", &[score("s1", "calls", "c1", json!(0))]),
    ]);
    mill.drain(2);
    let held = Held::of(&mill);
    held.hold_all();
    held.hold_drained();
    let roots = held.roots();
    assert_ne!(roots[0].location, roots[roots.len() - 1].location, "the store has moved");
    succeeded(&mill.read(&["verify", "--recompute"]));
}

/// Makes the golden store: two publications, and a tail of the log behind the second.
fn write() {
    let mill = mill();
    mill.write(&first_part());
    mill.drain(2);
    mill.write(&second_part());
    mill.drain(1);
    let running = mill.tail(1);
    mill.write(&third_part());
    mill.wait_for("the tail", |root| {
        root["positions"]["scores"]["evals.jsonl"] == 1 && root["segments"] != json!([])
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.kill();
    fs::remove_dir_all(golden()).unwrap_or_default();
    fs::create_dir_all(golden()).expect("a folder");
    fs::write(golden().join("store.zst"), pack(&mill.store())).expect("writing");
    copy(&mill.input(), &golden().join("input"));
    let expected = golden().join("expected");
    fs::create_dir_all(&expected).expect("a folder");
    for (file, text) in printed(&mill.store()) {
        fs::write(expected.join(file), text).expect("writing");
    }
}
