//! Settings: defaults, merging, checks, helpers.

use super::{super::fields::Stream, FlywheelSettings, settings};
use crate::flywheel::settings::{KeyMode, millionths, wildcard};
use serde_json::{Value, json};

fn refused(given: Value) -> String {
    FlywheelSettings::parse(&given).expect_err("wrong settings").to_string()
}

#[test]
fn the_defaults_are_written_in_full() {
    let expected: Value = serde_json::from_str(
        r#"{"record_bytes_max": 16777216, "key": {"trajectories": "kafka", "calls": "kafka", "scores": "kafka"},
            "fields": {}, "tokenizer": null,
            "metrics": {"reward": {"low": 0, "high": 1, "weight": 1}, "plan_correct": {"low": 0, "high": 1, "weight": 1},
                        "is_correct": {"low": 0, "high": 1, "weight": 1}, "wb_score_1_10": {"low": 1, "high": 10, "weight": 1}},
            "judge_order": ["human", "programmatic", "other", "llm"], "relevance_min": 0, "tokens_max": 8192,
            "per_task": 4, "quality_min": 0.7, "margin": 0.3, "same_model": false, "models": ["*"],
            "holdout": {"tasks": [], "per_10k": 500}}"#,
    )
    .expect("JSON");
    assert_eq!(FlywheelSettings::default().to_value(), expected);
}

#[test]
fn what_is_given_replaces_the_default_and_metrics_name_by_name() {
    let given = json!({
        "metrics": {"reward": {"weight": 0.5}, "helpful": {"low": -1, "high": 3.5}},
        "key": {"calls": "value"},
        "holdout": {"tasks": ["t*"]},
        "models": ["gpt-*"],
        "tokens_max": 100,
    });
    let full = settings(given).to_value();
    assert_eq!(full["metrics"]["reward"], json!({"low": 0, "high": 1, "weight": 0.5}));
    assert_eq!(full["metrics"]["helpful"], json!({"low": -1, "high": 3.5, "weight": 1}));
    assert_eq!(full["metrics"].as_object().map(|metrics| metrics.len()), Some(5));
    assert_eq!(full["key"], json!({"trajectories": "kafka", "calls": "value", "scores": "kafka"}));
    assert_eq!(full["holdout"], json!({"tasks": ["t*"], "per_10k": 500}));
    assert_eq!(full["models"], json!(["gpt-*"]));
    assert_eq!(full["tokens_max"], json!(100));
}

#[test]
fn full_settings_read_back_as_themselves_however_numbers_are_spelled() {
    let whole = settings(json!({"margin": 1.0, "metrics": {"m": {"low": 0.0, "high": 2.0, "weight": -0.0}}}));
    assert_eq!(whole.to_value()["margin"], json!(1));
    assert_eq!(whole.to_value()["metrics"]["m"], json!({"low": 0, "high": 2, "weight": 0}));
    assert_eq!(settings(whole.to_value()), whole);
    assert_eq!(settings(whole.to_value()).to_value(), whole.to_value());
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_known_one() {
    for (given, nearest) in [
        (json!({"tokns_max": 1}), "tokens_max"),
        (json!({"key": {"call": "kafka"}}), "calls"),
        (json!({"holdout": {"task": []}}), "tasks"),
        (json!({"metrics": {"reward": {"wieght": 1}}}), "weight"),
        (json!({"fields": {"scorse": {}}}), "scores"),
        (json!({"fields": {"calls": {"request": "/id"}}}), "request_id"),
    ] {
        let message = refused(given);
        assert!(message.ends_with(&format!(" is not known; did you mean `{nearest}`?")), "{message}");
    }
}

#[test]
fn an_unknown_name_that_nothing_is_near_to_is_refused_with_all_known_ones() {
    for (given, said) in [
        (
            json!({"fields": {"answers": {}}}),
            "`flywheel.fields.answers` is not known; known are trajectories,",
        ),
        (json!({"fields": {"calls": {"_deleted": "/id"}}}), "known are request_id, prompt, response,"),
        (
            json!({"metrics": {"m": {"x": 1}}}),
            "`flywheel.metrics.m.x` is not known; known are low, high, weight",
        ),
    ] {
        let message = refused(given);
        assert!(message.contains(said) && !message.contains("did you mean"), "{message}");
    }
}

/// People read these: they must not hold what a deserializer calls things ("expected u16").
#[test]
fn a_wrong_value_is_told_what_may_stand_there_and_what_does() {
    for (given, said) in [
        (
            json!({"holdout": {"per_10k": -1}}),
            "holdout.per_10k` must be a whole number from 0 to 10000, not -1",
        ),
        (
            json!({"holdout": {"tasks": "eval/*"}}),
            r#"holdout.tasks` must be a list of texts such as ["eval/*"], not "eval/*""#,
        ),
        (json!({"models": ["a", 1]}), r#"models` must be a list of texts such as ["gpt-*"], not ["a",1]"#),
        (json!({"key": {"calls": "valu"}}), r#"key.calls` must be "kafka" or "value", not "valu""#),
        (json!({"key": "value"}), r#"key` must be a table of settings, not "value""#),
        (
            json!({"metrics": {"new": {"weight": 1}}}),
            "metrics.new` lacks `low` and `high`; give low, high and (if not 1) weight",
        ),
        (
            json!({"metrics": {"new": {"high": 1}}}),
            "metrics.new` lacks `low`; give low, high and (if not 1) weight",
        ),
        (json!({"metrics": {"m": {"low": "a", "high": 1}}}), r#"metrics.m.low` must be a number, not "a""#),
        (json!({"metrics": {"relevance": {"weight": 1}}}), "metrics.relevance` has a name that is reserved"),
        (json!({"tokens_max": 1.5}), "tokens_max` must be a whole number, 0 or more, not 1.5"),
        (json!({"per_task": "4"}), r#"per_task` must be a whole number from 0 to 4294967295, not "4""#),
        (json!({"quality_min": 1.1}), "quality_min` must be a number from 0 to 1, not 1.1"),
        (json!({"same_model": "yes"}), r#"same_model` must be true or false, not "yes""#),
        (json!({"record_bytes_max": "16 parsecs"}), r#"such as 16777216 or "16MiB", not "16 parsecs""#),
    ] {
        let message = refused(given.clone());
        assert!(message.starts_with("`flywheel.") && message.contains(said), "{given}: {message}");
    }
}

#[test]
fn the_bound_of_a_record_may_be_written_as_a_size_and_stands_as_a_number() {
    for size in [json!(32 << 20), json!("32MiB"), json!("33554432")] {
        let settings = settings(json!({"record_bytes_max": size}));
        assert_eq!(settings.to_value()["record_bytes_max"], json!(33_554_432), "{size}");
    }
}

#[test]
fn a_wrong_value_is_refused_by_its_path() {
    for (given, path) in [
        (json!({"record_bytes_max": 0}), "flywheel.record_bytes_max"),
        (json!({"record_bytes_max": 1u64 << 40}), "flywheel.record_bytes_max"),
        (json!({"record_bytes_max": -1}), "flywheel.record_bytes_max"),
        (json!({"record_bytes_max": "2GiB"}), "flywheel.record_bytes_max"),
        (json!({"tokenizer": "cl100k"}), "flywheel.tokenizer"),
        (json!({"key": "kafka"}), "flywheel.key"),
        (json!({"key": {"calls": "other"}}), "flywheel.key.calls"),
        (json!({"metrics": {"m": {"low": 1, "high": 1}}}), "flywheel.metrics.m"),
        (json!({"metrics": {"m": {"low": 2, "high": 1}}}), "flywheel.metrics.m"),
        (json!({"metrics": {"m": {"low": 2}}}), "flywheel.metrics.m"),
        (json!({"metrics": {"m": {"low": "a", "high": 1}}}), "flywheel.metrics.m.low"),
        (json!({"metrics": {"m": {"low": null, "high": 1}}}), "flywheel.metrics.m.low"),
        (json!({"metrics": {"m": 1}}), "flywheel.metrics.m"),
        (json!({"metrics": []}), "flywheel.metrics"),
        (json!({"metrics": {"m": {"low": -1e308, "high": 1e308}}}), "flywheel.metrics.m"),
        (json!({"metrics": {"reward": {"weight": -1}}}), "flywheel.metrics.reward.weight"),
        (json!({"metrics": {"reward": {"weight": 1e307}}}), "flywheel.metrics"),
        (json!({"metrics": {"relevance": {"low": 0, "high": 1}}}), "flywheel.metrics.relevance"),
        (json!({"metrics": {"reported_reward": {"low": 0, "high": 1}}}), "flywheel.metrics.reported_reward"),
        (json!({"metrics": {"judge:x": {"low": 0, "high": 1}}}), "flywheel.metrics.judge:x"),
        (json!({"judge_order": ["human", "llm", "other"]}), "flywheel.judge_order"),
        (json!({"judge_order": ["human", "llm", "other", "other"]}), "flywheel.judge_order"),
        (json!({"judge_order": ["human", "llm", "other", "unstated"]}), "flywheel.judge_order"),
        (json!({"relevance_min": -0.1}), "flywheel.relevance_min"),
        (json!({"quality_min": 1.1}), "flywheel.quality_min"),
        (json!({"margin": "0.3"}), "flywheel.margin"),
        (json!({"per_task": -1}), "flywheel.per_task"),
        (json!({"same_model": 1}), "flywheel.same_model"),
        (json!({"models": "*"}), "flywheel.models"),
        (json!({"holdout": {"per_10k": 10_001}}), "flywheel.holdout.per_10k"),
        (json!({"fields": {"calls": {"request_id": "id"}}}), "flywheel.fields.calls.request_id"),
        (json!({"fields": {"calls": {"request_id": "/~2"}}}), "flywheel.fields.calls.request_id"),
        (json!({"fields": {"calls": {"request_id": 1}}}), "flywheel.fields.calls.request_id"),
        (json!({"fields": {"calls": 1}}), "flywheel.fields.calls"),
        (json!([]), "flywheel"),
    ] {
        let message = refused(given.clone());
        assert!(message.starts_with(&format!("`{path}` ")), "{given}: {message}");
    }
}

#[test]
fn the_ends_of_every_range_are_allowed() {
    settings(json!({
        "record_bytes_max": 1, "relevance_min": 1, "quality_min": 0, "margin": 0, "tokens_max": 0, "per_task": 0,
        "models": [], "judge_order": ["llm", "other", "programmatic", "human"], "tokenizer": null,
        "holdout": {"tasks": [], "per_10k": 10_000},
        "fields": {"calls": {"request_id": "", "tools": "/a~1b/~0/0"}},
        "metrics": {"reward": {"weight": 0}},
    }));
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, text, matches) in [
        ("*", "", true),
        ("*", "anything", true),
        ("", "", true),
        ("", "a", false),
        ("gpt-*", "gpt-4o", true),
        ("gpt-*", "gpt", false),
        ("*-mini", "gpt-4o-mini", true),
        ("*-mini", "gpt-4o-mini-2", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("*ab*", "aab", true),
        ("**", "x", true),
        ("a", "A", false),
        ("t?", "ta", false),
        ("é*", "éa", true),
        ("*aab", "aaaaaab", true),
    ] {
        assert_eq!(wildcard(pattern, text), matches, "{pattern} on {text}");
    }
}

#[test]
fn a_score_becomes_millionths_of_its_range() {
    let settings = FlywheelSettings::default();
    let wild = settings.metrics["wb_score_1_10"];
    assert_eq!(wild.millionths(1.0), Some(0));
    assert_eq!(wild.millionths(10.0), Some(1_000_000));
    assert_eq!(wild.millionths(8.0), Some(777_778));
    assert_eq!(wild.millionths(0.999), None);
    assert_eq!(wild.millionths(10.001), None);
    assert_eq!(settings.metrics["reward"].millionths(-0.0), Some(0));
    assert_eq!((millionths(0.000_000_5), millionths(-0.000_000_5), millionths(0.7)), (1, -1, 700_000));
}

#[test]
fn judges_are_ranked_by_the_order_given() {
    let settings = FlywheelSettings::default();
    let ranks = [Some("human"), Some("programmatic"), None, Some("unstated"), Some("other"), Some("llm")];
    assert_eq!(ranks.map(|judge| settings.judge_rank(judge)), [0, 1, 2, 2, 2, 3]);
}

#[test]
fn models_tasks_and_streams_are_looked_up() {
    let settings = settings(
        json!({"models": ["gpt-*", "unknown"], "holdout": {"tasks": ["x-*"]}, "key": {"scores": "value"}}),
    );
    assert!(
        settings.allows_model(Some("gpt-4"))
            && settings.allows_model(None)
            && !settings.allows_model(Some("x"))
    );
    assert!(settings.holds_out_task("x-1") && !settings.holds_out_task("y"));
    assert_eq!(
        Stream::ALL.map(|stream| settings.key_mode(stream)),
        [KeyMode::Kafka, KeyMode::Kafka, KeyMode::Value]
    );
    for stream in Stream::ALL {
        assert_eq!(Stream::named(stream.name()), Some(stream));
        assert_eq!(Stream::ALL[usize::from(stream.number())], stream);
    }
}
