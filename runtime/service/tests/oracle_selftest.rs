//! The oracle is itself held against cases that were worked out by hand.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tidemill_oracle::compare::{assert_equal, compare};
use tidemill_oracle::json::{Json, RECORD_DEPTH, parse};
use tidemill_oracle::model::{
    Input, Record, Row, Tables, default_settings, needed_texts, pending_texts, recompute, text_digest,
};
use tidemill_oracle::train;

/// Records of files from lines: `(stream, file, lines)`.
fn lines(files: &[(&str, &str, &[&str])]) -> Vec<Record> {
    let of_file = |(stream, file, lines): &(&str, &str, &[&str])| {
        let (stream, file) = (stream.to_string(), file.to_string());
        let record = move |(offset, line): (usize, &&str)| Record {
            stream: stream.clone(),
            partition: file.clone(),
            offset: offset as u64,
            timestamp: None,
            key: None,
            value: Some(line.as_bytes().to_vec()),
            kafka: false,
        };
        lines.iter().enumerate().map(record).collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

fn input(records: Vec<Record>, changes: Value) -> Input {
    let mut settings = default_settings();
    settings["holdout"]["per_10k"] = json!(0);
    for (name, value) in changes.as_object().into_iter().flatten() {
        settings[name.as_str()] = value.clone();
    }
    let models = vec![("lexical".to_string(), "1".to_string())];
    Input { records, settings, models, embeddings: BTreeMap::new(), failures: BTreeSet::new() }
}

/// Gives every needed text the same vector, so that every relevance is 1.
fn embedded(mut input: Input) -> Input {
    for digest in needed_texts(&input).into_keys() {
        input.embeddings.insert((digest, "lexical".into(), "1".into()), vec![0.6, 0.8]);
    }
    input
}

fn kafka(offset: u64, partition: &str, timestamp: i64, key: Option<&str>, value: Option<&str>) -> Record {
    Record {
        stream: "scores".into(),
        partition: partition.into(),
        offset,
        timestamp: Some(timestamp),
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        kafka: true,
    }
}

fn rows(value: Value) -> Vec<Row> {
    value.as_array().expect("rows").iter().map(|row| row.as_object().expect("a row").clone()).collect()
}

fn table(tables: &Tables, name: &str) -> Value {
    Value::Array(tables[name].iter().cloned().map(Value::Object).collect())
}

/// One column of a table, in the order of rows.
fn column(tables: &Tables, name: &str, column: &str) -> Vec<Value> {
    tables[name].iter().map(|row| row[column].clone()).collect()
}

fn samples_of(messages: &str) -> Vec<Row> {
    let line = format!(r#"{{"id":"t","task_id":"k","messages":{messages}}}"#);
    recompute(&input(lines(&[("trajectories", "trajectories.jsonl", &[&line])]), json!({})))["curated.samples"].clone()
}

fn codes(stream: &str, values: &[&str]) -> Vec<Value> {
    let tables =
        recompute(&input(lines(&[(stream, "file.jsonl", values)]), json!({"record_bytes_max": 300})));
    column(&tables, "ops.rejects", "code")
}

#[test]
fn one_trajectory_and_one_score_give_exactly_these_rows() {
    let body = r#"{"id":"t1","task_id":"k","model":"m","reward":0.25,"messages":[{"role":"human","content":"hi"},{"role":"gpt","content":"hello","x":1}]}"#;
    let score = r#"{"row_id":"s1","metric":"wb_score_1_10","score":8.5,"ref":{"file":"trajectories","id":"t1"},"judge_type":"human"}"#;
    let records =
        lines(&[("trajectories", "trajectories.jsonl", &[body]), ("scores", "scores.jsonl", &[score])]);
    let input = input(records, json!({}));
    let digests = [text_digest("hello"), text_digest("hi")];
    assert_eq!(needed_texts(&input).into_keys().collect::<BTreeSet<_>>(), digests.clone().into());
    assert_eq!(pending_texts(&input).len(), 2);
    let mut input = embedded(input);
    // cos of (4, 3) and (2, 0) is 0.8.
    input.embeddings.insert((digests[0].clone(), "lexical".into(), "1".into()), vec![4.0, 3.0]);
    input.embeddings.insert((digests[1].clone(), "lexical".into(), "1".into()), vec![2.0, 0.0]);
    assert!(pending_texts(&input).is_empty());

    let messages = r#"[{"content":"hi","role":"user"},{"content":"hello","role":"assistant"}]"#;
    let want = json!({
        "raw.trajectories": [{"id": "t1", "task_id": "k", "agent": null, "model": "m", "reward": 0.25, "outcome": null, "tenant": null,
            "user_id": null, "ts": null, "body": body, "source_partition": "trajectories.jsonl", "source_offset": 0,
            "source_timestamp": null}],
        "raw.calls": [],
        "raw.scores": [{"row_id": "s1", "subject": "trajectory:t1", "metric": "wb_score_1_10", "score": 8.5, "judge": null,
            "judge_type": "human", "body": score, "source_partition": "scores.jsonl", "source_offset": 0, "source_timestamp": null}],
        "curated.samples": [{"sample_id": "trajectory:t1", "kind": "trajectory", "task": "k", "tenant": null, "user_id": null,
            "model": "m", "ts": null, "messages": messages, "tools": null, "tokens": 2, "text_only": true, "copies": 1}],
        "evals.scores": [
            {"eval_id": "score:s1", "sample_id": "trajectory:t1", "subject": "trajectory:t1", "metric": "wb_score_1_10",
             "value": 0.833333, "judge": null, "judge_type": "human", "origin": "stream"},
            {"eval_id": "reported:t1", "sample_id": "trajectory:t1", "subject": "trajectory:t1", "metric": "reported_reward",
             "value": 0.25, "judge": null, "judge_type": null, "origin": "reported"},
            {"eval_id": "model:trajectory:t1", "sample_id": "trajectory:t1", "subject": "trajectory:t1", "metric": "relevance",
             "value": 0.8, "judge": "lexical@1", "judge_type": "model", "origin": "model"}],
        "evals.summary": [
            {"model": "m", "metric": "relevance", "n": 1, "mean": 0.8},
            {"model": "m", "metric": "reported_reward", "n": 1, "mean": 0.25},
            {"model": "m", "metric": "wb_score_1_10", "n": 1, "mean": 0.833333}],
        "evals.unused": [], "evals.holdout": [], "train.preferences": [], "ops.rejects": [],
        "train.sft": [{"sample_id": "trajectory:t1", "task": "k", "tenant": null, "model": "m", "ts": null, "messages": messages,
            "tools": null, "tokens": 2, "quality": 0.833333, "copies": 1}],
    });
    let want: Tables = want
        .as_object()
        .expect("tables")
        .iter()
        .map(|(name, found)| (name.clone(), rows(found.clone())))
        .collect();
    let got = recompute(&input);
    assert_equal(&want, &got, "by hand");
    assert_equal(&got, &want, "by hand, the other way round");
}

#[test]
fn a_call_and_a_trajectory_that_say_the_same_are_one_sample() {
    let call = r#"{"request_id":"c","prompt":[{"content":[{"type":"text","text":"a"},"b"]}],"response":"x","model":"m1","tools":[]}"#;
    let trajectory = r#"{"id":"a","task_id":"k","model":"m2","reward":1,"messages":[{"content":"a\u000ab","name":""},{"role":"bot","content":"x"},{"content":"bye"}]}"#;
    let other_tenant = trajectory.replace(r#""id":"a""#, r#""id":"b","tenant":"""#);
    let records = lines(&[
        ("calls", "calls.jsonl", &[call]),
        ("trajectories", "trajectories.jsonl", &[trajectory, &other_tenant]),
    ]);
    let tables = recompute(&input(records, json!({})));
    assert_eq!(column(&tables, "curated.samples", "sample_id"), ["call:c", "trajectory:b"]);
    assert_eq!(column(&tables, "curated.samples", "copies"), [2, 1]);
    assert_eq!(column(&tables, "curated.samples", "model"), ["m1", "m2"]);
    assert_eq!(column(&tables, "evals.scores", "eval_id"), ["reported:a", "reported:b"]);
    assert_eq!(column(&tables, "evals.scores", "sample_id"), ["call:c", "trajectory:b"]);
}

#[test]
fn messages_are_normalised_as_defined() {
    let only = |messages: &str| {
        samples_of(messages).first().map(|row| row["messages"].as_str().expect("text").to_string())
    };
    for gone in [
        r#"[]"#,
        r#"[{"content":"x"}]"#,
        r#"[{"role":"gpt","content":""}]"#,
        r#"[{"role":"gpt","content":"x"},{"role":"narrator"}]"#,
        r#"[{"role":"gpt","content":"x"},{"role":1}]"#,
        r#"[{"role":"gpt","content":"x"},{"content":{}}]"#,
        r#"[{"role":"gpt","tool_calls":[],"function_call":"f"}]"#,
    ] {
        assert_eq!(only(gone), None, "{gone}");
    }
    let function = r#"[{"role":"model","content":null,"tool_calls":"","function_call":{"n":1.0},"name":{}},{"role":"function","content":"r"}]"#;
    let want = r#"[{"content":"","name":{},"role":"assistant","tool_calls":[{"function":{"n":1.0},"type":"function"}]}]"#;
    assert_eq!(only(function).as_deref(), Some(want));
    let image = r#"[{"role":"developer","content":["a",{"text":"b","type":"image"}]},{"role":"bot","content":"x"},{"content":[7,{"type":"image"}]}]"#;
    let sample = &samples_of(image)[0];
    assert_eq!(
        sample["messages"],
        r#"[{"content":"a\nb","role":"system"},{"content":"x","role":"assistant"}]"#
    );
    assert_eq!(sample["text_only"], json!(false));
    let parts = r#"[{"content":["a",{"type":"image"},{"type":1},null]},{"role":"assistant","content":"é"}]"#;
    assert!(only(parts).expect("a sample").contains(r#""a\n[image]\n[part]\n[part]""#));
}

#[test]
fn tokens_count_what_was_said_thought_and_called() {
    // 2 (é) + 3 (abc) + 1 (q) + 8 (function) + 2 (fn) = 16 bytes; names of fields and numbers do not count.
    let messages = r#"[{"content":"é","name":"nobody"},{"role":"assistant","content":"abc","reasoning_content":"q","function_call":{"name":"fn","n":12345}}]"#;
    assert_eq!(samples_of(messages)[0]["tokens"], json!(4));
    assert_eq!(samples_of(&messages.replace("abc", "abcd"))[0]["tokens"], json!(5));
}

#[test]
fn a_call_without_prompt_answer_or_success_has_no_sample() {
    let call = |rest: &str| format!(r#"{{"request_id":"c",{rest}}}"#);
    let count = |rest: &str| {
        let line = call(rest);
        recompute(&input(lines(&[("calls", "calls.jsonl", &[&line])]), json!({})))["curated.samples"].len()
    };
    let asked = r#""prompt":[{"content":"a"}]"#;
    assert_eq!(count(r#""prompt":null,"response":"x""#), 0);
    assert_eq!(count(r#""prompt":[],"response":"x""#), 0);
    assert_eq!(count(&format!(r#"{asked},"response":null"#)), 0);
    assert_eq!(count(&format!(r#"{asked},"response":"","response_tool_calls":[]"#)), 0);
    assert_eq!(count(&format!(r#"{asked},"response":null,"response_tool_calls":[{{}}]"#)), 1);
    assert_eq!(count(&format!(r#"{asked},"response":"x","status":400"#)), 0);
    assert_eq!(count(&format!(r#"{asked},"response":"x","status":399"#)), 1);
}

#[test]
fn rejects_have_the_first_code_that_applies() {
    let deep = |levels: usize| {
        format!(
            r#"{{"id":"t","task_id":"k","messages":[],"x":{}{}}}"#,
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    let long = format!(r#"{{"id":"t","x":"{}"#, "y".repeat(300));
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("trajectories", &long, Some("too_large")),
        ("trajectories", &deep(126), None),
        ("trajectories", &deep(127), Some("not_json")),
        ("trajectories", r#"{"id":"t","id":"\ud800"}"#, Some("not_json")),
        ("trajectories", "", Some("not_json")),
        ("trajectories", "[]", Some("not_object")),
        ("trajectories", r#"{"id":5,"task_id":"k"}"#, Some("missing_field")),
        ("trajectories", r#"{"id":5,"task_id":"k","messages":[]}"#, Some("wrong_type")),
        ("trajectories", r#"{"id":5,"id":"t","task_id":"k","messages":[]}"#, None),
        ("trajectories", r#"{"id":"t","task_id":"k","messages":[1]}"#, Some("wrong_type")),
        ("trajectories", r#"{"id":"t","task_id":"k","messages":[],"reward":1e999}"#, Some("wrong_type")),
        ("trajectories", r#"{"id":"t","task_id":"k","messages":[],"x":1e999,"tenant":null}"#, None),
        ("trajectories", r#"{"_deleted":true}"#, Some("missing_field")),
        ("trajectories", r#"{"_deleted":true,"id":null}"#, Some("wrong_type")),
        ("trajectories", r#"{"_deleted":true,"id":"nobody","messages":3}"#, None),
        ("trajectories", r#"{"_deleted":true,"_deleted":1,"id":"t"}"#, Some("missing_field")),
        ("calls", r#"{"request_id":"c","prompt":null}"#, Some("missing_field")),
        ("calls", r#"{"request_id":"c","prompt":null,"response":null,"status":-2147483648}"#, None),
        (
            "calls",
            r#"{"request_id":"c","prompt":null,"response":null,"status":2147483648}"#,
            Some("wrong_type"),
        ),
        ("calls", r#"{"request_id":"c","prompt":null,"response":null,"status":2e2}"#, Some("wrong_type")),
        ("scores", r#"{"row_id":"s","metric":"m","ref":{"file":"x"}}"#, Some("missing_field")),
        ("scores", r#"{"row_id":"s","metric":"m","ref":{"file":"x","id":"i"}}"#, Some("wrong_type")),
        ("scores", r#"{"row_id":"s","metric":null}"#, Some("wrong_type")),
        ("scores", r#"{"row_id":"s","metric":"m","ref":null,"score":null}"#, None),
    ];
    for (stream, line, want) in cases {
        let found = codes(stream, &[line]);
        assert_eq!(found.first().and_then(Value::as_str), *want, "{line}");
    }
}

#[test]
fn a_rejected_update_leaves_the_row_and_the_last_file_name_wins() {
    let version = |task: &str| format!(r#"{{"id":"t","task_id":"{task}","messages":[]}}"#);
    let (one, two, three) = (version("1"), version("2"), version("3"));
    let deletion = r#"{"id":"t","_deleted":true}"#;
    let task = |files: &[(&str, &str, &[&str])]| {
        column(&recompute(&input(lines(files), json!({}))), "raw.trajectories", "task_id")
    };
    let (a, b) = ("trajectories-10.jsonl", "trajectories-9.jsonl");
    assert_eq!(task(&[("trajectories", a, &[&one, "{"])]), ["1"]);
    assert_eq!(task(&[("trajectories", b, &[&one, &two]), ("trajectories", a, &[&three])]), ["2"]);
    assert_eq!(
        task(&[("trajectories", b, &[&one, deletion]), ("trajectories", a, &[&three])]),
        Vec::<Value>::new()
    );
    assert_eq!(task(&[("trajectories", b, &[&one]), ("trajectories", a, &[deletion])]), ["1"]);
    assert_eq!(task(&[("trajectories", b, &[deletion, &three])]), ["3"]);
}

#[test]
fn kafka_keys_timestamps_and_partitions_decide_as_defined() {
    let score = |metric: &str| format!(r#"{{"row_id":"s","metric":"{metric}","_deleted":true}}"#);
    let (one, two) = (score("1"), score("2"));
    let records = vec![
        kafka(0, "9", 5_000_000, Some("s"), Some(&one)),
        kafka(0, "10", 5_000_000, Some("s"), Some(&two)),
        kafka(1, "10", 6_000_000, None, Some(&two)),
        kafka(2, "10", 6_000_000, Some("S"), Some(&one)),
        kafka(3, "10", 6_000_000, None, None),
        kafka(4, "10", 6_000_000, Some("nobody"), None),
    ];
    let by_key = recompute(&input(records.clone(), json!({})));
    assert_eq!(column(&by_key, "raw.scores", "metric"), ["2"]);
    assert_eq!(column(&by_key, "raw.scores", "source_timestamp"), ["1970-01-01T00:00:05.000000Z"]);
    assert_eq!(column(&by_key, "ops.rejects", "code"), ["key_missing", "key_mismatch", "key_missing"]);
    assert_eq!(column(&by_key, "ops.rejects", "key"), [Value::Null, json!("Uw=="), Value::Null]);
    assert_eq!(column(&by_key, "ops.rejects", "value_bytes"), [43, 43, 0]);

    let mut deleted = records.clone();
    deleted.push(kafka(5, "8", 6_000_000, Some("s"), None));
    assert_eq!(recompute(&input(deleted, json!({})))["raw.scores"].len(), 0);

    let by_value = recompute(&input(records, json!({"key": {"scores": "value"}})));
    assert_eq!(by_value["raw.scores"].len(), 0);
    assert_eq!(column(&by_value, "ops.rejects", "code"), ["key_missing", "key_missing"]);
}

#[test]
fn mapped_fields_are_read_only_where_they_are_mapped() {
    let line = r#"{"request_id":"no","a/b":["x",{"q":"c9"}],"prompt":[{"content":"p"}],"response":"no","out":{"text":"r"},"tenant":"no"}"#;
    let fields = json!({"calls": {"request_id": "/a~1b/1/q", "response": "/out/text", "tenant": "/nowhere", "tools": "/a~1b/01"}});
    let tables = recompute(&input(lines(&[("calls", "calls.jsonl", &[line])]), json!({"fields": fields})));
    assert_eq!(column(&tables, "curated.samples", "sample_id"), ["call:c9"]);
    assert_eq!(column(&tables, "curated.samples", "tenant"), [Value::Null]);
    assert_eq!(column(&tables, "curated.samples", "tools"), [Value::Null]);
    assert!(tables["curated.samples"][0]["messages"].as_str().expect("text").contains(r#""content":"r""#));
    assert_eq!(column(&tables, "raw.calls", "body"), [line]);
}

#[test]
fn unused_scores_are_counted_under_the_first_reason() {
    let trajectory = r#"{"id":"empty","task_id":"k","messages":[]}"#;
    let score = |id: &str, rest: &str| format!(r#"{{"row_id":"{id}",{rest}}}"#);
    let at = |id: &str| format!(r#""ref":{{"file":"trajectories","id":"{id}"}}"#);
    let scores = [
        score("1", r#""metric":"other""#),
        score("2", &format!(r#""metric":"other",{}"#, at("x"))),
        score("3", &format!(r#""metric":"reward","score":null,{}"#, at("x"))),
        score("4", &format!(r#""metric":"reward","score":1.5,{}"#, at("x"))),
        score("5", &format!(r#""metric":"reward","score":1,{}"#, at("x"))),
        score("6", &format!(r#""metric":"reward","score":1,{}"#, at("empty"))),
        score("7", &format!(r#""metric":"reward","score":0,{}"#, at("empty"))),
    ];
    let scores: Vec<&str> = scores.iter().map(String::as_str).collect();
    let records =
        lines(&[("trajectories", "trajectories.jsonl", &[trajectory]), ("scores", "scores.jsonl", &scores)]);
    let want = json!([
        {"reason": "metric_not_configured", "metric": "other", "n": 1},
        {"reason": "no_ref", "metric": "other", "n": 1},
        {"reason": "no_sample", "metric": "reward", "n": 2},
        {"reason": "no_score", "metric": "reward", "n": 1},
        {"reason": "no_subject", "metric": "reward", "n": 1},
        {"reason": "out_of_range", "metric": "reward", "n": 1},
    ]);
    assert_eq!(table(&recompute(&input(records, json!({}))), "evals.unused"), want);
}

/// `(metric, score, judge type)`.
type Scored<'a> = (&'a str, &'a str, &'a str);

/// Trajectories of one task and prompt, each with these scores.
fn tries(scored: &[(&str, &[Scored])]) -> Vec<Record> {
    let mut trajectories = Vec::new();
    let mut scores = Vec::new();
    for (id, own) in scored {
        trajectories.push(format!(
            r#"{{"id":"{id}","task_id":"k","model":"m-{id}","messages":[{{"content":"ask"}},{{"role":"assistant","content":"{id}"}}]}}"#
        ));
        for (metric, score, judge_type) in *own {
            let row_id = scores.len();
            scores.push(format!(
                r#"{{"row_id":"{row_id}","metric":"{metric}","score":{score},"judge_type":{judge_type},"ref":{{"file":"trajectories","id":"{id}"}}}}"#
            ));
        }
    }
    let (trajectories, scores): (Vec<&str>, Vec<&str>) =
        (trajectories.iter().map(String::as_str).collect(), scores.iter().map(String::as_str).collect());
    lines(&[("trajectories", "trajectories.jsonl", &trajectories), ("scores", "scores.jsonl", &scores)])
}

#[test]
fn quality_weighs_metrics_and_trusts_judges_in_order() {
    let own: &[(&str, &str, &str)] = &[
        ("reward", "1", r#""llm""#),
        ("reward", "0.3", r#""unstated""#),
        ("reward", "0.4", "null"),
        ("is_correct", "1", r#""human""#),
        ("is_correct", "0", r#""programmatic""#),
    ];
    let quality = |changes: Value| {
        let tables = recompute(&embedded(input(tries(&[("a", own)]), changes)));
        column(&tables, "train.sft", "quality")
    };
    // reward: (0.3 + 0.4) / 2 = 0.35 by "other"; is_correct: 1 by "human".
    assert_eq!(quality(json!({"quality_min": 0})), [0.675]);
    let weighed = json!({"reward": {"low": 0, "high": 1, "weight": 3}, "is_correct": {"low": 0, "high": 1, "weight": 1}});
    assert_eq!(quality(json!({"quality_min": 0, "metrics": weighed})), [0.5125]);
    let unweighed = json!({"reward": {"low": 0, "high": 1, "weight": 0}, "is_correct": {"low": 0, "high": 1, "weight": 0}});
    assert_eq!(quality(json!({"quality_min": 0, "metrics": unweighed})), Vec::<Value>::new());
    let order = json!(["llm", "programmatic", "other", "human"]);
    assert_eq!(quality(json!({"quality_min": 0, "judge_order": order})), [0.5]);
}

#[test]
fn the_best_and_the_worst_try_make_a_pair_and_ties_go_by_hash() {
    let human = |score| [("reward", score, r#""human""#)];
    let (high, low) = (human("1"), human("0.5"));
    let records = tries(&[("a", &high), ("b", &high), ("c", &low), ("d", &[])]);
    let hash = |id: &str| Sha256::digest(format!("trajectory:{id}")).to_vec();
    let first = if hash("a") < hash("b") { "trajectory:a" } else { "trajectory:b" };
    let run = |changes| recompute(&embedded(input(records.clone(), changes)));
    let tables = run(json!({"per_task": 1}));
    assert_eq!(column(&tables, "train.sft", "sample_id"), [first]);
    let pair = &tables["train.preferences"][0];
    assert_eq!((&pair["chosen_id"], &pair["rejected_id"]), (&json!(first), &json!("trajectory:c")));
    assert_eq!((&pair["chosen_quality"], &pair["rejected_turns"]), (&json!(1.0), &json!(1)));
    assert_eq!(pair["prompt"], r#"[{"content":"ask","role":"user"}]"#);
    assert_eq!(pair["rejected"], r#"[{"content":"c","role":"assistant"}]"#);
    assert_eq!(run(json!({"margin": 0.5}))["train.preferences"].len(), 1);
    assert_eq!(run(json!({"margin": 0.500001}))["train.preferences"].len(), 0);
    assert_eq!(run(json!({"same_model": true}))["train.preferences"].len(), 0);
    assert_eq!(column(&run(json!({"models": ["m-b"]})), "train.preferences", "chosen_id"), ["trajectory:b"]);
    assert_eq!(run(json!({"models": ["m-c"]}))["train.preferences"].len(), 0);
    assert_eq!(run(json!({"tokens_max": 0}))["train.sft"].len(), 0);
}

#[test]
fn held_out_samples_stand_in_no_other_set() {
    let records = tries(&[("a", &[("reward", "1", "null")]), ("d", &[])]);
    let run = |holdout: Value| recompute(&embedded(input(records.clone(), json!({"holdout": holdout}))));
    let digest = Sha256::digest("ask");
    let bucket = u64::from_be_bytes(digest[..8].try_into().expect("8 bytes")) % 10_000;
    for (holdout, held) in [
        (json!({"tasks": ["*"], "per_10k": 0}), true),
        (json!({"tasks": ["x*", "*k"], "per_10k": 0}), true),
        (json!({"tasks": ["k*k"], "per_10k": bucket}), false),
        (json!({"tasks": [], "per_10k": bucket + 1}), true),
    ] {
        let tables = run(holdout.clone());
        let want: &[Value] = if held { &[json!(1.0), Value::Null] } else { &[] };
        assert_eq!(column(&tables, "evals.holdout", "quality"), want, "{holdout}");
        assert_eq!(tables["train.sft"].len(), usize::from(!held));
    }
    assert!(train::matches("a*c*e", "abcde") && !train::matches("a*c", "abcd") && train::matches("*", ""));
}

#[test]
fn relevance_is_of_the_last_model_that_has_both_and_zero_without_a_text() {
    let line = r#"{"id":"a","task_id":"k","messages":[{"content":"q"},{"role":"assistant","content":"r"}]}"#;
    let silent = r#"{"id":"b","task_id":"k","messages":[{"role":"assistant","content":"r"}]}"#;
    let mut input = input(lines(&[("trajectories", "trajectories.jsonl", &[line, silent])]), json!({}));
    input.models = vec![("old".into(), "1".into()), ("new".into(), "2".into())];
    let mut give = |text: &str, model: &str, version: &str, vector: &[f32]| {
        input.embeddings.insert((text_digest(text), model.into(), version.into()), vector.to_vec());
        let tables = recompute(&input);
        (column(&tables, "evals.scores", "judge"), column(&tables, "evals.scores", "value"))
    };
    assert_eq!(give("q", "new", "2", &[1.0, 0.0]), (vec![Value::Null], vec![json!(0.0)]));
    assert_eq!(give("r", "old", "1", &[1.0, 0.0]).0.len(), 1);
    assert_eq!(
        give("q", "old", "1", &[3.0, 0.0]),
        (vec![json!("old@1"), Value::Null], vec![json!(1.0), json!(0.0)])
    );
    assert_eq!(
        give("r", "new", "2", &[-1.0, 0.0]),
        (vec![json!("new@2"), Value::Null], vec![json!(0.0), json!(0.0)])
    );
    assert_eq!(give("r", "new", "2", &[0.0, 0.0]).1, [0.0, 0.0]);
}

#[test]
fn json_is_read_strictly_and_numbers_by_their_text() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse(nested(127).as_bytes(), RECORD_DEPTH).is_ok());
    assert!(parse(nested(128).as_bytes(), RECORD_DEPTH).is_err());
    for bad in [
        "",
        "01",
        "1.",
        "-",
        ".5",
        "+1",
        "1e",
        "nul",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\t\"",
        "[1,]",
        "{\"a\":1,}",
        "1 1",
        "\u{feff}1",
    ] {
        assert!(parse(bad.as_bytes(), RECORD_DEPTH).is_err(), "{bad}");
    }
    let same = |a: &str, b: &str| parse(a.as_bytes(), 9).expect(a) == parse(b.as_bytes(), 9).expect(b);
    assert!(same(r#"{"a":1,"b":"\ud83d\ude00\/"}"#, "\t{\"b\":\"😀/\",\"a\":2,\"a\":1}\r"));
    assert!(!same("1", "1.0"));
    assert!(!same("1e0", "1E0"));
    assert_eq!(parse(b"\"\\u00e9\"", 9), Ok(Json::str("é")));
}

#[test]
fn the_comparer_finds_each_kind_of_difference_and_frees_only_what_is_free() {
    let call = |id: &str, prompt: &str| {
        format!(r#"{{"request_id":"{id}","prompt":[{{"content":"{prompt}"}}],"response":"{id}"}}"#)
    };
    let (a, b, c) = (call("a", "p"), call("b", "p"), call("c", "q"));
    let want = recompute(&input(lines(&[("calls", "calls.jsonl", &[&a, &b, &c, "{"])]), json!({})));
    let changed = |table: &str, place: usize, column: &str, value: Value| {
        let mut got = want.clone();
        got.get_mut(table).expect(table)[place].insert(column.into(), value);
        compare(&want, &got).len()
    };
    assert_eq!(changed("ops.rejects", 0, "message", json!("because")), 0);
    assert_eq!(changed("ops.rejects", 0, "message", Value::Null), 1);
    assert_eq!(changed("curated.samples", 0, "copies", json!(2)), 1);
    assert_eq!(changed("curated.samples", 0, "further", json!(2)), 0);
    assert_eq!(changed("curated.samples", 2, "task", json!("call:other")), 0);
    assert_eq!(changed("curated.samples", 2, "task", json!("other")), 1);
    assert_eq!(changed("curated.samples", 0, "task", json!("call:other")), 1);
    assert_eq!(changed("curated.samples", 2, "task", want["curated.samples"][0]["task"].clone()), 1);
    let reordered = r#" [{"role":"user","content":"\u0070"},{"role":"assistant","content":"a"}]"#;
    assert_eq!(changed("curated.samples", 0, "messages", json!(reordered)), 0);
    let mut got = want.clone();
    let row = got.get_mut("raw.calls").expect("calls").pop().expect("a row");
    assert_eq!(compare(&want, &got).len(), 1);
    assert_eq!(compare(&got, &want).len(), 1);
    got.get_mut("raw.calls").expect("calls").extend([row.clone(), row]);
    assert_eq!(compare(&want, &got).len(), 1);
    got.remove("raw.calls");
    got.insert("_state.words".into(), vec![]);
    assert_eq!(compare(&want, &got)[0].to_string(), "raw.calls  table: want there, got missing");
}
