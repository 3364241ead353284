//! Hard traffic for tests: a seeded list of appends to files, in the order in which they happen.
//!
//! Ids, tasks, prompts and answers come from small pools, so that updates, deletions, re-creations,
//! copies, late and early scores meet each other often. Everything is decided by the seed.

use super::broken;
use super::files::stream_of;
use super::json::Json;
use super::model::default_settings;
use super::noise::{Style, number, once_in, pick, render};
use super::talk::{Fields, Talk, pick_json};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Records of a quick run.
pub const SMALL: usize = 400;

/// Records of a thorough run.
pub const MEDIUM: usize = 5000;

/// The `record_bytes_max` that the traffic is made for.
pub const RECORD_BYTES_MAX: usize = 48 * 1024;

const PLAIN: &[&str] = &[
    "trajectories-a.jsonl",
    "trajectories-b.jsonl",
    "trajectories.jsonl",
    "calls.jsonl",
    "calls-10.jsonl",
    "calls-9.jsonl",
    "chat_logs-1.jsonl",
    "scores.jsonl",
    "evals-1.jsonl",
];
/// These appear whole, once.
const COMPRESSED: &[&str] = &[
    "trajectories-0.jsonl.gz",
    "trajectories-z.jsonl.zst",
    "calls-old.jsonl.zst",
    "chat_logs-old.jsonl.gz",
    "evals-old.jsonl.gz",
    "scores-late.jsonl.zst",
];
const IGNORED: &[&str] = &["notes.jsonl", "trajectories.csv", "my-calls.jsonl"];

/// Bytes that are appended to a file, which the first append creates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The file's name.
    pub file: String,
    /// What is appended.
    pub append: Vec<u8>,
}

/// About `records` records, as appends. Any prefix of the steps is a state in which a source may
/// find the folder; the last line of a plain file may be unfinished in it.
pub fn steps(seed: u64, records: usize) -> Vec<Step> {
    let mut world = World::new(seed, records);
    for _ in 0..records {
        world.record();
    }
    world.finish()
}

/// Appends steps to the files of a folder.
pub fn write(folder: &Path, steps: &[Step]) {
    for step in steps {
        let path = folder.join(&step.file);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(&step.append))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// What a configuration gives under `[flywheel]` so that the traffic meets every rule.
pub fn configuration(seed: u64) -> Value {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5e77);
    let number = |rng: &mut ChaCha8Rng, from: &[f64]| json!(pick(rng, from));
    let mut given = json!({
        "record_bytes_max": RECORD_BYTES_MAX,
        "tokens_max": pick(&mut rng, &[60, 400, 8192]),
        "per_task": rng.random_range(1..5),
        "quality_min": number(&mut rng, &[0.0, 0.5, 0.7]),
        "margin": number(&mut rng, &[0.0, 0.1, 0.3]),
        "relevance_min": number(&mut rng, &[0.0, 0.05]),
        "same_model": once_in(&mut rng, 300),
        "holdout": {"tasks": ["eval/*"], "per_10k": pick(&mut rng, &[0, 500, 2000])},
        "metrics": {"style": {"low": -1, "high": 3, "weight": pick(&mut rng, &[0.0, 0.25, 3.0])}},
    });
    if once_in(&mut rng, 400) {
        given["models"] = json!(["alpha*", "unknown"]);
    }
    if once_in(&mut rng, 400) {
        given["judge_order"] = json!(["llm", "other", "human", "programmatic"]);
    }
    given
}

/// All settings that are in force under [`configuration`].
pub fn settings(seed: u64) -> Value {
    let mut settings = default_settings();
    let Value::Object(given) = configuration(seed) else { unreachable!("a configuration is an object") };
    for (name, value) in given {
        if name == "metrics" {
            settings["metrics"]["style"] = value["style"].clone();
        } else {
            settings[name.as_str()] = value;
        }
    }
    settings
}

struct World {
    rng: ChaCha8Rng,
    /// Lines that wait to be appended, by file.
    waiting: BTreeMap<&'static str, Vec<u8>>,
    /// Compressed files that have not appeared, with the lines that they will hold.
    sealed: BTreeMap<&'static str, Vec<Vec<u8>>>,
    sealed_lines: usize,
    steps: Vec<Step>,
    talks: Vec<Talk>,
    ids: BTreeMap<&'static str, Vec<String>>,
}

impl World {
    fn new(seed: u64, records: usize) -> World {
        let mut world = World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            waiting: PLAIN.iter().map(|file| (*file, Vec::new())).collect(),
            sealed: COMPRESSED.iter().map(|file| (*file, Vec::new())).collect(),
            sealed_lines: (records / 40).max(3),
            steps: Vec::new(),
            talks: Vec::new(),
            ids: BTreeMap::new(),
        };
        for file in IGNORED {
            world.steps.push(Step { file: file.to_string(), append: b"no record\n".to_vec() });
        }
        world
    }

    fn record(&mut self) {
        let stream = match self.rng.random_range(0..100) {
            0..28 => "trajectories",
            28..54 => "calls",
            _ => "scores",
        };
        let mut fields = self.fields(stream);
        let line = match self.rng.random_range(0..1000) {
            0..70 => broken::line(&mut self.rng, stream, fields, RECORD_BYTES_MAX),
            70..150 => self.deletion(stream),
            kind => {
                if kind < 220 {
                    broken::disguise(&mut self.rng, &mut fields);
                }
                let style = Style::any(&mut self.rng);
                let mut line = render(&mut self.rng, style, &Json::Object(fields)).into_bytes();
                if kind < 225 && line.len() < RECORD_BYTES_MAX {
                    line.resize(RECORD_BYTES_MAX, b' ');
                }
                line
            }
        };
        self.put(stream, line);
    }

    /// An id that was used, or the next new one, or one that may come later.
    fn id(&mut self, stream: &'static str, new: u32) -> String {
        let rng = &mut self.rng;
        let ids = self.ids.entry(stream).or_default();
        if ids.is_empty() || once_in(rng, new) {
            let next = ids.len() + 1;
            ids.push(match rng.random_range(0..60) {
                0 => format!("{stream}/№ {next} \"quoted\""),
                1 => format!("trajectory:{next}"),
                2 if next > 5 => String::new(),
                _ => format!("{}{next}", &stream[..1]),
            });
            return ids[next - 1].clone();
        }
        ids[rng.random_range(0..ids.len())].clone()
    }

    fn fields(&mut self, stream: &'static str) -> Fields {
        if stream == "scores" {
            return self.score();
        }
        let id = self.id(stream, 700);
        let rng = &mut self.rng;
        let talk = match self.talks.len() {
            known @ 1.. if once_in(rng, 300) => self.talks[rng.random_range(0..known)].clone(),
            _ => Talk::any(rng),
        };
        let mut fields = if stream == "calls" { call(rng, &talk, &id) } else { trajectory(rng, &talk, &id) };
        for (name, value) in [("tenant", &talk.tenant), ("tools", &talk.tools)] {
            fields.extend(value.clone().map(|value| (name.to_string(), value)));
        }
        let model = match rng.random_range(0..8) {
            0 => Some(Json::Null),
            1 => None,
            2..5 => Some(Json::str("alpha-1")),
            5 => Some(Json::str("alpha-2")),
            _ => Some(Json::str("beta/β")),
        };
        fields.extend(model.map(|model| ("model".to_string(), model)));
        for name in ["user_id", "ts"] {
            if once_in(rng, 300) {
                fields.insert(name.into(), Json::str(pick(rng, &["2026-01-02T03:04:05Z", "", "u1"])));
            }
        }
        self.talks.push(talk);
        fields
    }

    fn score(&mut self) -> Fields {
        let row_id = self.id("scores", 850);
        let stream = pick(&mut self.rng, &["trajectories", "calls"]);
        let known = self.ids.get(stream).map_or(0, Vec::len);
        let id = match self.rng.random_range(0..20) {
            0 => "nobody".to_string(),
            1 | 2 => format!("{}{}", &stream[..1], known + 3),
            _ if known == 0 => "nobody".to_string(),
            _ => self.ids[stream][self.rng.random_range(0..known)].clone(),
        };
        score(&mut self.rng, row_id, stream, &id)
    }

    fn deletion(&mut self, stream: &'static str) -> Vec<u8> {
        let id = if once_in(&mut self.rng, 50) { "nobody".to_string() } else { self.id(stream, 0) };
        let mut fields = Fields::from([
            (identity(stream).to_string(), Json::str(&id)),
            ("_deleted".into(), Json::Bool(true)),
        ]);
        if once_in(&mut self.rng, 200) {
            fields.insert("messages".into(), number("7"));
        }
        let style = Style::any(&mut self.rng);
        render(&mut self.rng, style, &Json::Object(fields)).into_bytes()
    }

    /// Gives a line to one of the files of its stream and sometimes appends what waits there.
    fn put(&mut self, stream: &str, mut line: Vec<u8>) {
        if once_in(&mut self.rng, 40) {
            line.push(b'\r');
        }
        let sealed: Vec<_> =
            self.sealed.keys().copied().filter(|file| stream_of(file) == Some(stream)).collect();
        if !sealed.is_empty() && once_in(&mut self.rng, 150) {
            let file = pick(&mut self.rng, &sealed);
            let lines = self.sealed.get_mut(file).expect("the file is sealed");
            lines.push(line);
            if lines.len() >= self.sealed_lines {
                self.unseal(file);
            }
            return;
        }
        let files: Vec<_> = PLAIN.iter().copied().filter(|file| stream_of(file) == Some(stream)).collect();
        let file = pick(&mut self.rng, &files);
        let waiting = self.waiting.get_mut(file).expect("every plain file is there");
        waiting.extend(line);
        waiting.push(b'\n');
        if once_in(&mut self.rng, 120) {
            self.append(file);
        }
    }

    /// Appends what waits, now and then only up to the middle of a line or of a letter.
    fn append(&mut self, file: &'static str) {
        let cut = once_in(&mut self.rng, 200);
        let waiting = self.waiting.get_mut(file).expect("every plain file is there");
        if waiting.is_empty() {
            return;
        }
        let upto = if cut { self.rng.random_range(1..=waiting.len()) } else { waiting.len() };
        let append = waiting.drain(..upto).collect();
        self.steps.push(Step { file: file.to_string(), append });
    }

    fn unseal(&mut self, file: &'static str) {
        let lines = self.sealed.remove(file).unwrap_or_default();
        let mut bytes = lines.join(&b'\n');
        // Without a last LF the last line counts all the same, but an empty one would not be there.
        if once_in(&mut self.rng, 500) || lines.last().is_some_and(Vec::is_empty) {
            bytes.push(b'\n');
        }
        // Compressed in two parts, which readers must take as one.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let append = [compress(file, head), compress(file, tail)].concat();
        self.steps.push(Step { file: file.to_string(), append });
    }

    fn finish(mut self) -> Vec<Step> {
        let sealed: Vec<_> = self.sealed.keys().copied().collect();
        for file in sealed {
            self.unseal(file);
        }
        for file in PLAIN {
            let append = std::mem::take(self.waiting.get_mut(file).expect("every plain file is there"));
            self.steps.push(Step { file: file.to_string(), append });
        }
        // A last line that never ends and so never is a record.
        self.steps.push(Step { file: PLAIN[0].to_string(), append: b"{\"id\":\"unfinished".to_vec() });
        self.steps.retain(|step| !step.append.is_empty());
        self.steps
    }
}

fn compress(file: &str, bytes: &[u8]) -> Vec<u8> {
    let written = if file.ends_with(".gz") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish())
    } else {
        zstd::encode_all(bytes, 1)
    };
    written.expect("writing to memory")
}

fn identity(stream: &str) -> &'static str {
    match stream {
        "trajectories" => "id",
        "calls" => "request_id",
        _ => "row_id",
    }
}

fn trajectory(rng: &mut ChaCha8Rng, talk: &Talk, id: &str) -> Fields {
    let mut fields = Fields::from([
        ("id".to_string(), Json::str(id)),
        ("task_id".to_string(), Json::str(talk.task)),
        ("messages".to_string(), Json::Array(talk.messages(rng))),
    ]);
    if once_in(rng, 600) {
        let rewards = [
            "0",
            "1",
            "1.0",
            "0.5",
            "1e0",
            "0.30000000000000004",
            "-0.0",
            "1.0000001",
            "-1",
            "2",
            "0.9999995",
            "1e-400",
        ];
        let reward = if once_in(rng, 100) { Json::Null } else { number(pick(rng, &rewards)) };
        fields.insert("reward".into(), reward);
    }
    for name in ["agent", "outcome"] {
        if once_in(rng, 200) {
            fields.insert(name.into(), pick_json(rng, &[Json::Null, Json::str("ok")]));
        }
    }
    fields
}

fn call(rng: &mut ChaCha8Rng, talk: &Talk, id: &str) -> Fields {
    let mut fields = talk.call(rng);
    fields.insert("request_id".into(), Json::str(id));
    if once_in(rng, 400) {
        let status = pick(rng, &["200", "200", "201", "399", "400", "500", "-0", "-1", "2147483647", "null"]);
        fields.insert("status".into(), if status == "null" { Json::Null } else { number(status) });
    }
    if once_in(rng, 100) {
        fields.insert("session_id".into(), Json::str("s1"));
    }
    fields
}

fn score(rng: &mut ChaCha8Rng, row_id: String, stream: &str, id: &str) -> Fields {
    let metrics = [
        "reward",
        "reward",
        "reward",
        "plan_correct",
        "is_correct",
        "is_correct",
        "is_correct",
        "is_correct",
        "wb_score_1_10",
        "wb_score_1_10",
        "style",
        "helpfulness",
        "relevance",
        "reported_reward",
        "judge:x",
    ];
    let mut fields = Fields::from([
        ("row_id".to_string(), Json::Str(row_id)),
        ("metric".to_string(), Json::str(pick(rng, &metrics))),
    ]);
    let scores = [
        "0",
        "1",
        "1",
        "0.5",
        "1e0",
        "0.30000000000000004",
        "-0.0",
        "10",
        "7",
        "3.3333333333333335",
        "11",
        "-0.1",
        "0.0000005",
        "1.0000000000000002",
        "0.1",
        "5e-1",
        "123456789012345678901234567890",
    ];
    if !once_in(rng, 30) {
        let value = if once_in(rng, 40) { Json::Null } else { number(pick(rng, &scores)) };
        fields.insert("score".into(), value);
    }
    let file = match stream {
        "calls" => pick(rng, &["calls", "chat_logs"]),
        other => other,
    };
    match rng.random_range(0..20) {
        0 => {}
        1 => drop(fields.insert("ref".into(), Json::Null)),
        _ => drop(
            fields.insert("ref".into(), Json::object([("file", Json::str(file)), ("id", Json::str(id))])),
        ),
    }
    let judge_types = ["human", "programmatic", "llm", "llm", "unstated", "null", "absent", ""];
    match pick(rng, &judge_types) {
        "absent" => {}
        "null" => drop(fields.insert("judge_type".into(), Json::Null)),
        other => drop(fields.insert("judge_type".into(), Json::str(other))),
    }
    if once_in(rng, 500) {
        fields.insert("judge".into(), pick_json(rng, &[Json::Null, Json::str("j-1")]));
    }
    fields
}
