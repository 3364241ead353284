//! The loads `files` and `kafka`: what is there from the start, drained into a fresh store.
//!
//! It measures throughput and the price of durability, not latency under an open load: the sources are
//! always ahead.

use crate::machine;
use crate::report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill::Error;
use tidemill::cli::{RunSettings, RunSummary, Until};
use tidemill::config::{Sources, flag, resolve};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// The folder, if one is read.
    pub input: Option<PathBuf>,
    /// The brokers, if topics are read.
    pub kafka: Option<String>,
    /// Where to keep the store.
    pub store: Option<PathBuf>,
    /// Worker threads.
    pub workers: Option<usize>,
    /// Settings as `key=value`.
    pub set: Vec<String>,
}

impl Load {
    fn flags(&self) -> Result<Vec<(String, String)>, Error> {
        let mut flags = Vec::new();
        flags.extend(self.kafka.iter().map(|brokers| ("kafka-brokers".to_string(), brokers.clone())));
        flags.extend(self.workers.map(|workers| ("workers".to_string(), workers.to_string())));
        for set in &self.set {
            let none = || Error::Usage(format!("--set {set}: give KEY=VALUE, such as lake.interval=5s"));
            let (key, value) = set.split_once('=').ok_or_else(none)?;
            flags.push((flag(key), value.to_string()));
        }
        Ok(flags)
    }
}

/// Runs a load.
///
/// # Errors
///
/// When the settings are wrong, the store is there already, or the run fails.
pub fn run(load: Load) -> Result<Report, Error> {
    let temporary = tempfile::tempdir().map_err(Error::failed)?;
    let store = load.store.clone().unwrap_or_else(|| temporary.path().join("store"));
    if store.exists() {
        return Err(Error::failed(format!(
            "{} is there already; a load needs a fresh store",
            store.display()
        )));
    }
    let mut run = settings(load.flags()?, &store)?;
    run.input_dir = load.input;
    let workers = run.settings.workers;
    let before = machine::usage();
    let summary = run_here(run)?;
    Ok(Report { workers, summary, usage: machine::usage().since(before) })
}

/// The settings of a run of the flywheel that drains what is there: flags by their names, and the store's folder.
///
/// # Errors
///
/// When a flag is wrong.
pub(crate) fn settings(flags: Vec<(String, String)>, store: &Path) -> Result<RunSettings, Error> {
    let app = tidemill::flywheel::app();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = resolve(&app.settings, &Sources { flags, cores, ..Sources::default() })?.settings;
    Ok(RunSettings {
        model: tidemill::run::model(&settings.model)?,
        settings,
        input_dir: None,
        accept_gap: false,
        roll_back: None,
        store_url: store.display().to_string(),
        until: Until::Drained,
        progress: Arc::new(|_| {}),
    })
}

/// Runs the flywheel in this process.
///
/// # Errors
///
/// When the run fails.
pub(crate) fn run_here(run: RunSettings) -> Result<RunSummary, Error> {
    let program = (tidemill::flywheel::app().program)(&run.settings.program).map_err(Error::failed)?;
    tidemill::run::run(run, program)
}
