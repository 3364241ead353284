//! The demo as a person meets it where standard output is no terminal: each thing that it promises to
//! show is there, and the commands that it proposes work as they stand.

use std::path::Path;
use std::process::Command;

const TABLES: [&str; 13] = [
    "raw.trajectories",
    "raw.calls",
    "raw.scores",
    "curated.samples",
    "evals.scores",
    "evals.summary",
    "evals.unused",
    "evals.holdout",
    "ai.embeddings",
    "ai.failures",
    "train.sft",
    "train.preferences",
    "ops.rejects",
];

fn said(command: &mut Command) -> String {
    std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_")).for_each(|(name, _)| {
        command.env_remove(name);
    });
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && err.is_empty(), "{command:?}: {out}\n{err}");
    out
}

/// The rows of a table that the report names; its place stands behind.
fn rows(report: &str, table: &str) -> u64 {
    let line = report.lines().find(|line| line.starts_with(&format!("{table} ")));
    let line = line.unwrap_or_else(|| panic!("{table} is not in the report:\n{report}"));
    assert!(line.ends_with(&format!("  my demo/store/tables/{table}")), "{line}");
    line.split_whitespace().nth(1).and_then(|rows| rows.parse().ok()).unwrap()
}

/// Microseconds from the claim to the first commit of records.
fn first_commit_after(folder: &Path) -> i128 {
    let root = |epoch: u64| {
        let path = folder.join(format!("my demo/store/catalog/{epoch:020}.json"));
        let root: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let at: jiff::Timestamp = root["committed_at"].as_str().unwrap().parse().unwrap();
        at.as_nanosecond() / 1000
    };
    root(1) - root(0)
}

#[test]
fn the_demo_shows_all_that_it_promises_and_proposes_what_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    let demo = demo.args(["demo", "--seconds", "3", "--dir", "my demo"]).current_dir(folder.path());
    let text = said(demo);
    let (progress, report) = text.split_once("\nall tables as of commit ").unwrap();
    let lines: Vec<&str> = progress.lines().filter(|line| line.contains("s records ")).collect();
    assert!(lines.len() >= 3 && !text.contains('\u{1b}'), "{text}");
    let last = lines.last().unwrap();
    for shown in
        ["/s) input ", " epoch ", " commit ", " lag ", " pending 0 ", " judged ", " fresh ", " rows "]
    {
        assert!(last.contains(shown), "{shown} is not in: {last}");
    }
    assert!(TABLES.iter().all(|table| last.contains(&format!(" {table} "))), "{last}");
    assert!(progress.lines().last().unwrap().starts_with("ended at epoch "), "{progress}");

    for table in TABLES {
        assert!(rows(report, table) > 0 || table == "ai.failures", "{table} is empty:\n{report}");
    }
    for shown in [
        "one row of train.sft:\n  sample_id ",
        "one row of train.preferences:\n  pair ",
        " entered train.sft in commit ",
        " left train.sft in commit ",
        "scores not used: ",
        "rejected: missing_field ",
        "what to try next:\n",
        "StaticTable.from_metadata(",
        "iceberg_scan('file:///",
    ] {
        assert!(report.contains(shown), "{shown} is not in:\n{report}");
    }
    assert!(first_commit_after(folder.path()) < 2_000_000);

    let (_, proposed) = report.split_once("what to try next:\n").unwrap();
    let own: Vec<&str> = proposed.lines().map(str::trim).filter(|line| line.contains(" --store ")).collect();
    assert_eq!(own.len(), 6, "{proposed}");
    for command in own {
        let told = said(Command::new("sh").args(["-c", command]).current_dir(folder.path()));
        assert!(!told.is_empty(), "{command}");
    }
    assert!(folder.path().join("my demo/export/train.sft.manifest.json").exists());
}
