//! The flywheel's settings: defaults, what a configuration replaces, checks, and the form in a root.
//!
//! A configuration holds only what differs. It is laid over the defaults (objects with named parts,
//! such as `metrics` and `holdout`, part by part; everything else as a whole), then read into typed
//! settings, then checked. The typed settings written out again are what stands in a root: complete,
//! and always spelled the same way, so that equal settings are equal JSON.

use super::fields::Stream;
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tidemill_operators::json::Pointers;

/// The largest `record_bytes_max`: lengths of texts travel in 32 bits, and columns hold a body whole.
const RECORD_BYTES_LIMIT: u64 = 1 << 30;

/// One million millionths make 1.
pub const MILLIONTHS: f64 = 1e6;

/// A setting is wrong; the message names it and says what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("setting {setting}: {what}")]
pub struct SettingsError {
    /// Its path, such as `flywheel.metrics.reward.low`.
    pub setting: String,
    /// What is wrong and what to do.
    pub what: String,
}

type Checked<T> = Result<T, SettingsError>;

fn wrong<T>(setting: &str, what: impl Into<String>) -> Checked<T> {
    Err(SettingsError { setting: format!("flywheel.{setting}"), what: what.into() })
}

/// Where a Kafka record's identity comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyMode {
    /// The record's key is the identity; a null value deletes.
    Kafka,
    /// The identity stands in the value, and so does a deletion.
    Value,
}

/// The key mode of each stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyModes {
    /// Of `trajectories`.
    pub trajectories: KeyMode,
    /// Of `calls`.
    pub calls: KeyMode,
    /// Of `scores`.
    pub scores: KeyMode,
}

/// A metric's range and weight.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The score that counts as 0.
    #[serde(serialize_with = "short_number")]
    pub low: f64,
    /// The score that counts as 1.
    #[serde(serialize_with = "short_number")]
    pub high: f64,
    /// Its weight in the quality; 0 leaves it out.
    #[serde(serialize_with = "short_number")]
    pub weight: f64,
}

impl Metric {
    /// A score's value in millionths; `None` outside the range.
    pub fn millionths(&self, score: f64) -> Option<i64> {
        (self.low..=self.high)
            .contains(&score)
            .then(|| millionths((score - self.low) / (self.high - self.low)))
    }
}

/// A kind of judge, in the order of trust that the settings give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Judge {
    /// A person.
    Human,
    /// A program, such as a test suite.
    Programmatic,
    /// Any other kind, or none stated.
    Other,
    /// A language model.
    Llm,
}

impl Judge {
    /// The kind that a score's `judge_type` names.
    pub fn of(judge_type: Option<&str>) -> Self {
        match judge_type {
            Some("human") => Self::Human,
            Some("programmatic") => Self::Programmatic,
            Some("llm") => Self::Llm,
            _ => Self::Other,
        }
    }
}

/// What is kept out of training.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// Names of tasks, `*` standing for any text.
    pub tasks: Vec<String>,
    /// How many of 10,000 openings.
    pub per_10k: u16,
}

/// Every setting of the flywheel.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FlywheelSettings {
    /// Longer values are rejected.
    pub record_bytes_max: u64,
    /// Where identities come from.
    pub key: KeyModes,
    /// `{stream: {field: JSON pointer}}`, for fields that stand elsewhere.
    pub fields: BTreeMap<String, BTreeMap<String, String>>,
    /// Always `None`: tokens are counted as bytes over 4.
    pub tokenizer: Option<String>,
    /// The metrics that count, by name.
    pub metrics: BTreeMap<String, Metric>,
    /// Most trusted first; each kind once.
    pub judge_order: Vec<Judge>,
    /// The least relevance of an eligible sample.
    #[serde(serialize_with = "short_number")]
    pub relevance_min: f64,
    /// The most tokens of an eligible sample.
    pub tokens_max: u64,
    /// Samples of one tenant and task in `train.sft`.
    pub per_task: u32,
    /// The least quality in `train.sft`.
    #[serde(serialize_with = "short_number")]
    pub quality_min: f64,
    /// The least difference of qualities in `train.preferences`.
    #[serde(serialize_with = "short_number")]
    pub margin: f64,
    /// Whether both answers of a preference come from one model.
    pub same_model: bool,
    /// Models that may be learned from, `*` standing for any text.
    pub models: Vec<String>,
    /// What is kept out of training.
    pub holdout: Holdout,
}

/// The settings that a store's first commit fixes.
pub const FIXED: [&str; 3] = ["record_bytes_max", "key", "fields"];

fn defaults() -> Value {
    json!({
        "record_bytes_max": 16_777_216,
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
        "relevance_min": 0,
        "tokens_max": 8192,
        "per_task": 4,
        "quality_min": 0.7,
        "margin": 0.3,
        "same_model": false,
        "models": ["*"],
        "holdout": {"tasks": [], "per_10k": 500},
    })
}

impl Default for FlywheelSettings {
    fn default() -> Self {
        Self::parse(&json!({})).expect("the defaults are right")
    }
}

impl FlywheelSettings {
    /// Reads what a configuration gives (a JSON object) and checks it; all else is the default.
    pub fn parse(given: &Value) -> Checked<Self> {
        let Value::Object(given) = given else {
            return Err(SettingsError {
                setting: "flywheel".into(),
                what: "must be a table of settings".into(),
            });
        };
        let settings = Self::read(&overlay(given)?)?;
        settings.check()?;
        Ok(settings)
    }

    /// Every setting as it stands in a root; [`FlywheelSettings::parse`] reads it back.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("settings have string keys and finite numbers")
    }

    fn read(full: &Map<String, Value>) -> Checked<Self> {
        Ok(Self {
            record_bytes_max: take(full, "record_bytes_max")?,
            key: take(full, "key")?,
            fields: take(full, "fields")?,
            tokenizer: take(full, "tokenizer")?,
            metrics: read_metrics(full)?,
            judge_order: take(full, "judge_order")?,
            relevance_min: take(full, "relevance_min")?,
            tokens_max: take(full, "tokens_max")?,
            per_task: take(full, "per_task")?,
            quality_min: take(full, "quality_min")?,
            margin: take(full, "margin")?,
            same_model: take(full, "same_model")?,
            models: take(full, "models")?,
            holdout: take(full, "holdout")?,
        })
    }

    fn check(&self) -> Checked<()> {
        if !(1..=RECORD_BYTES_LIMIT).contains(&self.record_bytes_max) {
            return wrong("record_bytes_max", format!("must be from 1 to {RECORD_BYTES_LIMIT}"));
        }
        if let Some(tokenizer) = &self.tokenizer {
            return wrong(
                "tokenizer",
                format!("{tokenizer:?} is not there; only null (bytes over 4) is supported"),
            );
        }
        for (name, part) in [
            ("relevance_min", self.relevance_min),
            ("quality_min", self.quality_min),
            ("margin", self.margin),
        ] {
            if !(0.0..=1.0).contains(&part) {
                return wrong(name, format!("{part} is not between 0 and 1"));
            }
        }
        if self.holdout.per_10k > 10_000 {
            return wrong("holdout.per_10k", format!("{} is over 10000", self.holdout.per_10k));
        }
        self.check_judges()?;
        self.check_metrics()?;
        self.check_fields()
    }

    fn check_judges(&self) -> Checked<()> {
        let all = [Judge::Human, Judge::Programmatic, Judge::Other, Judge::Llm];
        if self.judge_order.len() == all.len() && all.iter().all(|judge| self.judge_order.contains(judge)) {
            return Ok(());
        }
        wrong("judge_order", "must name each of human, programmatic, other and llm once")
    }

    fn check_metrics(&self) -> Checked<()> {
        for (name, metric) in &self.metrics {
            let path = format!("metrics.{name}");
            if name == "relevance" || name == "reported_reward" || name.starts_with("judge:") {
                return wrong(&path, "relevance, reported_reward and judge:* are reserved; use another name");
            }
            if metric.low >= metric.high {
                return wrong(&path, format!("low {} is not below high {}", metric.low, metric.high));
            }
            if !(metric.high - metric.low).is_finite() {
                return wrong(&path, "the range from low to high is too wide for a 64-bit float");
            }
            if metric.weight < 0.0 {
                return wrong(&format!("{path}.weight"), format!("{} is negative", metric.weight));
            }
        }
        let weights: f64 = self.metrics.values().map(|metric| metric.weight).sum();
        if !(weights * MILLIONTHS).is_finite() {
            return wrong("metrics", "the weights are too large to be summed");
        }
        Ok(())
    }

    fn check_fields(&self) -> Checked<()> {
        for (stream, fields) in &self.fields {
            let Some(known) = Stream::named(stream) else {
                return unknown("fields", stream, Stream::ALL.map(Stream::name));
            };
            for (field, pointer) in fields {
                let path = format!("fields.{stream}");
                if known.fields().iter().all(|spec| spec.name != field) {
                    return unknown(&path, field, known.fields().iter().map(|spec| spec.name));
                }
                if let Err(error) = Pointers::new([pointer]) {
                    return wrong(&format!("{path}.{field}"), error.to_string());
                }
            }
        }
        Ok(())
    }

    /// The key mode of a stream.
    pub fn key_mode(&self, stream: Stream) -> KeyMode {
        match stream {
            Stream::Trajectories => self.key.trajectories,
            Stream::Calls => self.key.calls,
            Stream::Scores => self.key.scores,
        }
    }

    /// The place of a score's judge in the order of trust; 0 is the most trusted.
    pub fn judge_rank(&self, judge_type: Option<&str>) -> u8 {
        let judge = Judge::of(judge_type);
        let place = self.judge_order.iter().position(|known| *known == judge);
        place.unwrap_or(self.judge_order.len()) as u8
    }

    /// Whether a model's answers may be learned from; a null model is `unknown`.
    pub fn allows_model(&self, model: Option<&str>) -> bool {
        let model = model.unwrap_or("unknown");
        self.models.iter().any(|pattern| wildcard(pattern, model))
    }

    /// Whether a task is held out by name.
    pub fn holds_out_task(&self, task: &str) -> bool {
        self.holdout.tasks.iter().any(|pattern| wildcard(pattern, task))
    }
}

/// Millionths, rounded half away from zero.
pub fn millionths(value: f64) -> i64 {
    (value * MILLIONTHS).round() as i64
}

/// Whether a text matches a pattern in which `*` stands for any text, the empty one included.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                retry = Some((at, from));
            }
            Some(byte) if *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                (at, from) = (star, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Lays what is given over the defaults.
fn overlay(given: &Map<String, Value>) -> Checked<Map<String, Value>> {
    let Value::Object(mut full) = defaults() else { unreachable!("the defaults are an object") };
    for (name, value) in given {
        let Some(slot) = full.get_mut(name) else {
            return unknown("", name, full.keys().map(String::as_str));
        };
        match name.as_str() {
            "key" | "holdout" => merge(name, slot, value, false)?,
            "metrics" => merge_metrics(slot, value)?,
            _ => *slot = value.clone(),
        }
    }
    Ok(full)
}

/// Lays an object over another, name by name.
fn merge(path: &str, slot: &mut Value, given: &Value, open: bool) -> Checked<()> {
    let (Value::Object(slot), Value::Object(given)) = (slot, given) else {
        return wrong(path, format!("must be a table, found {given}"));
    };
    for (name, value) in given {
        if !open && !slot.contains_key(name) {
            return unknown(path, name, slot.keys().map(String::as_str));
        }
        slot.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// A metric that has a default keeps what is not given; of a new one only the weight has a default.
fn merge_metrics(slot: &mut Value, given: &Value) -> Checked<()> {
    let mut merged = given.clone();
    if let (Value::Object(merged), Value::Object(slot)) = (&mut merged, &*slot) {
        for (name, metric) in merged {
            let mut full = slot.get(name).cloned().unwrap_or_else(|| json!({"weight": 1}));
            merge(&format!("metrics.{name}"), &mut full, metric, true)?;
            *metric = full;
        }
    }
    merge("metrics", slot, &merged, true)
}

fn take<T: DeserializeOwned>(full: &Map<String, Value>, name: &str) -> Checked<T> {
    let value = full.get(name).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).or_else(|error| wrong(name, error.to_string()))
}

fn read_metrics(full: &Map<String, Value>) -> Checked<BTreeMap<String, Metric>> {
    let metrics: Map<String, Value> = take(full, "metrics")?;
    let read = |(name, metric): (&String, &Value)| {
        for part in metric.as_object().into_iter().flat_map(Map::keys) {
            if !["low", "high", "weight"].contains(&part.as_str()) {
                return unknown(&format!("metrics.{name}"), part, ["low", "high", "weight"]);
            }
        }
        let metric = serde_json::from_value(metric.clone());
        metric
            .map(|metric| (name.clone(), metric))
            .or_else(|error| wrong(&format!("metrics.{name}"), error.to_string()))
    };
    metrics.iter().map(read).collect()
}

/// The error for a name that is not known: names the nearest one that is.
fn unknown<'a, T>(path: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Checked<T> {
    let nearest = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .map_or(String::new(), |(_, known)| format!("; did you mean {known:?}?"));
    let setting = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    wrong(&setting, format!("there is no such name{nearest}"))
}

/// Writes a whole number without a point, so that a setting is spelled the same however it was given.
fn short_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}
