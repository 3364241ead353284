//! The flow: from current rows and model results to every derived table.
//!
//! ```text
//!  trajectories ─┐                      ┌─> samples ──────────────┬─> holdout
//!                ├─> subjects ─ group ──┤                         ├─> eligible ─┬─> sft
//!  calls ────────┘       │              └─> sample of a subject   │             └─> preferences
//!                        v                        v               │
//!  scores ── classify ── lookup ──> evals ──> quality ────────────┤
//!                        └──> unused   ^                          │
//!  results ──────────> relevance ──────┴──────────────────────────┘
//!       └─> pending <── texts of samples
//! ```
//!
//! It takes and gives collections alone and knows no source, store or model; so tests may call it. Every
//! sum is of integers (millionths), so no order of arrival shows in a result. Keys that travel are
//! digests of ids; ids are attached again through the subject that a row refers to.

use super::extract::{ANSWER, USER};
use super::facts::TextFact;
use super::rows::{CallRow, ScoreRow, TrajectoryRow};
use super::settings::{FlywheelSettings, millionths};
use super::tables::{
    Eval, EvalOrigin, HeldOut, Preference, Sample, Sft, Side, Str, Subject, Summary, Unused,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::sync::Arc;
use tidemill_core::model::{Outcome, Request, ResultRow, TextDigest};
use tidemill_core::source::{Word, identity_digest};
use tidemill_operators::{
    Candidate, Slot, SubSum, Table, aggregate, arg_min, join, latest_pair, lookup, pair_extremes, pending,
    sums, top_k,
};
use tidemill_types::{Digest, ModelId, Text};

/// What goes into the flow: the current words (each is a row) and all committed results.
pub struct Inputs<'s> {
    /// Current trajectories.
    pub trajectories: Table<'s, Arc<Word<TrajectoryRow>>>,
    /// Current calls.
    pub calls: Table<'s, Arc<Word<CallRow>>>,
    /// Current scores.
    pub scores: Table<'s, Arc<Word<ScoreRow>>>,
    /// Results of all models.
    pub results: Table<'s, ResultRow>,
}

/// What comes out of it.
pub struct Outputs<'s> {
    /// `curated.samples`
    pub samples: Table<'s, Sample>,
    /// `evals.scores`
    pub evals: Table<'s, Eval>,
    /// `evals.summary`
    pub summary: Table<'s, Summary>,
    /// `evals.unused`
    pub unused: Table<'s, Unused>,
    /// `evals.holdout`
    pub holdout: Table<'s, HeldOut>,
    /// `train.sft`
    pub sft: Table<'s, Sft>,
    /// `train.preferences`
    pub preferences: Table<'s, Preference>,
    /// Texts that wait for the model in force.
    pub pending: Table<'s, Request>,
}

/// A sample as evals know it: its id, and the model that answered.
type SampleRef = (Str, Option<Str>);

/// A score that may count: all but the sample that it counts for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
struct Scored {
    row_id: Str,
    subject: Str,
    metric: Str,
    value: i64,
    judge: Option<Str>,
    judge_type: Option<Str>,
}

/// Why a score is not used, or where it goes.
type Classified = Result<(Digest, Scored), (Str, Str)>;

/// What a quality is made of: the reported reward only where nothing else is there, so it sorts last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
enum Part {
    Metric(Str, u8),
    Reported,
}

fn key_of(id: &str) -> Digest {
    Digest::of(id.as_bytes())
}

/// The whole flow.
pub fn flywheel<'s>(
    inputs: Inputs<'s>,
    settings: &Arc<FlywheelSettings>,
    models: &Arc<[ModelId]>,
) -> Outputs<'s> {
    let subjects = subjects(inputs.trajectories, inputs.calls);
    let (samples, sample_of) = samples(subjects.clone());
    let keyed = samples.clone().map(|sample| (key_of(&sample.subject.id), sample));
    let relevance = relevance(samples.clone(), inputs.results.clone(), models);
    let reported = reported(subjects.clone(), sample_of.clone());
    let (scored, unused) = scored(inputs.scores, subjects, sample_of, settings);
    let quality = quality(scored.clone(), reported.clone(), settings);
    let judged = join(relevance.clone(), keyed.clone(), |_, judged, sample| {
        (judged_eval(judged, &sample.subject), sample.subject.model.clone())
    });
    let evals = scored.concat(reported).concat(judged);
    let rated = lookup(keyed, quality);
    let (holdout, eligible) = eligible(rated, relevance, settings);
    Outputs {
        pending: waiting(samples.clone(), inputs.results, models),
        samples,
        summary: summary(evals.clone()),
        evals: evals.map(|(eval, _)| eval),
        unused,
        holdout,
        sft: sft(eligible.clone(), settings),
        preferences: preferences(eligible, settings),
    }
}

/// Every current trajectory and call by the key of its id; `None`: it has no sample.
fn subjects<'s>(
    trajectories: Table<'s, Arc<Word<TrajectoryRow>>>,
    calls: Table<'s, Arc<Word<CallRow>>>,
) -> Table<'s, (Digest, Option<Arc<Subject>>)> {
    let trajectories = trajectories.flat_map(|word| word.value.as_deref().map(of_trajectory));
    let calls = calls.flat_map(|word| word.value.as_deref().map(of_call));
    trajectories.concat(calls)
}

fn of_trajectory(row: &TrajectoryRow) -> (Digest, Option<Arc<Subject>>) {
    let id = prefixed("trajectory:", &row.id);
    let subject = row.facts.map(|facts| Subject {
        id: id.clone(),
        key: identity_digest(&row.id),
        stream: 0,
        body: row.body.digest,
        task: row.task_id.clone(),
        tenant: row.tenant.clone(),
        user_id: row.user_id.clone(),
        model: row.model.clone(),
        ts: row.ts.clone(),
        reward: row.reward,
        facts,
    });
    (key_of(&id), subject.map(Arc::new))
}

fn of_call(row: &CallRow) -> (Digest, Option<Arc<Subject>>) {
    let id = prefixed("call:", &row.request_id);
    let subject = row.facts.map(|facts| Subject {
        id: id.clone(),
        key: identity_digest(&row.request_id),
        stream: 1,
        body: row.body.digest,
        task: format!("call:{}", facts.prompt()).into(),
        tenant: row.tenant.clone(),
        user_id: row.user_id.clone(),
        model: row.model.clone(),
        ts: row.ts.clone(),
        reward: None,
        facts,
    });
    (key_of(&id), subject.map(Arc::new))
}

/// What copies have in common; a subject with more than text in it has this to itself.
fn group_of(subject: &Subject) -> Digest {
    if !subject.facts.text_only {
        return Digest::of_parts([b"own".as_slice(), subject.id.as_bytes()]);
    }
    let tools = subject.facts.tools().map(Digest::to_bytes);
    let tenant = subject.tenant.as_deref().map(str::as_bytes);
    Digest::of_parts([
        b"copy".as_slice(),
        &subject.facts.conversation().to_bytes(),
        tools.as_ref().map_or(&[], <[u8; 16]>::as_slice),
        &[tenant.is_some() as u8],
        tenant.unwrap_or_default(),
    ])
}

/// The samples, and the sample of each subject that has one.
fn samples<'s>(
    subjects: Table<'s, (Digest, Option<Arc<Subject>>)>,
) -> (Table<'s, Sample>, Table<'s, (Digest, SampleRef)>) {
    let grouped = subjects.flat_map(|(key, subject)| subject.map(|s| (group_of(&s), (key, s))));
    let members = grouped.clone().map(|(group, (key, _))| (group, key));
    let first = arg_min(grouped.map(|(group, (_, subject))| (group, (subject.id.clone(), subject))));
    let named =
        first.clone().map(|(group, (subject, _))| (group, (subject.id.clone(), subject.model.clone())));
    let sample_of = join(members, named, |_, key, sample| (*key, sample.clone()));
    (first.map(|(_, (subject, copies))| Sample { subject, copies }), sample_of)
}

fn name(text: &str) -> Str {
    Str::from(text)
}

fn prefixed(kind: &str, id: &str) -> Str {
    [kind, id].concat().into()
}

fn classify(row: &ScoreRow, settings: &FlywheelSettings) -> Classified {
    let unused = |reason: &str| Err((name(reason), row.metric.clone()));
    let Some(subject) = &row.subject else { return unused("no_ref") };
    let Some(metric) = settings.metrics.get(&*row.metric) else { return unused("metric_not_configured") };
    let Some(score) = row.score else { return unused("no_score") };
    let Some(value) = metric.millionths(score.get()) else { return unused("out_of_range") };
    let scored = Scored {
        row_id: row.row_id.clone(),
        subject: subject.clone(),
        metric: row.metric.clone(),
        value,
        judge: row.judge.clone(),
        judge_type: row.judge_type.clone(),
    };
    Ok((key_of(subject), scored))
}

/// The evals of the scores' stream, with the model of their samples, and the count of all other scores.
fn scored<'s>(
    scores: Table<'s, Arc<Word<ScoreRow>>>,
    subjects: Table<'s, (Digest, Option<Arc<Subject>>)>,
    sample_of: Table<'s, (Digest, SampleRef)>,
    settings: &Arc<FlywheelSettings>,
) -> (Table<'s, (Eval, Option<Str>)>, Table<'s, Unused>) {
    let settings = settings.clone();
    let classified = scores.flat_map(move |word| word.value.as_deref().map(|row| classify(row, &settings)));
    let refused = classified.clone().flat_map(Result::err);
    let without = subjects.flat_map(|(key, subject)| subject.is_none().then_some((key, None)));
    let known = sample_of.map(|(key, sample)| (key, Some(sample))).concat(without);
    let found = lookup(classified.flat_map(Result::ok), known);
    let missed = found.clone().flat_map(|(_, (scored, sample))| match sample {
        None => Some((name("no_subject"), scored.metric)),
        Some(None) => Some((name("no_sample"), scored.metric)),
        Some(Some(_)) => None,
    });
    let counted = sums(refused.concat(missed).map(|unused| (unused, 0)));
    let evals = found.flat_map(|(_, (scored, sample))| Some(stream_eval(scored, sample??)));
    (evals, counted.map(|((reason, metric), (_, n))| Unused { reason, metric, n }))
}

fn stream_eval(scored: Scored, (sample_id, model): SampleRef) -> (Eval, Option<Str>) {
    let eval = Eval {
        eval_id: prefixed("score:", &scored.row_id),
        sample_id,
        subject: scored.subject,
        metric: scored.metric,
        value: scored.value,
        judge: scored.judge,
        judge_type: scored.judge_type,
        origin: EvalOrigin::Stream,
    };
    (eval, model)
}

/// What trajectories report of themselves.
fn reported<'s>(
    subjects: Table<'s, (Digest, Option<Arc<Subject>>)>,
    sample_of: Table<'s, (Digest, SampleRef)>,
) -> Table<'s, (Eval, Option<Str>)> {
    let rewards = subjects.flat_map(|(key, subject)| {
        let subject = subject?;
        let reward = subject.reward?.get();
        (0.0..=1.0).contains(&reward).then(|| (key, (subject.id.clone(), millionths(reward))))
    });
    join(rewards, sample_of, |_, (subject, value), (sample_id, model)| {
        let id = subject.strip_prefix("trajectory:").unwrap_or(subject);
        let eval = Eval {
            eval_id: prefixed("reported:", id),
            sample_id: sample_id.clone(),
            subject: subject.clone(),
            metric: name("reported_reward"),
            value: *value,
            judge: None,
            judge_type: None,
            origin: EvalOrigin::Reported,
        };
        (eval, model.clone())
    })
}

/// The quality of each sample that has one, in millionths.
fn quality<'s>(
    scored: Table<'s, (Eval, Option<Str>)>,
    reported: Table<'s, (Eval, Option<Str>)>,
    settings: &Arc<FlywheelSettings>,
) -> Table<'s, (Digest, i64)> {
    let (weights, ranks) = (settings.clone(), settings.clone());
    let weighs = move |metric: &Str| weights.metrics.get(&**metric).is_some_and(|m| m.weight > 0.0);
    let scored = scored.filter(move |(eval, _)| weighs(&eval.metric)).map(move |(eval, _)| {
        let rank = ranks.judge_rank(eval.judge_type.as_deref());
        (key_of(&eval.sample_id), (Part::Metric(eval.metric, rank), eval.value))
    });
    let reported = reported.map(|(eval, _)| (key_of(&eval.sample_id), (Part::Reported, eval.value)));
    let settings = settings.clone();
    aggregate(scored.concat(reported), move |parts| weighted_mean(parts, &settings))
}

/// Parts come ascending: metrics bytewise by name, within one its judges from the most trusted down, the
/// reported reward last.
fn weighted_mean(parts: &[SubSum<Part>], settings: &FlywheelSettings) -> Option<i64> {
    let (mut sum, mut weights, mut last) = (0.0, 0.0, None);
    for part in parts {
        let mean = part.sum as f64 / part.n as f64;
        match &part.sub {
            Part::Metric(metric, _) if last == Some(metric) => {}
            Part::Metric(metric, _) => {
                let weight = settings.metrics.get(&**metric)?.weight;
                (sum, weights, last) = (sum + weight * mean, weights + weight, Some(metric));
            }
            Part::Reported if last.is_none() => return Some(mean.round() as i64),
            Part::Reported => {}
        }
    }
    last.map(|_| (sum / weights).round() as i64)
}

/// A sample's relevance in millionths, and the judge; a sample that lacks one of the texts has none.
type Judged = (i64, Option<Str>);

fn texts(subject: &Subject) -> Option<(TextFact, TextFact)> {
    subject.facts.user.zip(subject.facts.answer)
}

/// The relevance of each sample that is judged, or that cannot be.
fn relevance<'s>(
    samples: Table<'s, Sample>,
    results: Table<'s, ResultRow>,
    models: &Arc<[ModelId]>,
) -> Table<'s, (Digest, Judged)> {
    let needs = samples.clone().flat_map(|sample| {
        let key = key_of(&sample.subject.id);
        let need = |fact: TextFact, slot| (fact.digest, (key, slot));
        let both = texts(&sample.subject);
        both.map(|(user, answer)| [need(user, Slot::First), need(answer, Slot::Second)]).into_iter().flatten()
    });
    let vectors = results.flat_map(|row| match &*row.outcome {
        Outcome::Vector { .. } => Some((row.digest, (row.model, row.outcome))),
        Outcome::Failure { .. } => None,
    });
    let judges: Vec<Str> = models.iter().map(|m| format!("{}@{}", m.model, m.version).into()).collect();
    let judged = latest_pair(needs, vectors).map(move |(key, (model, user, answer))| {
        (key, (cosine(&user, &answer), judges.get(model as usize).cloned()))
    });
    let lacking = samples
        .flat_map(|sample| texts(&sample.subject).is_none().then(|| (key_of(&sample.subject.id), (0, None))));
    judged.concat(lacking)
}

fn cosine(a: &Outcome, b: &Outcome) -> i64 {
    let (Outcome::Vector { vector: a, .. }, Outcome::Vector { vector: b, .. }) = (a, b) else { return 0 };
    // Three sums side by side: one addition of a sum waits for the one before, and their order is fixed.
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
        (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
    }
    let norms: f64 = aa * bb;
    if norms == 0.0 {
        return 0;
    }
    millionths((ab / norms.sqrt()).clamp(0.0, 1.0))
}

fn judged_eval((value, judge): &Judged, subject: &Subject) -> Eval {
    Eval {
        eval_id: prefixed("model:", &subject.id),
        sample_id: subject.id.clone(),
        subject: subject.id.clone(),
        metric: name("relevance"),
        value: *value,
        judge: judge.clone(),
        judge_type: Some(name("model")),
        origin: EvalOrigin::Model,
    }
}

fn summary<'s>(evals: Table<'s, (Eval, Option<Str>)>) -> Table<'s, Summary> {
    let values =
        evals.map(|(eval, model)| ((model.unwrap_or_else(|| name("unknown")), eval.metric), eval.value));
    sums(values).map(|((model, metric), (sum, n))| Summary { model, metric, sum, n })
}

/// The texts of samples that have no result of the model in force.
fn waiting<'s>(
    samples: Table<'s, Sample>,
    results: Table<'s, ResultRow>,
    models: &Arc<[ModelId]>,
) -> Table<'s, Request> {
    let in_force = models.len().saturating_sub(1) as u32;
    let requests = samples.flat_map(|sample| {
        let subject = sample.subject;
        let request = |fact: TextFact, part| (fact.digest, request(&subject, fact, part));
        let both = texts(&subject).map(|(user, answer)| [request(user, USER), request(answer, ANSWER)]);
        both.into_iter().flatten()
    });
    let answered = results.flat_map(move |row| (row.model == in_force).then_some((row.digest, ())));
    pending(requests, answered).map(|(_, request): (TextDigest, Request)| request)
}

fn request(subject: &Subject, fact: TextFact, part: u8) -> Request {
    let short = std::array::from_fn(|i| fact.digest[i]);
    let text: Text = subject.text(Digest::from_bytes(short), fact.len, part);
    Request { digest: fact.digest, text, body: subject.body }
}

/// An eligible sample, its quality, and what breaks a tie of qualities.
type Eligible = (Sample, i64, [u8; 32]);

fn is_held_out(subject: &Subject, settings: &FlywheelSettings) -> bool {
    let bucket = subject.facts.opening_bucket;
    settings.holds_out_task(&subject.task) || bucket.is_some_and(|bucket| bucket < settings.holdout.per_10k)
}

fn eligible<'s>(
    rated: Table<'s, (Digest, (Sample, Option<i64>))>,
    relevance: Table<'s, (Digest, Judged)>,
    settings: &Arc<FlywheelSettings>,
) -> (Table<'s, HeldOut>, Table<'s, Eligible>) {
    let (held, limits) = (settings.clone(), settings.clone());
    let holdout = rated.clone().flat_map(move |(_, (sample, quality))| {
        let out = is_held_out(&sample.subject, &held);
        out.then_some(HeldOut { subject: sample.subject, quality })
    });
    let candidates = rated.flat_map(move |(key, (sample, quality))| {
        let facts = &sample.subject.facts;
        let fits = facts.text_only && facts.tokens <= limits.tokens_max;
        let kept = fits && !is_held_out(&sample.subject, &limits);
        quality.filter(|_| kept).map(|quality| (key, (sample, quality)))
    });
    let relevance_min = millionths(settings.relevance_min);
    let relevant = relevance.flat_map(move |(key, (value, _))| (value >= relevance_min).then_some((key, ())));
    let eligible = join(candidates, relevant, |_, (sample, quality), ()| {
        (sample.clone(), *quality, tie_break(&sample.subject.id))
    });
    (holdout, eligible)
}

/// What breaks a tie of qualities.
fn tie_break(sample_id: &str) -> [u8; 32] {
    Sha256::digest(sample_id.as_bytes()).into()
}

fn sft<'s>(eligible: Table<'s, Eligible>, settings: &Arc<FlywheelSettings>) -> Table<'s, Sft> {
    let (quality_min, rules) = (millionths(settings.quality_min), settings.clone());
    let good = eligible.filter(move |(sample, quality, _)| {
        *quality >= quality_min && rules.allows_model(sample.subject.model.as_deref())
    });
    let ranked = good.map(|(sample, quality, tie)| {
        let group = (sample.subject.tenant.clone(), sample.subject.task.clone());
        (group, ((Reverse(quality), tie), Sft { sample, quality }))
    });
    top_k(ranked, settings.per_task as usize).map(|(_, row)| row)
}

/// The digest of what a preference is grouped by.
fn pair_of(subject: &Subject, same_model: bool) -> Digest {
    let tools = subject.facts.tools().map(Digest::to_bytes);
    let optional = |text: &Option<Str>| text.as_deref().map(|t| format!("={t}")).unwrap_or_default();
    let model = subject.model.as_deref().unwrap_or("unknown");
    Digest::of_parts([
        optional(&subject.tenant).as_bytes(),
        subject.task.as_bytes(),
        &subject.facts.prompt().to_bytes(),
        tools.as_ref().map_or(&[], <[u8; 16]>::as_slice),
        if same_model { model.as_bytes() } else { b"" },
    ])
}

fn preferences<'s>(eligible: Table<'s, Eligible>, settings: &Arc<FlywheelSettings>) -> Table<'s, Preference> {
    let (rules, margin) = (settings.clone(), millionths(settings.margin));
    let sides = eligible.map(move |(sample, quality, tie)| {
        let subject = sample.subject;
        let best = rules.allows_model(subject.model.as_deref()).then_some((Reverse(quality), tie));
        let pair = pair_of(&subject, rules.same_model);
        (pair, Candidate { best, worst: (quality, tie), value: Side { subject, quality } })
    });
    let pairs = pair_extremes(sides, move |best: &Side, worst| best.quality - worst.quality >= margin);
    pairs.map(|(pair, (chosen, rejected))| Preference { pair: pair.to_string().into(), chosen, rejected })
}
