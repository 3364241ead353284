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
    assert!(error.message.contains("unknown setting `epcoh`"), "{error}");
    let error = Case::new("epoch = 3").error();
    assert!(error.message.contains("is a group of settings"), "{error}");
}

#[test]
fn an_unknown_variable_names_the_nearest_known_one() {
    let error = Case::new("").env("TIDEMILL_LAKE_INTERVAL", "1s").error();
    assert!(error.message.contains("environment variable TIDEMILL_LAKE_INTERVAL"), "{error}");
    assert!(error.message.contains("did you mean TIDEMILL_LAKE__INTERVAL?"), "{error}");
    Case::new("").env("PATH", "/bin").ok();
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
    assert!(error.message.contains("three epochs"), "{error}");
    let error = Case::new("log.level = 1979-05-27").error();
    assert!(error.message.contains("is a date"), "{error}");
}

#[test]
fn every_key_is_in_force_once_and_every_flag_is_its_own() {
    let lines = Case::new("").ok().lines;
    let mut flags: Vec<String> = KEYS.iter().map(|key| flag(key.name)).collect();
    for key in KEYS {
        assert_eq!(lines.iter().filter(|line| line.key == key.name).count(), 1, "{}", key.name);
    }
    flags.sort();
    flags.dedup();
    assert_eq!(flags.len(), KEYS.len());
}
