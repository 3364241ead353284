//! Layers, unknown names and values that do not agree.

use super::*;
use crate::config::{KEYS, ProgramKey, flag};
use serde_json::json;
use std::sync::Arc;

/// A program with one plain, one nested and one chosen name.
fn program() -> ProgramSettings {
    let key = |path: &str| ProgramKey { path: path.to_string(), help: String::new() };
    let check = |given: &Value| {
        let mut full = json!({"quality_min": 0.7, "models": ["*"], "holdout": {"per_10k": 500},
            "metrics": {"wb_score_1_10": {"weight": 1}}, "fields": {}});
        for (name, value) in given.as_object().expect("a section is an object") {
            match (name.as_str(), value) {
                ("metrics", Value::Object(metrics)) => {
                    metrics.iter().for_each(|(metric, v)| full["metrics"][metric] = v.clone());
                }
                _ => full[name] = value.clone(),
            }
        }
        if !full["models"].is_array() {
            return Err("`wheel.models` must be a list".to_string());
        }
        if !full["holdout"]["per_10k"].is_u64() {
            return Err("per_10k must be a number".to_string());
        }
        if full["metrics"].get("judge:x").is_some() {
            return Err("`wheel.metrics.judge:x` is reserved".to_string());
        }
        match full["quality_min"].as_f64() {
            Some(q) if (0.0..=1.0).contains(&q) => Ok(full),
            _ => Err("quality_min must lie in [0, 1]".to_string()),
        }
    };
    let keys = ["quality_min", "models", "holdout.per_10k", "metrics.*.weight", "fields.*.*"];
    ProgramSettings { section: "wheel", keys: keys.map(key).into(), check: Arc::new(check) }
}

struct Case {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mill.toml");
        std::fs::write(&path, file).unwrap();
        Self { folder, sources: Sources { file: Some(path), cores: 3, ..Sources::default() } }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.sources.flags.push((name.into(), value.into()));
        self
    }

    fn ok(&self) -> Resolved {
        resolve(&program(), &self.sources).unwrap()
    }

    fn error(&self) -> ConfigError {
        resolve(&program(), &self.sources).unwrap_err()
    }

    fn whence(&self, key: &str) -> String {
        let line = self.ok().lines.into_iter().find(|line| line.key == key).unwrap();
        line.origin.to_string().replace(self.folder.path().to_str().unwrap(), "")
    }
}

#[test]
fn a_flag_stands_above_the_environment_the_file_and_the_default() {
    let case = || Case::new("# mine\n[lake]\ninterval = '3s'\n");
    assert_eq!(Case::new("").ok().settings.lake.interval, Duration::from_secs(2));
    assert_eq!(case().ok().settings.lake.interval, Duration::from_secs(3));
    assert_eq!(case().whence("lake.interval"), "/mill.toml:3");
    let env = || case().env("TIDEMILL_LAKE__INTERVAL", "4s");
    assert_eq!(env().ok().settings.lake.interval, Duration::from_secs(4));
    assert_eq!(env().whence("lake.interval"), "env TIDEMILL_LAKE__INTERVAL");
    let flag = || env().flag("lake-interval", "5s");
    assert_eq!(flag().ok().settings.lake.interval, Duration::from_secs(5));
    assert_eq!(flag().whence("lake.interval"), "flag --lake-interval");
}

#[test]
fn defaults_follow_the_store_the_cores_and_the_lake_interval() {
    let local = Case::new("").ok().settings;
    assert_eq!((local.workers, local.epoch.interval), (3, Duration::from_millis(100)));
    let remote = Case::new("[store]\nurl = 's3://bucket/x'").ok().settings;
    assert_eq!(
        (remote.epoch.interval, remote.lake.interval),
        (Duration::from_secs(1), Duration::from_secs(30))
    );
    assert_eq!(remote.lake.lag_max, Duration::from_secs(300));
    assert!(address_is_local("a/b") && address_is_local("file:///a") && address_is_local("memory://x"));
}

#[test]
fn an_unknown_key_of_the_file_names_its_line_and_the_nearest_known_one() {
    let error = Case::new("workers = 2\n[epoch]\nintervall = '1s'\n").error();
    assert!(error.message.contains("mill.toml:3: unknown setting `epoch.intervall`"), "{error}");
    assert!(error.message.contains("did you mean `epoch.interval`?") && !error.usage, "{error}");
    let error = Case::new("[wheel.metrics.mine]\nwieght = 2").error();
    assert!(error.message.contains("did you mean `wheel.metrics.mine.weight`?"), "{error}");
    let error = Case::new("[epcoh]").error();
    assert!(
        error.message.contains("unknown setting `epcoh`; did you mean the section `[epoch]`?"),
        "{error}"
    );
}

/// `wheel = 3` was told that the nearest setting is `log.level`, and `[pulsar]` that it may mean `workers`.
#[test]
fn a_name_that_nothing_is_near_to_is_told_where_all_stand() {
    for file in
        ["[pulsar]\nx = 1", "nope = 1", "[wheel]\npulsar = 1", "[wheel.foo]\nbar = 1", "[epoch]\nx = 1"]
    {
        let error = Case::new(file).error();
        let all = error.message.contains("the command `config` lists all that there are");
        assert!(all && !error.message.contains("did you mean"), "{error}");
    }
    let error = Case::new("").env("TIDEMILL_PULSAR", "1").error();
    assert!(error.message.contains("unset it") && !error.message.contains("did you mean"), "{error}");
}

#[test]
fn a_section_that_is_given_a_value_is_told_what_stands_below_it() {
    for (file, said) in [
        ("epoch = 3", "mill.toml:1: `epoch` is a section, not a value: write its settings below `[epoch]`"),
        ("wheel = 3", "below `[wheel]`, such as `wheel.quality_min`"),
        ("[wheel]\nholdout = 3", "mill.toml:2: `wheel.holdout` is a section"),
        ("[wheel.fields]\ncalls = 3", "such as `wheel.fields.calls.NAME`"),
        ("[[wheel]]\nmodels = []", "`wheel` is a section"),
    ] {
        let error = Case::new(file).error();
        assert!(error.message.contains(said), "{error}");
    }
    let error = Case::new("").env("TIDEMILL_WHEEL", "3").error();
    assert!(error.message.contains("such as TIDEMILL_WHEEL__QUALITY_MIN"), "{error}");
}

#[test]
fn an_unknown_variable_names_the_nearest_known_one() {
    let error = Case::new("").env("TIDEMILL_LAKE_INTERVAL", "1s").error();
    assert!(error.message.contains("environment variable TIDEMILL_LAKE_INTERVAL"), "{error}");
    assert!(error.message.contains("did you mean TIDEMILL_LAKE__INTERVAL?"), "{error}");
    Case::new("").env("PATH", "/bin").ok();
}

/// Such a variable was passed over without a word.
#[test]
fn a_variable_that_is_not_unicode_is_an_error_that_names_it() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(vec![b'4', 0xff]);
    let mut case = Case::new("");
    case.sources.environment.push(("TIDEMILL_WORKERS".into(), odd.clone()));
    let error = case.error();
    assert!(
        error.message.contains("environment variable TIDEMILL_WORKERS: its value is not UTF-8"),
        "{error}"
    );
    let mut case = Case::new("");
    case.sources.environment.push(("PATH".into(), odd));
    case.ok();
}

/// Errors of the program's settings named no place where the message spoke of a table around the setting,
/// and so counted as no usage error where a flag was to blame.
#[test]
fn the_programs_errors_name_the_place_of_the_setting_that_they_speak_of() {
    let error = Case::new("[wheel]\nquality_min = 0.5\n[wheel.holdout]\nper_10k = -1").error();
    assert!(error.message.contains("mill.toml:4: per_10k must"), "{error}");
    let error = Case::new("[wheel]\nmodels = 1").env("TIDEMILL_WHEEL__QUALITY_MIN", "0.5").error();
    assert!(error.message.contains("mill.toml:2: `wheel.models` must"), "{error}");
    let error = Case::new("").env("TIDEMILL_WHEEL__MODELS", "a*").error();
    assert!(error.message.starts_with("environment variable TIDEMILL_WHEEL__MODELS: "), "{error}");
    let error = Case::new("").flag("wheel-models", "a*").error();
    assert!(error.usage && error.message.starts_with("--wheel-models: "), "{error}");
    let file = "[wheel.metrics]\n'judge:x' = {weight = 1}\njudge = {weight = 1}\nx = {weight = 1}";
    let error = Case::new(file).error();
    assert!(error.message.contains("mill.toml:2: `wheel.metrics.judge:x` is reserved"), "{error}");
}

#[test]
fn of_several_settings_below_the_one_that_is_named_the_strongest_is_blamed() {
    let entry = |origin: Origin| Entry { value: Value::Null, origin };
    let line = |line: usize| Origin::File { path: "mill.toml".into(), line };
    let path = |name: &str| name.split('.').map(str::to_string).collect::<Path>();
    let layer: Layer = [
        ("wheel.metrics.new.low", line(7)),
        ("wheel.metrics.new.high", Origin::Env("HIGH".into())),
        ("wheel.metrics.newer.low", Origin::Flag("--newer".into())),
        ("wheel.models", line(2)),
    ]
    .map(|(name, origin)| (path(name), entry(origin)))
    .into();
    for (message, whence) in [
        ("`wheel.metrics.new` must have low below high", "env HIGH"),
        ("`wheel.metrics.new.low` must be a number", "mill.toml:7"),
        ("`wheel.metrics` are too many", "flag --newer"),
        ("`wheel.models.0` must be a text", "mill.toml:2"),
        ("models: not a list", "mill.toml:2"),
        ("the models' names; remodels", "mill.toml:2"),
        ("remodels and wheel.models_more are something else", "default"),
    ] {
        assert_eq!(blamed(&layer, "wheel", message).to_string(), whence, "{message}");
    }
}

#[test]
fn a_program_reads_its_section_from_every_place() {
    let case = Case::new("[wheel.metrics.'My-Score']\nweight = 2\n")
        .env("TIDEMILL_WHEEL__HOLDOUT__PER_10K", "250")
        .env("TIDEMILL_WHEEL__METRICS__WB_SCORE_1_10__WEIGHT", "0.5")
        .flag("wheel-quality-min", "0.8")
        .flag("wheel-models", r#"["a*", "b"]"#)
        .flag("wheel-metrics-my-score-weight", "3")
        .flag("wheel-fields-calls-request-id", "/response/id");
    let got = case.ok().settings.program;
    let want = json!({"quality_min": 0.8, "models": ["a*", "b"], "holdout": {"per_10k": 250},
        "metrics": {"wb_score_1_10": {"weight": 0.5}, "My-Score": {"weight": 3}},
        "fields": {"calls": {"request_id": "/response/id"}}});
    assert_eq!(got, want);
    assert_eq!(case.whence("wheel.metrics.My-Score.weight"), "flag --wheel-metrics-my-score-weight");
    assert_eq!(Case::new("").whence("wheel.quality_min"), "default");
}

#[test]
fn a_bad_value_names_its_place_and_what_is_accepted() {
    let error = Case::new("\n[store]\nretention = 24").error();
    assert!(error.message.contains("mill.toml:3: `store.retention`: 24 is not a time span"), "{error}");
    let error = Case::new("").flag("wheel-quality-min", "7").error();
    assert!(error.usage && error.message.starts_with("--wheel-quality-min: quality_min"), "{error}");
    let error = Case::new("workers = ").error();
    assert!(error.message.contains("mill.toml:1: not TOML"), "{error}");
    let error = Case::new("[memory]\nbytes_max = '64MiB'").error();
    assert!(error.message.contains("memory.bytes_max"), "{error}");
    let error = Case::new("[memory]\nbytes_max = '256MiB'\n[epoch]\nbytes_max = '9MiB'").error();
    assert!(error.message.contains("mill.toml:4: `epoch.bytes_max`: three epochs"), "{error}");
    let error = Case::new("log.level = 1979-05-27").error();
    assert!(error.message.contains("is a date"), "{error}");
}

#[test]
fn an_epoch_takes_what_memory_allows_where_nobody_says_otherwise() {
    let epoch = |text: &str| Case::new(text).ok().settings.epoch.bytes_max;
    assert_eq!(epoch(""), 32 << 20);
    assert_eq!(epoch("[memory]\nbytes_max = '256MiB'"), 8 << 20);
    assert_eq!(epoch("[memory]\nbytes_max = '1TiB'"), 32 << 20);
    assert_eq!(epoch("[memory]\nbytes_max = '256MiB'\n[epoch]\nbytes_max = '1MiB'"), 1 << 20);
}

#[test]
fn every_key_is_in_force_once_and_every_flag_is_its_own() {
    let lines = Case::new("").ok().lines;
    let mut flags: Vec<String> = KEYS.iter().map(|key| flag(key.name)).collect();
    for key in KEYS {
        let lines = lines.iter().filter(|line| line.key == key.name).count();
        assert_eq!(lines, usize::from(!key.is_chosen()), "{}", key.name);
    }
    flags.sort();
    flags.dedup();
    assert_eq!(flags.len(), KEYS.len());
}

#[test]
fn properties_of_kafka_keep_their_names_however_they_are_given_and_secrets_are_not_shown() {
    let file = "[kafka.properties]\n\"fetch.wait.max.ms\" = 7\n\"sasl.password\" = \"a b\"\n[kafka.topics]\ncalls = ''";
    let resolved = Case::new(file)
        .env("TIDEMILL_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl")
        .flag("kafka-properties-fetch-max-bytes", "1000")
        .flag("kafka-topics-scores", "grades")
        .ok();
    let kafka = &resolved.settings.kafka;
    let properties = [
        ("fetch.max.bytes", "1000"),
        ("fetch.wait.max.ms", "7"),
        ("sasl.password", "a b"),
        ("security.protocol", "ssl"),
    ];
    let properties = properties.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(kafka.properties.clone().into_iter().collect::<Vec<_>>(), properties);
    let topics =
        [("calls", ""), ("scores", "grades")].map(|(name, topic)| (name.to_string(), topic.to_string()));
    assert_eq!(kafka.topics.clone().into_iter().collect::<Vec<_>>(), topics);
    let shown = resolved.lines.iter().find(|line| line.key.contains("sasl.password")).unwrap();
    assert_eq!(shown.value, "***");
    assert!(!format!("{:?}", resolved.settings).contains("a b"));
    let error = Case::new("[kafka.properties]\nx = [1]").error();
    assert!(error.message.contains("`kafka.properties.x`: [1] is not a text, a number"), "{error}");
}

#[test]
fn tables_of_the_sink_are_named_in_every_place_and_its_bound_follows_the_retention() {
    let resolved = Case::new("[sink.topics]\n\"a.b\" = \"x\"\n[store]\nretention = '3h'")
        .env("TIDEMILL_SINK__TOPICS__C_D", "y")
        .flag("sink-topics-e-f", "z")
        .flag("sink-topics-a-b", "w")
        .ok();
    let topics: Vec<(&str, &str)> =
        resolved.settings.sink.topics.iter().map(|(table, topic)| (table.as_str(), topic.as_str())).collect();
    assert_eq!(topics, [("a.b", "w"), ("c_d", "y"), ("e_f", "z")]);
    assert_eq!(resolved.settings.sink.lag_max, Duration::from_secs(3 * 3600));
    let error = Case::new("[store]\nretention = '3h'\n[sink]\nlag_max = '4h'").error();
    assert!(error.message.contains("mill.toml:4: `sink.lag_max`: must not be longer than"), "{error}");
    let secret = Case::new("[sink.properties]\n\"sasl.password\" = \"a b\"").ok();
    assert!(!format!("{:?}", secret.settings).contains("a b"));
}
