//! What the command line asks of the engine: one run, and one recomputation from scratch.

use super::Progress;
use crate::Error;
use crate::config::Settings;
use crate::run::Shown as Figures;
use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidemill_connectors::lake::Snapshot;
use tidemill_core::model::Model;
use tidemill_core::program::Program;
use tidemill_types::{Epoch, Value};

/// When a run ends by itself. Signals end every run in order.
#[derive(Clone, Debug)]
pub enum Until {
    /// Never.
    Signalled,
    /// When a commit covers the ends that the input has now, and nothing that it needs is pending.
    Drained,
    /// When the commit that goes back is published; nothing is read.
    WentBack,
    /// As [`Until::Drained`], but the ends are taken when this is set.
    DrainedOnce(Arc<AtomicBool>),
}

/// Where a run reports what it is doing, several times a second.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// One run: settings that have been checked, and what the command says of it.
#[derive(Clone)]
pub struct RunSettings {
    /// All settings.
    pub settings: Settings,
    /// The folder that is read, if one is; Kafka is read if its brokers are set.
    pub input_dir: Option<PathBuf>,
    /// Whether to go on where records of a source are gone that were to be read.
    pub accept_gap: bool,
    /// The commit to go back to first, if one is.
    pub roll_back: Option<Epoch>,
    /// The store's address.
    pub store_url: String,
    /// What answers requests.
    pub model: Arc<dyn Model>,
    /// When it ends.
    pub until: Until,
    /// Where it reports.
    pub progress: ProgressSink,
}

impl fmt::Debug for RunSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RunSettings");
        shown.field("settings", &self.settings).field("until", &self.until);
        shown.field("input_dir", &self.input_dir).field("store_url", &self.store_url).finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RunSummary {
    /// Whether the store was claimed. It is not where a run is told to stop while it waits for a source.
    pub begun: bool,
    /// The newest commit.
    pub epoch: Epoch,
    /// The epoch of the newest publication that a root names.
    pub published: Option<Epoch>,
    /// Commits of this run.
    pub commits: u64,
    /// Publications of this run.
    pub publications: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// From start to end.
    pub lasted: Duration,
    /// The median and the 99th percentile of the time of a commit.
    pub commit: Option<(Duration, Duration)>,
    /// Every counter as it stood at the end.
    pub figures: Figures,
}

/// Runs a program until its time has come.
///
/// # Errors
///
/// Everything that stops a run, in one line that says what to do.
pub fn run(settings: RunSettings, program: Arc<dyn Program>) -> Result<RunSummary, Error> {
    crate::run::run(settings, program)
}

/// Runs a program until its time has come, and answers over HTTP meanwhile.
///
/// # Errors
///
/// Everything that stops a run, in one line that says what to do.
pub fn serve(
    settings: RunSettings,
    program: Arc<dyn Program>,
    http: Option<TcpListener>,
) -> Result<RunSummary, Error> {
    crate::run::serve(settings, program, http)
}

/// Every derived table as the program makes it of a snapshot's source tables, texts as handles.
///
/// # Errors
///
/// When the snapshot cannot be read or the flow cannot be run.
pub fn recompute(
    program: &Arc<dyn Program>,
    snapshot: &Arc<Snapshot>,
) -> Result<BTreeMap<String, Vec<Vec<Value>>>, Error> {
    crate::run::recompute(program, snapshot)
}
