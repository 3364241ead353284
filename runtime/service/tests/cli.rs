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
        (vec!["config", "--flywheel-margin", "2"], "--flywheel-margin: `flywheel.margin` must be"),
        (
            vec!["config", "--flywheel-holdout-tasks", "eval/*"],
            r#"must be a list of texts such as ["eval/*"]"#,
        ),
        (vec!["config", "--flywheel-fields-calz-model", "/m"], "did you mean `calls`?"),
        (vec!["tables"], "--store"),
        (vec!["run", "--store", "memory://x"], "--input"),
    ] {
        let (code, out, err) = ended(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said) && out.is_empty(), "{arguments:?}: {err}");
    }
}

/// It was prefixed by `error: `, as if the help were one.
#[test]
fn without_a_command_the_help_stands_on_standard_error_and_two_is_the_exit_code() {
    let (code, out, err) = ended(&[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.starts_with("Keeps production logs") && err.contains("Usage: tidemill"), "{err}");
    assert!(out.is_empty() && !err.contains("error:"), "{err}");
}

#[test]
fn an_error_of_a_settings_file_names_its_line_and_what_may_stand_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    for (text, said) in [
        (
            "[flywheel.holdout]\nper_10k = -1",
            "mine.toml:2: `flywheel.holdout.per_10k` must be a whole number from 0 to 10000, not -1",
        ),
        (
            "[flywheel.key]\ncalls = 'valu'",
            "mine.toml:2: `flywheel.key.calls` must be \"kafka\" or \"value\"",
        ),
        (
            "[flywheel.key]\ncalz = 'value'",
            "mine.toml:2: `flywheel.key.calz` is not known; did you mean `calls`?",
        ),
        ("\n[flywheel.fields.calz]\nid = '/x'", "mine.toml:3: `flywheel.fields.calz` is not known"),
        (
            "[flywheel.fields.calls]\nmodel = 'm'",
            "mine.toml:2: `flywheel.fields.calls.model` must be a JSON pointer",
        ),
        (
            "[flywheel.metrics.relevance]\nlow = 0",
            "mine.toml:2: `flywheel.metrics.relevance` has a name that is",
        ),
        (
            "[flywheel.metrics.new]\nweight = 1",
            "mine.toml:2: `flywheel.metrics.new` lacks `low` and `high`; give low, high and",
        ),
        ("flywheel = 3", "mine.toml:1: `flywheel` is a section, not a value"),
        ("[kafka]\nx = 1", "mine.toml:2: unknown setting `kafka.x`; the command `config` lists all"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, _, err) = ended(&["config", "--config", file.to_str().unwrap()]);
        assert!(code == Some(1) && err.contains(said) && err.lines().count() == 1, "{text}: {err}");
    }
}

#[test]
fn a_size_of_the_programs_settings_is_written_like_any_other_from_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "[flywheel]\nrecord_bytes_max = '4MiB'\n").unwrap();
    let by_file = ["config", "--config", file.to_str().unwrap()];
    let by_flag = ["config", "--flywheel-record-bytes-max", "4MiB"];
    for (arguments, variable) in [(&by_file[..], None), (&by_flag[..], None), (&["config"][..], Some("4MiB"))]
    {
        let mut command = mill(arguments);
        if let Some(value) = variable {
            command.env("TIDEMILL_FLYWHEEL__RECORD_BYTES_MAX", value);
        }
        let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(out.contains("\nflywheel.record_bytes_max = 4194304 "), "{arguments:?}: {out}");
    }
}

/// Such a variable was passed over without a word.
#[test]
fn a_variable_that_is_not_unicode_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"4\xff");
    let output = mill(&["config"]).env("TIDEMILL_WORKERS", odd).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && err.contains("TIDEMILL_WORKERS: its value is not UTF-8"),
        "{err}"
    );
}

#[test]
fn a_file_in_the_place_of_a_folder_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let (file, input) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    for arguments in [
        vec!["tables", "--store", file],
        vec!["run", "--input", file, "--store", "memory://x"],
        vec!["run", "--input", input, "--store", file, "--until-drained"],
        vec!["export", "train.sft", "--format", "trl", "--out", file, "--store", "memory://x"],
        vec!["demo", "--dir", file],
    ] {
        let (code, _, err) = ended(&arguments);
        let said = format!("error: {file} is a file, and a folder is needed: ");
        assert!(
            code == Some(1) && err.starts_with(&said) && err.lines().count() == 1,
            "{arguments:?}: {err}"
        );
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
            "kafka.brokers" => "kafka".to_string(),
            "log.format" => "log".to_string(),
            name => tidemill::config::flag(&name.replace('*', "NAME")),
        };
        assert!(help.contains(&format!("--{flag} ")), "{flag} is not in the help");
        assert!(key.is_chosen() || config.contains(key.name), "{} is not in force", key.name);
    }
    let line = |key: &str| config.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_string();
    assert!(line("workers = 3").ends_with("# flag --workers"), "{config}");
    assert!(line("flywheel.per_task = 9").ends_with("# flag --flywheel-per-task"), "{config}");
    assert!(line("lake.interval = \"2s\"").ends_with("# default"), "{config}");
    for name in ["fetch.max.bytes", "fetch_max_bytes", "fetch-max-bytes"] {
        let (code, config, error) = ended(&["config", &format!("--kafka-properties-{name}"), "1000"]);
        assert!(
            code == Some(0) && config.contains("= \"1000\"") || config.contains("= 1000"),
            "{name}: {error}"
        );
    }
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

/// It tried again for ever, deaf to signals, while its own message told to mend the store and start anew.
#[test]
fn a_store_that_takes_nothing_ends_the_run_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().to_str().unwrap();
    let (code, _, err) = ended(&["run", "--input", input, "--store", "/proc/tidemill", "--until-drained"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.lines().any(|line| line.starts_with("error: cannot write /proc/tidemill/")), "{err}");
}

#[test]
fn a_file_that_belongs_to_no_stream_is_named_once_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    let (input, store) = (folder.path().join("logs"), folder.path().join("store"));
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("chat_log.jsonl"), "{}\n").unwrap();
    let (input, store) = (input.to_str().unwrap(), store.to_str().unwrap());
    let (code, _, err) = ended(&["run", "--input", input, "--store", store, "--until-drained"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(err.matches("chat_log.jsonl").count(), 1, "{err}");
    assert!(err.contains("its name matches no stream") && !err.contains('\u{1b}'), "{err:?}");
}

/// The address of a server that answers its requests in turn so, and the last answer again and again.
fn server(answers: &'static [(&'static str, &'static str)]) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let mut asked = BufReader::new(&stream);
            let mut line = String::new();
            while asked.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let (status, body) = answers[number.min(answers.len() - 1)];
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

const REFUSED: (&str, &str) = (
    "403 Forbidden",
    "<Error><Code>SignatureDoesNotMatch</Code>hush-key-id hush-secret-key hush-token</Error>",
);

const BUSY: (&str, &str) = ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>");

/// What a failed command says beside such a server, with credentials from the environment.
fn said_beside(address: &str, arguments: &[&str]) -> String {
    let mut command = mill(arguments);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "hush-key-id"),
        ("AWS_SECRET_ACCESS_KEY", "hush-secret-key"),
        ("AWS_SESSION_TOKEN", "hush-token"),
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ALLOW_HTTP", "true"),
        ("RUST_LOG", "debug"),
    ] {
        command.env(name, value);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(!status.success() && said.contains("SignatureDoesNotMatch"), "{said}");
    for secret in ["hush-key-id", "hush-secret-key", "hush-token"] {
        assert!(!said.contains(secret), "{secret} is shown: {said}");
    }
    said
}

/// Servers repeat key, token and what was signed when they refuse a signature.
#[test]
fn credentials_are_not_shown() {
    let address = server(&[REFUSED]);
    let input = tempfile::tempdir().unwrap();
    let input = input.path().display().to_string();
    said_beside(&address, &["tables", "--store", "s3://bucket/mill"]);
    let run =
        ["run", "--store", "s3://bucket/mill", "--input", &input, "--until-drained", "--http-listen", "off"];
    for level in ["warn", "debug", "trace"] {
        said_beside(&address, &[&run[..], &["--log-level", level]].concat());
    }
    let (code, _, err) = ended(&["tables", "--store", "s3://key:hush@bucket/mill"]);
    assert!(code == Some(1) && err.contains("AWS_*") && !err.contains("hush"), "{err}");
}

/// They were told at `info` alone, so that a store which lost every second request looked only slow.
#[test]
fn what_a_store_is_asked_again_is_told() {
    let input = tempfile::tempdir().unwrap();
    let input = input.path().display().to_string();
    for (level, told) in [("error", 0), ("warn", 2), ("info", 2)] {
        let address = server(&[BUSY, BUSY, REFUSED]);
        let run = [
            "run",
            "--store",
            "s3://bucket/mill",
            "--input",
            &input,
            "--until-drained",
            "--log-level",
            level,
        ];
        let said = said_beside(&address, &[&run[..], &["--http-listen", "off"]].concat());
        assert_eq!(said.matches(" of 10").count(), told, "{level}: {said}");
    }
}
