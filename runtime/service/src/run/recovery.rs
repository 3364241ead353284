//! How a start goes, from its first step to its first new commit: which phase takes how long.
//!
//! ```text
//!   claim ──> log ──> lake ──> fill ──> compute ──> commit
//!   sources,  roots,  files,   rows     the flow    the first epoch of this run
//!   claim     tail    index    read     works
//! ```
//!
//! The phases follow one another and leave no gap, so that their times add up to the whole. The first commit says all
//! of them in the log; until the flow has worked through what it was filled with, a line a second says where a start
//! is that takes longer. The time from then to the first commit is also that for which nothing came to be committed.

use super::clock::Stopwatch;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often a start that takes long says where it is.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// A phase of a start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    /// Sources are opened, the store is claimed.
    Claim,
    /// Roots and segments since the last publication are read.
    Log,
    /// The published tables' files and indexes are read.
    Lake,
    /// The workers read their shares of what is stored.
    Fill,
    /// The flow works through it.
    Compute,
    /// The first epoch is filled, sealed and committed.
    Commit,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Claim => "claim",
            Step::Log => "log",
            Step::Lake => "lake",
            Step::Fill => "fill",
            Step::Compute => "compute",
            Step::Commit => "commit",
        }
    }
}

/// Where a start is; see the module.
pub(super) struct Recovery {
    stopwatch: Stopwatch,
    /// The phases that have begun, and when, microseconds.
    begun: Mutex<Vec<(Step, u64)>>,
    rows: AtomicU64,
}

impl Recovery {
    /// A start begins.
    pub(super) fn begin(stopwatch: Stopwatch) -> Arc<Self> {
        let begun = Mutex::new(vec![(Step::Claim, stopwatch())]);
        Arc::new(Self { stopwatch, begun, rows: AtomicU64::new(0) })
    }

    fn begun(&self) -> MutexGuard<'_, Vec<(Step, u64)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A phase begins, unless a later one has.
    pub(super) fn enter(&self, step: Step) {
        let mut begun = self.begun();
        if begun.last().is_some_and(|(last, _)| *last < step) {
            begun.push((step, (self.stopwatch)()));
        }
    }

    /// So many more rows were read into the flow.
    pub(super) fn filled(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Something is committed: the first time, the log says how the start went.
    pub(super) fn committed(&self) {
        let begun = std::mem::take(&mut *self.begun());
        if let Some((ms, phases)) = told(&begun, (self.stopwatch)()) {
            let rows = self.rows.load(Ordering::Relaxed);
            tracing::info!(ms, rows, phases, "the first commit of this run is made");
        }
    }

    /// Where a start is that is not done with what is stored; `None` when it is.
    fn stands(&self) -> Option<(Step, u64)> {
        let begun = self.begun();
        let (step, _) = begun.last().filter(|(step, _)| *step < Step::Commit)?;
        Some((*step, ((self.stopwatch)() - begun.first()?.1) / 1000))
    }

    /// Says every second where the start is, until it is done with what is stored.
    pub(super) async fn say(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SAY_EVERY).await;
            let Some((step, ms)) = self.stands() else { return };
            let rows = self.rows.load(Ordering::Relaxed);
            tracing::info!(ms, rows, phase = step.name(), "still starting");
        }
    }

    /// Says it on a runtime.
    pub(super) fn said_on(self: &Arc<Self>, runtime: &Handle) -> super::Aborted {
        super::Aborted(runtime.spawn(self.clone().say()).abort_handle())
    }
}

/// The whole in milliseconds, and the share of each phase in words.
fn told(begun: &[(Step, u64)], now: u64) -> Option<(u64, String)> {
    let (_, first) = begun.first()?;
    let whole = (now - first).max(1);
    let mut phases = String::new();
    let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([now]);
    for ((step, from), to) in begun.iter().zip(ends) {
        let comma = if phases.is_empty() { "" } else { ", " };
        let (name, took) = (step.name(), to - from);
        // Writing to a string cannot fail.
        let _ = write!(phases, "{comma}{name} {} ms ({} %)", took / 1000, took * 100 / whole);
    }
    Some((whole / 1000, phases))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_and_are_told_once() {
        let now = Arc::new(AtomicU64::new(500));
        let clock = now.clone();
        let recovery = Recovery::begin(Arc::new(move || clock.load(Ordering::Relaxed)));
        let at = |us: u64, step| {
            now.store(us, Ordering::Relaxed);
            recovery.enter(step);
        };
        at(10_500, Step::Log);
        at(20_500, Step::Fill);
        at(30_500, Step::Log);
        assert_eq!(recovery.stands(), Some((Step::Fill, 30)), "it does not go back");
        at(80_500, Step::Compute);
        at(90_500, Step::Commit);
        assert_eq!(recovery.stands(), None, "what is stored is worked through");
        let begun = recovery.begun().clone();
        let phases = "claim 10 ms (10 %), log 10 ms (10 %), fill 60 ms (60 %), compute 10 ms (10 %), commit 10 ms (10 %)";
        assert_eq!(told(&begun, 100_500), Some((100, phases.to_string())));
        recovery.committed();
        let begun = recovery.begun().clone();
        assert_eq!((begun.len(), told(&begun, 0)), (0, None));
    }
}
