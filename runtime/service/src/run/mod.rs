//! One run of a program over its sources: everything is wired here, and nothing is decided here.
//!
//! ```text
//!  reader threads ──> timely workers ──seal──> uploader (runtime) ──> store
//!                         │  ^ answers                                  ^
//!                         v  │                                          │ roots
//!                     dispatcher ──> inference        conductor <──> committer ──> publisher thread
//! ```
//!
//! Each box is a thread or a task that owns its channel ends; the decisions are those of the sans-IO
//! machines in `core`. A run ends in order (drained, or told to stop): seal, commit, publish, name,
//! leave. It ends at once when another writer has taken the store over or something is broken.

mod ages;
mod asked;
mod clock;
mod counted;
mod edge;
mod finding;
mod gauges;
mod health;
mod measured;
mod memory;
mod newest;
mod recomputing;
mod recovery;
mod sink_plan;
mod sinking;
mod sources;
mod start;

pub use clock::{Stopwatch, now_ms, now_rfc3339, stopwatch};
pub use counted::{OPERATIONS, OUTCOMES, Requests, StoreRequests};
pub use gauges::{Gauges, Held, Paused, Shown, percentile};
pub use health::Phase;
pub use measured::{Durations, Measured, MeasuredSink};
pub use memory::resident_bytes;
pub use newest::Newest;
pub use recomputing::recompute;
pub use tidemill_core::writer::segment_epoch;

use crate::Error;
use crate::cli::{Progress, RunSettings, RunSummary, Until};
use crate::config::ModelSettings;
use asked::{After, Asked, Asking};
use counted::Counted;
use edge::Edge;
use recovery::{Recovery, Step};
use sinking::SinkHandle;
use start::Started;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_connectors::lake::StreamTable;
use tidemill_connectors::store;
use tidemill_core::bodies::BodyCache;
use tidemill_core::conductor::{FromConductor, ToConductor};
use tidemill_core::model::{Inference, Model};
use tidemill_core::program::Program;
use tidemill_core::reader;
use tidemill_core::source::SourceFactory;
use tidemill_core::store::Store;
use tidemill_gpu::{InferenceService, Lexical, Options};

/// How often a run reports its progress and looks for signals.
const TICK: Duration = Duration::from_millis(100);

/// The tables of a program's streams, as places in its list of tables.
pub fn stream_tables(program: &dyn Program) -> Vec<StreamTable> {
    let tables = program.tables();
    let place = |name: &str| tables.iter().position(|table| table.name == name).unwrap_or(usize::MAX);
    let streams = program.source_tables().into_iter();
    streams.map(|(raw, words)| StreamTable { raw: place(&raw), words: place(&words) }).collect()
}

/// The model that the settings name.
///
/// # Errors
///
/// When there is no such model.
pub fn model(settings: &ModelSettings) -> Result<Arc<dyn Model>, Error> {
    let (name, dimensions) = (&settings.name, settings.dimensions);
    if name != "lexical" {
        return Err(Error::failed(format!(
            "model.name: there is no model `{name}`; the only one yet is `lexical`"
        )));
    }
    let dimensions = u16::try_from(dimensions).ok().and_then(NonZeroU16::new);
    let dimensions =
        dimensions.ok_or_else(|| Error::failed("model.dimensions: give a number from 1 to 65535"))?;
    Ok(Arc::new(Lexical { dimensions }))
}

fn inference(run: &RunSettings, runtime: &tokio::runtime::Handle) -> Result<Arc<InferenceService>, Error> {
    let settings = &run.settings.model;
    let options = Options {
        batch_tokens: settings.batch_tokens,
        attempts_max: settings.attempts_max,
        queue_tokens_max: settings.queue_tokens_max,
        ..Options::default()
    };
    let service = InferenceService::start(run.model.clone(), options, runtime);
    service.map(Arc::new).map_err(|error| Error::failed(format!("the model cannot start: {error}")))
}

/// Runs a program until its time has come.
///
/// # Errors
///
/// Everything that stops a run, in one line that says what to do.
pub fn run(settings: RunSettings, program: Arc<dyn Program>) -> Result<RunSummary, Error> {
    serve(settings, program, None)
}

/// Runs a program until its time has come, and answers on `http` meanwhile: from before the store is
/// claimed until all is done.
///
/// # Errors
///
/// Everything that stops a run, in one line that says what to do.
pub fn serve(
    settings: RunSettings,
    program: Arc<dyn Program>,
    http: Option<TcpListener>,
) -> Result<RunSummary, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::failed(format!("cannot start threads for I/O: {error}")))?;
    let stop = signals(&runtime)?;
    let (gauges, stopwatch) = (Arc::new(Gauges::of(&*program)), stopwatch());
    let answer = |http| crate::http::serve(http, runtime.handle(), gauges.clone(), stopwatch.clone());
    let serving = http.map(answer).transpose()?;
    if let Some(serving) = &serving {
        tracing::info!(address = %serving.address, "answering /healthz, /readyz and /metrics");
    }
    let ended = run_on(settings, &program, runtime.handle(), &stop, &gauges, &stopwatch);
    drop(serving);
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

/// One run after the other: each but the first because somebody asked for a rollback.
fn run_on(
    mut settings: RunSettings,
    program: &Arc<dyn Program>,
    runtime: &tokio::runtime::Handle,
    stop: &AtomicBool,
    gauges: &Arc<Gauges>,
    stopwatch: &Stopwatch,
) -> Result<RunSummary, Error> {
    let asking = Asking::default();
    let ended = loop {
        asking.run_starts();
        let (gauges, stopwatch) = (gauges.clone(), stopwatch.clone());
        let ended = run_seen(&settings, program, runtime, stop, gauges.clone(), stopwatch, &asking);
        let went = (!gauges.is_going_back()).then(|| gauges.show().epoch);
        match asking.after(runtime, &ended, stop.load(Ordering::Acquire), went) {
            After::Another(to) => settings.roll_back = to,
            After::Nothing => break ended,
        }
        gauges.begins_again();
    };
    asking.end(runtime, ended.is_ok());
    ended
}

/// Set when the process is told to stop (Ctrl-C, SIGTERM).
fn signals(runtime: &tokio::runtime::Runtime) -> Result<Arc<AtomicBool>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let _guard = runtime.enter();
    for (name, kind) in [("SIGINT", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate())] {
        let mut told =
            signal(kind).map_err(|error| Error::failed(format!("cannot listen for signals: {error}")))?;
        let stop = stop.clone();
        runtime.spawn(async move {
            while told.recv().await.is_some() {
                tracing::info!(signal = name, "told to stop");
                if stop.swap(true, Ordering::AcqRel) {
                    tracing::error!(
                        "told to stop twice: leaving at once; what was not committed is read again"
                    );
                    std::process::exit(1);
                }
            }
        });
    }
    Ok(stop)
}

/// Runs a program until its time has come or `stop` is set.
///
/// # Errors
///
/// Everything that stops a run, in one line that says what to do.
pub fn run_until(
    options: &RunSettings,
    program: Arc<dyn Program>,
    runtime: &tokio::runtime::Handle,
    stop: &AtomicBool,
) -> Result<RunSummary, Error> {
    let gauges = Arc::new(Gauges::of(&*program));
    run_on(options.clone(), &program, runtime, stop, &gauges, &stopwatch())
}

/// Runs a program with gauges that somebody else reads too, and says in the log how it goes.
fn run_seen(
    options: &RunSettings,
    program: &Arc<dyn Program>,
    runtime: &tokio::runtime::Handle,
    stop: &AtomicBool,
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
    asking: &Asking,
) -> Result<RunSummary, Error> {
    let ended = run_wired(options, program, runtime, stop, gauges.clone(), stopwatch, asking);
    match &ended {
        Ok(summary) => tracing::info!(
            epoch = summary.epoch,
            published = summary.published,
            records = summary.records,
            bytes = summary.bytes,
            commits = summary.commits,
            publications = summary.publications,
            seconds = summary.lasted.as_secs_f64(),
            "ended"
        ),
        Err(error) => {
            gauges.enter(Phase::Failed(error.to_string()));
        }
    }
    ended
}

fn run_wired(
    options: &RunSettings,
    program: &Arc<dyn Program>,
    runtime: &tokio::runtime::Handle,
    stop: &AtomicBool,
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
    asking: &Asking,
) -> Result<RunSummary, Error> {
    let settings = &options.settings;
    let recovery = Recovery::begin(stopwatch.clone());
    let _said = recovery.said_on(runtime);
    let store = counted(options, &gauges, &stopwatch)?;
    let sources = sources::open(options, &**program, &gauges)?;
    let sink = sink_plan::plan(settings, &**program, store.location(), &stopwatch)?;
    let inference = inference(options, runtime)?;
    let bodies = BodyCache::new(settings.memory.body_cache_bytes());
    let claimed = start::claim(start::Claiming {
        store,
        program: program.clone(),
        sources: &*sources,
        stop,
        settings,
        model: inference.model(),
        runtime: runtime.clone(),
        stopwatch: stopwatch.clone(),
        bodies: bodies.clone(),
        gauges,
        roll_back: options.roll_back,
        accept_gap: options.accept_gap,
        asking,
        recovery,
    })?;
    // Told to stop while a source was waited for.
    let Some(started) = claimed else { return Ok(RunSummary::default()) };
    let drain = !matches!(options.until, Until::Signalled | Until::WentBack);
    let ends = reader::Ends::default();
    let launch = edge::Launch {
        settings,
        sources: &*sources,
        inference,
        bodies: bodies.clone(),
        ends: ends.clone(),
        drain,
    };
    let edge = edge::launch(&started, launch).map_err(|error| started.or_superseded(error))?;
    asking.run_begins();
    let sink = sink.map(|plan| sinking::spawn(&started, settings, bodies.clone(), plan));
    let sink = sink.transpose().inspect_err(|_| edge.abort())?;
    let asked = Asked::of(&started, edge.publisher(), readable(options, program), asking.clone());
    let _asked = asked.map(|asked| Aborted(runtime.spawn(asked.run()).abort_handle()));
    let watch = Watch {
        options,
        asking,
        stop,
        ends,
        stopwatch,
        gauges: started.gauges.clone(),
        sources: &*sources,
        bodies,
        sink,
        rates: VecDeque::new(),
        leaving: false,
        torn: false,
        looked_at: 0,
    };
    watch.until_the_end(edge, started)
}

/// The store, whose requests are counted.
fn counted(
    options: &RunSettings,
    gauges: &Arc<Gauges>,
    stopwatch: &Stopwatch,
) -> Result<Arc<Counted>, Error> {
    let store = store::open(&options.store_url)?;
    let (version, workers) = (env!("CARGO_PKG_VERSION"), options.settings.workers);
    tracing::info!(version, store = store.location(), workers, until = ?options.until, "starting");
    Ok(Arc::new(Counted { store, gauges: gauges.clone(), stopwatch: stopwatch.clone() }))
}

/// A task that ends with the run.
struct Aborted(tokio::task::AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the sources can be read on from where they stood at a root, as at a start.
fn readable(options: &RunSettings, program: &Arc<dyn Program>) -> asked::Readable {
    let (options, program) = (options.clone(), program.clone());
    Arc::new(move |root, newest, stop| {
        let sources =
            sources::open(&options, &*program, &Arc::default()).map_err(|error| error.to_string())?;
        sources::hold(&*sources, options.accept_gap, root, newest).map_err(|error| error.to_string())?;
        let begun = sources.begin(&root.positions, &root.cursors, stop).map_err(|error| error.to_string())?;
        begun.map(drop).ok_or_else(|| "the sources do not answer; ask again when they do".to_string())
    })
}

/// What is said when a part of a run stopped by a bug of ours.
fn internal_error() -> String {
    let what = crate::cli::last_panic().unwrap_or_default();
    format!("internal error: {what}; this is a bug, nothing committed is lost")
}

/// Watches a run: signals, progress, whether the lake lags, and what its parts say.
struct Watch<'a> {
    options: &'a RunSettings,
    asking: &'a Asking,
    stop: &'a AtomicBool,
    ends: reader::Ends,
    stopwatch: Stopwatch,
    gauges: Arc<Gauges>,
    sources: &'a dyn SourceFactory,
    bodies: BodyCache,
    sink: Option<SinkHandle>,
    rates: VecDeque<(u64, u64, u64)>,
    leaving: bool,
    /// Whether the run leaves at once.
    torn: bool,
    /// See [`Watch::look_at_times`], microseconds of the stopwatch.
    looked_at: u64,
}

impl Watch<'_> {
    fn until_the_end(mut self, mut edge: Edge, started: Started) -> Result<RunSummary, Error> {
        let (mut stopping, mut failed) = (false, None);
        loop {
            let ended = match edge.from_conductor.recv_timeout(TICK) {
                Ok(message) => {
                    self.take(message, &mut edge, &started, &mut failed);
                    false
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => false,
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => true,
            };
            let lost = edge.has_lost_a_worker() && edge.from_conductor.is_empty();
            if (ended || lost) && !self.leaving {
                edge.forget();
                return Err(Error::Failed(internal_error()));
            }
            if ended {
                break;
            }
            if let Some(error) = edge.failure() {
                self.ends.stop.store(true, Ordering::Release);
                self.torn = true;
                edge.abort();
                self.fail(error, &started, &mut failed);
            }
            self.pass_on_drain();
            if !stopping && let Some(why) = self.must_stop() {
                stopping = true;
                self.leave(&why);
                self.ends.stop.store(true, Ordering::Release);
                edge.tell(ToConductor::Stop);
            }
            self.look_at_times(&edge, &started);
        }
        self.ends.stop.store(true, Ordering::Release);
        if let Err(error) = self.finish_sink() {
            failed.get_or_insert(error);
        }
        let torn = edge.join();
        self.report();
        drop(started);
        match failed.or(torn.err()) {
            Some(error) if self.gauges.is_superseded() => Err(Error::Superseded(error)),
            Some(error) => Err(Error::Failed(error)),
            None => Ok(self.summary()),
        }
    }

    /// Everything is committed: waits until the sink has sent it. An error: it stopped.
    fn finish_sink(&mut self) -> Result<(), String> {
        let Some(sink) = self.sink.take() else { return Ok(()) };
        if self.torn {
            sink.leave();
        }
        while !sink.has_left() {
            // What is not sent by a run that is to go on is sent by the next one.
            let goes_on = matches!(self.options.until, Until::Signalled | Until::WentBack)
                || self.asking.to().is_some();
            sink.finish(!goes_on && !self.stop.load(Ordering::Acquire));
            std::thread::sleep(TICK / 5);
            self.report();
        }
        sink.join()
    }

    /// Why the run is to end in order now, if it is.
    fn must_stop(&self) -> Option<String> {
        if self.stop.load(Ordering::Acquire) {
            return Some("told to stop".to_string());
        }
        if matches!(self.options.until, Until::WentBack) && !self.gauges.is_going_back() {
            return Some("the commit went back".to_string());
        }
        self.asking.to().map(|to| format!("asked to go back to epoch {to}"))
    }

    /// What is done now and then, and not at each message.
    fn look_at_times(&mut self, edge: &Edge, started: &Started) {
        let now = (self.stopwatch)();
        if now.saturating_sub(self.looked_at) < TICK.as_micros() as u64 {
            return;
        }
        self.looked_at = now;
        self.gauges.caches_hold(self.bodies.bytes(), started.segments.bytes());
        self.sources.committed(&self.gauges.positions());
        self.gauges.sources_stand(self.sources.standing());
        let reads_nothing = matches!(self.options.until, Until::WentBack);
        let lags = self.gauges.lake_lags(clock::now_ms(), self.options.settings.lake.lag_max);
        let pause = lags || reads_nothing;
        if self.gauges.pause_for_the_lake(pause) {
            edge.tell(ToConductor::Pause(pause));
            match pause {
                true => tracing::warn!("the sources pause: the lake is too far behind"),
                false => tracing::info!("the sources go on: the lake has caught up"),
            }
        }
        self.report();
    }

    /// Says why the run fails. What a successor has deleted is missing for that reason and no other; to ask whether there
    /// is one may take seconds, so the run is being torn down by then.
    fn fail(&self, error: String, started: &Started, failed: &mut Option<String>) {
        let fenced = started.fenced();
        if fenced.is_some() {
            self.gauges.superseded();
            *failed = None;
        }
        let error = fenced.unwrap_or(error);
        self.gauges.enter(Phase::Failed(error.clone()));
        failed.get_or_insert(error);
    }

    /// Says once why the run ends.
    fn leave(&self, reason: &str) {
        if self.gauges.enter(Phase::Leaving(reason.to_string())) {
            tracing::info!(reason, "leaving");
        }
    }

    fn take(
        &mut self,
        message: FromConductor,
        edge: &mut Edge,
        started: &Started,
        failed: &mut Option<String>,
    ) {
        match message {
            FromConductor::Closed { epoch, opened_at, closed_at } => {
                self.gauges.closed(epoch, opened_at, closed_at)
            }
            FromConductor::Filled => {
                started.recovery.enter(Step::Compute);
                tracing::info!("the flow is filled");
            }
            FromConductor::Computed => {
                started.recovery.enter(Step::Commit);
                if self.gauges.enter(Phase::Ready) {
                    tracing::info!(seconds = (self.stopwatch)() as f64 / 1e6, "ready");
                }
            }
            FromConductor::Sealed(epoch) => edge.sealed(epoch),
            FromConductor::Finish => {
                self.leave("the input is drained");
                edge.finish();
            }
            FromConductor::Leaving => self.leaving = true,
            FromConductor::Holds(holds) => self.gauges.open_holds(holds),
            FromConductor::Pending(pending, in_flight) => self.gauges.pending(pending, in_flight),
            // What was read until then is still sealed, committed and published.
            FromConductor::SourceFailed(error) => {
                self.leave(&error);
                if failed.replace(error).is_none() {
                    edge.tell(ToConductor::Stop);
                }
            }
            FromConductor::Failed(error) => {
                self.torn = true;
                edge.abort();
                self.fail(error, started, failed);
            }
        }
    }

    fn pass_on_drain(&self) {
        if let Until::DrainedOnce(when) = &self.options.until
            && when.load(Ordering::Acquire)
        {
            self.ends.drain.store(true, Ordering::Release);
        }
    }

    fn report(&mut self) {
        let (shown, now) = (self.gauges.show(), (self.stopwatch)());
        self.rates.push_back((now, shown.records, shown.bytes));
        while self.rates.len() > 30 {
            self.rates.pop_front();
        }
        (self.options.progress)(&progress(&shown, now, &self.rates));
    }

    fn summary(&self) -> RunSummary {
        let shown = self.gauges.show();
        let at = |percent| Duration::from_micros(percentile(&shown.commit_us, percent));
        RunSummary {
            begun: true,
            epoch: shown.epoch,
            published: shown.published,
            commits: shown.commits,
            publications: shown.publications,
            records: shown.records,
            bytes: shown.bytes,
            lasted: Duration::from_micros((self.stopwatch)()),
            commit: (!shown.commit_us.is_empty()).then(|| (at(50), at(99))),
            figures: shown,
        }
    }
}

fn progress(shown: &Shown, now: u64, rates: &VecDeque<(u64, u64, u64)>) -> Progress {
    let (since, records, bytes) = rates.front().copied().unwrap_or_default();
    let seconds = (now.saturating_sub(since) as f64 / 1e6).max(1e-3);
    let lag = shown.oldest_unpublished_ms.map_or(0, |since| clock::now_ms().saturating_sub(since).max(0));
    Progress {
        elapsed: Duration::from_micros(now),
        records: shown.records,
        bytes: shown.bytes,
        records_per_second: (shown.records - records) as f64 / seconds,
        bytes_per_second: (shown.bytes - bytes) as f64 / seconds,
        commits: shown.commits,
        publications: shown.publications,
        epoch: Some(shown.epoch),
        commit_p50: (!shown.commit_us.is_empty())
            .then(|| Duration::from_micros(percentile(&shown.commit_us, 50))),
        commit_last: shown.commit_us.last().copied().map(Duration::from_micros),
        published: shown.published,
        publication_lag: Duration::from_millis(lag as u64),
        pending: shown.pending.0,
        judged: shown.results,
        freshness: shown.freshness_us.map(Duration::from_micros),
        tables: shown.tables(),
        source_lag: shown.source_lag(),
        sent: shown.sent,
        paused: shown.waiting.clone().or(shown.paused.reason().map(str::to_string)),
    }
}
