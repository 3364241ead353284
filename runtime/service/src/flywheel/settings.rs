//! The flywheel's settings: defaults, what a configuration replaces, checks, and the form in a root.
//!
//! A configuration holds only what differs. It is laid over the defaults (objects with named parts,
//! such as `metrics` and `holdout`, part by part; everything else as a whole), then read into typed
//! settings and checked, each by a reader of its own that can say what it takes. The typed settings
//! written out again are what stands in a root: complete, and always spelled the same way, so that equal
//! settings are equal JSON.

use super::fields::Stream;
use crate::config::{nearest, parse_bytes};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tidemill_operators::json::Pointers;

/// The largest `record_bytes_max`: lengths of texts travel in 32 bits, and columns hold a body whole.
const RECORD_BYTES_LIMIT: u64 = 1 << 30;

/// One million millionths make 1.
pub const MILLIONTHS: f64 = 1e6;

/// A setting is wrong; the message names it and says what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{setting}` {what}")]
pub struct SettingsError {
    /// Its path, such as `flywheel.metrics.reward.low`.
    pub setting: String,
    /// What is wrong and what to do, as the rest of a sentence that begins with the path.
    pub what: String,
}

type Checked<T> = Result<T, SettingsError>;

fn wrong<T>(setting: &str, what: impl Into<String>) -> Checked<T> {
    Err(SettingsError { setting: format!("flywheel.{setting}"), what: what.into() })
}

/// Where a Kafka record's identity comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyMode {
    /// From the record's key; without a value the record is a deletion.
    Kafka,
    /// The identity stands in the value, and so does a deletion.
    Value,
}

/// The key mode of each stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct KeyModes {
    /// Of `trajectories`.
    pub trajectories: KeyMode,
    /// Of `calls`.
    pub calls: KeyMode,
    /// Of `scores`.
    pub scores: KeyMode,
}

/// A metric's range and weight.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
            let what = format!("must be a table of settings, not {given}");
            return Err(SettingsError { setting: "flywheel".into(), what });
        };
        Self::read(&overlay(given)?)
    }

    /// Every setting as it stands in a root; [`FlywheelSettings::parse`] reads it back.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("settings have string keys and finite numbers")
    }

    fn read(full: &Map<String, Value>) -> Checked<Self> {
        Ok(Self {
            record_bytes_max: take(full, "record_bytes_max", bytes)?,
            key: take(full, "key", key_modes)?,
            fields: take(full, "fields", fields)?,
            tokenizer: take(full, "tokenizer", tokenizer)?,
            metrics: take(full, "metrics", metrics)?,
            judge_order: take(full, "judge_order", judges)?,
            relevance_min: take(full, "relevance_min", part)?,
            tokens_max: take(full, "tokens_max", |at, value| whole(at, value, u64::MAX))?,
            per_task: take(full, "per_task", |at, value| whole(at, value, u64::from(u32::MAX)))? as u32,
            quality_min: take(full, "quality_min", part)?,
            margin: take(full, "margin", part)?,
            same_model: take(full, "same_model", yes_or_no)?,
            models: take(full, "models", |at, value| texts(at, value, "gpt-*"))?,
            holdout: take(full, "holdout", holdout)?,
        })
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

    /// Whether what a model said may go into training; where none is named it is called `unknown`.
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
        return must(path, "a table of settings", given);
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

/// Reads one setting by its name.
fn take<T>(
    full: &Map<String, Value>,
    name: &str,
    read: impl FnOnce(&str, &Value) -> Checked<T>,
) -> Checked<T> {
    read(name, full.get(name).unwrap_or(&Value::Null))
}

/// The error for a value that cannot be: what may stand there, and what does.
fn must<T>(setting: &str, be: &str, found: &Value) -> Checked<T> {
    wrong(setting, format!("must be {be}, not {found}"))
}

fn table<'a>(at: &str, value: &'a Value) -> Checked<&'a Map<String, Value>> {
    value.as_object().map_or_else(|| must(at, "a table of settings", value), Ok)
}

fn whole(at: &str, value: &Value, most: u64) -> Checked<u64> {
    let be = match most {
        u64::MAX => "a whole number, 0 or more".to_string(),
        most => format!("a whole number from 0 to {most}"),
    };
    value.as_u64().filter(|number| *number <= most).map_or_else(|| must(at, &be, value), Ok)
}

/// A size: a number of bytes, or a text such as `16MiB`.
fn bytes(at: &str, value: &Value) -> Checked<u64> {
    let bytes = value.as_u64().or_else(|| parse_bytes(value.as_str()?));
    let be = format!("a size from 1 to {RECORD_BYTES_LIMIT} bytes, such as 16777216 or \"16MiB\"");
    let bytes = bytes.filter(|bytes| (1..=RECORD_BYTES_LIMIT).contains(bytes));
    bytes.map_or_else(|| must(at, &be, value), Ok)
}

fn number(at: &str, value: &Value) -> Checked<f64> {
    value.as_f64().map_or_else(|| must(at, "a number", value), Ok)
}

/// A part of the whole.
fn part(at: &str, value: &Value) -> Checked<f64> {
    let part = value.as_f64().filter(|part| (0.0..=1.0).contains(part));
    part.map_or_else(|| must(at, "a number from 0 to 1", value), Ok)
}

fn yes_or_no(at: &str, value: &Value) -> Checked<bool> {
    value.as_bool().map_or_else(|| must(at, "true or false", value), Ok)
}

fn texts(at: &str, value: &Value, such: &str) -> Checked<Vec<String>> {
    let text = |item: &Value| item.as_str().map(str::to_string);
    let texts: Option<Vec<String>> = value.as_array().and_then(|items| items.iter().map(text).collect());
    texts.map_or_else(|| must(at, &format!("a list of texts such as [{such:?}]"), value), Ok)
}

fn tokenizer(at: &str, value: &Value) -> Checked<Option<String>> {
    match value {
        Value::Null => Ok(None),
        other => wrong(at, format!("must be left out: only bytes over 4 are supported, not {other}")),
    }
}

fn key_modes(at: &str, value: &Value) -> Checked<KeyModes> {
    let mode = |stream: Stream| {
        let value = &value[stream.name()];
        match value.as_str() {
            Some("kafka") => Ok(KeyMode::Kafka),
            Some("value") => Ok(KeyMode::Value),
            _ => must(&format!("{at}.{}", stream.name()), "\"kafka\" or \"value\"", value),
        }
    };
    let (trajectories, calls) = (mode(Stream::Trajectories)?, mode(Stream::Calls)?);
    Ok(KeyModes { trajectories, calls, scores: mode(Stream::Scores)? })
}

fn fields(at: &str, value: &Value) -> Checked<BTreeMap<String, BTreeMap<String, String>>> {
    let mut read = BTreeMap::new();
    for (stream, given) in table(at, value)? {
        let Some(known) = Stream::named(stream) else {
            return unknown(at, stream, Stream::ALL.map(Stream::name));
        };
        let at = format!("{at}.{stream}");
        let mut pointers = BTreeMap::new();
        for (field, value) in table(&at, given)? {
            if known.fields().iter().all(|spec| spec.name != field) {
                return unknown(&at, field, known.fields().iter().map(|spec| spec.name));
            }
            pointers.insert(field.clone(), pointer(&format!("{at}.{field}"), value)?);
        }
        read.insert(stream.clone(), pointers);
    }
    Ok(read)
}

fn pointer(at: &str, value: &Value) -> Checked<String> {
    let be = "a JSON pointer such as \"/response/id\" (empty or begun by /, with ~0 for ~ and ~1 for /)";
    let text = value.as_str().filter(|text| Pointers::new([text]).is_ok());
    text.map(str::to_string).map_or_else(|| must(at, be, value), Ok)
}

fn judges(at: &str, value: &Value) -> Checked<Vec<Judge>> {
    let judge = |value: &Value| match value.as_str() {
        Some("human") => Some(Judge::Human),
        Some("programmatic") => Some(Judge::Programmatic),
        Some("other") => Some(Judge::Other),
        Some("llm") => Some(Judge::Llm),
        _ => None,
    };
    let all = [Judge::Human, Judge::Programmatic, Judge::Other, Judge::Llm];
    let order: Option<Vec<Judge>> = value.as_array().and_then(|items| items.iter().map(judge).collect());
    let order = order.filter(|order| order.len() == all.len() && all.iter().all(|one| order.contains(one)));
    let be = "a list of \"human\", \"programmatic\", \"other\" and \"llm\", each once, in any order";
    order.map_or_else(|| must(at, be, value), Ok)
}

fn metrics(at: &str, value: &Value) -> Checked<BTreeMap<String, Metric>> {
    let mut metrics = BTreeMap::new();
    for (name, given) in table(at, value)? {
        metrics.insert(name.clone(), metric(&format!("{at}.{name}"), name, given)?);
    }
    let weights: f64 = metrics.values().map(|metric: &Metric| metric.weight).sum();
    if !(weights * MILLIONTHS).is_finite() {
        return wrong(at, "have weights that are too large to be summed; give smaller ones");
    }
    Ok(metrics)
}

fn metric(at: &str, name: &str, value: &Value) -> Checked<Metric> {
    const PARTS: [&str; 3] = ["low", "high", "weight"];
    if name == "relevance" || name == "reported_reward" || name.starts_with("judge:") {
        let reserved = "relevance, reported_reward and judge:*";
        return wrong(at, format!("has a name that is reserved ({reserved}); use another"));
    }
    let given = table(at, value)?;
    if let Some(part) = given.keys().find(|part| !PARTS.contains(&part.as_str())) {
        return unknown(at, part, PARTS);
    }
    let lacking: Vec<&str> = PARTS.into_iter().filter(|part| !given.contains_key(*part)).collect();
    if !lacking.is_empty() {
        let lacking = lacking.join("` and `");
        return wrong(at, format!("lacks `{lacking}`; give low, high and (if not 1) weight"));
    }
    let part = |part: &str| number(&format!("{at}.{part}"), &value[part]);
    let metric = Metric { low: part("low")?, high: part("high")?, weight: part("weight")? };
    if metric.low >= metric.high {
        return wrong(at, format!("must have low below high, not {} and {}", metric.low, metric.high));
    }
    if !(metric.high - metric.low).is_finite() {
        return wrong(at, "has a range that is too wide for a 64-bit float; bring low and high together");
    }
    if metric.weight < 0.0 {
        return must(&format!("{at}.weight"), "0 or more", &value["weight"]);
    }
    Ok(metric)
}

fn holdout(at: &str, value: &Value) -> Checked<Holdout> {
    let tasks = texts(&format!("{at}.tasks"), &value["tasks"], "eval/*")?;
    let per_10k = whole(&format!("{at}.per_10k"), &value["per_10k"], 10_000)? as u16;
    Ok(Holdout { tasks, per_10k })
}

/// The error for a name that is not known: names the one that is near, or all that are.
fn unknown<'a, T>(path: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Checked<T> {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    let setting = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    wrong(&setting, format!("is not known; {hint}"))
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
