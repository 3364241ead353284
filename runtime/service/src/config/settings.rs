//! The settings in force, typed, and whence each is.

use super::ConfigError;
use super::keys::{Fallback, KEYS, Key, Known, Path, ProgramSettings, dotted};
use super::layers::{Entry, Layer, Origin, from_env, from_file, from_flags};
use super::values::{Checked, check, parse_duration};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, time::Duration};

/// Everything that a run needs to know.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Worker threads of the dataflow.
    pub workers: usize,
    /// The folder that is read.
    pub input_dir: Option<PathBuf>,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// The store.
    pub store: StoreSettings,
    /// When epochs close.
    pub epoch: EpochSettings,
    /// When tables are published.
    pub lake: LakeSettings,
    /// Which tables are sent to Kafka.
    pub sink: SinkSettings,
    /// How memory is bounded.
    pub memory: MemorySettings,
    /// The model.
    pub model: ModelSettings,
    /// What is logged.
    pub log: LogSettings,
    /// Where a service answers about itself; nowhere if `None`.
    pub http_listen: Option<String>,
    /// The program's settings, defaults included.
    pub program: Value,
}

/// `kafka.*`
#[derive(Clone, PartialEq, Default)]
pub struct KafkaSettings {
    /// Bootstrap servers.
    pub brokers: Option<String>,
    /// Topics by stream, where they are not the program's own.
    pub topics: BTreeMap<String, String>,
    /// The group under which offsets are committed for others to watch.
    pub group: String,
    /// Properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

/// Values that may be secrets are left out.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("KafkaSettings");
        shown.field("brokers", &self.brokers).field("topics", &self.topics).field("group", &self.group);
        shown.field("properties", &self.properties.keys()).finish()
    }
}

/// Whether the value of a property of librdkafka must not be shown.
fn is_secret(property: &str) -> bool {
    ["password", "secret", "pem", "jaas", "oauthbearer.config"].iter().any(|part| property.contains(part))
}

/// The name of a property of librdkafka, as flags and the environment may have spelt it.
fn property_name(chosen: &str) -> String {
    if chosen.contains('.') { chosen.to_string() } else { chosen.replace('_', ".") }
}

/// `store.*`
#[derive(Clone, PartialEq, Debug)]
pub struct StoreSettings {
    /// Its address.
    pub url: Option<String>,
    /// How long commits and their files are kept.
    pub retention: Duration,
    /// How many of the newest commits are kept, however old.
    pub retention_commits: u64,
}

/// `epoch.*`
#[derive(Clone, PartialEq, Debug)]
pub struct EpochSettings {
    /// How long an epoch stays open.
    pub interval: Duration,
    /// Input bytes after which it closes early.
    pub bytes_max: u64,
}

/// `lake.*`
#[derive(Clone, PartialEq, Debug)]
pub struct LakeSettings {
    /// How often tables are published.
    pub interval: Duration,
    /// How far publication may lag before the sources pause.
    pub lag_max: Duration,
}

/// `sink.*`
#[derive(Clone, PartialEq, Default)]
pub struct SinkSettings {
    /// Topics by table, as people spelt it: dots may stand as `_`.
    pub topics: BTreeMap<String, String>,
    /// Bootstrap servers, where they are not those of the sources.
    pub brokers: Option<String>,
    /// Properties of librdkafka.
    pub properties: BTreeMap<String, String>,
    /// The id of transactions, where it is not made from the store's address.
    pub transactional_id: Option<String>,
    /// Partitions of topics that are made.
    pub partitions: Option<u64>,
    /// How long a commit may wait.
    pub lag_max: Duration,
}

/// Values that may be secrets are left out.
impl fmt::Debug for SinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SinkSettings");
        shown.field("topics", &self.topics).field("brokers", &self.brokers);
        shown.field("properties", &self.properties.keys()).field("partitions", &self.partitions);
        shown.field("transactional_id", &self.transactional_id).field("lag_max", &self.lag_max).finish()
    }
}

/// `memory.*`: one bound of all that the process holds. A quarter is split in fixed shares among what is in flight
/// and what is cached; the rest is for what has no share: live rows, working copies, the program itself.
#[derive(Clone, PartialEq, Debug)]
pub struct MemorySettings {
    /// What may be resident.
    pub bytes_max: u64,
}

impl MemorySettings {
    /// Bodies of epochs that are not yet committed: 3/32.
    pub fn pinned_bytes(&self) -> u64 {
        self.bytes_max / 32 * 3
    }

    /// The cache of bodies: 1/16. What is pinned is mostly in it too, and counts once.
    pub fn body_cache_bytes(&self) -> u64 {
        self.bytes_max / 16
    }

    /// What sources have fetched and not handed on: 1/32.
    pub fn source_bytes(&self) -> u64 {
        self.bytes_max / 32
    }

    /// What a publication holds at once: 1/32.
    pub fn publish_bytes(&self) -> u64 {
        self.bytes_max / 32
    }

    /// The cache of segments: 1/32.
    pub fn segment_cache_bytes(&self) -> u64 {
        self.bytes_max / 32
    }

    /// What a Kafka sink has on its way to brokers, where there is one: 1/32.
    pub fn sink_bytes(&self) -> u64 {
        self.bytes_max / 32
    }

    /// Resident memory from which on the sources wait: a quarter and 64 MiB below the bound. What is taken in by then
    /// still grows, as it is sealed, judged and published: by all shares and some working copies.
    pub fn pause_bytes(&self) -> u64 {
        (self.bytes_max / 4 * 3).saturating_sub(64 << 20)
    }
}

/// `model.*`
#[derive(Clone, PartialEq, Debug)]
pub struct ModelSettings {
    /// Its name.
    pub name: String,
    /// The length of its vectors.
    pub dimensions: usize,
    /// Tokens of one batch.
    pub batch_tokens: u64,
    /// Attempts before a text is a failure.
    pub attempts_max: u32,
    /// Tokens that may wait.
    pub queue_tokens_max: u64,
}

/// `log.*`
#[derive(Clone, PartialEq, Debug)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

/// Where to look for settings.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// The settings file, where one is named.
    pub file: Option<PathBuf>,
    /// The environment; only names with the prefix are looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags as `(name without dashes, value)`.
    pub flags: Vec<(String, String)>,
    /// The machine's cores.
    pub cores: usize,
}

/// One setting in force.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Its dotted name.
    pub key: String,
    /// Its value; null when it is not set.
    pub value: Value,
    /// Whence it is.
    pub origin: Origin,
}

/// The settings and whence they are.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Every key, the library's first.
    pub lines: Vec<Line>,
}

/// Whether an address means this machine's disk or memory.
pub fn address_is_local(address: &str) -> bool {
    match address.split_once("://") {
        None => true,
        Some((scheme, _)) => matches!(scheme, "file" | "memory"),
    }
}

fn tree(layer: &Layer, section: &str) -> Value {
    let mut root = Value::Object(Map::new());
    for (path, entry) in layer.iter().filter(|(path, _)| path.first().is_some_and(|s| s == section)) {
        let mut at = &mut root;
        for segment in &path[1..] {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[segment.as_str()];
        }
        *at = entry.value.clone();
    }
    root
}

fn leaves(prefix: Path, value: &Value, out: &mut Vec<(Path, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                leaves([prefix.clone(), vec![name.clone()]].concat(), value, out);
            }
        }
        leaf => out.push((prefix, leaf.clone())),
    }
}

/// All layers laid over one another.
fn merge(known: &mut Known<'_>, program: &ProgramSettings, sources: &Sources) -> Result<Layer, ConfigError> {
    let mut defaults = Vec::new();
    let full = (program.check)(&Value::Object(Map::new())).unwrap_or_default();
    leaves(vec![program.section.to_string()], &full, &mut defaults);
    known.learn(defaults.iter().map(|(path, _)| path));
    let mut merged = match &sources.file {
        Some(file) => from_file(known, file)?,
        None => Layer::new(),
    };
    known.learn(merged.keys());
    merged.extend(from_env(known, sources.environment.iter().cloned())?);
    known.learn(merged.keys());
    merged.extend(from_flags(known, &sources.flags)?);
    Ok(merged)
}

/// What an epoch holds where there is memory for it: as much as makes a segment worth its put.
const EPOCH_BYTES: u64 = 32 << 20;

/// A key of the list.
fn found(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).expect("the list names every setting that is read")
}

/// The library's keys, read one by one.
struct Reader<'a> {
    layer: &'a Layer,
    local: bool,
    cores: usize,
    lines: Vec<Line>,
}

impl Reader<'_> {
    fn given(&self, key: &Key) -> Option<&Entry> {
        self.layer.get(&key.name.split('.').map(str::to_string).collect::<Path>())
    }

    fn fallback(&self, key: &Key) -> Value {
        match key.fallback {
            Fallback::Unset => Value::Null,
            Fallback::Is(text) => text.into(),
            Fallback::Number(n) => n.into(),
            Fallback::ByStore { local, remote } => if self.local { local } else { remote }.into(),
            Fallback::Cores => self.cores.max(1).into(),
            Fallback::TenLakeIntervals => {
                let interval = self.lines.iter().find(|line| line.key == "lake.interval");
                let interval = interval.and_then(|line| parse_duration(line.value.as_str()?));
                let lag = (interval.unwrap_or_default() * 10).max(Duration::from_secs(60));
                format!("{}s", lag.as_secs()).into()
            }
            Fallback::Retention => {
                let retention = self.lines.iter().find(|line| line.key == "store.retention");
                retention.map_or(Value::Null, |line| line.value.clone())
            }
            Fallback::ThirdOfPinned => {
                // A value that is no size is complained about where it is read.
                let key = found("memory.bytes_max");
                let value = self.given(key).map_or_else(|| self.fallback(key), |entry| entry.value.clone());
                let bytes_max = match check(key.kind, &value) {
                    Ok(Checked::Number(bytes_max)) => bytes_max,
                    _ => u64::MAX,
                };
                let bytes = (MemorySettings { bytes_max }.pinned_bytes() / 3).min(EPOCH_BYTES);
                format!("{}MiB", bytes >> 20).into()
            }
        }
    }

    fn read(&mut self, name: &str) -> Result<Option<Checked>, ConfigError> {
        let key = found(name);
        let (value, origin) = match self.given(key) {
            Some(entry) => (entry.value.clone(), entry.origin.clone()),
            None => (self.fallback(key), Origin::Default),
        };
        let wrong = |e: String| ConfigError::new(&origin, format!("`{name}`: {e}"));
        let checked = match &value {
            Value::Null => None,
            value => Some(check(key.kind, value).map_err(wrong)?),
        };
        self.lines.push(Line { key: name.to_string(), value, origin });
        Ok(checked)
    }

    fn number(&mut self, name: &str) -> Result<u64, ConfigError> {
        match self.read(name)? {
            Some(Checked::Number(n)) => Ok(n),
            other => unreachable!("{name} is a number, not {other:?}"),
        }
    }

    fn span(&mut self, name: &str) -> Result<Duration, ConfigError> {
        match self.read(name)? {
            Some(Checked::Span(span)) => Ok(span),
            other => unreachable!("{name} is a time span, not {other:?}"),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.read(name)? {
            Some(Checked::Text(text)) => Ok(Some(text)),
            None => Ok(None),
            other => unreachable!("{name} is a text, not {other:?}"),
        }
    }

    /// All that is given under a key whose last segment people choose, by that segment.
    fn chosen(&mut self, name: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let stem: Path = name.trim_end_matches(".*").split('.').map(str::to_string).collect();
        let given = self.layer.iter().filter(|(path, _)| path.len() > stem.len() && path.starts_with(&stem));
        let mut found = BTreeMap::new();
        for (path, Entry { value, origin }) in given {
            let key = Known::key(path).expect("layers hold known settings only");
            let wrong = |e: String| ConfigError::new(origin, format!("`{}`: {e}", dotted(path)));
            let Checked::Text(text) = check(key.kind, value).map_err(wrong)? else {
                unreachable!("{name} is a text")
            };
            let chosen = path[stem.len()].clone();
            let shown = if is_secret(&property_name(&chosen)) { "***".into() } else { value.clone() };
            self.lines.push(Line { key: dotted(path), value: shown, origin: origin.clone() });
            found.insert(chosen, text);
        }
        Ok(found)
    }

    fn kafka(&mut self) -> Result<KafkaSettings, ConfigError> {
        let brokers = self.text("kafka.brokers")?;
        let topics = self.chosen("kafka.topics.*")?;
        let group = self.text("kafka.group")?.unwrap_or_default();
        let properties = self.chosen("kafka.properties.*")?;
        let properties = properties.into_iter().map(|(name, value)| (property_name(&name), value)).collect();
        Ok(KafkaSettings { brokers, topics, group, properties })
    }

    fn sink(&mut self) -> Result<SinkSettings, ConfigError> {
        let topics = self.chosen("sink.topics.*")?;
        let brokers = self.text("sink.brokers")?;
        let properties = self.chosen("sink.properties.*")?;
        let properties = properties.into_iter().map(|(name, value)| (property_name(&name), value)).collect();
        let transactional_id = self.text("sink.transactional_id")?;
        let partitions = match self.read("sink.partitions")? {
            Some(Checked::Number(n)) => Some(n),
            _ => None,
        };
        let lag_max = self.span("sink.lag_max")?;
        Ok(SinkSettings { topics, brokers, properties, transactional_id, partitions, lag_max })
    }

    fn settings(&mut self, program: Value) -> Result<Settings, ConfigError> {
        Ok(Settings {
            workers: self.number("workers")? as usize,
            input_dir: self.text("input.dir")?.map(PathBuf::from),
            kafka: self.kafka()?,
            store: StoreSettings {
                url: self.text("store.url")?,
                retention: self.span("store.retention")?,
                retention_commits: self.number("store.retention_commits")?,
            },
            epoch: EpochSettings {
                interval: self.span("epoch.interval")?,
                bytes_max: self.number("epoch.bytes_max")?,
            },
            lake: LakeSettings { interval: self.span("lake.interval")?, lag_max: self.span("lake.lag_max")? },
            sink: self.sink()?,
            memory: MemorySettings { bytes_max: self.number("memory.bytes_max")? },
            model: ModelSettings {
                name: self.text("model.name")?.unwrap_or_default(),
                dimensions: self.number("model.dimensions")? as usize,
                batch_tokens: self.number("model.batch_tokens")?,
                attempts_max: self.number("model.attempts_max")? as u32,
                queue_tokens_max: self.number("model.queue_tokens_max")?,
            },
            log: LogSettings {
                level: self.text("log.level")?.unwrap_or_default(),
                format: self.text("log.format")?.unwrap_or_default(),
            },
            http_listen: self.text("http.listen")?.filter(|address| address != "off"),
            program,
        })
    }
}

/// Checks what no single key can tell.
fn agree(settings: &Settings, layer: &Layer) -> Result<(), ConfigError> {
    let given =
        |name: &str| layer.iter().find(|(path, _)| dotted(path) == name).map(|(_, entry)| &entry.origin);
    let wrong = |name: &str, message: String| {
        Err(ConfigError::new(given(name).unwrap_or(&Origin::Default), format!("`{name}`: {message}")))
    };
    if settings.epoch.bytes_max * 3 > settings.memory.pinned_bytes() {
        let need = settings.epoch.bytes_max * 32;
        let name = if given("epoch.bytes_max").is_some() { "epoch.bytes_max" } else { "memory.bytes_max" };
        return wrong(
            name,
            format!(
                "three epochs must fit in 3/32 of memory.bytes_max: raise that to {need} or lower epoch.bytes_max"
            ),
        );
    }
    if settings.lake.lag_max < settings.lake.interval {
        return wrong("lake.lag_max", "must not be shorter than lake.interval".into());
    }
    if settings.sink.lag_max > settings.store.retention {
        return wrong(
            "sink.lag_max",
            "must not be longer than store.retention: the log holds what the sink lacks no longer than that"
                .into(),
        );
    }
    Ok(())
}

/// The origin of the program's setting that an error message speaks of, if one is named: by its whole
/// name, else by that within the section, else by its last part. A message may name a table of which only
/// some settings are given, or a part of a value; so what counts is the longest beginning of a given
/// setting that is named, and of the settings below that the strongest, which had the last word.
fn blamed<'a>(layer: &'a Layer, section: &str, message: &str) -> &'a Origin {
    let own = layer.iter().filter(|(path, _)| path.first().is_some_and(|first| first == section));
    let own: Vec<(&[String], &Origin)> = own.map(|(path, entry)| (path.as_slice(), &entry.origin)).collect();
    let beginnings = || own.iter().flat_map(|(path, _)| (2..=path.len()).map(move |length| &path[..length]));
    let length = |path: &&[String]| path.iter().map(String::len).sum::<usize>();
    let named = |skip: usize| beginnings().filter(|path| names(message, &path[skip..])).max_by_key(length);
    let last = || own.iter().map(|(path, _)| *path).find(|path| names(message, &path[path.len() - 1..]));
    let Some(named) = named(0).or_else(|| named(1)).or_else(last) else { return &Origin::Default };
    let below = own.iter().filter(|(path, _)| path.starts_with(named)).map(|(_, origin)| *origin);
    below.max_by_key(|origin| strength(origin)).unwrap_or(&Origin::Default)
}

/// Whether a message names a setting, as whole words.
fn names(message: &str, path: &[String]) -> bool {
    let part = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let whole = |(at, name): (usize, &str)| {
        let before = message[..at].chars().next_back();
        let behind = message[at + name.len()..].chars().next();
        !before.is_some_and(|c| part(c) || c == '.') && !behind.is_some_and(part)
    };
    [path.join("."), dotted(path)].iter().any(|name| message.match_indices(name.as_str()).any(whole))
}

/// The order of layers, and of lines in a file.
fn strength(origin: &Origin) -> (u8, usize) {
    match origin {
        Origin::Default => (0, 0),
        Origin::File { line, .. } => (1, *line),
        Origin::Env(_) => (2, 0),
        Origin::Flag(_) => (3, 0),
    }
}

/// Reads all layers and checks every value.
pub fn resolve(program: &ProgramSettings, sources: &Sources) -> Result<Resolved, ConfigError> {
    let mut known = Known::new(program);
    let layer = merge(&mut known, program, sources)?;
    let full = (program.check)(&tree(&layer, program.section))
        .map_err(|message| ConfigError::new(blamed(&layer, program.section, &message), message))?;
    let store = layer.get(&vec!["store".to_string(), "url".to_string()]).and_then(|e| e.value.as_str());
    let local = store.is_none_or(address_is_local);
    let mut reader = Reader { layer: &layer, local, cores: sources.cores, lines: Vec::new() };
    let settings = reader.settings(full)?;
    agree(&settings, &layer)?;
    let mut lines = reader.lines;
    let mut all = Vec::new();
    leaves(vec![program.section.to_string()], &settings.program, &mut all);
    lines.extend(all.into_iter().map(|(path, value)| {
        let origin = origin_of(&layer, &path);
        Line { key: dotted(&path), value, origin }
    }));
    Ok(Resolved { settings, lines })
}

/// The origin of a leaf: its own entry, or one that set a table around it.
fn origin_of(layer: &Layer, path: &[String]) -> Origin {
    let entry = (1..=path.len()).rev().find_map(|length| layer.get(&path[..length].to_vec()));
    entry.map_or(Origin::Default, |entry| entry.origin.clone())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
