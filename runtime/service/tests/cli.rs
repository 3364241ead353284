//! The command line as a person meets it: exit codes, messages, and a reader that leaves early.

use std::process::{Command, Output, Stdio};

fn mill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.args(arguments);
    command
}

fn ended(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = mill(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_wrong_command_line_exits_with_two_and_says_what_is_near() {
    for (arguments, said) in [
        (vec!["tabels"], "'tables'"),
        (vec!["run", "--epoch-intervall", "1s"], "--epoch-interval"),
        (vec!["show"], "<TABLE>"),
        (vec!["diff", "train.sft", "--from", "1"], "--to"),
        (vec!["config", "--workers", "many"], "whole number"),
        (vec!["config", "--flywheel-margin", "2"], "margin"),
        (vec!["tables"], "--store"),
        (vec!["run", "--store", "memory://x"], "--input"),
    ] {
        let (code, out, err) = ended(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said) && out.is_empty(), "{arguments:?}: {err}");
    }
}

#[test]
fn a_failure_exits_with_one_line_and_one() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no store");
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[lake]\nintervall = '1s'\n").unwrap();
    let (file, missing) = (file.to_str().unwrap(), missing.to_str().unwrap());
    for (arguments, said) in [
        (vec!["tables", "--store", missing], "there is no store"),
        (
            vec!["config", "--config", file],
            "bad.toml:2: unknown setting `lake.intervall`; did you mean `lake.interval`?",
        ),
        (vec!["config", "--config", "/no/such/file"], "cannot read the settings file"),
        (vec!["run", "--input", missing, "--store", "memory://x"], "does not exist"),
        (vec!["check", missing, "--stream", "calls"], "cannot read"),
    ] {
        let (code, _, err) = ended(&arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said) && err.lines().count() == 1, "{err}");
    }
    let (code, _, err) = {
        let output = mill(&["config"]).env("TIDEMILL_WORKRES", "2").output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert!(code == Some(1) && err.contains("did you mean TIDEMILL_WORKERS?"), "{err}");
}

#[test]
fn help_names_every_setting_and_config_prints_each_with_its_origin() {
    let (code, help, _) = ended(&["run", "--help"]);
    assert_eq!(code, Some(0));
    let (code, config, _) = ended(&["config", "--workers", "3", "--flywheel-per-task", "9"]);
    assert_eq!(code, Some(0));
    for key in tidemill::config::KEYS {
        let flag = match key.name {
            "input.dir" => "input".to_string(),
            "store.url" => "store".to_string(),
            name => tidemill::config::flag(name),
        };
        assert!(help.contains(&format!("--{flag} ")), "{flag} is not in the help");
        assert!(config.contains(key.name), "{} is not in force", key.name);
    }
    let line = |key: &str| config.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_string();
    assert!(line("workers = 3").ends_with("# flag --workers"), "{config}");
    assert!(line("flywheel.per_task = 9").ends_with("# flag --flywheel-per-task"), "{config}");
    assert!(line("lake.interval = \"2s\"").ends_with("# default"), "{config}");
}

#[test]
fn check_counts_what_would_be_accepted_rejected_and_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("what is this.log");
    let call = |id: &str, answer: &str| {
        let prompt = r#"[{"role":"user","content":"hi"}]"#;
        format!(r#"{{"request_id":"{id}","prompt":{prompt},"response":"{answer}"}}"#)
    };
    let lines = [
        call("a", "yes"),
        "{not json".into(),
        call("b", "yes"),
        r#"{"request_id":"c"}"#.into(),
        call("d", "no"),
    ];
    std::fs::write(&path, lines.join("\n") + "\n\n{").unwrap();
    let (code, out, err) = ended(&["check", path.to_str().unwrap(), "--stream", "calls"]);
    assert_eq!(code, Some(0), "{err}");
    for said in [
        "6 records",
        "accepted: 3",
        "rejected: 3",
        "not_json: 2",
        "log:2:",
        "missing_field: 1",
        "log:4:",
        "would come of it",
        "log:7 has no line end",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let (code, _, err) = ended(&["check", path.to_str().unwrap(), "--stream", "cals"]);
    assert!(code == Some(2) && err.contains("calls"), "{err}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = mill(&["config"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
