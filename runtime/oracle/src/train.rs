//! Quality, hold-out and the training sets.

use super::json::Json;
use super::model::{Eval, Row, Tables, double, millionths, row};
use super::samples::{Message, Sample, Samples, json_of};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What is known of a sample when training sets are chosen.
struct Judged<'a> {
    sample_id: &'a str,
    sample: &'a Sample,
    quality: Option<i64>,
    held_out: bool,
    relevance: Option<i64>,
    tie: Vec<u8>,
}

/// Whether a name matches a pattern in which `*` stands for anything.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

fn matches_any(patterns: &Value, name: &str) -> bool {
    let patterns = patterns.as_array().expect("a list of names");
    patterns.iter().any(|pattern| matches(pattern.as_str().expect("a name"), name))
}

fn fraction(settings: &Value, name: &str) -> i64 {
    millionths(settings[name].as_f64().expect("a fraction"))
}

/// `evals.holdout`, `train.sft` and `train.preferences`.
pub fn tables(settings: &Value, all: &Samples, evals: &[Eval]) -> Tables {
    let mut evals_of: BTreeMap<&str, Vec<&Eval>> = BTreeMap::new();
    for eval in evals {
        evals_of.entry(&eval.sample_id).or_default().push(eval);
    }
    let judged: Vec<Judged> = all
        .samples
        .iter()
        .map(|(sample_id, sample)| {
            let own = evals_of.remove(sample_id.as_str()).unwrap_or_default();
            Judged {
                sample_id,
                sample,
                quality: quality(settings, &own),
                held_out: held_out(settings, sample),
                relevance: own.iter().find(|eval| eval.origin == "model").map(|eval| eval.value),
                tie: Sha256::digest(sample_id.as_bytes()).to_vec(),
            }
        })
        .collect();
    let eligible: Vec<&Judged> = judged.iter().filter(|sample| is_eligible(settings, sample)).collect();
    Tables::from([
        (
            "evals.holdout".to_string(),
            judged.iter().filter(|sample| sample.held_out).map(holdout_row).collect(),
        ),
        ("train.sft".to_string(), sft(settings, &eligible)),
        ("train.preferences".to_string(), preferences(settings, &eligible)),
    ])
}

fn mean(values: &[i64]) -> f64 {
    values.iter().sum::<i64>() as f64 / values.len() as f64
}

/// The place of a judge type in the order of trust, by its class.
fn trust(settings: &Value, judge_type: Option<&str>) -> usize {
    let named = judge_type.filter(|name| ["human", "programmatic", "llm"].contains(name));
    let class = named.unwrap_or("other");
    let order = settings["judge_order"].as_array().expect("judge_order is a list");
    order.iter().position(|name| name == class).expect("judge_order names all four classes")
}

/// In millionths, from the evals of one sample.
fn quality(settings: &Value, own: &[&Eval]) -> Option<i64> {
    let mut by_metric: BTreeMap<&str, BTreeMap<usize, Vec<i64>>> = BTreeMap::new();
    for eval in own.iter().filter(|eval| eval.origin == "stream") {
        let judges = by_metric.entry(&eval.metric).or_default();
        judges.entry(trust(settings, eval.judge_type.as_deref())).or_default().push(eval.value);
    }
    let (mut sum, mut weights) = (0f64, 0f64);
    for (metric, judges) in by_metric {
        let weight = settings["metrics"][metric]["weight"].as_f64().expect("a metric has a weight");
        if weight > 0.0 {
            let (_, trusted) = judges.first_key_value().expect("a metric that is there has a value");
            sum += weight * mean(trusted);
            weights += weight;
        }
    }
    if weights > 0.0 {
        return Some((sum / weights).round() as i64);
    }
    let reported: Vec<i64> =
        own.iter().filter(|eval| eval.origin == "reported").map(|eval| eval.value).collect();
    (!reported.is_empty()).then(|| mean(&reported).round() as i64)
}

fn held_out(settings: &Value, sample: &Sample) -> bool {
    let below = settings["holdout"]["per_10k"].as_u64().expect("per_10k is a number");
    matches_any(&settings["holdout"]["tasks"], &sample.subject.task)
        || sample.subject.holdout_bucket().is_some_and(|bucket| bucket < below)
}

fn is_eligible(settings: &Value, sample: &Judged) -> bool {
    sample.sample.subject.text_only
        && !sample.held_out
        && sample.quality.is_some()
        && sample.relevance.is_some_and(|relevance| relevance >= fraction(settings, "relevance_min"))
        && sample.sample.subject.tokens() <= settings["tokens_max"].as_u64().expect("tokens_max is a number")
}

impl Judged<'_> {
    fn model(&self) -> &str {
        self.sample.subject.model.as_deref().unwrap_or("unknown")
    }

    fn is_allowed(&self, settings: &Value) -> bool {
        matches_any(&settings["models"], self.model())
    }

    fn eligible_quality(&self) -> i64 {
        self.quality.expect("an eligible sample has a quality")
    }

    fn best_first(&self) -> (Reverse<i64>, &[u8]) {
        (Reverse(self.eligible_quality()), &self.tie)
    }

    fn worst_first(&self) -> (i64, &[u8]) {
        (self.eligible_quality(), &self.tie)
    }

    fn messages(&self) -> &[Message] {
        &self.sample.subject.messages
    }

    fn prompt(&self) -> &[Message] {
        &self.messages()[..self.sample.subject.prompt_len]
    }

    fn answer(&self) -> &[Message] {
        &self.messages()[self.sample.subject.prompt_len..]
    }

    fn tools(&self) -> Option<String> {
        self.sample.subject.tools.as_ref().map(Json::text)
    }
}

fn holdout_row(sample: &Judged) -> Row {
    let subject = &sample.sample.subject;
    row(json!({
        "sample_id": sample.sample_id, "task": subject.task, "tenant": subject.tenant, "model": subject.model,
        "messages": json_of(sample.messages()).text(), "tools": sample.tools(), "tokens": subject.tokens(),
        "quality": sample.quality.map(double),
    }))
}

fn sft_row(sample: &Judged) -> Row {
    let mut out = holdout_row(sample);
    out.insert("ts".into(), json!(sample.sample.subject.ts));
    out.insert("copies".into(), json!(sample.sample.copies));
    out
}

fn sft(settings: &Value, eligible: &[&Judged]) -> Vec<Row> {
    let per_task = settings["per_task"].as_u64().expect("per_task is a number") as usize;
    let mut groups: BTreeMap<(&Option<String>, &str), Vec<&Judged>> = BTreeMap::new();
    for sample in eligible {
        if sample.is_allowed(settings) && sample.eligible_quality() >= fraction(settings, "quality_min") {
            let subject = &sample.sample.subject;
            groups.entry((&subject.tenant, &subject.task)).or_default().push(sample);
        }
    }
    let mut rows = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by(|a, b| a.best_first().cmp(&b.best_first()));
        rows.extend(group.into_iter().take(per_task).map(sft_row));
    }
    rows
}

fn preferences(settings: &Value, eligible: &[&Judged]) -> Vec<Row> {
    let same_model = settings["same_model"].as_bool().expect("same_model is a truth value");
    let mut groups: BTreeMap<_, Vec<&Judged>> = BTreeMap::new();
    for sample in eligible {
        let subject = &sample.sample.subject;
        let model = same_model.then(|| sample.model());
        let group = (&subject.tenant, &subject.task, json_of(sample.prompt()).text(), sample.tools(), model);
        groups.entry(group).or_default().push(sample);
    }
    let mut rows = Vec::new();
    for (group, members) in groups {
        let allowed = members.iter().filter(|sample| sample.is_allowed(settings));
        let best = allowed.min_by(|a, b| a.best_first().cmp(&b.best_first()));
        let worst = members.iter().min_by(|a, b| a.worst_first().cmp(&b.worst_first()));
        if let (Some(best), Some(worst)) = (best, worst)
            && best.sample_id != worst.sample_id
            && best.eligible_quality() - worst.eligible_quality() >= fraction(settings, "margin")
        {
            rows.push(preference_row(&format!("{group:?}"), best, worst));
        }
    }
    rows
}

fn turns(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.role == "assistant").count()
}

fn preference_row(pair: &str, best: &Judged, worst: &Judged) -> Row {
    row(json!({
        "pair": pair, "task": best.sample.subject.task, "tenant": best.sample.subject.tenant,
        "prompt": json_of(best.prompt()).text(),
        "chosen": json_of(best.answer()).text(), "rejected": json_of(worst.answer()).text(),
        "tools": best.tools(), "chosen_id": best.sample_id, "rejected_id": worst.sample_id,
        "chosen_model": best.sample.subject.model, "rejected_model": worst.sample.subject.model,
        "chosen_quality": double(best.eligible_quality()), "rejected_quality": double(worst.eligible_quality()),
        "chosen_turns": turns(best.answer()), "rejected_turns": turns(worst.answer()),
    }))
}
