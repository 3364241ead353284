//! Every table of the flywheel, recomputed in one batch from the records that were read.
//!
//! This is the measure that a store is held against, so it shares no code with the flow and does
//! everything the simplest way: sort, group, sum, no increments. Sums are of integers (millionths),
//! so that no order of events can show in them.

use super::decode::{Decoded, Live, Rows, decode};
use super::samples::{Samples, Subject, json_of, samples};
use super::train;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A row: a JSON object with a field for each column.
pub type Row = serde_json::Map<String, Value>;

/// All tables by name.
pub type Tables = BTreeMap<String, Vec<Row>>;

/// `(hex digest of the text, model, version)`.
pub type Request = (String, String, String);

/// A record as a source delivers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `trajectories`, `calls` or `scores`.
    pub stream: String,
    /// A file's name or Kafka's number.
    pub partition: String,
    /// The line's or the message's number.
    pub offset: u64,
    /// Microseconds since 1970.
    pub timestamp: Option<i64>,
    /// Kafka's key.
    pub key: Option<Vec<u8>>,
    /// The bytes that were received.
    pub value: Option<Vec<u8>>,
    /// Whether it came from Kafka.
    pub kafka: bool,
}

/// What a commit covers: all that the tables follow from.
#[derive(Clone, Debug)]
pub struct Input {
    /// All records below the commit's positions.
    pub records: Vec<Record>,
    /// `program.settings` of the root, defaults included.
    pub settings: Value,
    /// `(model, version)`, the one in force last.
    pub models: Vec<(String, String)>,
    /// `ai.embeddings`.
    pub embeddings: BTreeMap<Request, Vec<f32>>,
    /// `ai.failures`.
    pub failures: BTreeSet<Request>,
}

/// One row of `evals.scores`, its value in millionths.
pub struct Eval {
    /// Names the row.
    pub eval_id: String,
    /// The sample that it counts for.
    pub sample_id: String,
    /// What was judged.
    pub subject: String,
    /// The metric.
    pub metric: String,
    /// In millionths.
    pub value: i64,
    /// Who judged.
    pub judge: Option<String>,
    /// What kind of judge.
    pub judge_type: Option<String>,
    /// `stream`, `reported` or `model`.
    pub origin: &'static str,
}

/// The settings of the flywheel when a configuration says nothing.
pub fn default_settings() -> Value {
    json!({
        "record_bytes_max": 16777216,
        "key": {"trajectories": "kafka", "calls": "kafka", "scores": "kafka"},
        "fields": {},
        "tokenizer": null,
        "metrics": {
            "reward": {"low": 0, "high": 1, "weight": 1},
            "plan_correct": {"low": 0, "high": 1, "weight": 1},
            "is_correct": {"low": 0, "high": 1, "weight": 1},
            "wb_score_1_10": {"low": 1, "high": 10, "weight": 1},
        },
        "judge_order": ["human", "programmatic", "other", "llm"],
        "relevance_min": 0, "tokens_max": 8192, "per_task": 4,
        "quality_min": 0.7, "margin": 0.3, "same_model": false, "models": ["*"],
        "holdout": {"tasks": [], "per_10k": 500},
    })
}

/// A fraction in millionths, half away from zero.
pub fn millionths(fraction: f64) -> i64 {
    (fraction * 1e6).round() as i64
}

/// Millionths as the double of a column.
pub fn double(millionths: i64) -> f64 {
    millionths as f64 / 1e6
}

/// A row from a JSON object.
pub fn row(value: Value) -> Row {
    match value {
        Value::Object(fields) => fields,
        other => panic!("not a row: {other}"),
    }
}

/// Microseconds since 1970 as RFC 3339.
pub fn rfc3339(micros: i64) -> String {
    let timestamp = jiff::Timestamp::from_microsecond(micros).expect("a timestamp within year 9999");
    format!("{timestamp:.6}")
}

/// The name under which a text is embedded.
pub fn text_digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Every table but `ai.*`, which are input.
pub fn recompute(input: &Input) -> Tables {
    assert!(input.settings["tokenizer"].is_null(), "the oracle counts tokens only without a tokenizer");
    let decoded = decode(&input.records, &input.settings);
    let none = Rows::new();
    let rows = |stream: &str| decoded.rows.get(stream).unwrap_or(&none);
    let (trajectories, calls, scores) = (rows("trajectories"), rows("calls"), rows("scores"));
    let samples = samples(trajectories, calls);
    let (mut evals, unused) = stream_evals(&input.settings, scores, trajectories, calls, &samples);
    evals.extend(reported_evals(trajectories, &samples));
    evals.extend(samples.samples.values().filter_map(|sample| relevance_eval(input, &sample.subject)));
    let mut tables = Tables::from([
        (
            "raw.trajectories".to_string(),
            trajectories.iter().map(|(id, live)| raw_trajectory(id, live)).collect(),
        ),
        ("raw.calls".to_string(), calls.iter().map(|(id, live)| raw_call(id, live)).collect()),
        ("raw.scores".to_string(), scores.iter().map(|(id, live)| raw_score(id, live)).collect()),
        ("curated.samples".to_string(), curated(&samples)),
        ("evals.scores".to_string(), evals.iter().map(eval_row).collect()),
        ("evals.summary".to_string(), summary(&evals, &samples)),
        ("evals.unused".to_string(), unused),
        ("ops.rejects".to_string(), rejects(&decoded)),
    ]);
    tables.extend(train::tables(&input.settings, &samples, &evals));
    tables
}

/// The texts that samples need embedded, by digest.
pub fn needed_texts(input: &Input) -> BTreeMap<String, String> {
    let mut decoded = decode(&input.records, &input.settings).rows;
    let mut rows = |stream: &str| decoded.remove(stream).unwrap_or_default();
    let samples = samples(&rows("trajectories"), &rows("calls"));
    samples
        .samples
        .values()
        .filter_map(|sample| sample.subject.texts())
        .flat_map(|(question, answer)| [question, answer])
        .map(|text| (text_digest(text), text.to_string()))
        .collect()
}

/// The needed texts that the model in force has neither embedded nor failed on.
pub fn pending_texts(input: &Input) -> BTreeMap<String, String> {
    let mut needed = needed_texts(input);
    if let Some((model, version)) = input.models.last() {
        needed.retain(|digest, _| {
            let request = (digest.clone(), model.clone(), version.clone());
            !input.embeddings.contains_key(&request) && !input.failures.contains(&request)
        });
    }
    needed
}

fn source(live: &Live, mut own: Value) -> Row {
    own["body"] = json!(live.body);
    own["source_partition"] = json!(live.partition);
    own["source_offset"] = json!(live.offset);
    own["source_timestamp"] = json!(live.timestamp.map(rfc3339));
    row(own)
}

fn raw_trajectory(id: &str, live: &Live) -> Row {
    source(
        live,
        json!({
            "id": id, "task_id": live.str("task_id"), "agent": live.str("agent"), "model": live.str("model"),
            "reward": live.number("reward"), "outcome": live.str("outcome"), "tenant": live.str("tenant"),
            "user_id": live.str("user_id"), "ts": live.str("ts"),
        }),
    )
}

fn raw_call(id: &str, live: &Live) -> Row {
    source(
        live,
        json!({
            "request_id": id, "model": live.str("model"), "session_id": live.str("session_id"),
            "status": live.number("status").map(|status| status as i64), "tenant": live.str("tenant"),
            "user_id": live.str("user_id"), "ts": live.str("ts"),
        }),
    )
}

fn raw_score(id: &str, live: &Live) -> Row {
    source(
        live,
        json!({
            "row_id": id, "subject": subject_of(live), "metric": live.str("metric"), "score": live.number("score"),
            "judge": live.str("judge"), "judge_type": live.str("judge_type"),
        }),
    )
}

fn subject_of(score: &Live) -> Option<String> {
    let target = score.some("ref")?;
    let kind = if target.get("file")?.as_str()? == "trajectories" { "trajectory" } else { "call" };
    Some(format!("{kind}:{}", target.get("id")?.as_str()?))
}

fn curated(all: &Samples) -> Vec<Row> {
    all.samples
        .iter()
        .map(|(sample_id, sample)| {
            let subject = &sample.subject;
            row(json!({
                "sample_id": sample_id, "kind": subject.kind, "task": subject.task, "tenant": subject.tenant,
                "user_id": subject.user_id, "model": subject.model, "ts": subject.ts,
                "messages": json_of(&subject.messages).text(), "tools": subject.tools.as_ref().map(|tools| tools.text()),
                "tokens": subject.tokens(), "text_only": subject.text_only, "copies": sample.copies,
            }))
        })
        .collect()
}

/// The value of a score, or why it has none.
fn valued(metrics: &Value, score: &Live) -> Result<i64, &'static str> {
    let metric = &metrics[score.str("metric").expect("a score has a metric")];
    if metric.is_null() {
        return Err("metric_not_configured");
    }
    let (low, high) = (metric["low"].as_f64().expect("low"), metric["high"].as_f64().expect("high"));
    let score = score.number("score").ok_or("no_score")?;
    if !(low..=high).contains(&score) {
        return Err("out_of_range");
    }
    Ok(millionths((score - low) / (high - low)))
}

fn used(
    settings: &Value,
    score: &Live,
    there: &BTreeSet<String>,
    all: &Samples,
) -> Result<(String, String, i64), &'static str> {
    let subject = subject_of(score).ok_or("no_ref")?;
    let value = valued(&settings["metrics"], score)?;
    if !there.contains(&subject) {
        return Err("no_subject");
    }
    let sample_id = all.sample_of.get(&subject).ok_or("no_sample")?;
    Ok((subject, sample_id.clone(), value))
}

fn stream_evals(
    settings: &Value,
    scores: &Rows,
    trajectories: &Rows,
    calls: &Rows,
    all: &Samples,
) -> (Vec<Eval>, Vec<Row>) {
    let there: BTreeSet<String> = trajectories
        .keys()
        .map(|id| format!("trajectory:{id}"))
        .chain(calls.keys().map(|id| format!("call:{id}")))
        .collect();
    let mut evals = Vec::new();
    let mut unused: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (row_id, score) in scores {
        let metric = score.str("metric").expect("a score has a metric");
        match used(settings, score, &there, all) {
            Ok((subject, sample_id, value)) => evals.push(Eval {
                eval_id: format!("score:{row_id}"),
                sample_id,
                subject,
                metric: metric.to_string(),
                value,
                judge: score.str("judge").map(str::to_string),
                judge_type: score.str("judge_type").map(str::to_string),
                origin: "stream",
            }),
            Err(reason) => *unused.entry((reason, metric)).or_default() += 1,
        }
    }
    let unused = unused
        .into_iter()
        .map(|((reason, metric), n)| row(json!({"reason": reason, "metric": metric, "n": n})));
    (evals, unused.collect())
}

fn reported_evals(trajectories: &Rows, all: &Samples) -> Vec<Eval> {
    trajectories
        .iter()
        .filter_map(|(id, live)| {
            let reward = live.number("reward").filter(|reward| (0.0..=1.0).contains(reward))?;
            let subject = format!("trajectory:{id}");
            Some(Eval {
                eval_id: format!("reported:{id}"),
                sample_id: all.sample_of.get(&subject)?.clone(),
                subject,
                metric: "reported_reward".to_string(),
                value: millionths(reward),
                judge: None,
                judge_type: None,
                origin: "reported",
            })
        })
        .collect()
}

/// How alike two vectors are, in millionths.
fn cosine(a: &[f32], b: &[f32]) -> i64 {
    let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 || bb == 0.0 {
        return 0;
    }
    millionths((ab / (aa * bb).sqrt()).clamp(0.0, 1.0))
}

fn relevance_eval(input: &Input, subject: &Subject) -> Option<Eval> {
    let (judge, value) = match subject.texts() {
        None => (None, 0),
        Some((question, answer)) => input.models.iter().rev().find_map(|(model, version)| {
            let vector = |text| input.embeddings.get(&(text_digest(text), model.clone(), version.clone()));
            Some((Some(format!("{model}@{version}")), cosine(vector(question)?, vector(answer)?)))
        })?,
    };
    Some(Eval {
        eval_id: format!("model:{}", subject.id),
        sample_id: subject.id.clone(),
        subject: subject.id.clone(),
        metric: "relevance".to_string(),
        value,
        judge,
        judge_type: Some("model".to_string()),
        origin: "model",
    })
}

fn eval_row(eval: &Eval) -> Row {
    row(json!({
        "eval_id": eval.eval_id, "sample_id": eval.sample_id, "subject": eval.subject, "metric": eval.metric,
        "value": double(eval.value), "judge": eval.judge, "judge_type": eval.judge_type, "origin": eval.origin,
    }))
}

fn summary(evals: &[Eval], all: &Samples) -> Vec<Row> {
    let mut sums: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
    for eval in evals {
        let model = all.samples[&eval.sample_id].subject.model.as_deref().unwrap_or("unknown");
        let (sum, n) = sums.entry((model, &eval.metric)).or_default();
        *sum += eval.value;
        *n += 1;
    }
    sums.into_iter()
        .map(|((model, metric), (sum, n))| {
            row(json!({"model": model, "metric": metric, "n": n, "mean": (sum as f64 / n as f64) / 1e6}))
        })
        .collect()
}

fn rejects(decoded: &Decoded) -> Vec<Row> {
    decoded
        .rejects
        .iter()
        .map(|(record, code)| {
            let value = record.value.as_deref().unwrap_or_default();
            row(json!({
                "stream": record.stream, "source_partition": record.partition, "source_offset": record.offset,
                "key": record.key.as_ref().map(|key| STANDARD.encode(key)), "code": code, "message": code,
                "value_head": STANDARD.encode(&value[..value.len().min(4096)]), "value_bytes": value.len(),
            }))
        })
        .collect()
}
