//! What the examples share: a small store to look at, made in a moment.
//!
//! The programs stand in `examples/`; each says at its top how it is run, and has a test. For now they read
//! tables. Programs with a flow of their own come with the library for authors, which is not there yet.

pub mod read_table;

use std::path::Path;
use std::sync::Arc;
use tidemill::Error;
use tidemill::cli::{RunSettings, RunSummary, Until};
use tidemill::config::{Sources, resolve};

/// Two tries at one task, one judged well and one badly: a row for each training set.
const TRIES: &str = r#"{"id":"try-1","task_id":"unit-conversion","agent":"calm","messages":[{"role":"user","content":"How many metres are three kilometres?"},{"role":"assistant","content":"Three kilometres are 3000 metres."}]}
{"id":"try-2","task_id":"unit-conversion","agent":"hasty","messages":[{"role":"user","content":"How many metres are three kilometres?"},{"role":"assistant","content":"Three kilometres are 300 metres."}]}
"#;

const SCORES: &str = r#"{"row_id":"score-1","ref":{"file":"trajectories","id":"try-1"},"metric":"is_correct","score":1,"judge_type":"programmatic"}
{"row_id":"score-2","ref":{"file":"trajectories","id":"try-2"},"metric":"is_correct","score":0,"judge_type":"programmatic"}
"#;

/// Writes a few records below a folder and runs the flywheel over them until all of it is committed and
/// published. The store is the folder `store`.
///
/// # Errors
///
/// When the folder cannot be written, or the run fails.
pub fn small_store(folder: &Path) -> Result<RunSummary, Error> {
    let (input, store) = (folder.join("input"), folder.join("store"));
    std::fs::create_dir_all(&input).map_err(Error::failed)?;
    std::fs::write(input.join("trajectories.jsonl"), TRIES).map_err(Error::failed)?;
    std::fs::write(input.join("scores.jsonl"), SCORES).map_err(Error::failed)?;
    let app = tidemill::flywheel::app();
    let flag = |name: &str, value: &str| (name.to_string(), value.to_string());
    let flags = vec![flag("workers", "1"), flag("flywheel-holdout-per-10k", "0")];
    let settings = resolve(&app.settings, &Sources { flags, cores: 1, ..Sources::default() })?.settings;
    let program = (app.program)(&settings.program).map_err(Error::failed)?;
    let store_url = store.display().to_string();
    let until = Until::Drained;
    let model = tidemill::run::model(&settings.model)?;
    let run = RunSettings {
        settings,
        input_dir: Some(input),
        accept_gap: false,
        roll_back: None,
        store_url,
        model,
        until,
        progress: Arc::new(|_| {}),
    };
    tidemill::run::run(run, program)
}
