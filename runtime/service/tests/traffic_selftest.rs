//! The traffic is held against its claim: that it meets every rule, and that all of it can be read.

use std::collections::{BTreeMap, BTreeSet};
use tidemill_oracle::compare::{assert_equal, shape};
use tidemill_oracle::json::{RECORD_DEPTH, parse};
use tidemill_oracle::model::{Input, Tables, needed_texts, recompute};
use tidemill_oracle::{files, traffic};

/// A vector that depends on the text alone; some texts fail.
fn judged(mut input: Input) -> Input {
    for (digest, text) in needed_texts(&input) {
        let head = blake3::hash(text.as_bytes());
        let request = (digest, "lexical".to_string(), "1".to_string());
        if head.as_bytes()[0] < 8 {
            input.failures.insert(request);
        } else {
            let vector = head.as_bytes()[1..5].iter().map(|byte| f32::from(*byte) - 80.0).collect();
            input.embeddings.insert(request, vector);
        }
    }
    input
}

fn read_back(seed: u64, records: usize) -> Input {
    let folder = tempfile::tempdir().expect("a temporary folder");
    traffic::write(folder.path(), &traffic::steps(seed, records));
    let records = files::read_all(folder.path());
    judged(Input {
        records,
        settings: traffic::settings(seed),
        models: vec![("lexical".to_string(), "1".to_string())],
        embeddings: BTreeMap::new(),
        failures: BTreeSet::new(),
    })
}

/// Columns of which each value is counted.
const COUNTED: &[(&str, &str)] = &[
    ("ops.rejects", "code"),
    ("evals.unused", "reason"),
    ("evals.scores", "origin"),
    ("evals.scores", "judge_type"),
    ("curated.samples", "copies"),
    ("curated.samples", "text_only"),
    ("curated.samples", "kind"),
    ("raw.calls", "source_partition"),
];

/// What must be seen in a few runs, besides rows of every table.
const SEEN: &[&str] = &[
    r#"code "too_large""#,
    r#"code "not_json""#,
    r#"code "not_object""#,
    r#"code "missing_field""#,
    r#"code "wrong_type""#,
    r#"reason "no_ref""#,
    r#"reason "metric_not_configured""#,
    r#"reason "no_score""#,
    r#"reason "out_of_range""#,
    r#"reason "no_subject""#,
    r#"reason "no_sample""#,
    r#"origin "stream""#,
    r#"origin "reported""#,
    r#"origin "model""#,
    r#"judge_type null"#,
    r#"judge_type "human""#,
    r#"copies 3"#,
    r#"text_only false"#,
    r#"kind "call""#,
    r#"source_partition "chat_logs-old.jsonl.gz""#,
    r#"source_partition "calls-old.jsonl.zst""#,
    "deeper than a record",
];

fn count(tables: &Tables, seen: &mut BTreeMap<String, usize>) {
    let mut add = |what: String, n: usize| *seen.entry(what).or_default() += n;
    for (name, rows) in tables {
        let columns = shape(name).expect("a known table").columns.len();
        assert!(rows.iter().all(|row| row.len() == columns), "{name} has other columns than its shape");
        add(name.clone(), rows.len());
    }
    for (name, column) in COUNTED {
        tables[*name].iter().for_each(|row| add(format!("{column} {}", row[*column]), 1));
    }
    for sample in &tables["curated.samples"] {
        let messages = sample["messages"].as_str().expect("text");
        add("deeper than a record".into(), usize::from(parse(messages.as_bytes(), RECORD_DEPTH).is_err()));
    }
}

#[test]
fn the_traffic_meets_every_rule() {
    let mut seen = BTreeMap::new();
    let mut names = BTreeSet::new();
    for seed in 0..6 {
        let tables = recompute(&read_back(seed, if seed == 0 { traffic::MEDIUM } else { traffic::SMALL }));
        assert_equal(&tables, &tables, "itself");
        count(&tables, &mut seen);
        names.extend(tables.into_keys());
    }
    for word in SEEN.iter().copied().chain(names.iter().map(String::as_str)) {
        assert!(seen.get(word).is_some_and(|n| *n >= 3), "{word} is too rare: {seen:#?}");
    }
}

#[test]
fn the_traffic_is_decided_by_its_seed_and_hides_no_record() {
    let steps = traffic::steps(7, traffic::SMALL);
    assert_eq!(steps, traffic::steps(7, traffic::SMALL));
    assert_ne!(steps, traffic::steps(8, traffic::SMALL));
    let input = read_back(7, traffic::SMALL);
    assert!(
        (traffic::SMALL..traffic::SMALL + 8).contains(&input.records.len()),
        "{} records",
        input.records.len()
    );
}

#[test]
fn a_compressed_file_may_be_cut_short() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let steps = traffic::steps(3, traffic::SMALL);
    traffic::write(folder.path(), &steps);
    let all = files::read_all(folder.path());
    let file = "evals-old.jsonl.gz";
    let whole: Vec<_> = all.iter().filter(|record| record.partition == file).cloned().collect();
    let step = steps.iter().find(|step| step.file == file).expect("the compressed file");
    std::fs::write(folder.path().join(file), &step.append[..step.append.len() - 9]).expect("writing");
    let cut: Vec<_> =
        files::read_all(folder.path()).into_iter().filter(|record| record.partition == file).collect();
    assert!(cut.len() <= whole.len() && whole.starts_with(&cut));
}
