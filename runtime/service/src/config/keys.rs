//! The list of settings: every key's name, type, default and one line of help.
//!
//! One list serves the file, the environment, the flags, `--help` and `tidemill config`, so that none
//! of them can know a setting that another does not. A program adds its own keys under one section;
//! the library checks their names only and hands the subtree to the program.

use super::near::alike;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// What a setting's value must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole number within these bounds.
    Count {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A size: `32MiB`, `1GB`, or a plain number of bytes.
    Bytes {
        /// The least, in bytes.
        min: u64,
    },
    /// A time span: `100ms`, `2s`, `24h`.
    Duration,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text, a number or a truth value; kept as text.
    Scalar,
}

/// What holds when nobody sets a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// Nothing: the key is then not set.
    Unset,
    /// This text.
    Is(&'static str),
    /// This number.
    Number(u64),
    /// One text for local stores, another for object stores.
    ByStore {
        /// On this machine's disk or in memory.
        local: &'static str,
        /// On an object store.
        remote: &'static str,
    },
    /// The number of cores.
    Cores,
    /// Ten times `lake.interval`, at least a minute.
    TenLakeIntervals,
    /// `store.retention`.
    Retention,
    /// 32 MiB, or less where three of them would not fit in what `memory.bytes_max` has for bodies that are not
    /// committed.
    ThirdOfPinned,
}

/// A setting of the library.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`, or a bare name. A last segment `*` is a name that people choose.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// What holds when nobody sets it.
    pub fallback: Fallback,
    /// One line for people.
    pub help: &'static str,
}

impl Key {
    /// Whether its last segment is a name that people choose.
    pub fn is_chosen(&self) -> bool {
        self.name.ends_with(".*")
    }
}

fn segments(key: &Key) -> Path {
    key.name.split('.').map(str::to_string).collect()
}

const fn key(name: &'static str, kind: Kind, fallback: Fallback, help: &'static str) -> Key {
    Key { name, kind, fallback, help }
}

const COUNT: Kind = Kind::Count { min: 1, max: u32::MAX as u64 };

/// Every setting of the library.
pub const KEYS: &[Key] = &[
    key("workers", Kind::Count { min: 1, max: 1024 }, Fallback::Cores, "Worker threads of the dataflow"),
    key(
        "input.dir",
        Kind::Text,
        Fallback::Unset,
        "Folder whose .jsonl, .jsonl.gz and .jsonl.zst files are read",
    ),
    key("kafka.brokers", Kind::Text, Fallback::Unset, "Kafka's bootstrap servers, such as a:9092,b:9092"),
    key(
        "kafka.topics.*",
        Kind::Scalar,
        Fallback::Unset,
        "The topic of a stream [its name]; an empty one: the stream is not read",
    ),
    key(
        "kafka.group",
        Kind::Text,
        Fallback::Is("tidemill"),
        "Group under which offsets are committed, for others to watch; nothing is read back from it",
    ),
    key(
        "kafka.properties.*",
        Kind::Scalar,
        Fallback::Unset,
        "Any property of librdkafka, such as security.protocol (dots may be written as _)",
    ),
    key("store.url", Kind::Text, Fallback::Unset, "The store: a path, file://, s3:// or memory:// address"),
    key("store.retention", Kind::Duration, Fallback::Is("24h"), "How long commits and their files are kept"),
    key(
        "store.retention_commits",
        COUNT,
        Fallback::Number(1),
        "How many of the newest commits are kept, however old",
    ),
    key(
        "epoch.interval",
        Kind::Duration,
        Fallback::ByStore { local: "100ms", remote: "1s" },
        "How long an epoch stays open before it is committed",
    ),
    key(
        "epoch.bytes_max",
        Kind::Bytes { min: 1 << 16 },
        Fallback::ThirdOfPinned,
        "Input after which an epoch closes early [32MiB, or 1/32 of memory.bytes_max if that is less]",
    ),
    key(
        "lake.interval",
        Kind::Duration,
        Fallback::ByStore { local: "2s", remote: "30s" },
        "How often the Iceberg tables are published",
    ),
    key(
        "lake.lag_max",
        Kind::Duration,
        Fallback::TenLakeIntervals,
        "How far publication may lag before the sources pause",
    ),
    key(
        "sink.topics.*",
        Kind::Scalar,
        Fallback::Unset,
        "The topic that the changelog of a table [its name] is sent to",
    ),
    key("sink.brokers", Kind::Text, Fallback::Unset, "The brokers of these topics [kafka.brokers]"),
    key(
        "sink.properties.*",
        Kind::Scalar,
        Fallback::Unset,
        "Any property of librdkafka for the sink [with kafka.brokers, kafka.properties]",
    ),
    key(
        "sink.transactional_id",
        Kind::Text,
        Fallback::Unset,
        "The id of the sink's transactions [made from the store's address]",
    ),
    key(
        "sink.partitions",
        Kind::Count { min: 1, max: 100_000 },
        Fallback::Unset,
        "Partitions of topics that the sink makes [as the brokers are set]",
    ),
    key(
        "sink.lag_max",
        Kind::Duration,
        Fallback::Retention,
        "How long a commit may wait before the sink stops with an error [store.retention]",
    ),
    key(
        "memory.bytes_max",
        Kind::Bytes { min: 256 << 20 },
        Fallback::Is("2GiB"),
        "What the process may hold in memory; as it comes near, the sources pause",
    ),
    key("model.name", Kind::Choice(&["lexical"]), Fallback::Is("lexical"), "The model that embeds texts"),
    key(
        "model.dimensions",
        Kind::Count { min: 8, max: 65_535 },
        Fallback::Number(128),
        "Length of the vectors of the lexical model",
    ),
    key("model.batch_tokens", COUNT, Fallback::Number(16_384), "Tokens of one batch"),
    key(
        "model.attempts_max",
        Kind::Count { min: 1, max: 100 },
        Fallback::Number(3),
        "Attempts before a text is a failure",
    ),
    key("model.queue_tokens_max", COUNT, Fallback::Number(262_144), "Tokens that may wait for the model"),
    key(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Fallback::Is("warn"),
        "What is logged on standard error",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), Fallback::Is("text"), "How log lines look"),
    key(
        "http.listen",
        Kind::Text,
        Fallback::Is("127.0.0.1:9464"),
        "Where `run` answers /healthz, /readyz and /metrics; `off` for nowhere",
    ),
];

/// A setting of the program, under the program's section.
#[derive(Clone, Debug)]
pub struct ProgramKey {
    /// Its name within the section, such as `holdout.per_10k`. A segment may be `*`, a name that
    /// people choose, as in `metrics.*.weight`.
    pub path: String,
    /// One line for people.
    pub help: String,
}

/// Turns what a configuration gives of the section into all settings in force, or says what is wrong.
pub type CheckSettings = Arc<dyn Fn(&Value) -> Result<Value, String> + Send + Sync>;

/// A program's own settings: which keys there are, and what they mean.
#[derive(Clone)]
pub struct ProgramSettings {
    /// The section of the file, and the first word of flags and environment names.
    pub section: &'static str,
    /// Its keys.
    pub keys: Vec<ProgramKey>,
    /// From the given subtree to the full settings; called with `{}` for the defaults.
    pub check: CheckSettings,
}

impl fmt::Debug for ProgramSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramSettings").field("section", &self.section).field("keys", &self.keys).finish()
    }
}

/// A key by its segments: `["epoch", "interval"]`.
pub type Path = Vec<String>;

/// The dotted name of a path, with segments quoted where TOML needs it.
pub fn dotted(path: &[String]) -> String {
    let bare = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let quoted =
        |s: &String| if bare(s) { s.clone() } else { serde_json::Value::from(s.as_str()).to_string() };
    path.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// The form in which flags, environment names and keys are compared: small letters, digits, `_`.
pub fn folded(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// The flag of a dotted key, without the two dashes.
pub fn flag(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// All known keys, the library's and the program's.
pub struct Known<'a> {
    program: &'a ProgramSettings,
    /// Paths that stand in the defaults or the file: they tell how a name that people chose is spelt.
    spelt: Vec<Path>,
}

impl<'a> Known<'a> {
    /// The library's keys and the program's.
    pub fn new(program: &'a ProgramSettings) -> Self {
        Self { program, spelt: Vec::new() }
    }

    /// Takes in paths whose chosen names flags and environment may use.
    pub fn learn<'p>(&mut self, paths: impl IntoIterator<Item = &'p Path>) {
        let section = self.program.section;
        let own = |path: &&Path| {
            path.first().is_some_and(|first| first == section) || Self::key(path).is_some_and(Key::is_chosen)
        };
        self.spelt.extend(paths.into_iter().filter(own).cloned());
    }

    /// The library's key of that path.
    pub fn key(path: &[String]) -> Option<&'static Key> {
        KEYS.iter().find(|key| matches(&segments(key), path))
    }

    /// Whether a setting of that path exists.
    pub fn holds(&self, path: &[String]) -> bool {
        Self::key(path).is_some() || self.patterns().any(|pattern| matches(&pattern, path))
    }

    /// Whether a path is the beginning of settings, a table of them.
    pub fn is_table(&self, path: &[String]) -> bool {
        let begins = |pattern: &Path| pattern.len() > path.len() && matches(&pattern[..path.len()], path);
        self.library().any(|p| begins(&p)) || self.patterns().any(|p| begins(&p))
    }

    fn library(&self) -> impl Iterator<Item = Path> {
        KEYS.iter().filter(|key| !key.is_chosen()).map(segments)
    }

    fn patterns(&self) -> impl Iterator<Item = Path> + '_ {
        let section = self.program.section;
        let path = move |key: &ProgramKey| {
            [section].into_iter().chain(key.path.split('.')).map(String::from).collect()
        };
        KEYS.iter().filter(|key| key.is_chosen()).map(segments).chain(self.program.keys.iter().map(path))
    }

    /// The path that a folded name (of a flag or of the environment) stands for.
    pub fn unfold(&self, name: &str) -> Option<Path> {
        let exact = self.library().chain(self.patterns().filter(|p| !p.iter().any(|s| s == "*")));
        let exact = exact.chain(self.spelt.iter().filter(|path| self.holds(path)).cloned());
        let same = |path: &Path| folded(&path.join(".")) == name;
        exact.into_iter().find(same).or_else(|| self.patterns().find_map(|p| self.fill(&p, name)))
    }

    /// A pattern with its `*` filled from a folded name: as they are spelt elsewhere, else by the
    /// shortest names that fit.
    fn fill(&self, pattern: &[String], name: &str) -> Option<Path> {
        let mut path = Path::new();
        self.fill_rest(pattern, name, &mut path).then_some(path)
    }

    fn fill_rest(&self, pattern: &[String], rest: &str, path: &mut Path) -> bool {
        let Some(segment) = pattern.get(path.len()) else { return rest.is_empty() };
        let Some(rest) = (if path.is_empty() { Some(rest) } else { rest.strip_prefix('_') }) else {
            return false;
        };
        let candidates = match segment.as_str() {
            "*" => self.candidates(path, rest),
            fixed => vec![fixed.to_string()],
        };
        for candidate in candidates {
            let Some(rest) = rest.strip_prefix(folded(&candidate).as_str()) else { continue };
            path.push(candidate);
            if self.fill_rest(pattern, rest, path) {
                return true;
            }
            path.pop();
        }
        false
    }

    /// Names with which `rest` may begin, behind a path.
    fn candidates(&self, path: &[String], rest: &str) -> Vec<String> {
        let spelt = self.spelt.iter().filter(|known| known.len() > path.len() && known.starts_with(path));
        let ends = rest.match_indices('_').map(|(at, _)| at).chain([rest.len()]).filter(|end| *end > 0);
        let shortest = ends.map(|end| rest[..end].to_string());
        spelt.map(|known| known[path.len()].clone()).chain(shortest).collect()
    }

    /// The known setting whose name is nearest to a path's, if one is near.
    pub fn nearest(&self, path: &[String]) -> Option<String> {
        nearest_of(path, self.library().chain(self.patterns()))
    }

    /// The table of settings whose name is nearest to a path's, if one is near.
    pub fn nearest_table(&self, path: &[String]) -> Option<String> {
        let begins = |pattern: Path| (1..pattern.len()).map(move |length| pattern[..length].to_vec());
        nearest_of(path, self.library().chain(self.patterns()).flat_map(begins))
    }

    /// The first setting of a table.
    pub fn first_below(&self, path: &[String]) -> Option<String> {
        let mut all = self.library().chain(self.patterns());
        let first = all.find(|p| p.len() > path.len() && matches(&p[..path.len()], path));
        first.map(|pattern| filled_from(&pattern, path))
    }
}

/// The name of a pattern with its `*` filled from a path.
fn filled_from(pattern: &[String], path: &[String]) -> String {
    let at = |(place, segment): (usize, &String)| match (segment.as_str(), path.get(place)) {
        ("*", Some(given)) => given.clone(),
        ("*", None) => "NAME".to_string(),
        (fixed, _) => fixed.to_string(),
    };
    dotted(&pattern.iter().enumerate().map(at).collect::<Vec<_>>())
}

fn nearest_of(path: &[String], patterns: impl Iterator<Item = Path>) -> Option<String> {
    let given = dotted(path);
    let near = patterns.filter(|pattern| may_mean(path, pattern)).map(|pattern| filled_from(&pattern, path));
    near.min_by_key(|name| strsim::damerau_levenshtein(name, &given))
}

/// Whether a path may be a mistyped form of a pattern. Tables that both begin with make no two settings
/// alike, nor do names that people choose: what is left must be.
fn may_mean(path: &[String], pattern: &[String]) -> bool {
    let shared = pattern.iter().zip(path).take_while(|(p, s)| *p == "*" || p == s).count();
    let fixed = |place: &usize| pattern.get(*place).is_none_or(|segment| segment != "*");
    let left = |segments: &[String]| {
        let places = (shared..segments.len()).filter(fixed);
        places.map(|place| segments[place].as_str()).collect::<Vec<_>>().join(".")
    };
    alike(&left(path), &left(pattern))
}

fn matches(pattern: &[String], path: &[String]) -> bool {
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(p, s)| p == "*" || p == s)
}
